//! Who is compared: the same programs written for each library. Ours comes first everywhere.

use std::net::TcpListener;

use crate::Result;
use crate::cases::defer::Producers;
use crate::cases::timers::Timers;
use crate::tls::{self, Tls};

mod bare;
mod heap;
mod mio;
mod tokio;
mod usockets;

pub(crate) use bare::tls_objects;

const USOCKETS: &str = "usockets";
/// The same without gathering: each write is a call.
const UNGATHERED: &str = "gathering off";
const BARE: &str = "bare epoll";
const QUEUE: &str = "C queue";
/// OpenSSL in such a loop, by a send for each record and by one for all.
const RECORDS: &str = "send per record";
const GATHERED: &str = "gathered";
/// This crate, with buffers that stay.
pub(crate) const KEPT: &str = "buffers kept";
/// No server at all.
pub(crate) const OBJECTS: &str = "OpenSSL's objects";
const TOKIO: &str = "tokio";
const TOKIO_OPENSSL: &str = "tokio-openssl";
const MIO: &str = "mio";
const CROSSBEAM: &str = "crossbeam+mio";
const HEAP: &str = "binary heap";

/// Echo servers.
pub(crate) const SERVERS: [&str; 4] = [USOCKETS, BARE, TOKIO, MIO];
/// Those that may be asked for many small writes.
pub(crate) const WRITERS: [&str; 5] = [USOCKETS, UNGATHERED, BARE, TOKIO, MIO];

/// Echo servers over TLS.
pub(crate) const TLS_SERVERS: [&str; 4] = [USOCKETS, RECORDS, GATHERED, TOKIO_OPENSSL];

/// The same, each with released buffers but for those that say otherwise, and what OpenSSL needs at least.
pub(crate) const TLS_MEMORY: [&str; 5] = [USOCKETS, KEPT, OBJECTS, GATHERED, TOKIO_OPENSSL];

/// Loops that other threads hand closures to.
pub(crate) const MAILBOXES: [&str; 4] = [USOCKETS, QUEUE, TOKIO, CROSSBEAM];
/// Loops with timers.
pub(crate) const TIMERS: [&str; 3] = [USOCKETS, TOKIO, HEAP];

/// How an echo server works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echo {
    /// Most bytes of one write.
    pub(crate) reply: usize,
    /// Size of the buffers of a server that has one for each connection.
    pub(crate) buffer: usize,
}

impl Default for Echo {
    fn default() -> Self {
        Self { reply: usize::MAX, buffer: 64 * 1024 }
    }
}

/// Serves for ever.
pub(crate) fn echo(peer: &str, listener: TcpListener, echo: Echo) -> Result<()> {
    match peer {
        USOCKETS => usockets::echo(listener, echo, true),
        UNGATHERED => usockets::echo(listener, echo, false),
        BARE => bare::echo(&listener, echo),
        TOKIO => tokio::echo(listener, echo),
        MIO => mio::echo(listener, echo),
        _ => unknown(peer),
    }
}

/// Serves for ever over TLS.
pub(crate) fn tls_echo(peer: &str, listener: TcpListener, echo: Echo, tls: Tls) -> Result<()> {
    match peer {
        USOCKETS | KEPT => usockets::tls_echo(listener, echo, tls),
        RECORDS => bare::tls_echo(&listener, echo, &tls::server_context(tls)?, false),
        GATHERED => bare::tls_echo(&listener, echo, &tls::server_context(tls)?, true),
        TOKIO_OPENSSL => tokio::tls_echo(listener, echo, tls::server_context(tls)?),
        _ => unknown(peer),
    }
}

/// Runs a loop that does the producers' jobs, for ever.
pub(crate) fn mailbox(peer: &str, producers: Producers) -> Result<()> {
    match peer {
        USOCKETS => usockets::mailbox(producers),
        QUEUE => bare::mailbox(producers),
        TOKIO => tokio::mailbox(producers),
        CROSSBEAM => mio::mailbox(producers),
        _ => unknown(peer),
    }
}

/// The time that timers go by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Clock {
    Real,
    /// Stands still until it is moved.
    ByHand,
}

pub(crate) fn timers(peer: &str, clock: Clock) -> Result<Box<dyn Timers>> {
    Ok(match peer {
        USOCKETS => Box::new(usockets::Timers::new(clock)?),
        TOKIO => Box::new(tokio::Timers::new(clock)?),
        HEAP => Box::new(heap::Timers::new(clock)?),
        _ => return unknown(peer),
    })
}

fn unknown<V>(peer: &str) -> Result<V> {
    Err(format!("nobody here is called {peer}").into())
}
