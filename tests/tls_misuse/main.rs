//! The table of `misuse` over TLS: its callbacks are places, and its calls are actions.
//!
//! A socket is told exactly once how its handshake ended, whatever the program does.
#![cfg(usockets_tls)]

#[path = "../misuse/actions.rs"]
mod actions;
#[path = "../misuse/deeds.rs"]
mod deeds;
mod deeds_of_tls;
#[path = "../misuse/kept.rs"]
mod kept;
#[path = "../misuse/places.rs"]
mod places;
#[path = "../misuse/script.rs"]
mod script;
#[path = "../misuse/states.rs"]
mod states;
#[path = "../misuse/table.rs"]
mod table;
mod tls;
#[path = "../util/mod.rs"]
mod util;
#[path = "../misuse/values.rs"]
mod values;
#[path = "../misuse/world.rs"]
mod world;

/// Whether the contexts speak TLS.
const SSL: bool = true;
