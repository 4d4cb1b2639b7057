//! Compiles the peers that are written in C.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=c");
    cc::Build::new()
        .files(["c/echo.c", "c/queue.c"])
        .std("c11")
        .define("_GNU_SOURCE", None)
        .warnings(true)
        .extra_warnings(true)
        .compile("bare");
}
