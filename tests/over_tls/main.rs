//! What holds for all streams, over TLS.
#![cfg(usockets_tls)]

mod peers;
#[path = "../util/mod.rs"]
mod util;
