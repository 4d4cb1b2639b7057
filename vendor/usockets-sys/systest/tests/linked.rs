//! Every function that is declared exists in the library, or this does not link.

/// Names and addresses, written by the build script.
fn functions() -> &'static [(&'static str, *const ())] {
    include!(concat!(env!("OUT_DIR"), "/functions.rs"))
}

#[test]
fn every_declared_function_is_in_the_library() {
    assert!(functions().len() > 100, "the list has only {} functions", functions().len());
    for (name, address) in functions() {
        assert!(!address.is_null(), "{name} has no address");
    }
}
