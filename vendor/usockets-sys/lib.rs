//! Raw declarations of the engine's C interface. The safe API is the crate `usockets`.
//!
//! First everything in `include/libusockets.h`, then everything in `include/usockets_ext.h`, then
//! everything in `include/usockets_tls.h`, each in the order of the header, and nothing else. The headers say what each item does, what it
//! needs and what it promises; the items here name the part of the header to look in. The package
//! `usockets-systest` compares this file with the headers.

#![no_std]
#![allow(non_camel_case_types)]
#![expect(clippy::exhaustive_structs, reason = "C decides what these structs consist of")]

#[cfg(feature = "tls")]
use openssl_sys as _; // for what it links

use core::ffi::{c_char, c_int, c_longlong, c_uchar, c_uint, c_ulong, c_ushort, c_void};
use core::marker::{PhantomData, PhantomPinned};
use libc::{iovec, sockaddr, sockaddr_storage, socklen_t};

// ========================================================================================
// libusockets.h
// ========================================================================================

// ----------------------------------------------------------------------------------------
// Build-time switches
// ----------------------------------------------------------------------------------------

/// See "Build-time switches" in `libusockets.h`.
pub type LIBUS_SOCKET_DESCRIPTOR = c_int;
/// See "Build-time switches" in `libusockets.h`.
pub const LIBUS_RECV_BUFFER_LENGTH: c_int = 524_288;
/// See "Build-time switches" in `libusockets.h`.
pub const LIBUS_RECV_BUFFER_PADDING: c_int = 32;
/// See "Build-time switches" in `libusockets.h`.
pub const LIBUS_TIMEOUT_GRANULARITY: c_int = 4;
/// See "Build-time switches" in `libusockets.h`.
pub const LIBUS_EXT_ALIGNMENT: c_int = 16;
/// See "Build-time switches" in `libusockets.h`.
pub const LIBUS_SOCKET_READABLE: c_int = 1;
/// See "Build-time switches" in `libusockets.h`.
#[cfg(not(any(target_vendor = "apple", target_os = "freebsd")))]
pub const LIBUS_SOCKET_WRITABLE: c_int = 4;
/// See "Build-time switches" in `libusockets.h`.
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
pub const LIBUS_SOCKET_WRITABLE: c_int = 2;

// ----------------------------------------------------------------------------------------
// Types
// ----------------------------------------------------------------------------------------

/// See "Types" in `libusockets.h`.
#[repr(C)]
#[derive(Debug)]
pub struct us_loop_t {
    _private: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

/// See "Types" in `libusockets.h`.
#[repr(C)]
#[derive(Debug)]
pub struct us_timer_t {
    _private: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

/// See "Types" in `libusockets.h`.
#[repr(C)]
#[derive(Debug)]
pub struct us_socket_context_t {
    _private: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

/// See "Types" in `libusockets.h`.
#[repr(C)]
#[derive(Debug)]
pub struct us_socket_t {
    _private: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

/// See "Types" in `libusockets.h`.
#[repr(C)]
#[derive(Debug)]
pub struct us_listen_socket_t {
    _private: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

/// See "Types" in `libusockets.h`.
#[repr(C)]
#[derive(Debug)]
pub struct us_poll_t {
    _private: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

/// See "Types" in `libusockets.h`.
#[repr(C)]
#[derive(Debug)]
pub struct us_udp_socket_t {
    _private: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

/// See "Types" in `libusockets.h`.
#[repr(C)]
#[derive(Debug)]
pub struct us_udp_packet_buffer_t {
    _private: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

/// See "Types" in `libusockets.h`.
pub const LIBUS_LISTEN_DEFAULT: c_int = 0;
/// See "Types" in `libusockets.h`.
pub const LIBUS_LISTEN_EXCLUSIVE_PORT: c_int = 1;

/// See "Types" in `libusockets.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct us_socket_context_options_t {
    /// The private key.
    pub key_file_name: *const c_char,
    /// The certificate chain.
    pub cert_file_name: *const c_char,
    /// Decrypts the private key.
    pub passphrase: *const c_char,
    /// Diffie-Hellman parameters.
    pub dh_params_file_name: *const c_char,
    /// Trusted roots; turns verification on.
    pub ca_file_name: *const c_char,
    /// Cipher list for TLS 1.2.
    pub ssl_ciphers: *const c_char,
    /// Non-zero: release buffers of idle connections.
    pub ssl_prefer_low_memory_usage: c_int,
}

// ----------------------------------------------------------------------------------------
// Loop
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Loop" in `libusockets.h`.
    pub fn us_create_loop(
        hint: *mut c_void,
        wakeup_cb: Option<unsafe extern "C" fn(loop_: *mut us_loop_t)>,
        pre_cb: Option<unsafe extern "C" fn(loop_: *mut us_loop_t)>,
        post_cb: Option<unsafe extern "C" fn(loop_: *mut us_loop_t)>,
        ext_size: c_uint,
    ) -> *mut us_loop_t;
    /// See "Loop" in `libusockets.h`.
    pub fn us_loop_free(loop_: *mut us_loop_t);
    /// See "Loop" in `libusockets.h`.
    pub fn us_loop_ext(loop_: *mut us_loop_t) -> *mut c_void;
    /// See "Loop" in `libusockets.h`.
    pub fn us_loop_run(loop_: *mut us_loop_t);
    /// See "Loop" in `libusockets.h`.
    pub fn us_loop_integrate(loop_: *mut us_loop_t);
    /// See "Loop" in `libusockets.h`.
    pub fn us_wakeup_loop(loop_: *mut us_loop_t);
    /// See "Loop" in `libusockets.h`.
    pub fn us_loop_iteration_number(loop_: *mut us_loop_t) -> c_longlong;
}

// ----------------------------------------------------------------------------------------
// Timers
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Timers" in `libusockets.h`.
    pub fn us_create_timer(
        loop_: *mut us_loop_t,
        fallthrough: c_int,
        ext_size: c_uint,
    ) -> *mut us_timer_t;
    /// See "Timers" in `libusockets.h`.
    pub fn us_timer_ext(timer: *mut us_timer_t) -> *mut c_void;
    /// See "Timers" in `libusockets.h`.
    pub fn us_timer_set(
        timer: *mut us_timer_t,
        cb: Option<unsafe extern "C" fn(t: *mut us_timer_t)>,
        ms: c_int,
        repeat_ms: c_int,
    );
    /// See "Timers" in `libusockets.h`.
    pub fn us_timer_close(timer: *mut us_timer_t);
    /// See "Timers" in `libusockets.h`.
    pub fn us_timer_loop(t: *mut us_timer_t) -> *mut us_loop_t;
}

// ----------------------------------------------------------------------------------------
// Contexts
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Contexts" in `libusockets.h`.
    pub fn us_create_socket_context(
        ssl: c_int,
        loop_: *mut us_loop_t,
        ext_size: c_int,
        options: us_socket_context_options_t,
    ) -> *mut us_socket_context_t;
    /// See "Contexts" in `libusockets.h`.
    pub fn us_create_child_socket_context(
        ssl: c_int,
        context: *mut us_socket_context_t,
        context_ext_size: c_int,
    ) -> *mut us_socket_context_t;
    /// See "Contexts" in `libusockets.h`.
    pub fn us_socket_context_free(ssl: c_int, context: *mut us_socket_context_t);
    /// See "Contexts" in `libusockets.h`.
    pub fn us_socket_context_close(ssl: c_int, context: *mut us_socket_context_t);
    /// See "Contexts" in `libusockets.h`.
    pub fn us_socket_context_ext(ssl: c_int, context: *mut us_socket_context_t) -> *mut c_void;
    /// See "Contexts" in `libusockets.h`.
    pub fn us_socket_context_loop(ssl: c_int, context: *mut us_socket_context_t) -> *mut us_loop_t;
    /// See "Contexts" in `libusockets.h`.
    pub fn us_socket_context_timestamp(ssl: c_int, context: *mut us_socket_context_t) -> c_ushort;
    /// See "Contexts" in `libusockets.h`.
    pub fn us_socket_context_get_native_handle(
        ssl: c_int,
        context: *mut us_socket_context_t,
    ) -> *mut c_void;
}

// ----------------------------------------------------------------------------------------
// Callbacks of a context
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Callbacks of a context" in `libusockets.h`.
    pub fn us_socket_context_on_pre_open(
        ssl: c_int,
        context: *mut us_socket_context_t,
        on_pre_open: Option<
            unsafe extern "C" fn(
                context: *mut us_socket_context_t,
                fd: LIBUS_SOCKET_DESCRIPTOR,
                ip: *mut c_char,
                ip_length: c_int,
            ) -> LIBUS_SOCKET_DESCRIPTOR,
        >,
    );
    /// See "Callbacks of a context" in `libusockets.h`.
    pub fn us_socket_context_on_open(
        ssl: c_int,
        context: *mut us_socket_context_t,
        on_open: Option<
            unsafe extern "C" fn(
                s: *mut us_socket_t,
                is_client: c_int,
                ip: *mut c_char,
                ip_length: c_int,
            ) -> *mut us_socket_t,
        >,
    );
    /// See "Callbacks of a context" in `libusockets.h`.
    pub fn us_socket_context_on_close(
        ssl: c_int,
        context: *mut us_socket_context_t,
        on_close: Option<
            unsafe extern "C" fn(
                s: *mut us_socket_t,
                code: c_int,
                reason: *mut c_void,
            ) -> *mut us_socket_t,
        >,
    );
    /// See "Callbacks of a context" in `libusockets.h`.
    pub fn us_socket_context_on_data(
        ssl: c_int,
        context: *mut us_socket_context_t,
        on_data: Option<
            unsafe extern "C" fn(
                s: *mut us_socket_t,
                data: *mut c_char,
                length: c_int,
            ) -> *mut us_socket_t,
        >,
    );
    /// See "Callbacks of a context" in `libusockets.h`.
    pub fn us_socket_context_on_writable(
        ssl: c_int,
        context: *mut us_socket_context_t,
        on_writable: Option<unsafe extern "C" fn(s: *mut us_socket_t) -> *mut us_socket_t>,
    );
    /// See "Callbacks of a context" in `libusockets.h`.
    pub fn us_socket_context_on_timeout(
        ssl: c_int,
        context: *mut us_socket_context_t,
        on_timeout: Option<unsafe extern "C" fn(s: *mut us_socket_t) -> *mut us_socket_t>,
    );
    /// See "Callbacks of a context" in `libusockets.h`.
    pub fn us_socket_context_on_long_timeout(
        ssl: c_int,
        context: *mut us_socket_context_t,
        on_timeout: Option<unsafe extern "C" fn(s: *mut us_socket_t) -> *mut us_socket_t>,
    );
    /// See "Callbacks of a context" in `libusockets.h`.
    pub fn us_socket_context_on_connect_error(
        ssl: c_int,
        context: *mut us_socket_context_t,
        on_connect_error: Option<
            unsafe extern "C" fn(s: *mut us_socket_t, code: c_int) -> *mut us_socket_t,
        >,
    );
    /// See "Callbacks of a context" in `libusockets.h`.
    pub fn us_socket_context_on_end(
        ssl: c_int,
        context: *mut us_socket_context_t,
        on_end: Option<unsafe extern "C" fn(s: *mut us_socket_t) -> *mut us_socket_t>,
    );
    /// See "Callbacks of a context" in `libusockets.h`.
    pub fn us_socket_context_on_server_name(
        ssl: c_int,
        context: *mut us_socket_context_t,
        cb: Option<unsafe extern "C" fn(*mut us_socket_context_t, hostname: *const c_char)>,
    );
}

// ----------------------------------------------------------------------------------------
// Listening, connecting, adopting
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Listening, connecting, adopting" in `libusockets.h`.
    pub fn us_socket_context_listen(
        ssl: c_int,
        context: *mut us_socket_context_t,
        host: *const c_char,
        port: c_int,
        options: c_int,
        socket_ext_size: c_int,
    ) -> *mut us_listen_socket_t;
    /// See "Listening, connecting, adopting" in `libusockets.h`.
    pub fn us_socket_context_listen_unix(
        ssl: c_int,
        context: *mut us_socket_context_t,
        path: *const c_char,
        options: c_int,
        socket_ext_size: c_int,
    ) -> *mut us_listen_socket_t;
    /// See "Listening, connecting, adopting" in `libusockets.h`.
    pub fn us_listen_socket_close(ssl: c_int, ls: *mut us_listen_socket_t);
    /// See "Listening, connecting, adopting" in `libusockets.h`.
    pub fn us_adopt_accepted_socket(
        ssl: c_int,
        context: *mut us_socket_context_t,
        client_fd: LIBUS_SOCKET_DESCRIPTOR,
        socket_ext_size: c_uint,
        addr_ip: *mut c_char,
        addr_ip_length: c_int,
    ) -> *mut us_socket_t;
    /// See "Listening, connecting, adopting" in `libusockets.h`.
    pub fn us_socket_context_connect(
        ssl: c_int,
        context: *mut us_socket_context_t,
        host: *const c_char,
        port: c_int,
        source_host: *const c_char,
        options: c_int,
        socket_ext_size: c_int,
    ) -> *mut us_socket_t;
    /// See "Listening, connecting, adopting" in `libusockets.h`.
    pub fn us_socket_context_connect_unix(
        ssl: c_int,
        context: *mut us_socket_context_t,
        server_path: *const c_char,
        options: c_int,
        socket_ext_size: c_int,
    ) -> *mut us_socket_t;
    /// See "Listening, connecting, adopting" in `libusockets.h`.
    pub fn us_socket_close_connecting(ssl: c_int, s: *mut us_socket_t) -> *mut us_socket_t;
    /// See "Listening, connecting, adopting" in `libusockets.h`.
    pub fn us_socket_context_adopt_socket(
        ssl: c_int,
        context: *mut us_socket_context_t,
        s: *mut us_socket_t,
        ext_size: c_int,
    ) -> *mut us_socket_t;
}

// ----------------------------------------------------------------------------------------
// Sockets
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_write(
        ssl: c_int,
        s: *mut us_socket_t,
        data: *const c_char,
        length: c_int,
        msg_more: c_int,
    ) -> c_int;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_write2(
        ssl: c_int,
        s: *mut us_socket_t,
        header: *const c_char,
        header_length: c_int,
        payload: *const c_char,
        payload_length: c_int,
    ) -> c_int;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_flush(ssl: c_int, s: *mut us_socket_t);
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_shutdown(ssl: c_int, s: *mut us_socket_t);
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_shutdown_read(ssl: c_int, s: *mut us_socket_t);
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_close(
        ssl: c_int,
        s: *mut us_socket_t,
        code: c_int,
        reason: *mut c_void,
    ) -> *mut us_socket_t;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_timeout(ssl: c_int, s: *mut us_socket_t, seconds: c_uint);
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_long_timeout(ssl: c_int, s: *mut us_socket_t, minutes: c_uint);
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_ext(ssl: c_int, s: *mut us_socket_t) -> *mut c_void;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_context(ssl: c_int, s: *mut us_socket_t) -> *mut us_socket_context_t;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_is_established(ssl: c_int, s: *mut us_socket_t) -> c_int;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_is_shut_down(ssl: c_int, s: *mut us_socket_t) -> c_int;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_is_closed(ssl: c_int, s: *mut us_socket_t) -> c_int;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_get_native_handle(ssl: c_int, s: *mut us_socket_t) -> *mut c_void;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_server_name_userdata(ssl: c_int, s: *mut us_socket_t) -> *mut c_void;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_local_port(ssl: c_int, s: *mut us_socket_t) -> c_int;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_remote_port(ssl: c_int, s: *mut us_socket_t) -> c_int;
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_remote_address(
        ssl: c_int,
        s: *mut us_socket_t,
        buf: *mut c_char,
        length: *mut c_int,
    );
    /// See "Sockets" in `libusockets.h`.
    pub fn us_socket_send_buffer(ssl: c_int, s: *mut us_socket_t) -> *mut c_char;
}

// ----------------------------------------------------------------------------------------
// TLS server names
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "TLS server names" in `libusockets.h`.
    pub fn us_socket_context_add_server_name(
        ssl: c_int,
        context: *mut us_socket_context_t,
        hostname_pattern: *const c_char,
        options: us_socket_context_options_t,
        user: *mut c_void,
    );
    /// See "TLS server names" in `libusockets.h`.
    pub fn us_socket_context_remove_server_name(
        ssl: c_int,
        context: *mut us_socket_context_t,
        hostname_pattern: *const c_char,
    );
    /// See "TLS server names" in `libusockets.h`.
    pub fn us_socket_context_find_server_name_userdata(
        ssl: c_int,
        context: *mut us_socket_context_t,
        hostname_pattern: *const c_char,
    ) -> *mut c_void;
}

