//! What holds for all streams, over TCP and Unix sockets.

mod half_close;
#[path = "../streams/mod.rs"]
mod streams;
#[path = "../util/mod.rs"]
mod util;
mod without_tls;

/// Whether all contexts, and the peers of their sockets, speak TLS.
const SSL: bool = false;
