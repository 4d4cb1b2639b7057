//! What the compiler must reject, and with which message: the programs in `tests/ui`.
//!
//! Messages change from one compiler to the next, so they are compared under the one that they were written
//! for. `TRYBUILD=overwrite` writes them anew.

use std::process::Command;

/// The compiler whose messages are in `tests/ui`.
const COMPILER: &str = "rustc 1.95.";

/// Whether this is that compiler; if not, says that the test is skipped.
fn speaks_our_messages(test: &str) -> bool {
    if std::env::var_os("USOCKETS_SANITIZE").is_some() {
        println!("{test}: an instrumented build accepts and rejects the same programs");
        return false;
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc can be started");
    let version = String::from_utf8_lossy(&output.stdout);
    let ours = version.starts_with(COMPILER);
    if !ours {
        println!("SKIP {test}: the messages are those of {COMPILER}, this is {}", version.trim());
    }
    ours
}

#[test]
fn misuse_that_the_compiler_rejects() {
    if speaks_our_messages("misuse_that_the_compiler_rejects") {
        trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
    }
}

/// What shows only when code is generated. One program that compiles makes that happen.
#[test]
fn states_with_too_large_an_alignment() {
    if speaks_our_messages("states_with_too_large_an_alignment") {
        let cases = trybuild::TestCases::new();
        cases.pass("tests/ui/built/states_of_the_largest_alignment.rs");
        cases.compile_fail("tests/ui/built/*_is_over_aligned.rs");
    }
}