// ----------------------------------------------------------------------------------------
// Polls
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Polls" in `libusockets.h`.
    pub fn us_create_poll(
        loop_: *mut us_loop_t,
        fallthrough: c_int,
        ext_size: c_uint,
    ) -> *mut us_poll_t;
    /// See "Polls" in `libusockets.h`.
    pub fn us_poll_free(p: *mut us_poll_t, loop_: *mut us_loop_t);
    /// See "Polls" in `libusockets.h`.
    pub fn us_poll_init(p: *mut us_poll_t, fd: LIBUS_SOCKET_DESCRIPTOR, poll_type: c_int);
    /// See "Polls" in `libusockets.h`.
    pub fn us_poll_start(p: *mut us_poll_t, loop_: *mut us_loop_t, events: c_int);
    /// See "Polls" in `libusockets.h`.
    pub fn us_poll_change(p: *mut us_poll_t, loop_: *mut us_loop_t, events: c_int);
    /// See "Polls" in `libusockets.h`.
    pub fn us_poll_stop(p: *mut us_poll_t, loop_: *mut us_loop_t);
    /// See "Polls" in `libusockets.h`.
    pub fn us_poll_events(p: *mut us_poll_t) -> c_int;
    /// See "Polls" in `libusockets.h`.
    pub fn us_poll_ext(p: *mut us_poll_t) -> *mut c_void;
    /// See "Polls" in `libusockets.h`.
    pub fn us_poll_fd(p: *mut us_poll_t) -> LIBUS_SOCKET_DESCRIPTOR;
    /// See "Polls" in `libusockets.h`.
    pub fn us_poll_resize(
        p: *mut us_poll_t,
        loop_: *mut us_loop_t,
        ext_size: c_uint,
    ) -> *mut us_poll_t;
}

