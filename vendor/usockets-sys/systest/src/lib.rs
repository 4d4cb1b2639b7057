//! Compares Rust declarations with the C headers they stand for.
//!
//! [`check`] looks at two things. It reads names from both sides, items and fields, and wants the
//! same ones in the same order. And it turns each declaration into a C assertion – this function
//! has that type, this field is at the same offset as in a struct written down from the Rust one –
//! and lets a C compiler judge.
//!
//! The crate `ctest`, which is made for this, compares the addresses of functions but not their
//! types, and a changed parameter is what would hurt most here.

mod bindings;
mod compile;
mod header;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use bindings::Bindings;
use header::Header;

/// The headers, in the order in which the declarations follow them.
const HEADERS: [&str; 3] = ["libusockets.h", "usockets_ext.h", "usockets_tls.h"];

/// The file with the declarations of `usockets-sys`.
pub fn declarations() -> PathBuf {
    package().join("lib.rs")
}

/// Compares `declarations`, the text of a Rust file, with the headers of `usockets-sys`.
///
/// # Errors
///
/// Returns a description of all differences; also if the text contains what this check cannot
/// translate to C.
pub fn check(declarations: &str) -> Result<(), String> {
    let include = package().join("include");
    let mut header = Header::default();
    for name in HEADERS {
        let path = include.join(name);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        header.read(&text);
    }
    let bindings = Bindings::parse(declarations)?;

    let mut differences = compare("items", &header.items, &bindings.items());
    for (name, fields) in &header.structs {
        if let Some(declared) = bindings.fields_of(name) {
            differences += &compare(&format!("fields of {name}"), fields, &declared);
        }
    }
    if let Err(messages) = compile::run(&include, &HEADERS, &bindings.to_c()?) {
        differences += &messages;
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

/// Describes the first difference between two lists of names.
fn compare(what: &str, c: &[String], rust: &[String]) -> String {
    let mut difference = String::new();
    let length = c.len().max(rust.len());
    if let Some(i) = (0..length).find(|&i| c.get(i) != rust.get(i)) {
        let name = |list: &[String]| list.get(i).map_or("nothing", String::as_str).to_owned();
        writeln!(
            difference,
            "{what} differ at position {i}: the header has {}, the declarations have {}",
            name(c),
            name(rust)
        )
        .expect("writing to a string succeeds");
    }
    difference
}

/// The folder of `usockets-sys`.
fn package() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
