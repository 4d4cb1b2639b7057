//! Tests of what does not depend on how bytes travel. Each of the programs that include this file says in
//! `SSL` whether they travel encrypted.

mod adopt;
mod backpressure;
mod contexts;
mod deadlines;
mod drain;
mod drop_counts;
mod echo;
mod fairness;
mod half_close;
mod lingering;
mod output;
mod panics;
mod pause_resume;
mod pipe_to;
mod reset;
mod send_file;
mod stale_handles;
mod timeouts;
mod vectored;

use std::net::SocketAddr;

use usockets::{CloseReason, ListenSocket};

use crate::SSL;
use crate::util::{self, Peer};

/// Records of contexts of the kind that is tested.
type Record<S = ()> = util::Record<S, SSL>;

/// Why a socket closes when its peer has gone away in order over a Unix connection: the system tells of a
/// hang-up, but TLS has told of the end before.
const GONE: CloseReason = if SSL { CloseReason::End } else { CloseReason::HangUp };

/// A client of that kind. Its handshake, if any, is still to come.
fn client_at(address: SocketAddr) -> Peer {
    Peer::connect_over(SSL, address)
}

/// The same, at a listener's address.
fn client_of(listener: &ListenSocket) -> Peer {
    client_at(listener.local_addr().expect("it is bound"))
}

/// Panics unless the system has carried so many bytes of data: exactly as many, or with TLS some more.
#[track_caller]
fn assert_carried(counted: u64, length: usize) {
    let length = length as u64;
    let most = if SSL { length + length / 100 + 10_000 } else { length };
    assert!((length..=most).contains(&counted), "{counted} bytes for {length} of data");
}