// ----------------------------------------------------------------------------------------
// UDP
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "UDP" in `libusockets.h`.
    pub fn us_create_udp_packet_buffer() -> *mut us_udp_packet_buffer_t;
    /// See "UDP" in `libusockets.h`.
    pub fn us_udp_packet_buffer_payload(
        buf: *mut us_udp_packet_buffer_t,
        index: c_int,
    ) -> *mut c_char;
    /// See "UDP" in `libusockets.h`.
    pub fn us_udp_packet_buffer_payload_length(
        buf: *mut us_udp_packet_buffer_t,
        index: c_int,
    ) -> c_int;
    /// See "UDP" in `libusockets.h`.
    pub fn us_udp_packet_buffer_peer(buf: *mut us_udp_packet_buffer_t, index: c_int)
    -> *mut c_char;
    /// See "UDP" in `libusockets.h`.
    pub fn us_udp_packet_buffer_local_ip(
        buf: *mut us_udp_packet_buffer_t,
        index: c_int,
        ip: *mut c_char,
    ) -> c_int;
    /// See "UDP" in `libusockets.h`.
    pub fn us_udp_packet_buffer_ecn(buf: *mut us_udp_packet_buffer_t, index: c_int) -> c_int;
    /// See "UDP" in `libusockets.h`.
    pub fn us_udp_buffer_set_packet_payload(
        send_buf: *mut us_udp_packet_buffer_t,
        index: c_int,
        offset: c_int,
        payload: *mut c_void,
        length: c_int,
        peer_addr: *mut c_void,
    );
    /// See "UDP" in `libusockets.h`.
    pub fn us_create_udp_socket(
        loop_: *mut us_loop_t,
        buf: *mut us_udp_packet_buffer_t,
        data_cb: Option<
            unsafe extern "C" fn(*mut us_udp_socket_t, *mut us_udp_packet_buffer_t, c_int),
        >,
        drain_cb: Option<unsafe extern "C" fn(*mut us_udp_socket_t)>,
        host: *const c_char,
        port: c_ushort,
        user: *mut c_void,
    ) -> *mut us_udp_socket_t;
    /// See "UDP" in `libusockets.h`.
    pub fn us_udp_socket_receive(
        s: *mut us_udp_socket_t,
        buf: *mut us_udp_packet_buffer_t,
    ) -> c_int;
    /// See "UDP" in `libusockets.h`.
    pub fn us_udp_socket_send(
        s: *mut us_udp_socket_t,
        buf: *mut us_udp_packet_buffer_t,
        num: c_int,
    ) -> c_int;
    /// See "UDP" in `libusockets.h`.
    pub fn us_udp_socket_bound_port(s: *mut us_udp_socket_t) -> c_int;
    /// See "UDP" in `libusockets.h`.
    pub fn us_udp_socket_user(s: *mut us_udp_socket_t) -> *mut c_void;
    /// See "UDP" in `libusockets.h`.
    pub fn us_udp_socket_bind(
        s: *mut us_udp_socket_t,
        hostname: *const c_char,
        port: c_uint,
    ) -> c_int;
}

// ========================================================================================
// usockets_ext.h
// ========================================================================================

// ----------------------------------------------------------------------------------------
// Creating a loop
// ----------------------------------------------------------------------------------------

/// See "Creating a loop" in `usockets_ext.h`.
pub const USX_BACKEND_AUTO: c_int = 0;
/// See "Creating a loop" in `usockets_ext.h`.
pub const USX_BACKEND_EPOLL: c_int = 1;
/// See "Creating a loop" in `usockets_ext.h`.
pub const USX_BACKEND_POLL: c_int = 2;

/// See "Creating a loop" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct usx_loop_options {
    /// One of `USX_BACKEND_*`; unknown values fail with `EINVAL`.
    pub backend: c_int,
    /// Non-zero: time stands still, but for `usx_loop_advance_clock()`.
    pub test_clock: c_int,
}

unsafe extern "C" {
    /// See "Creating a loop" in `usockets_ext.h`.
    pub fn usx_create_loop(
        options: *const usx_loop_options,
        ext_size: c_uint,
        error: *mut c_int,
    ) -> *mut us_loop_t;
    /// See "Creating a loop" in `usockets_ext.h`.
    pub fn usx_loop_set_callbacks(
        loop_: *mut us_loop_t,
        wakeup_cb: Option<unsafe extern "C" fn(loop_: *mut us_loop_t)>,
        pre_cb: Option<unsafe extern "C" fn(loop_: *mut us_loop_t)>,
        post_cb: Option<unsafe extern "C" fn(loop_: *mut us_loop_t)>,
    );
    /// See "Creating a loop" in `usockets_ext.h`.
    pub fn usx_loop_backend(loop_: *mut us_loop_t) -> c_int;
    /// See "Creating a loop" in `usockets_ext.h`.
    pub fn usx_loop_backend_name(loop_: *mut us_loop_t) -> *const c_char;
    /// See "Creating a loop" in `usockets_ext.h`.
    pub fn usx_loop_teardown(loop_: *mut us_loop_t) -> c_int;
}

// ----------------------------------------------------------------------------------------
// Running
// ----------------------------------------------------------------------------------------

/// See "Running" in `usockets_ext.h`.
pub const USX_NO_TIMEOUT: c_longlong = -1;

unsafe extern "C" {
    /// See "Running" in `usockets_ext.h`.
    pub fn usx_loop_run(loop_: *mut us_loop_t) -> c_int;
    /// See "Running" in `usockets_ext.h`.
    pub fn usx_loop_turn(loop_: *mut us_loop_t, timeout_ns: c_longlong) -> c_int;
    /// See "Running" in `usockets_ext.h`.
    pub fn usx_loop_stop(loop_: *mut us_loop_t);
    /// See "Running" in `usockets_ext.h`.
    pub fn usx_loop_halt(loop_: *mut us_loop_t);
    /// See "Running" in `usockets_ext.h`.
    pub fn usx_loop_keep_alive(loop_: *mut us_loop_t, delta: c_int);
    /// See "Running" in `usockets_ext.h`.
    pub fn usx_loop_is_alive(loop_: *mut us_loop_t) -> c_int;
    /// See "Running" in `usockets_ext.h`.
    pub fn usx_loop_is_running(loop_: *mut us_loop_t) -> c_int;
    /// See "Running" in `usockets_ext.h`.
    pub fn usx_loop_native_descriptor(loop_: *mut us_loop_t) -> c_int;
    /// See "Running" in `usockets_ext.h`.
    pub fn usx_loop_next_timeout(loop_: *mut us_loop_t) -> c_longlong;
}

/// See "Running" in `usockets_ext.h`.
pub const USX_ERROR_RESOLVE: c_int = 0x10000;

unsafe extern "C" {
    /// See "Running" in `usockets_ext.h`.
    pub fn usx_loop_last_error(loop_: *mut us_loop_t) -> c_int;
}

/// See "Running" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct usx_job_hooks {
    /// Are jobs queued? Parks the loop if asked to.
    pub has_jobs: Option<unsafe extern "C" fn(loop_: *mut us_loop_t, park: c_int) -> c_int>,
    /// Runs the queued jobs.
    pub run_jobs: Option<unsafe extern "C" fn(loop_: *mut us_loop_t)>,
}

unsafe extern "C" {
    /// See "Running" in `usockets_ext.h`.
    pub fn usx_loop_set_job_hooks(loop_: *mut us_loop_t, hooks: usx_job_hooks);
}

// ----------------------------------------------------------------------------------------
// Time
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Time" in `usockets_ext.h`.
    pub fn usx_loop_now(loop_: *mut us_loop_t) -> u64;
    /// See "Time" in `usockets_ext.h`.
    pub fn usx_loop_advance_clock(loop_: *mut us_loop_t, nanoseconds: u64) -> c_int;
}

// ----------------------------------------------------------------------------------------
// Frames
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Frames" in `usockets_ext.h`.
    pub fn usx_frame_enter(loop_: *mut us_loop_t);
    /// See "Frames" in `usockets_ext.h`.
    pub fn usx_frame_leave(loop_: *mut us_loop_t) -> c_uint;
    /// See "Frames" in `usockets_ext.h`.
    pub fn usx_frame_depth(loop_: *mut us_loop_t) -> c_uint;
}

// ----------------------------------------------------------------------------------------
// Waking from other threads
// ----------------------------------------------------------------------------------------

/// See "Waking from other threads" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug)]
pub struct usx_waker_t {
    _private: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

unsafe extern "C" {
    /// See "Waking from other threads" in `usockets_ext.h`.
    pub fn usx_loop_waker(loop_: *mut us_loop_t) -> *mut usx_waker_t;
    /// See "Waking from other threads" in `usockets_ext.h`.
    pub fn usx_waker_retain(waker: *mut usx_waker_t) -> *mut usx_waker_t;
    /// See "Waking from other threads" in `usockets_ext.h`.
    pub fn usx_waker_release(waker: *mut usx_waker_t);
    /// See "Waking from other threads" in `usockets_ext.h`.
    pub fn usx_waker_wake(waker: *mut usx_waker_t);
}

// ----------------------------------------------------------------------------------------
// Identities
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Identities" in `usockets_ext.h`.
    pub fn usx_socket_id(s: *mut us_socket_t) -> u64;
    /// See "Identities" in `usockets_ext.h`.
    pub fn usx_listen_socket_id(ls: *mut us_listen_socket_t) -> u64;
    /// See "Identities" in `usockets_ext.h`.
    pub fn usx_context_id(context: *mut us_socket_context_t) -> u64;
}

/// See "Identities" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct usx_socket_view {
    /// `usx_socket_id()`.
    pub id: u64,
    /// The socket's context.
    pub context: *mut us_socket_context_t,
    /// The ext of the context.
    pub context_ext: *mut c_void,
    /// The ext of the socket.
    pub ext: *mut c_void,
    /// `usx_socket_binding_flags()`.
    pub binding_flags: *mut u8,
}

unsafe extern "C" {
    /// See "Identities" in `usockets_ext.h`.
    pub fn usx_socket_view(s: *mut us_socket_t, view: *mut usx_socket_view);
    /// See "Identities" in `usockets_ext.h`.
    pub fn usx_find_socket(loop_: *mut us_loop_t, id: u64) -> *mut us_socket_t;
    /// See "Identities" in `usockets_ext.h`.
    pub fn usx_find_listen_socket(loop_: *mut us_loop_t, id: u64) -> *mut us_listen_socket_t;
    /// See "Identities" in `usockets_ext.h`.
    pub fn usx_find_context(loop_: *mut us_loop_t, id: u64) -> *mut us_socket_context_t;
}

