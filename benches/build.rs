//! Compiles the peers that are written in C.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=c");
    cc::Build::new()
        .includes(env::var_os("DEP_OPENSSL_INCLUDE"))
        .files(["c/echo.c", "c/queue.c", "c/tls.c"])
        .std("c11")
        .define("_GNU_SOURCE", None)
        .warnings(true)
        .extra_warnings(true)
        .compile("bare");
}
