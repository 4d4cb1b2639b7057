//! What C calls: each function makes safe arguments, calls the program, and maps the result.
//!
//! All of them run the program's code by [`Shell::callback`](crate::shell::Shell::callback) or
//! [`Shell::destructor`](crate::shell::Shell::destructor), which let no panic through.

mod adopt;
mod context;
mod drain;
mod event_loop;
#[cfg(feature = "proxy-protocol")]
mod prelude;
#[cfg(feature = "bytes")]
mod send;
mod socket;
mod tls;

pub(crate) use adopt::{adopt, start_tls};
pub(crate) use context::{ContextSettings, create_context, release_context};
pub(crate) use drain::{Drained, drain_context, drain_loop};
pub(crate) use event_loop::{create_loop, set_iteration_hooks};
#[cfg(feature = "proxy-protocol")]
pub(crate) use prelude::set_proxy_protocol;
#[cfg(feature = "bytes")]
pub(crate) use send::send_bytes;
pub(crate) use tls::{add_server_name, server_name_data};