// ----------------------------------------------------------------------------------------
// Contexts
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Contexts" in `usockets_ext.h`.
    pub fn usx_create_socket_context(
        loop_: *mut us_loop_t,
        ext_size: c_uint,
    ) -> *mut us_socket_context_t;
    /// See "Contexts" in `usockets_ext.h`.
    pub fn usx_context_retain(context: *mut us_socket_context_t);
    /// See "Contexts" in `usockets_ext.h`.
    pub fn usx_context_release(context: *mut us_socket_context_t);
    /// See "Contexts" in `usockets_ext.h`.
    pub fn usx_context_on_release(
        context: *mut us_socket_context_t,
        on_release: Option<unsafe extern "C" fn(context: *mut us_socket_context_t)>,
    );
}

/// See "Contexts" in `usockets_ext.h`.
pub const USX_DESCRIPTORS_MAX: c_int = 253;

/// See "Contexts" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct usx_peer_credentials {
    /// 0: of another pid namespace, or not known.
    pub pid: c_int,
    /// The real user of a sender, the effective one of a peer.
    pub uid: c_uint,
    /// The group; as for the user.
    pub gid: c_uint,
}

/// See "Contexts" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct usx_descriptors {
    /// Close-on-exec, and the handler's to close.
    pub fds: *const c_int,
    /// Of `fds`.
    pub count: c_int,
    /// Non-zero: some got lost; none is given then.
    pub truncated: c_int,
    /// NULL: not asked for, or the kernel has none.
    pub credentials: *const usx_peer_credentials,
}

unsafe extern "C" {
    /// See "Contexts" in `usockets_ext.h`.
    pub fn usx_context_on_descriptors(
        context: *mut us_socket_context_t,
        on_descriptors: Option<
            unsafe extern "C" fn(s: *mut us_socket_t, descriptors: *const usx_descriptors),
        >,
        credentials: c_int,
    );
}

/// See "Contexts" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct usx_adoption {
    /// Permits the move, or refuses it.
    pub before: Option<unsafe extern "C" fn(s: *mut us_socket_t, argument: *mut c_void) -> c_int>,
    /// The socket has moved.
    pub after: Option<unsafe extern "C" fn(s: *mut us_socket_t, argument: *mut c_void)>,
    /// The socket closed before it could move.
    pub dropped: Option<unsafe extern "C" fn(s: *mut us_socket_t, argument: *mut c_void)>,
}

// ----------------------------------------------------------------------------------------
// Listening
// ----------------------------------------------------------------------------------------

/// See "Listening" in `usockets_ext.h`.
pub const USX_OVERLOAD_STOP: c_int = 0;
/// See "Listening" in `usockets_ext.h`.
pub const USX_OVERLOAD_CLOSE: c_int = 1;
/// See "Listening" in `usockets_ext.h`.
pub const USX_OVERLOAD_RESET: c_int = 2;

/// See "Listening" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct usx_listen_options {
    /// 0: `USX_DEFAULT_BACKLOG`; the kernel caps it at net.core.somaxconn.
    pub backlog: c_int,
    /// Non-zero: `SO_REUSEPORT`. `SO_REUSEADDR` is always set on TCP sockets.
    pub reuse_port: c_int,
    /// 0: dual-stack; non-zero: `IPV6_V6ONLY`.
    pub ipv6_only: c_int,
    /// Seconds that a connection without data is kept back, `TCP_DEFER_ACCEPT`.
    pub defer_accept: c_int,
    /// Requests that may be pending, `TCP_FASTOPEN`; 0: none.
    pub fast_open: c_int,
    /// Of accepted sockets; 0: `TCP_NODELAY`; non-zero: small segments are collected.
    pub delay: c_int,
    /// Seconds without traffic before the first probe; 0: no `SO_KEEPALIVE`.
    pub keepalive_idle: c_int,
    /// Seconds between probes; 0: the kernel's.
    pub keepalive_interval: c_int,
    /// Probes without an answer that end the connection; 0: the kernel's.
    pub keepalive_count: c_int,
    /// Bytes for `SO_RCVBUF` of accepted sockets; 0: the kernel's.
    pub receive_buffer: c_int,
    /// Bytes for `SO_SNDBUF` of accepted sockets; 0: the kernel's.
    pub send_buffer: c_int,
    /// Connections per turn, 1 to `USX_ACCEPT_BUDGET_MAX`; 0: the maximum.
    pub accept_budget: c_int,
    /// Sockets of the listener that are not released; 0: no limit.
    pub max_connections: c_uint,
    /// What becomes of more: one of `USX_OVERLOAD_*`.
    pub overload: c_int,
    /// The same for the sockets of one peer.
    pub max_connections_per_address: c_uint,
    /// `USX_OVERLOAD_CLOSE` (also 0) or `USX_OVERLOAD_RESET`.
    pub overload_per_address: c_int,
    /// `USX_UNIX_*`: which of the following are meant.
    pub unix_set: c_uint,
    /// Permission bits, whatever the umask; default: 0700 less the umask.
    pub unix_mode: c_uint,
    /// User id.
    pub unix_owner: c_uint,
    /// Group id.
    pub unix_group: c_uint,
}

/// See "Listening" in `usockets_ext.h`.
pub const USX_DEFAULT_BACKLOG: c_int = 4096;
/// See "Listening" in `usockets_ext.h`.
pub const USX_ACCEPT_BUDGET_MAX: c_int = 1024;
/// See "Listening" in `usockets_ext.h`.
pub const USX_UNIX_MODE: c_uint = 1;
/// See "Listening" in `usockets_ext.h`.
pub const USX_UNIX_OWNER: c_uint = 2;
/// See "Listening" in `usockets_ext.h`.
pub const USX_UNIX_GROUP: c_uint = 4;

unsafe extern "C" {
    /// See "Listening" in `usockets_ext.h`.
    pub fn usx_context_listen(
        context: *mut us_socket_context_t,
        address: *const sockaddr,
        address_length: socklen_t,
        options: *const usx_listen_options,
        socket_ext_size: c_uint,
    ) -> *mut us_listen_socket_t;
    /// See "Listening" in `usockets_ext.h`.
    pub fn usx_context_listen_descriptor(
        context: *mut us_socket_context_t,
        fd: LIBUS_SOCKET_DESCRIPTOR,
        options: *const usx_listen_options,
        socket_ext_size: c_uint,
    ) -> *mut us_listen_socket_t;
    /// See "Listening" in `usockets_ext.h`.
    pub fn usx_listen_socket_pause(ls: *mut us_listen_socket_t);
    /// See "Listening" in `usockets_ext.h`.
    pub fn usx_listen_socket_resume(ls: *mut us_listen_socket_t);
    /// See "Listening" in `usockets_ext.h`.
    pub fn usx_listen_socket_is_paused(ls: *mut us_listen_socket_t) -> c_int;
    /// See "Listening" in `usockets_ext.h`.
    pub fn usx_listen_socket_connections(ls: *mut us_listen_socket_t) -> c_longlong;
    /// See "Listening" in `usockets_ext.h`.
    pub fn usx_listen_socket_address(
        ls: *mut us_listen_socket_t,
        address: *mut sockaddr_storage,
        length: *mut socklen_t,
    ) -> c_int;
    /// See "Listening" in `usockets_ext.h`.
    pub fn usx_listen_socket_hand_over(ls: *mut us_listen_socket_t);
    /// See "Listening" in `usockets_ext.h`.
    pub fn usx_loop_accepted_address(
        loop_: *mut us_loop_t,
        length: *mut socklen_t,
    ) -> *const sockaddr;
    /// See "Listening" in `usockets_ext.h`.
    pub fn usx_adopt_accepted_later(
        context: *mut us_socket_context_t,
        fd: LIBUS_SOCKET_DESCRIPTOR,
        socket_ext_size: c_uint,
    ) -> *mut us_socket_t;
    /// See "Listening" in `usockets_ext.h`.
    pub fn usx_descriptor_peer_credentials(
        fd: LIBUS_SOCKET_DESCRIPTOR,
        credentials: *mut usx_peer_credentials,
    ) -> c_int;
}

// ----------------------------------------------------------------------------------------
// Preludes
// ----------------------------------------------------------------------------------------

/// See "Preludes" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct usx_prelude {
    /// Says how many of the bytes are the prelude.
    pub parse: Option<
        unsafe extern "C" fn(
            s: *mut us_socket_t,
            argument: *mut c_void,
            data: *const c_char,
            length: usize,
        ) -> c_int,
    >,
    /// Nobody needs the argument any more.
    pub release: Option<unsafe extern "C" fn(argument: *mut c_void)>,
    /// Given to both.
    pub argument: *mut c_void,
    /// 1 to `USX_PRELUDE_MAX` bytes; never is more than that received for it.
    pub max_length: c_uint,
    /// Nanoseconds from the accept, at most `USX_DEADLINE_MAX`; 0: the context's for handshakes.
    pub deadline: u64,
}

/// The longest header of the PROXY protocol.
pub const USX_PRELUDE_MAX: c_int = 65_551;
/// See "Preludes" in `usockets_ext.h`.
pub const USX_PRELUDE_NONE: c_int = 0x7fff_ffff;

unsafe extern "C" {
    /// See "Preludes" in `usockets_ext.h`.
    pub fn usx_listen_socket_set_prelude(
        ls: *mut us_listen_socket_t,
        prelude: *const usx_prelude,
    ) -> c_int;
    /// See "Preludes" in `usockets_ext.h`.
    pub fn usx_loop_prelude(loop_: *mut us_loop_t, length: *mut usize) -> *const c_char;
}

// ----------------------------------------------------------------------------------------
// Connecting
// ----------------------------------------------------------------------------------------

