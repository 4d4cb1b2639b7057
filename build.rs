//! Turns what `usockets-sys` says about its build (`DEP_USOCKETS_*`) into cfgs. Nothing else.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");

    // The engine can be told to fail at its n-th system call, allocation or lookup.
    cfg("usockets_fault_injection", is("DEP_USOCKETS_FAULT_INJECTION", |value| value == "1"));
    // The engine speaks TLS.
    cfg("usockets_tls", is("DEP_USOCKETS_TLS", |value| value != "none"));
}

/// Whether the variable is set and its value satisfies `test`.
fn is(variable: &str, test: impl Fn(&str) -> bool) -> bool {
    env::var(variable).is_ok_and(|value| test(&value))
}

/// Declares a cfg, and sets it if it is `on`.
fn cfg(name: &str, on: bool) {
    println!("cargo::rustc-check-cfg=cfg({name})");
    if on {
        println!("cargo::rustc-cfg={name}");
    }
}
