#![forbid(unsafe_code)]
//! Foreign descriptors as sources of events.

use std::fmt;
use std::ops::{BitOr, Deref};
use std::os::fd::AsFd;
use std::rc::Rc;

use usockets_sys as sys;

use crate::error::UsError;
use crate::event_loop::LoopRef;
use crate::ext::PollBlock;
use crate::shell::Frame;

/// Watches a descriptor that is not a socket of this crate, with a state `T` of the program.
///
/// This is the owner, also of the source `F`, which therefore cannot be closed while it is watched.
/// Dropping it ends the watch; if its own handler is running, handler, source and state are dropped
/// when that has returned. What one does with a poll is in [`PollRef`], which a `Poll` dereferences
/// to, and which the handler is lent.
///
/// The watch is level-triggered: the handler is called again as long as the descriptor is ready. A
/// poll keeps the loop running, unless it was made by [`new_unref`](Self::new_unref).
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
/// use usockets::{Interest, Loop, Poll};
///
/// let event_loop = Loop::<()>::new()?;
/// let (receiver, mut sender) = UnixStream::pair().expect("a pair");
/// let poll = Poll::new(&event_loop, receiver, Interest::READABLE, String::new(), |poll, text, ready| {
///     assert!(ready.is_readable());
///     let mut bytes = [0; 16];
///     let mut source = poll.source();
///     let count = source.read(&mut bytes).expect("it is readable");
///     text.push_str(std::str::from_utf8(&bytes[..count]).expect("ASCII"));
///     poll.event_loop().stop();
/// })?;
/// sender.write_all(b"hello").expect("there is room");
/// event_loop.run()?;
/// assert_eq!(poll.with_state(|text| text.clone())?, "hello");
/// let _receiver: UnixStream = poll.into_inner().expect("the handler does not run");
/// # Ok::<(), usockets::UsError>(())
/// ```
#[must_use = "the descriptor is no longer watched when this is dropped"]
pub struct Poll<F: 'static, T: 'static = ()> {
    poll: PollRef<F, T>,
}

impl<F: AsFd + 'static, T: 'static> Poll<F, T> {
    /// Watches `source`: `handler` is called whenever it is ready in a way that `interest` asks
    /// for, and once for an error or hang-up. Beneath: `us_create_poll`, `usx_poll_start`.
    ///
    /// The descriptor is asked for once, by `as_fd`. Its source should be non-blocking, or read
    /// once per call.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`] for a descriptor that cannot be watched, such as a plain file;
    /// [`LoopClosed`](UsError::LoopClosed). The source is dropped then; [`try_new`](Self::try_new)
    /// gives it back.
    pub fn new(
        event_loop: &LoopRef,
        source: F,
        interest: Interest,
        state: T,
        handler: impl FnMut(&PollRef<F, T>, &mut T, Ready) + 'static,
    ) -> Result<Self, UsError> {
        Self::create(event_loop, true, source, interest, state, handler).map_err(|(error, _)| error)
    }

    /// As [`new`](Self::new), but the poll does not keep the loop running.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn new_unref(
        event_loop: &LoopRef,
        source: F,
        interest: Interest,
        state: T,
        handler: impl FnMut(&PollRef<F, T>, &mut T, Ready) + 'static,
    ) -> Result<Self, UsError> {
        Self::create(event_loop, false, source, interest, state, handler)
            .map_err(|(error, _)| error)
    }

    /// As [`new`](Self::new), but gives the source back if it fails.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new), with the source.
    pub fn try_new(
        event_loop: &LoopRef,
        source: F,
        interest: Interest,
        state: T,
        handler: impl FnMut(&PollRef<F, T>, &mut T, Ready) + 'static,
    ) -> Result<Self, (UsError, F)> {
        Self::create(event_loop, true, source, interest, state, handler)
    }

    fn create(
        event_loop: &LoopRef,
        keeps_alive: bool,
        source: F,
        interest: Interest,
        state: T,
        handler: impl FnMut(&PollRef<F, T>, &mut T, Ready) + 'static,
    ) -> Result<Self, (UsError, F)> {
        let shell = event_loop.shell();
        let handler = Box::new(handler);
        let block = PollBlock::create(shell, keeps_alive, source, interest.0, state, handler)?;
        Ok(Self { poll: PollRef { block } })
    }
}

impl<F: 'static, T: 'static> Poll<F, T> {
    /// Ends the watch and gives the source back.
    ///
    /// # Errors
    ///
    /// The poll, inside its own handler, and while the loop is being dropped.
    pub fn into_inner(self) -> Result<F, Self> {
        if !self.poll.block.can_end() {
            return Err(self);
        }
        self.poll.block.close();
        let source = self.poll.block.share_source();
        drop(self);
        Ok(Rc::into_inner(source).expect("a closed poll has no other reference: bug in usockets"))
    }
}

impl<F: 'static, T: 'static> Deref for Poll<F, T> {
    type Target = PollRef<F, T>;