/// See "Connecting" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct usx_connect_options {
    /// Local address, bound first; NULL: the system chooses.
    pub local: *const sockaddr,
    /// Its length in bytes.
    pub local_length: socklen_t,
    /// Name of the one network device to use; NULL: any.
    pub device: *const c_char,
    /// Nanoseconds between the attempts of a race; 0: `USX_ATTEMPT_DELAY_DEFAULT`.
    pub attempt_delay: u64,
    /// Non-zero: look the name up for this connect alone, and anew.
    pub no_cache: c_int,
}

/// Delay between attempts, in nanoseconds: the default.
pub const USX_ATTEMPT_DELAY_DEFAULT: c_longlong = 250_000_000;
/// Delay between attempts, in nanoseconds: the shortest.
pub const USX_ATTEMPT_DELAY_MIN: c_longlong = 10_000_000;
/// Delay between attempts, in nanoseconds: the longest.
pub const USX_ATTEMPT_DELAY_MAX: c_longlong = 2_000_000_000;

unsafe extern "C" {
    /// See "Connecting" in `usockets_ext.h`.
    pub fn usx_context_connect(
        context: *mut us_socket_context_t,
        address: *const sockaddr,
        address_length: socklen_t,
        options: *const usx_connect_options,
        socket_ext_size: c_uint,
    ) -> *mut us_socket_t;
    /// See "Connecting" in `usockets_ext.h`.
    pub fn usx_context_connect_any(
        context: *mut us_socket_context_t,
        addresses: *const sockaddr_storage,
        count: c_uint,
        options: *const usx_connect_options,
        socket_ext_size: c_uint,
    ) -> *mut us_socket_t;
    /// See "Connecting" in `usockets_ext.h`.
    pub fn usx_context_connect_name(
        context: *mut us_socket_context_t,
        host: *const c_char,
        port: c_int,
        options: *const usx_connect_options,
        socket_ext_size: c_uint,
    ) -> *mut us_socket_t;
}

/// Not begun: the race was over before.
pub const USX_ATTEMPT_NONE: c_int = 0;
/// Under way.
pub const USX_ATTEMPT_RUNNING: c_int = 1;
/// It became the connection.
pub const USX_ATTEMPT_CONNECTED: c_int = 2;
/// See `error`.
pub const USX_ATTEMPT_FAILED: c_int = 3;
/// Another one was faster, or the socket was closed.
pub const USX_ATTEMPT_GIVEN_UP: c_int = 4;

/// See "Connecting" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct usx_connect_attempt {
    /// What was connected to.
    pub address: sockaddr_storage,
    /// The length of the address in bytes.
    pub address_length: socklen_t,
    /// One of `USX_ATTEMPT_*`.
    pub state: c_int,
    /// Positive errno, else 0.
    pub error: c_int,
    /// Nanoseconds since the call that connects.
    pub began: u64,
    /// Nanoseconds since the call that connects.
    pub ended: u64,
}

unsafe extern "C" {
    /// See "Connecting" in `usockets_ext.h`.
    pub fn usx_socket_connect_attempts(
        s: *mut us_socket_t,
        attempts: *mut usx_connect_attempt,
        capacity: c_uint,
    ) -> c_uint;
}

// ----------------------------------------------------------------------------------------
// Sockets
// ----------------------------------------------------------------------------------------

/// Connect under way, or name being resolved.
pub const USX_STATE_CONNECTING: c_int = 0;
/// Handed over, `on_open` pending; or accepted, prelude awaited.
pub const USX_STATE_OPENING: c_int = 1;
/// See "Sockets" in `usockets_ext.h`.
pub const USX_STATE_OPEN: c_int = 2;
/// Closed for the program, effects pending; descriptor still kept.
pub const USX_STATE_CLOSING: c_int = 3;
/// See "Sockets" in `usockets_ext.h`.
pub const USX_STATE_CLOSED: c_int = 4;

unsafe extern "C" {
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_state(s: *mut us_socket_t) -> c_int;
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_is_moving(s: *mut us_socket_t) -> c_int;
}

/// Not closed.
pub const USX_REASON_NONE: c_int = 0;
/// The program closed it.
pub const USX_REASON_LOCAL: c_int = 1;
/// The program reset it.
pub const USX_REASON_LOCAL_RESET: c_int = 2;
/// Both directions ended in order.
pub const USX_REASON_END: c_int = 3;
/// The peer reset the connection.
pub const USX_REASON_RESET: c_int = 4;
/// The peer is gone in both directions (Unix sockets).
pub const USX_REASON_HANGUP: c_int = 5;
/// A system error: see `error`.
pub const USX_REASON_ERROR: c_int = 6;
/// The connection could not be made: see `error`.
pub const USX_REASON_CONNECT: c_int = 7;
/// The name could not be resolved: `error` is an `EAI_*` code.
pub const USX_REASON_RESOLVE: c_int = 8;
/// Closed with its context.
pub const USX_REASON_CONTEXT_CLOSED: c_int = 9;
/// Closed because the loop is being torn down.
pub const USX_REASON_LOOP_CLOSED: c_int = 10;
/// A policy deadline has passed: `error` is one of `USX_DEADLINE_*`.
pub const USX_REASON_DEADLINE: c_int = 11;
/// What it was to begin with did not come: see `error`.
pub const USX_REASON_PRELUDE: c_int = 12;
/// A file that was being sent cannot be read: `error`; `ENODATA`: it got shorter.
pub const USX_REASON_FILE: c_int = 13;
/// The socket to or from which it was piped has closed.
pub const USX_REASON_PIPE: c_int = 14;
/// TLS failed: see [`usx_socket_tls_failure`].
pub const USX_REASON_TLS: c_int = 15;
/// The peer has ended without the `close_notify` of TLS.
pub const USX_REASON_TRUNCATED: c_int = 16;

/// See "Sockets" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct usx_close_reason {
    /// One of `USX_REASON_*`.
    pub kind: c_int,
    /// `errno` or `EAI_*` code where the kind says so, else 0.
    pub error: c_int,
}

unsafe extern "C" {
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_close_reason(s: *mut us_socket_t) -> usx_close_reason;
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_close(s: *mut us_socket_t, reset: c_int);
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_close_again(s: *mut us_socket_t);
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_close_after_flush(s: *mut us_socket_t);
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_discard(s: *mut us_socket_t);
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_context_close(context: *mut us_socket_context_t);
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_pause(s: *mut us_socket_t);
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_resume(s: *mut us_socket_t);
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_is_paused(s: *mut us_socket_t) -> c_int;
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_is_writable_pending(s: *mut us_socket_t) -> c_int;
}

/// 4.19 ms.
pub const USX_DEADLINE_GRANULARITY: c_int = 1 << 22;
/// 50 days.
pub const USX_DEADLINE_MAX: c_longlong = 86_400 * 50 * 1_000_000_000;

unsafe extern "C" {
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_set_deadline(s: *mut us_socket_t, which: c_int, nanoseconds: u64) -> c_int;
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_local_address(
        s: *mut us_socket_t,
        address: *mut sockaddr_storage,
        length: *mut socklen_t,
    ) -> c_int;
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_remote_address(
        s: *mut us_socket_t,
        address: *mut sockaddr_storage,
        length: *mut socklen_t,
    ) -> c_int;
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_adopt_later(
        s: *mut us_socket_t,
        target: *mut us_socket_context_t,
        ext_size: c_uint,
        unread: usize,
        functions: *const usx_adoption,
        argument: *mut c_void,
    ) -> c_int;
    /// See "Sockets" in `usockets_ext.h`.
    pub fn usx_socket_binding_flags(s: *mut us_socket_t) -> *mut u8;
}

// ----------------------------------------------------------------------------------------
// Output
// ----------------------------------------------------------------------------------------

/// How a context treats output; see "Output" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct usx_output_options {
    /// Non-zero: small writes are collected.
    pub gather: c_int,
    /// `on_drain` comes once more than this was queued; 0: never.
    pub high_water: usize,
    /// ... and no more than this is left.
    pub low_water: usize,
    /// Most bytes of memory that wait in one socket; 0: no limit.
    pub limit: usize,
    /// `usx_socket_send_owned` of so many bytes lets the system read them where they are; 0: never.
    pub zerocopy_threshold: usize,
}

unsafe extern "C" {
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_context_set_output(
        context: *mut us_socket_context_t,
        options: *const usx_output_options,
    ) -> c_int;
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_context_on_drain(
        context: *mut us_socket_context_t,
        on_drain: Option<unsafe extern "C" fn(s: *mut us_socket_t) -> *mut us_socket_t>,
    );
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_loop_set_queue_limit(loop_: *mut us_loop_t, limit: usize);
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_socket_write(
        s: *mut us_socket_t,
        slices: *const iovec,
        count: c_int,
        msg_more: c_int,
    ) -> usize;
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_loop_write(
        loop_: *mut us_loop_t,
        id: u64,
        data: *const c_void,
        length: usize,
    ) -> usize;
}

/// A write of at least this many bytes is not collected.
pub const USX_GATHER_BYPASS: c_int = 4096;

/// The buffer in which output is collected; see "Output" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug)]
pub struct usx_gather {
    /// Identity of the socket whose buffer it is; 0: nobody's.
    pub id: u64,
    /// Where the next bytes go.
    pub position: *mut c_char,
    /// Where the buffer ends.
    pub end: *mut c_char,
}

