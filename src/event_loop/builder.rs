//! How a loop is made.

use std::any::TypeId;
use std::num::NonZeroUsize;

use usockets_sys as sys;

use super::Loop;
use crate::error::UsError;
use crate::registry;
use crate::remote::Remote;

/// How a loop waits for events.
///
/// ```
/// use usockets::{Backend, Loop};
///
/// let event_loop = Loop::<()>::new()?;
/// assert_ne!(event_loop.backend(), Backend::Auto); // it says which one it became
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Backend {
    /// The one that the environment variable `USOCKETS_BACKEND` names (`epoll`, `poll`), or else
    /// the best that works here.
    #[default]
    Auto,
    /// Linux's `epoll`.
    Epoll,
    /// POSIX `poll`: everywhere, and slow with many sockets.
    Poll,
}

impl Backend {
    /// What the engine calls it.
    fn to_raw(self) -> i32 {
        match self {
            Self::Auto => sys::USX_BACKEND_AUTO,
            Self::Epoll => sys::USX_BACKEND_EPOLL,
            Self::Poll => sys::USX_BACKEND_POLL,
        }
    }

    pub(super) fn from_raw(raw: i32) -> Self {
        match raw {
            sys::USX_BACKEND_EPOLL => Self::Epoll,
            sys::USX_BACKEND_POLL => Self::Poll,
            _ => Self::Auto,
        }
    }

    /// What `USOCKETS_BACKEND` asks for.
    fn from_environment() -> Result<Self, UsError> {
        match std::env::var("USOCKETS_BACKEND").as_deref() {
            Err(_) | Ok("" | "auto") => Ok(Self::Auto),
            Ok("epoll") => Ok(Self::Epoll),
            Ok("poll") => Ok(Self::Poll),
            Ok(_) => Err(UsError::invalid("USOCKETS_BACKEND", "it takes epoll, poll or auto")),
        }
    }
}

/// Options of a loop; made by [`Loop::builder`](crate::Loop::builder).
///
/// ```
/// use std::time::Duration;
/// use usockets::{Backend, Loop};
///
/// let event_loop =
///     Loop::<()>::builder().backend(Backend::Poll).queue_capacity(10_000).test_clock().build(())?;
/// assert_eq!(event_loop.backend(), Backend::Poll);
/// event_loop.advance_clock(Duration::from_secs(3600))?;
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct LoopBuilder {
    backend: Backend,
    test_clock: bool,
    queue_capacity: Option<NonZeroUsize>,
    send_limit: Option<usize>,
}

/// Most bytes of output that wait in a loop, where the program does not say.
const SEND_LIMIT: usize = 1 << 30;

impl LoopBuilder {
    /// Chooses how to wait for events. Default: [`Backend::Auto`].
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Makes time stand still, but for [`advance_clock`](Loop::advance_clock).
    pub fn test_clock(mut self) -> Self {
        self.test_clock = true;
        self
    }

    /// How many jobs may wait at once before [`try_defer`](crate::LoopHandle::try_defer) refuses more with
    /// [`QueueFull`](UsError::QueueFull). 0 and the default: no limit.
    pub fn queue_capacity(mut self, jobs: usize) -> Self {
        self.queue_capacity = NonZeroUsize::new(jobs);
        self
    }

    /// Most bytes of output that may wait in all sockets together, beyond which
    /// [`send`](crate::Socket::send) is [`QueueFull`](UsError::QueueFull). Default: 1 GiB; 0 is no
    /// limit. Beneath: `usx_loop_set_queue_limit`.
    pub fn send_limit(mut self, bytes: usize) -> Self {
        self.send_limit = Some(bytes);
        self
    }

    /// Makes the loop, which from then on belongs to this thread.
    ///
    /// Beneath: `usx_create_loop`.
    ///
    /// # Errors
    ///
    /// [`UsError::Io`] if descriptors or memory cannot be had, or a back end that was asked for by
    /// name does not work here.
    pub fn build<T: 'static>(self, state: T) -> Result<Loop<T>, UsError> {
        let backend = match self.backend {
            Backend::Auto => Backend::from_environment()?,
            chosen => chosen,
        };
        let capacity = self.queue_capacity;
        let shell = crate::trampoline::create_loop(
            backend.to_raw(),
            self.test_clock,
            |waker| Remote::new(TypeId::of::<T>(), waker, capacity),
            state,
        )?;
        if let Ok(engine) = shell.engine() {
            engine.set_queue_limit(self.send_limit.unwrap_or(SEND_LIMIT));
        }
        registry::add(&shell);
        Ok(Loop::new_owner(shell))
    }
}
