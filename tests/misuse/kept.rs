//! Handles that outlive their loop.

use std::any::Any;
use std::time::Duration;

use usockets::{
    Interest, ListenSocket, LoopHandle, LoopRef, Poll, Socket, SocketContext, Timer, UsError,
};

use crate::SSL;
use crate::actions::{Actor, ask};
use crate::util::unix_pair;
use crate::values::{ContextState, LoopState, Session, Source};
use crate::world::pool;

/// A handle of whatever kind.
pub(crate) trait Kept: Any {
    /// Whether every call answers as it should when the loop is gone.
    fn knows_the_end(&self) -> bool;
}

impl<S: 'static> Kept for Socket<SSL, S> {
    fn knows_the_end(&self) -> bool {
        ask(self);
        self.close();
        self.reset();
        self.shutdown();
        self.shutdown_read();
        self.pause();
        self.resume();
        self.is_closed()
            && self.write(b"late") == 0
            && matches!(self.state(), Err(UsError::LoopClosed))
            && matches!(self.set_timeout(Duration::ZERO), Err(UsError::LoopClosed))
            && matches!(self.with_fd(|_| ()), Err(UsError::LoopClosed))
            && matches!(self.context::<ContextState>(), Err(UsError::LoopClosed))
    }
}

impl<S: 'static> Kept for SocketContext<SSL, ContextState, S> {
    fn knows_the_end(&self) -> bool {
        self.close();
        let again = self.clone();
        again == *self
            && matches!(self.with_state(|_| ()), Err(UsError::LoopClosed))
            && matches!(self.listen("127.0.0.1:0"), Err(UsError::LoopClosed))
            && matches!(self.connect("127.0.0.1:1"), Err(UsError::LoopClosed))
            && matches!(self.accept_fd(unix_pair().0), Err(UsError::LoopClosed))
            && matches!(self.id().resolve(&self.event_loop()), Err(UsError::LoopClosed))
    }
}

impl Kept for LoopRef {
    fn knows_the_end(&self) -> bool {
        self.stop();
        self.clear_hooks();
        self.is_closed()
            && !self.is_alive()
            && !self.is_running()
            && matches!(self.with_state(|_: &mut LoopState| ()), Err(UsError::LoopClosed))
            && matches!(self.on_pre(|_| ()), Err(UsError::LoopClosed))
            && matches!(self.keep_alive(), Err(UsError::LoopClosed))
            && matches!(self.on_signal(libc::SIGUSR1, |_, _| ()), Err(UsError::LoopClosed))
            && matches!(Timer::new(self, ()), Err(UsError::LoopClosed))
            && self.defer(|_| ()).is_err_and(|e| matches!(e.reason(), UsError::LoopClosed))
    }
}

impl Kept for LoopHandle<LoopState> {
    fn knows_the_end(&self) -> bool {
        self.wake();
        self.stop();
        matches!(self.loop_ref(), Err(UsError::LoopClosed))
            && matches!(self.run_on_loop(|_| ()), Err(UsError::LoopClosed))
            && self.defer(|_| ()).is_err_and(|e| matches!(e.reason(), UsError::LoopClosed))
            && pool().run(self, || (), |_, _| ()).is_err()
    }
}

impl Kept for Timer<Session> {
    fn knows_the_end(&self) -> bool {
        let set = self.set(Duration::ZERO, None, |_, _| ());
        self.cancel();
        !self.is_armed()
            && matches!(set, Err(UsError::LoopClosed))
            && matches!(self.rearm(Duration::ZERO, None), Err(UsError::LoopClosed))
            && matches!(self.with_state(|_| ()), Err(UsError::LoopClosed))
    }
}

impl Kept for Poll<Source, Session> {
    fn knows_the_end(&self) -> bool {
        let _source = &self.source().stream;
        self.interest() == Interest::NONE
            && matches!(self.set_interest(Interest::READABLE), Err(UsError::LoopClosed))
            && matches!(self.with_state(|_| ()), Err(UsError::LoopClosed))
    }
}

impl Kept for ListenSocket {
    fn knows_the_end(&self) -> bool {
        let _text = format!("{self:?}");
        self.is_closed() && self.local_addr().is_err() && self.with_fd(|_| ()).is_err()
    }
}
