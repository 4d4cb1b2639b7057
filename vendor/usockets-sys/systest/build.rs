//! Writes a list of all functions that `usockets-sys` declares, for `tests/linked.rs`.

use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../lib.rs");

    let declarations = fs::read_to_string("../lib.rs").expect("usockets-sys/lib.rs is readable");
    let file = syn::parse_file(&declarations).expect("usockets-sys/lib.rs is Rust");
    let fault_injection = env::var("DEP_USOCKETS_FAULT_INJECTION").is_ok_and(|value| value == "1");

    let mut list = String::from("&[\n");
    for item in file.items {
        let syn::Item::ForeignMod(block) = item else { continue };
        for item in block.items {
            let syn::ForeignItem::Fn(function) = item else { continue };
            // The only cfg on a function is that of fault injection.
            let conditional =
                function.attrs.iter().any(|attribute| attribute.path().is_ident("cfg"));
            if !conditional || fault_injection {
                let name = function.sig.ident;
                writeln!(list, "    (\"{name}\", usockets_sys::{name} as *const ()),")
                    .expect("writing to a string succeeds");
            }
        }
    }
    list.push(']');

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("functions.rs"), list).expect("OUT_DIR is writable");
}
