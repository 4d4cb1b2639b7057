//! Everything that safe code can do wrong, done in every place where code of the program runs.
//!
//! [`actions`] lists what is done, [`places`] where. For each pair a fresh [`world`] with a loop, contexts,
//! sockets, timers, polls and jobs follows one [`script`] that comes through all places, and the action is
//! taken at the first visit of its place. Whatever that is, these must hold ([`world`] records what does
//! not):
//!
//! - nothing crashes, and a callback is never called inside another one or inside a closure;
//! - every connection comes to exactly one `on_open` and one `on_close`, or one `on_connect_error`; nothing
//!   is called for it afterwards, nor after the program has closed it;
//! - all that was made is dropped once: states, closures, jobs, sources; all descriptors are closed;
//! - a run inside a run is refused; a panic comes out once, with its payload, and the loop goes on;
//! - handles that are left answer when the loop is gone.

mod actions;
mod deeds;
mod kept;
mod places;
mod script;
mod states;
mod table;
#[path = "../util/mod.rs"]
mod util;
mod values;
mod without_tls;
mod world;

use without_tls as tls;

/// Whether the contexts speak TLS.
const SSL: bool = false;
