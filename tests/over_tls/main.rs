//! What holds for all streams, over TLS.

mod peers;
#[path = "../util/mod.rs"]
mod util;