unsafe extern "C" {
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_loop_gather(loop_: *mut us_loop_t) -> *mut usx_gather;
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_socket_send(s: *mut us_socket_t, slices: *const iovec, count: c_int) -> c_int;
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_socket_send_owned(
        s: *mut us_socket_t,
        data: *const c_void,
        length: usize,
        release: Option<unsafe extern "C" fn(argument: *mut c_void)>,
        argument: *mut c_void,
    ) -> c_int;
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_socket_send_file(s: *mut us_socket_t, fd: c_int, offset: u64, length: u64) -> c_int;
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_socket_send_descriptors(
        s: *mut us_socket_t,
        data: *const c_void,
        length: usize,
        fds: *const c_int,
        count: c_int,
        credentials: c_int,
    ) -> c_int;
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_socket_buffered(s: *mut us_socket_t) -> usize;
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_socket_pipe(
        source: *mut us_socket_t,
        target: *mut us_socket_t,
        flags: c_int,
    ) -> c_int;
}

/// A flag of [`usx_socket_pipe`]: the target stays open when the source ends.
pub const USX_PIPE_LEAVE_OPEN: c_int = 1;

unsafe extern "C" {
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_context_on_pipe_end(
        context: *mut us_socket_context_t,
        on_pipe_end: Option<
            unsafe extern "C" fn(s: *mut us_socket_t, result: c_int) -> *mut us_socket_t,
        >,
    );
}

/// The stream of the source has ended, and all of it was passed on.
pub const USX_PIPE_END_SOURCE: c_int = 1;
/// The target takes no more.
pub const USX_PIPE_END_TARGET: c_int = 2;

unsafe extern "C" {
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_socket_is_piped(s: *mut us_socket_t) -> c_int;
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_socket_piped_bytes(s: *mut us_socket_t) -> u64;
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_socket_needs_drain(s: *mut us_socket_t) -> c_int;
    /// See "Output" in `usockets_ext.h`.
    pub fn usx_socket_flush(s: *mut us_socket_t);
}

// ----------------------------------------------------------------------------------------
// Deadlines
// ----------------------------------------------------------------------------------------

/// From the call until the connection is made.
pub const USX_DEADLINE_CONNECT: c_int = 1;
/// Of what comes before `on_open`.
pub const USX_DEADLINE_HANDSHAKE: c_int = 2;
/// From `on_open` of an accepted socket until the peer has sent something.
pub const USX_DEADLINE_FIRST_BYTE: c_int = 3;
/// Since bytes moved in either direction.
pub const USX_DEADLINE_IDLE: c_int = 4;
/// Output waits, and none of it has moved.
pub const USX_DEADLINE_WRITE_STALL: c_int = 5;
/// Lingering after close.
pub const USX_DEADLINE_DRAIN: c_int = 6;

/// Nanoseconds; 0: none. See "Deadlines" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct usx_deadlines {
    /// `USX_DEADLINE_CONNECT`.
    pub connect: u64,
    /// `USX_DEADLINE_HANDSHAKE`.
    pub handshake: u64,
    /// `USX_DEADLINE_FIRST_BYTE`.
    pub first_byte: u64,
    /// `USX_DEADLINE_IDLE`.
    pub idle: u64,
    /// `USX_DEADLINE_WRITE_STALL`.
    pub write_stall: u64,
    /// `USX_DEADLINE_DRAIN`.
    pub drain: u64,
}

unsafe extern "C" {
    /// See "Deadlines" in `usockets_ext.h`.
    pub fn usx_context_set_deadlines(
        context: *mut us_socket_context_t,
        deadlines: *const usx_deadlines,
    ) -> c_int;
    /// See "Deadlines" in `usockets_ext.h`.
    pub fn usx_socket_set_policy_deadline(
        s: *mut us_socket_t,
        kind: c_int,
        nanoseconds: u64,
    ) -> c_int;
}

// ----------------------------------------------------------------------------------------
// Draining
// ----------------------------------------------------------------------------------------

/// See "Draining" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct usx_drain_report {
    /// By themselves, in whatever way.
    pub finished: u64,
    /// Ended because the deadline had passed.
    pub forced: u64,
    /// Nanoseconds.
    pub elapsed: u64,
}

unsafe extern "C" {
    /// See "Draining" in `usockets_ext.h`.
    pub fn usx_context_drain(
        context: *mut us_socket_context_t,
        deadline: u64,
        on_drained: Option<
            unsafe extern "C" fn(
                loop_: *mut us_loop_t,
                report: *const usx_drain_report,
                argument: *mut c_void,
            ),
        >,
        argument: *mut c_void,
    ) -> c_int;
    /// See "Draining" in `usockets_ext.h`.
    pub fn usx_loop_drain(
        loop_: *mut us_loop_t,
        deadline: u64,
        on_drained: Option<
            unsafe extern "C" fn(
                loop_: *mut us_loop_t,
                report: *const usx_drain_report,
                argument: *mut c_void,
            ),
        >,
        argument: *mut c_void,
    ) -> c_int;
    /// See "Draining" in `usockets_ext.h`.
    pub fn usx_context_on_drain_requested(
        context: *mut us_socket_context_t,
        on_drain_requested: Option<unsafe extern "C" fn(s: *mut us_socket_t) -> *mut us_socket_t>,
    );
    /// See "Draining" in `usockets_ext.h`.
    pub fn usx_context_is_draining(context: *mut us_socket_context_t) -> c_int;
}

// ----------------------------------------------------------------------------------------
// Polls with a handler
// ----------------------------------------------------------------------------------------

/// See "Polls with a handler" in `usockets_ext.h`.
pub const USX_POLL_ERROR: c_int = 8;
/// See "Polls with a handler" in `usockets_ext.h`.
pub const USX_POLL_HANGUP: c_int = 16;

unsafe extern "C" {
    /// See "Polls with a handler" in `usockets_ext.h`.
    pub fn usx_poll_set_handler(
        p: *mut us_poll_t,
        handler: Option<unsafe extern "C" fn(p: *mut us_poll_t, events: c_int)>,
    );
    /// See "Polls with a handler" in `usockets_ext.h`.
    pub fn usx_poll_share(p: *mut us_poll_t);
    /// See "Polls with a handler" in `usockets_ext.h`.
    pub fn usx_poll_start(p: *mut us_poll_t, loop_: *mut us_loop_t, events: c_int) -> c_int;
    /// See "Polls with a handler" in `usockets_ext.h`.
    pub fn usx_poll_change(p: *mut us_poll_t, loop_: *mut us_loop_t, events: c_int) -> c_int;
}

// ----------------------------------------------------------------------------------------
// Timers
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Timers" in `usockets_ext.h`.
    pub fn usx_timer_set(
        timer: *mut us_timer_t,
        cb: Option<unsafe extern "C" fn(timer: *mut us_timer_t)>,
        after: u64,
        every: u64,
    );
    /// See "Timers" in `usockets_ext.h`.
    pub fn usx_timer_is_armed(timer: *mut us_timer_t) -> c_int;
    /// See "Timers" in `usockets_ext.h`.
    pub fn usx_timer_on_release(
        timer: *mut us_timer_t,
        on_release: Option<unsafe extern "C" fn(timer: *mut us_timer_t)>,
    );
    /// See "Timers" in `usockets_ext.h`.
    pub fn usx_poll_on_release(
        p: *mut us_poll_t,
        on_release: Option<unsafe extern "C" fn(p: *mut us_poll_t)>,
    );
}

// ----------------------------------------------------------------------------------------
// Statistics
// ----------------------------------------------------------------------------------------

/// See "Statistics" in `usockets_ext.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct usx_loop_statistics {
    /// Iterations begun.
    pub iterations: u64,
    /// Waits of the poller, sleeping or not.
    pub waits: u64,
    /// Events that the poller reported.
    pub events: u64,
    /// Times the wake-up descriptor was read.
    pub wakeups: u64,
    /// Connections taken from a listener.
    pub accepted: u64,
    /// Out of descriptors or memory.
    pub accept_failures: u64,
    /// Accepted and closed, for a limit of their listener.
    pub refused_connections: u64,
    /// Accepted connections that did not begin with their prelude.
    pub prelude_failures: u64,
    /// Connect attempts begun.
    pub connects: u64,
    /// Receive calls that gave bytes.
    pub receives: u64,
    /// Bytes taken from the kernel.
    pub bytes_received: u64,
    /// Send calls that took bytes.
    pub sends: u64,
    /// Bytes that the kernel took.
    pub bytes_sent: u64,
    /// Timer callbacks.
    pub timers_fired: u64,
    /// Socket timeouts, both kinds.
    pub timeouts_fired: u64,
    /// Sockets closed.
    pub sockets_closed: u64,
    /// Stream sockets not yet released.
    pub live_sockets: u64,
    /// Listen sockets not yet released.
    pub live_listeners: u64,
    /// Timers not yet closed.
    pub live_timers: u64,
    /// Polls not yet freed.
    pub live_polls: u64,
    /// Contexts not yet freed.
    pub live_contexts: u64,
    /// Bytes of memory held for sockets, in use or free.
    pub live_block_bytes: u64,
    /// Sockets ended by a policy deadline, lingering ones included.
    pub deadlines_missed: u64,
    /// Closed sockets whose output is still being sent.
    pub live_lingering: u64,
    /// Output that waits in sockets, at present.
    pub queued_bytes: u64,
}

unsafe extern "C" {
    /// See "Statistics" in `usockets_ext.h`.
    pub fn usx_loop_statistics(loop_: *mut us_loop_t, statistics: *mut usx_loop_statistics);
}