    fn deref(&self) -> &PollRef<F, T> {
        &self.poll
    }
}

impl<F: 'static, T: 'static> Drop for Poll<F, T> {
    fn drop(&mut self) {
        self.poll.block.close();
    }
}

impl<F: 'static, T: 'static> fmt::Debug for Poll<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll").field("interest", &self.interest()).finish_non_exhaustive()
    }
}

/// What can be done with a [`Poll`], by its owner and from inside its handler.
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use usockets::{Interest, Loop, Poll, PollRef, Ready};
///
/// fn writable(poll: &PollRef<UnixStream>, _state: &mut (), ready: Ready) {
///     assert!(ready.is_writable() && !ready.is_error());
///     poll.set_interest(Interest::NONE).expect("the loop is open");
///     poll.event_loop().stop();
/// }
///
/// let event_loop = Loop::<()>::new()?;
/// let (one, _other) = UnixStream::pair().expect("a pair");
/// let poll = Poll::new(&event_loop, one, Interest::WRITABLE, (), writable)?;
/// event_loop.run()?;
/// assert_eq!(poll.interest(), Interest::NONE);
/// # Ok::<(), usockets::UsError>(())
/// ```
pub struct PollRef<F: 'static, T: 'static = ()> {
    block: PollBlock<F, T>,
}

impl<F: 'static, T: 'static> PollRef<F, T> {
    pub(crate) fn from_block(block: PollBlock<F, T>) -> Self {
        Self { block }
    }

    /// What is watched.
    pub fn source(&self) -> &F {
        self.block.source()
    }

    /// What the handler is called for; [`NONE`](Interest::NONE) if the loop is gone.
    pub fn interest(&self) -> Interest {
        self.block.events().map_or(Interest::NONE, Interest)
    }

    /// Changes what the handler is called for. With [`NONE`](Interest::NONE) it is called once at
    /// most, for an error or hang-up. Beneath: `usx_poll_change`.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`] if the system refuses, [`LoopClosed`](UsError::LoopClosed),
    /// [`Stale`](UsError::Stale) inside the handler if the [`Poll`] was dropped.
    pub fn set_interest(&self, interest: Interest) -> Result<(), UsError> {
        self.block.set_events(interest.0)
    }

    /// Calls `f` with the state.
    ///
    /// # Errors
    ///
    /// [`StateInUse`](UsError::StateInUse) inside the poll's handler, which is lent the state, or
    /// another such call; [`LoopClosed`](UsError::LoopClosed).
    pub fn with_state<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, UsError> {
        let slot = self.block.state()?;
        // Before the loan, so that it ends last.
        let _frame = Frame::enter(self.block.shell());
        let mut state = slot.lend()?;
        Ok(f(&mut state))
    }

    /// The poll's loop.
    pub fn event_loop(&self) -> LoopRef {
        LoopRef::new(Rc::clone(self.block.shell()))
    }
}

impl<F: 'static, T: 'static> fmt::Debug for PollRef<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollRef").field("interest", &self.interest()).finish_non_exhaustive()
    }
}

/// What a [`Poll`] waits for.
///
/// ```
/// use usockets::Interest;
///
/// let both = Interest::READABLE | Interest::WRITABLE;
/// assert!(both.is_readable() && both.is_writable());
/// assert!(!Interest::NONE.is_readable());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interest(i32);

impl Interest {
    /// Nothing; errors and hang-ups are reported all the same.
    pub const NONE: Self = Self(0);
    /// There is something to read, or the end of it.
    pub const READABLE: Self = Self(sys::LIBUS_SOCKET_READABLE);
    /// There is room to write.
    pub const WRITABLE: Self = Self(sys::LIBUS_SOCKET_WRITABLE);

    /// Whether reading is of interest.
    pub fn is_readable(self) -> bool {
        self.0 & Self::READABLE.0 != 0
    }

    /// Whether writing is of interest.
    pub fn is_writable(self) -> bool {
        self.0 & Self::WRITABLE.0 != 0
    }
}

impl BitOr for Interest {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a [`Poll`] has found: several at once, perhaps. See [`PollRef`] for an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ready(i32);

impl Ready {
    pub(crate) fn from_raw(events: i32) -> Self {
        Self(events)
    }

    /// Reading will not block.
    pub fn is_readable(self) -> bool {
        self.0 & sys::LIBUS_SOCKET_READABLE != 0
    }

    /// Writing will not block.
    pub fn is_writable(self) -> bool {
        self.0 & sys::LIBUS_SOCKET_WRITABLE != 0
    }

    /// The descriptor is in error.
    pub fn is_error(self) -> bool {
        self.0 & sys::USX_POLL_ERROR != 0
    }

    /// The other side has hung up.
    pub fn is_hang_up(self) -> bool {
        self.0 & sys::USX_POLL_HANGUP != 0
    }
}
