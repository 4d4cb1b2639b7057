//! The peers that are written in C.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use foreign_types_shared::ForeignType;
use openssl::ssl::SslContext;

use super::Echo;
use crate::Result;
use crate::cases::defer::{self, Producers};

/// `c/bare.h`.
mod ffi {
    use std::ffi::{c_int, c_void};

    #[repr(C)]
    pub(super) struct Queue {
        _opaque: [u8; 0],
    }

    pub(super) type Function = extern "C" fn(producer: usize, number: u64);

    unsafe extern "C" {
        pub(super) fn bare_echo(listener: c_int, reply: usize) -> c_int;
        pub(super) fn bare_tls_echo(
            listener: c_int,
            ssl_ctx: *mut c_void,
            reply: usize,
            gathers: c_int,
        ) -> c_int;
        pub(super) fn bare_tls_objects(
            server: *mut c_void,
            client: *mut c_void,
            count: usize,
            message: usize,
        ) -> c_int;
        pub(super) fn bare_queue_create() -> *mut Queue;
        pub(super) fn bare_queue_post(
            queue: *mut Queue,
            function: Function,
            producer: usize,
            number: u64,
        ) -> c_int;
        pub(super) fn bare_queue_run(queue: *mut Queue) -> c_int;
    }
}

pub(super) fn echo(listener: &TcpListener, echo: Echo) -> Result<()> {
    // SAFETY: the descriptor is open until this returns, and the only thread calls this once.
    let error = unsafe { ffi::bare_echo(listener.as_raw_fd(), echo.reply) };
    Err(io::Error::from_raw_os_error(error).into())
}

/// `gathers`: one send for all records.
pub(super) fn tls_echo(
    listener: &TcpListener,
    echo: Echo,
    context: &SslContext,
    gathers: bool,
) -> Result<()> {
    let (listener, context) = (listener.as_raw_fd(), context.as_ptr().cast());
    // SAFETY: both are there until this returns, and the only thread calls this once.
    let error = unsafe { ffi::bare_tls_echo(listener, context, echo.reply, gathers.into()) };
    Err(io::Error::from_raw_os_error(error).into())
}

/// Makes connections in memory, each after an echo, that stay for ever; of servers alone.
pub(crate) fn tls_objects(
    server: &SslContext,
    client: &SslContext,
    count: usize,
    message: usize,
) -> Result<()> {
    let (server, client) = (server.as_ptr().cast(), client.as_ptr().cast());
    // SAFETY: the contexts are there, and what is made has references of its own.
    match unsafe { ffi::bare_tls_objects(server, client, count, message) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error).into()),
    }
}

pub(super) fn mailbox(producers: Producers) -> Result<()> {
    // SAFETY: it has no conditions.
    let queue = NonNull::new(unsafe { ffi::bare_queue_create() }).ok_or("no queue")?;
    let queue = Queue(queue);
    producers.start(move |producer, number| queue.post(producer, number));
    // SAFETY: the queue is never freed, and no other thread runs it.
    let error = unsafe { ffi::bare_queue_run(queue.0.as_ptr()) };
    Err(io::Error::from_raw_os_error(error).into())
}

#[derive(Clone, Copy)]
struct Queue(NonNull<ffi::Queue>);

// SAFETY: a job may be posted from any thread, and that is all the other threads do.
unsafe impl Send for Queue {}

impl Queue {
    fn post(self, producer: usize, number: u64) {
        // SAFETY: the queue is never freed.
        let error = unsafe { ffi::bare_queue_post(self.0.as_ptr(), job, producer, number) };
        assert_eq!(error, 0, "no memory");
    }
}

extern "C" fn job(producer: usize, number: u64) {
    defer::job(producer, number);
}