// ----------------------------------------------------------------------------------------
// Symbols that existing programs declare themselves
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Symbols that existing programs declare themselves" in `usockets_ext.h`.
    pub fn us_internal_timer_sweep(loop_: *mut us_loop_t);
    /// See "Symbols that existing programs declare themselves" in `usockets_ext.h`.
    pub fn sni_new() -> *mut c_void;
    /// See "Symbols that existing programs declare themselves" in `usockets_ext.h`.
    pub fn sni_free(sni: *mut c_void, release: Option<unsafe extern "C" fn(user: *mut c_void)>);
    /// See "Symbols that existing programs declare themselves" in `usockets_ext.h`.
    pub fn sni_add(sni: *mut c_void, pattern: *const c_char, user: *mut c_void) -> c_int;
    /// See "Symbols that existing programs declare themselves" in `usockets_ext.h`.
    pub fn sni_find(sni: *mut c_void, name: *const c_char) -> *mut c_void;
    /// See "Symbols that existing programs declare themselves" in `usockets_ext.h`.
    pub fn sni_remove(sni: *mut c_void, pattern: *const c_char) -> *mut c_void;
}

// ----------------------------------------------------------------------------------------
// Fault injection (only in builds with USX_FAULT_INJECTION)
// ----------------------------------------------------------------------------------------

/// See "Fault injection" in `usockets_ext.h`.
#[cfg(usockets_fault_injection)]
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct usx_fault_plan {
    /// The call to fail, counted from 1; 0 for none.
    pub at: u64,
    /// The errno it fails with.
    pub error: c_int,
    /// If not 0, it moves at most so many bytes instead.
    pub short_count: usize,
}

unsafe extern "C" {
    /// See "Fault injection" in `usockets_ext.h`.
    #[cfg(usockets_fault_injection)]
    pub fn usx_fault_set(plan: *const usx_fault_plan);
    /// See "Fault injection" in `usockets_ext.h`.
    #[cfg(usockets_fault_injection)]
    pub fn usx_fault_calls() -> u64;
    /// See "Fault injection" in `usockets_ext.h`.
    #[cfg(usockets_fault_injection)]
    pub fn usx_fault_fired() -> c_int;
}

// ========================================================================================
// usockets_tls.h
// ========================================================================================

unsafe extern "C" {
    /// See the beginning of `usockets_tls.h`.
    pub fn usx_tls_library() -> *const c_char;
    /// See the beginning of `usockets_tls.h`.
    pub fn usx_tls_kernel_support() -> c_int;
}

// ----------------------------------------------------------------------------------------
// Errors
// ----------------------------------------------------------------------------------------

/// See "Errors" in `usockets_tls.h`.
pub const USX_TLS_ERROR_NONE: c_int = 0;
/// No TLS in this build.
pub const USX_TLS_ERROR_UNAVAILABLE: c_int = 1;
/// See "Errors" in `usockets_tls.h`.
pub const USX_TLS_ERROR_MEMORY: c_int = 2;
/// A file: see `error`.
pub const USX_TLS_ERROR_SYSTEM: c_int = 3;
/// Certificate or chain cannot be read, or is not fit for use.
pub const USX_TLS_ERROR_CERTIFICATE: c_int = 4;
/// Private key cannot be read.
pub const USX_TLS_ERROR_KEY: c_int = 5;
/// It is encrypted, and the passphrase is wrong or missing.
pub const USX_TLS_ERROR_PASSPHRASE: c_int = 6;
/// Key and certificate do not belong together.
pub const USX_TLS_ERROR_MISMATCH: c_int = 7;
/// The certificate is not valid at this time.
pub const USX_TLS_ERROR_EXPIRED: c_int = 8;
/// Trusted certificates cannot be read.
pub const USX_TLS_ERROR_TRUST: c_int = 9;
/// No cipher of TLS 1.2 in the list.
pub const USX_TLS_ERROR_CIPHERS: c_int = 10;
/// No cipher suite of TLS 1.3 in the list, or an unknown one.
pub const USX_TLS_ERROR_SUITES: c_int = 11;
/// An unknown group.
pub const USX_TLS_ERROR_GROUPS: c_int = 12;
/// A version range that is empty or not offered.
pub const USX_TLS_ERROR_VERSIONS: c_int = 13;
/// ALPN names that are empty, or longer than 255 bytes.
pub const USX_TLS_ERROR_PROTOCOLS: c_int = 14;
/// Diffie-Hellman parameters.
pub const USX_TLS_ERROR_DH: c_int = 15;
/// An unknown signature algorithm.
pub const USX_TLS_ERROR_SIGNATURES: c_int = 16;
/// Another option is out of its range.
pub const USX_TLS_ERROR_OPTION: c_int = 17;
/// The OCSP response cannot be read.
pub const USX_TLS_ERROR_OCSP: c_int = 18;

/// See "Errors" in `usockets_tls.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct usx_tls_error {
    /// One of `USX_TLS_ERROR_*`.
    pub kind: c_int,
    /// Positive errno; 0: none.
    pub error: c_int,
    /// `USX_TLS_ERROR_TRUST`: which of `trusted`; after the last: the system's.
    pub index: usize,
    /// Of the library; 0: none.
    pub code: c_ulong,
    /// Which part of the library; static, or NULL.
    pub library: *const c_char,
    /// What it says; static, or NULL.
    pub reason: *const c_char,
}

// ----------------------------------------------------------------------------------------
// Ticket keys
// ----------------------------------------------------------------------------------------

/// A name of 16 bytes, an AES-256 key, a key for HMAC-SHA-256.
pub const USX_TLS_TICKET_KEY_LENGTH: c_int = 80;
/// See "Ticket keys" in `usockets_tls.h`.
pub const USX_TLS_TICKET_KEYS_MAX: c_int = 8;

/// See "Ticket keys" in `usockets_tls.h`.
#[repr(C)]
#[derive(Debug)]
pub struct usx_tls_ticket_keys_t {
    _private: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

unsafe extern "C" {
    /// See "Ticket keys" in `usockets_tls.h`.
    pub fn usx_tls_ticket_keys_create(
        keys: *const c_void,
        count: c_uint,
    ) -> *mut usx_tls_ticket_keys_t;
    /// See "Ticket keys" in `usockets_tls.h`.
    pub fn usx_tls_ticket_keys_set(
        keys: *mut usx_tls_ticket_keys_t,
        bytes: *const c_void,
        count: c_uint,
    ) -> c_int;
    /// See "Ticket keys" in `usockets_tls.h`.
    pub fn usx_tls_ticket_keys_retain(
        keys: *mut usx_tls_ticket_keys_t,
    ) -> *mut usx_tls_ticket_keys_t;
    /// See "Ticket keys" in `usockets_tls.h`.
    pub fn usx_tls_ticket_keys_release(keys: *mut usx_tls_ticket_keys_t);
}

// ----------------------------------------------------------------------------------------
// Configurations
// ----------------------------------------------------------------------------------------

/// See "Configurations" in `usockets_tls.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct usx_tls_bytes {
    /// NULL: none.
    pub data: *const c_void,
    /// How many there are.
    pub length: usize,
}

/// See "Configurations" in `usockets_tls.h`.
pub const USX_TLS_PEM: c_int = 0;
/// See "Configurations" in `usockets_tls.h`.
pub const USX_TLS_DER: c_int = 1;
/// `certificate` has the key and the chain, too.
pub const USX_TLS_PKCS12: c_int = 2;

/// See "Configurations" in `usockets_tls.h`.
pub const USX_TLS_SERVER: c_int = 1;
/// See "Configurations" in `usockets_tls.h`.
pub const USX_TLS_CLIENT: c_int = 2;

/// Server: none is asked for; client: any will do.
pub const USX_TLS_VERIFY_NONE: c_int = 0;
/// Server: one is asked for; if it comes it must verify. Client: as required.
pub const USX_TLS_VERIFY_OPTIONAL: c_int = 1;
/// There must be one, and it must verify.
pub const USX_TLS_VERIFY_REQUIRED: c_int = 2;

/// See "Configurations" in `usockets_tls.h`.
pub const USX_TLS_1_2: c_int = 0x0303;
/// See "Configurations" in `usockets_tls.h`.
pub const USX_TLS_1_3: c_int = 0x0304;

/// See "Configurations" in `usockets_tls.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct usx_tls_options {
    /// `USX_TLS_SERVER`, `USX_TLS_CLIENT`, or both.
    pub role: c_int,
    /// Ours: PEM: a chain, leaf first; DER: the leaf.
    pub certificate: usx_tls_bytes,
    /// `USX_TLS_PEM`, `USX_TLS_DER` or `USX_TLS_PKCS12`.
    pub certificate_format: c_int,
    /// Certificates between the leaf and the root, each in DER.
    pub chain: *const usx_tls_bytes,
    /// How many there are.
    pub chain_count: usize,
    /// The private key.
    pub key: usx_tls_bytes,
    /// `USX_TLS_PEM` or `USX_TLS_DER`.
    pub key_format: c_int,
    /// Of an encrypted key or PKCS#12; NULL: none.
    pub passphrase: *const c_char,
    /// Its length in bytes.
    pub passphrase_length: usize,
    /// Non-zero: a leaf that is not valid at this time is refused.
    pub check_validity: c_int,
    /// DER, stapled when a client asks.
    pub ocsp_response: usx_tls_bytes,
    /// Trusted certificates.
    pub trusted: *const usx_tls_bytes,
    /// How many there are.
    pub trusted_count: usize,
    /// `USX_TLS_PEM` or `USX_TLS_DER`.
    pub trusted_format: c_int,
    /// Non-zero: those of the system as well.
    pub system_trust: c_int,
    /// With `system_trust`: instead of the library's own place.
    pub trust_file: *const c_char,
    /// With `system_trust`: instead of the library's own place.
    pub trust_directory: *const c_char,
    /// One of `USX_TLS_VERIFY_*`.
    pub verify: c_int,
    /// Clients, non-zero: the certificate must be for the name or address connected to.
    pub check_name: c_int,
    /// `USX_TLS_1_2` or `USX_TLS_1_3`; 0: all from 1.2 on.
    pub min_version: c_int,
    /// `USX_TLS_1_2` or `USX_TLS_1_3`; 0: all from 1.2 on.
    pub max_version: c_int,
    /// TLS 1.2.
    pub ciphers: *const c_char,
    /// TLS 1.3.
    pub cipher_suites: *const c_char,
    /// Such as `X25519:P-256`.
    pub groups: *const c_char,
    /// See "Configurations" in `usockets_tls.h`.
    pub signature_algorithms: *const c_char,
    /// Non-zero: see `ciphers`.
    pub strict: c_int,
    /// ALPN: each with its length in a byte before it, best first.
    pub protocols: usx_tls_bytes,
    /// PEM.
    pub dh_parameters: usx_tls_bytes,
    /// Server: session tickets per full handshake, 0 to 16.
    pub tickets: c_int,
    /// Retained; NULL: random ones of this configuration.
    pub ticket_keys: *mut usx_tls_ticket_keys_t,
    /// A descriptor, duplicated; -1: none.
    pub key_log: c_int,
    /// Non-zero: idle connections give their buffers back.
    pub release_buffers: c_int,
    /// Non-zero: a FIN without a `close_notify` is an end as good as any.
    pub tolerate_truncation: c_int,
    /// Non-zero: kTLS where there is any.
    pub kernel: c_int,
}

