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
mod send_file;
mod stale_handles;
mod timeouts;
mod vectored;

use std::net::SocketAddr;

use usockets::ListenSocket;

use crate::SSL;
use crate::util::{self, Peer};

/// Records of contexts of the kind that is tested.
type Record<S = ()> = util::Record<S, SSL>;

/// A client of that kind. Its handshake, if any, is still to come.
fn client_at(address: SocketAddr) -> Peer {
    Peer::connect_over(SSL, address)
}

/// The same, at a listener's address.
fn client_of(listener: &ListenSocket) -> Peer {
    client_at(listener.local_addr().expect("it is bound"))
}
