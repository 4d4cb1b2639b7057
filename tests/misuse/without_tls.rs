//! What the table has besides over TLS, in the program without: nothing.

use std::rc::Rc;

use usockets::{ContextBuilder, Socket, SocketContext};

use crate::SSL;
use crate::script::Step;
use crate::table::list;
use crate::values::{ContextState, Moved, Session};
use crate::world::{Here, World};

list! {
    /// There are none.
    TlsDeed {}
}

pub(crate) const STEPS: &[Step] = &[];

#[derive(Default)]
pub(crate) struct Extra {}

impl Extra {
    pub(crate) fn clear(&self) {}

    /// A socket is closed.
    pub(crate) fn closed(&self, _world: &World, _key: &str) {}
}

pub(crate) fn make_shared() {}

pub(crate) fn set_up(_world: &Rc<World>) {}

pub(crate) fn leave_something(_world: &Rc<World>) {}

pub(crate) fn main_builder() -> ContextBuilder<SSL, ContextState, Session> {
    SocketContext::builder()
}

pub(crate) fn target_builder(
    builder: ContextBuilder<SSL, ContextState, Moved>,
) -> ContextBuilder<SSL, ContextState, Moved> {
    builder
}

pub(crate) fn perform(world: &Rc<World>, deed: TlsDeed, here: &mut Here<'_>) {
    if let Some(socket) = here.socket {
        socket.act_by_tls(world, deed);
    }
}

pub(crate) fn act<S: 'static>(_world: &World, _socket: &Socket<SSL, S>, deed: TlsDeed) {
    match deed {}
}

pub(crate) fn ask<S: 'static>(_socket: &Socket<SSL, S>) {}