/// See "Configurations" in `usockets_tls.h`.
#[repr(C)]
#[derive(Debug)]
pub struct usx_tls_config_t {
    _private: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

unsafe extern "C" {
    /// See "Configurations" in `usockets_tls.h`.
    pub fn usx_tls_config_create(
        options: *const usx_tls_options,
        error: *mut usx_tls_error,
    ) -> *mut usx_tls_config_t;
    /// See "Configurations" in `usockets_tls.h`.
    pub fn usx_tls_config_from_native(
        ssl_ctx: *mut c_void,
        role: c_int,
        error: *mut usx_tls_error,
    ) -> *mut usx_tls_config_t;
    /// See "Configurations" in `usockets_tls.h`.
    pub fn usx_tls_config_retain(config: *mut usx_tls_config_t) -> *mut usx_tls_config_t;
    /// See "Configurations" in `usockets_tls.h`.
    pub fn usx_tls_config_release(config: *mut usx_tls_config_t);
    /// See "Configurations" in `usockets_tls.h`.
    pub fn usx_tls_config_native(config: *mut usx_tls_config_t) -> *mut c_void;
}

// ----------------------------------------------------------------------------------------
// Contexts
// ----------------------------------------------------------------------------------------

unsafe extern "C" {
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_context_set_tls(
        context: *mut us_socket_context_t,
        server: *mut usx_tls_config_t,
        client: *mut usx_tls_config_t,
    ) -> c_int;
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_context_is_tls(context: *mut us_socket_context_t) -> c_int;
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_context_tls(context: *mut us_socket_context_t, role: c_int)
    -> *mut usx_tls_config_t;
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_context_add_server_name(
        context: *mut us_socket_context_t,
        pattern: *const c_char,
        config: *mut usx_tls_config_t,
        user: *mut c_void,
        release: Option<unsafe extern "C" fn(user: *mut c_void)>,
        replace: c_int,
    ) -> c_int;
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_context_remove_server_name(
        context: *mut us_socket_context_t,
        pattern: *const c_char,
    ) -> c_int;
}

/// Look again: it may have been added.
pub const USX_TLS_NAME_LOOK_UP: c_int = 0;
/// The handshake waits for [`usx_socket_tls_continue`], or its deadline.
pub const USX_TLS_NAME_WAIT: c_int = 1;
/// The alert `unrecognized_name`.
pub const USX_TLS_NAME_REFUSE: c_int = 2;

unsafe extern "C" {
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_context_on_server_name(
        context: *mut us_socket_context_t,
        on_server_name: Option<
            unsafe extern "C" fn(s: *mut us_socket_t, name: *const c_char) -> c_int,
        >,
    );
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_socket_tls_continue(s: *mut us_socket_t, refuse: c_int) -> c_int;
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_context_refuse_unknown_names(context: *mut us_socket_context_t, refuse: c_int);
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_context_on_handshake(
        context: *mut us_socket_context_t,
        on_handshake: Option<unsafe extern "C" fn(s: *mut us_socket_t) -> *mut us_socket_t>,
    );
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_context_on_verify(
        context: *mut us_socket_context_t,
        on_verify: Option<unsafe extern "C" fn(s: *mut us_socket_t, result: c_int) -> c_int>,
    );
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_context_on_protocol(
        context: *mut us_socket_context_t,
        on_protocol: Option<
            unsafe extern "C" fn(
                s: *mut us_socket_t,
                offered: *const c_uchar,
                length: usize,
            ) -> c_int,
        >,
    );
    /// See "Contexts" in `usockets_tls.h`.
    pub fn usx_context_on_session(
        context: *mut us_socket_context_t,
        on_session: Option<
            unsafe extern "C" fn(s: *mut us_socket_t, session: *const c_void, length: usize),
        >,
    );
}

// ----------------------------------------------------------------------------------------
// Connections
// ----------------------------------------------------------------------------------------

/// See "Connections" in `usockets_tls.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct usx_tls_connect {
    /// Sent and checked instead of the host name; NULL: that, if there is one.
    pub server_name: *const c_char,
    /// Of `on_session`; NULL: none.
    pub session: *const c_void,
    /// Its length in bytes.
    pub session_length: usize,
}

unsafe extern "C" {
    /// See "Connections" in `usockets_tls.h`.
    pub fn usx_socket_set_tls_connect(
        s: *mut us_socket_t,
        options: *const usx_tls_connect,
    ) -> c_int;
    /// See "Connections" in `usockets_tls.h`.
    pub fn usx_socket_start_tls_later(
        s: *mut us_socket_t,
        target: *mut us_socket_context_t,
        ext_size: c_uint,
        unread: usize,
        functions: *const usx_adoption,
        argument: *mut c_void,
        client: *const usx_tls_connect,
    ) -> c_int;
}

/// Not a TLS connection, or not connected yet.
pub const USX_TLS_STATE_NONE: c_int = 0;
/// See "Connections" in `usockets_tls.h`.
pub const USX_TLS_STATE_HANDSHAKE: c_int = 1;
/// The same, and it waits for [`usx_socket_tls_continue`].
pub const USX_TLS_STATE_WAITING: c_int = 2;
/// See "Connections" in `usockets_tls.h`.
pub const USX_TLS_STATE_DONE: c_int = 3;

unsafe extern "C" {
    /// See "Connections" in `usockets_tls.h`.
    pub fn usx_socket_tls_state(s: *mut us_socket_t) -> c_int;
}

/// See "Connections" in `usockets_tls.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct usx_tls_info {
    /// `USX_TLS_1_2` or `USX_TLS_1_3`.
    pub version: c_int,
    /// Non-zero: a session was resumed.
    pub resumed: c_int,
    /// The name that RFCs use.
    pub cipher: *const c_char,
    /// Of the key exchange; NULL: none or not known.
    pub group: *const c_char,
    /// That the client sent; NULL: none.
    pub server_name: *const c_char,
    /// ALPN; NULL: none.
    pub protocol: *const c_char,
    /// Its length in bytes.
    pub protocol_length: usize,
    /// `X509_V_OK` (0) or `X509_V_ERR_*`; 0 also if there was nothing to verify.
    pub verify_result: c_int,
    /// Non-zero: the peer has sent a certificate.
    pub has_peer_certificate: c_int,
    /// Non-zero: kTLS encrypts.
    pub kernel_send: c_int,
    /// Non-zero: kTLS decrypts.
    pub kernel_receive: c_int,
}

unsafe extern "C" {
    /// See "Connections" in `usockets_tls.h`.
    pub fn usx_socket_tls_info(s: *mut us_socket_t, info: *mut usx_tls_info) -> c_int;
    /// See "Connections" in `usockets_tls.h`.
    pub fn usx_socket_tls_peer_chain(
        s: *mut us_socket_t,
        each: Option<
            unsafe extern "C" fn(argument: *mut c_void, der: *const c_uchar, length: usize),
        >,
        argument: *mut c_void,
    ) -> c_int;
}

/// See "Connections" in `usockets_tls.h`.
pub const USX_TLS_FAILURE_NONE: c_int = 0;
/// The peer has sent a fatal alert: `alert`.
pub const USX_TLS_FAILURE_ALERT: c_int = 1;
/// Its certificate was not accepted: `verify_result`.
pub const USX_TLS_FAILURE_VERIFY: c_int = 2;
/// What it sent is not TLS, or not what we accept; see `alert`, `code`.
pub const USX_TLS_FAILURE_PROTOCOL: c_int = 3;
/// A client asked for a name that there is not.
pub const USX_TLS_FAILURE_NAME: c_int = 4;

/// See "Connections" in `usockets_tls.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct usx_tls_failure {
    /// One of `USX_TLS_FAILURE_*`.
    pub kind: c_int,
    /// The one received, or sent; -1: none.
    pub alert: c_int,
    /// `X509_V_ERR_*`; 0: not about that.
    pub verify_result: c_int,
    /// Of the library; 0: none.
    pub code: c_ulong,
    /// Which part of the library; static, or NULL.
    pub library: *const c_char,
    /// What it says; static, or NULL.
    pub reason: *const c_char,
}

unsafe extern "C" {
    /// See "Connections" in `usockets_tls.h`.
    pub fn usx_socket_tls_failure(s: *mut us_socket_t, failure: *mut usx_tls_failure) -> c_int;
    /// See "Connections" in `usockets_tls.h`.
    pub fn usx_tls_alert_name(alert: c_int) -> *const c_char;
    /// See "Connections" in `usockets_tls.h`.
    pub fn usx_tls_verify_text(result: c_int) -> *const c_char;
}
