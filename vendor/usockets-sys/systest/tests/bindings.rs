//! The declarations agree with the headers, and the check would notice if they did not.

use std::fs;

use usockets_systest::{check, declarations};

fn text() -> String {
    fs::read_to_string(declarations()).expect("usockets-sys/lib.rs is readable")
}

#[test]
fn the_declarations_agree_with_the_headers() {
    if let Err(differences) = check(&text()) {
        panic!("lib.rs and the headers differ:\n{differences}");
    }
}

/// Replaces `from`, which must occur exactly once, and expects a complaint that contains `complaint`.
#[track_caller]
fn expect_complaint(from: &str, to: &str, complaint: &str) {
    let text = text();
    assert_eq!(text.matches(from).count(), 1, "`{from}` must occur once in lib.rs");
    match check(&text.replace(from, to)) {
        Ok(()) => panic!("`{from}` changed to `{to}` was not noticed"),
        Err(differences) => assert!(
            differences.contains(complaint),
            "expected `{complaint}` to be said about `{to}`, not:\n{differences}"
        ),
    }
}

#[test]
fn a_field_of_another_type_is_noticed() {
    expect_complaint(
        "ssl_prefer_low_memory_usage: c_int",
        "ssl_prefer_low_memory_usage: c_longlong",
        "us_socket_context_options_t.ssl_prefer_low_memory_usage: type",
    );
}

#[test]
fn a_field_of_another_sign_is_noticed() {
    expect_complaint(
        "pub test_clock: c_int",
        "pub test_clock: c_uint",
        "usx_loop_options.test_clock: type",
    );
}

#[test]
fn a_wider_field_is_noticed_by_the_offsets_behind_it() {
    expect_complaint(
        "pub backend: c_int",
        "pub backend: u64",
        "usx_loop_options.test_clock: offset",
    );
}

#[test]
fn exchanged_fields_are_noticed() {
    expect_complaint("pub backlog: c_int", "pub reuse_port: c_int", "fields of usx_listen_options");
}

#[test]
fn a_missing_field_that_leaves_the_size_alone_is_noticed() {
    expect_complaint(
        "    /// Non-zero: release buffers of idle connections.\n    pub ssl_prefer_low_memory_usage: c_int,\n",
        "",
        "fields of us_socket_context_options_t",
    );
}

#[test]
fn an_added_field_is_noticed() {
    expect_complaint(
        "    pub ssl_prefer_low_memory_usage: c_int,\n",
        "    pub ssl_prefer_low_memory_usage: c_int,\n    pub spare: c_int,\n",
        "fields of us_socket_context_options_t",
    );
}

#[test]
fn a_struct_without_c_layout_is_noticed() {
    expect_complaint(
        "#[repr(C)]\n#[derive(Debug, Clone, Copy)]\npub struct us_socket_context_options_t",
        "#[derive(Debug, Clone, Copy)]\npub struct us_socket_context_options_t",
        "us_socket_context_options_t: is not #[repr(C)]",
    );
}

#[test]
fn another_value_of_a_constant_is_noticed() {
    expect_complaint(
        "LIBUS_RECV_BUFFER_PADDING: c_int = 32",
        "LIBUS_RECV_BUFFER_PADDING: c_int = 33",
        "LIBUS_RECV_BUFFER_PADDING: value",
    );
}

#[test]
fn another_value_of_an_enumerator_is_noticed() {
    expect_complaint(
        "LIBUS_LISTEN_EXCLUSIVE_PORT: c_int = 1",
        "LIBUS_LISTEN_EXCLUSIVE_PORT: c_int = 2",
        "LIBUS_LISTEN_EXCLUSIVE_PORT: value",
    );
}

#[test]
fn another_type_of_a_constant_is_noticed() {
    expect_complaint("USX_NO_TIMEOUT: c_longlong", "USX_NO_TIMEOUT: c_int", "USX_NO_TIMEOUT: type");
}

#[test]
fn another_type_of_a_parameter_is_noticed() {
    expect_complaint(
        "us_socket_timeout(ssl: c_int, s: *mut us_socket_t, seconds: c_uint)",
        "us_socket_timeout(ssl: c_int, s: *mut us_socket_t, seconds: c_int)",
        "us_socket_timeout: signature",
    );
}

#[test]
fn a_pointer_to_something_else_is_noticed() {
    expect_complaint(
        "fn us_poll_events(p: *mut us_poll_t)",
        "fn us_poll_events(p: *mut us_socket_t)",
        "us_poll_events: signature",
    );
}

#[test]
fn a_lost_const_is_noticed() {
    expect_complaint(
        "fn usx_loop_backend_name(loop_: *mut us_loop_t) -> *const c_char",
        "fn usx_loop_backend_name(loop_: *mut us_loop_t) -> *mut c_char",
        "usx_loop_backend_name: signature",
    );
}

#[test]
fn a_missing_parameter_is_noticed() {
    expect_complaint(
        "fn us_poll_stop(p: *mut us_poll_t, loop_: *mut us_loop_t)",
        "fn us_poll_stop(p: *mut us_poll_t)",
        "us_poll_stop: signature",
    );
}

#[test]
fn another_result_is_noticed() {
    expect_complaint(
        "fn us_loop_iteration_number(loop_: *mut us_loop_t) -> c_longlong",
        "fn us_loop_iteration_number(loop_: *mut us_loop_t) -> c_int",
        "us_loop_iteration_number: signature",
    );
}

#[test]
fn another_parameter_of_a_callback_is_noticed() {
    expect_complaint(
        "Option<unsafe extern \"C\" fn(p: *mut us_poll_t, events: c_int)>",
        "Option<unsafe extern \"C\" fn(p: *mut us_poll_t, events: c_uint)>",
        "usx_poll_set_handler: signature",
    );
}

#[test]
fn another_parameter_of_a_callback_in_a_struct_is_noticed() {
    expect_complaint(
        "pub run_jobs: Option<unsafe extern \"C\" fn(loop_: *mut us_loop_t)>",
        "pub run_jobs: Option<unsafe extern \"C\" fn(loop_: *mut us_timer_t)>",
        "usx_job_hooks.run_jobs: type",
    );
}

#[test]
fn a_callback_that_cannot_be_null_is_noticed() {
    expect_complaint(
        "pub run_jobs: Option<unsafe extern \"C\" fn(loop_: *mut us_loop_t)>",
        "pub run_jobs: unsafe extern \"C\" fn(loop_: *mut us_loop_t)",
        "declare it in an Option",
    );
}

#[test]
fn a_missing_function_is_noticed() {
    expect_complaint(
        "    pub fn us_loop_run(loop_: *mut us_loop_t);\n",
        "    pub fn us_loop_jog(loop_: *mut us_loop_t);\n",
        "the header has us_loop_run, the declarations have us_loop_jog",
    );
}

#[test]
fn a_missing_constant_is_noticed() {
    expect_complaint(
        "pub const USX_POLL_HANGUP: c_int = 16;",
        "",
        "the header has USX_POLL_HANGUP",
    );
}
