//! What holds for all streams, over TLS.
#![cfg(usockets_tls)]

mod peers;
#[path = "../streams/mod.rs"]
mod streams;
#[path = "../util/mod.rs"]
mod util;

/// Whether all contexts, and the peers of their sockets, speak TLS.
const SSL: bool = true;
