//! Compiles the engine and publishes what went into it.
//!
//! Environment, both for test builds:
//!
//! * `USOCKETS_FAULT_INJECTION=1`: the engine can be told to fail at its n-th system call,
//!   allocation or lookup (`usx_fault_*`).
//! * `USOCKETS_SANITIZE=address,undefined`: instruments the engine with these sanitizers. Linking
//!   their runtime is up to the caller, usually by instrumenting the Rust side too.
//!
//! Metadata, seen by the build script of a dependent as `DEP_USOCKETS_*`:
//!
//! * `INCLUDE`: the folder of the headers.
//! * `TLS`: the TLS library, or `none`.
//! * `BACKENDS`: the back ends to choose from, separated by commas, best first.
//! * `FAULT_INJECTION`: `1` or `0`.
//! * `SANITIZE`: the sanitizers, separated by commas; empty if there are none.

use std::path::{Path, PathBuf};
use std::{env, fs, process};

/// `OPENSSL_VERSION_NUMBER` of the first version that is still maintained.
const OPENSSL_3_0: u64 = 0x3000_0000;

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR").unwrap_or_default());
    let include = root.join("include");
    let source = root.join("src");
    let target_os = variable("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if variable("CARGO_CFG_UNIX").is_none() {
        fail(&format!("the engine has no back end for {target_os}; it needs a Unix system"));
    }

    let fault_injection = fault_injection();
    let sanitizers = sanitizers();
    let backends = if target_os == "linux" { "epoll,poll" } else { "poll" };

    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", include.display());
    println!("cargo::rerun-if-changed={}", source.display());

    let mut build = cc::Build::new();
    build
        .files(engine_files(&include, &source))
        .include(&include)
        // Not an `include`: a header of ours may have the name of one of the system's.
        .flag("-iquote")
        .flag(&source)
        .std("c11")
        .define("_GNU_SOURCE", None)
        .warnings(true)
        .extra_warnings(true);
    if target_os == "linux" {
        build.define("LIBUS_USE_EPOLL", None);
    }
    let tls = openssl();
    match &tls {
        Some(openssl) => build.define("LIBUS_USE_OPENSSL", None).include(openssl),
        None => build.define("LIBUS_NO_SSL", None),
    };
    if fault_injection {
        build.define("USX_FAULT_INJECTION", None);
    }
    if !sanitizers.is_empty() {
        build
            .flag(format!("-fsanitize={sanitizers}"))
            .flag("-fno-omit-frame-pointer")
            // A sanitizer sees the use of a freed socket only if each has an allocation of its own.
            .define("USX_PLAIN_ALLOC", None);
    }
    build.compile("usockets");

    println!("cargo::rustc-check-cfg=cfg(usockets_fault_injection)");
    if fault_injection {
        println!("cargo::rustc-cfg=usockets_fault_injection");
    }
    println!("cargo::metadata=include={}", include.display());
    println!("cargo::metadata=tls={}", if tls.is_some() { "openssl" } else { "none" });
    println!("cargo::metadata=backends={backends}");
    println!("cargo::metadata=fault_injection={}", u8::from(fault_injection));
    println!("cargo::metadata=sanitize={sanitizers}");
}

/// All C files below `source`, in a stable order.
fn engine_files(include: &Path, source: &Path) -> Vec<PathBuf> {
    for header in ["libusockets.h", "usockets_ext.h", "usockets_tls.h"] {
        if !include.join(header).is_file() {
            fail(&format!(
                "{} is missing; is this checkout complete?",
                include.join(header).display()
            ));
        }
    }
    let mut files = Vec::new();
    collect(source, &mut files);
    if files.is_empty() {
        fail(&format!("there are no C files in {}; is this checkout complete?", source.display()));
    }
    files.sort();
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        fail(&format!("{} cannot be read; is this checkout complete?", folder.display()));
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "c") {
            files.push(path);
        }
    }
}

/// The include folder of the OpenSSL that `openssl-sys` has found or built; `None` without the
/// feature `tls`.
fn openssl() -> Option<PathBuf> {
    variable("CARGO_FEATURE_TLS")?;
    let version = env::var("DEP_OPENSSL_VERSION_NUMBER").unwrap_or_default();
    match u64::from_str_radix(&version, 16) {
        Ok(number) if number >= OPENSSL_3_0 => {}
        _ => fail(
            "TLS needs OpenSSL 3.0 or newer; install its development files, or use the feature \
             `vendored-openssl`, or do without TLS by `default-features = false`",
        ),
    }
    Some(PathBuf::from(env::var_os("DEP_OPENSSL_INCLUDE").unwrap_or_default()))
}

fn fault_injection() -> bool {
    match variable("USOCKETS_FAULT_INJECTION").as_deref() {
        None | Some("" | "0") => false,
        Some("1") => true,
        Some(other) => fail(&format!("USOCKETS_FAULT_INJECTION is `{other}`; it takes 1 or 0")),
    }
}

fn sanitizers() -> String {
    let value = variable("USOCKETS_SANITIZE").unwrap_or_default();
    let is_list = |c: char| c.is_ascii_lowercase() || c == ',' || c == '-';
    if !value.chars().all(is_list) {
        fail(&format!(
            "USOCKETS_SANITIZE is `{value}`; it takes the argument of the C compiler's -fsanitize, \
             such as address,undefined"
        ));
    }
    value
}

/// An environment variable, which from now on leads to a new build when it changes.
fn variable(name: &str) -> Option<String> {
    if !name.starts_with("CARGO_") {
        println!("cargo::rerun-if-env-changed={name}");
    }
    env::var(name).ok()
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    process::exit(1)
}
