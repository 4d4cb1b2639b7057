#![forbid(unsafe_code)]
//! Names of loops, sockets and contexts that other threads may hold.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::context::SocketContext;
use crate::error::UsError;
use crate::event_loop::LoopRef;
use crate::ffi::State;
use crate::socket::Socket;

/// The identity of a loop: never used twice in a process.
///
/// ```
/// use usockets::{Loop, SocketContext};
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false>::builder().build(&event_loop, ())?;
/// assert_eq!(context.id().loop_id(), event_loop.id());
/// assert_ne!(Loop::<()>::new()?.id(), event_loop.id());
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoopId(u64);

impl LoopId {
    /// A new one.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Defines an identity, whose phantom types must not ask anything of its traits.
macro_rules! identity {
    ($(#[$doc:meta])* $name:ident[$flag:ident; $($parameter:ident),*]) => {
        $(#[$doc])*
        pub struct $name<const $flag: bool, $($parameter = ()),*> {
            pub(crate) loop_id: LoopId,
            pub(crate) raw: u64,
            /// `fn`, so that the identity is `Send` and `Sync` whatever the state is.
            _types: PhantomData<fn() -> ($($parameter,)*)>,
        }

        impl<const $flag: bool, $($parameter),*> $name<$flag, $($parameter),*> {
            pub(crate) fn new(loop_id: LoopId, raw: u64) -> Self {
                Self { loop_id, raw, _types: PhantomData }
            }

            /// The loop that the object belongs to.
            pub fn loop_id(&self) -> LoopId {
                self.loop_id
            }
        }

        impl<const $flag: bool, $($parameter),*> Clone for $name<$flag, $($parameter),*> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<const $flag: bool, $($parameter),*> Copy for $name<$flag, $($parameter),*> {}

        impl<const $flag: bool, $($parameter),*> PartialEq for $name<$flag, $($parameter),*> {
            fn eq(&self, other: &Self) -> bool {
                (self.loop_id, self.raw) == (other.loop_id, other.raw)
            }
        }

        impl<const $flag: bool, $($parameter),*> Eq for $name<$flag, $($parameter),*> {}

        impl<const $flag: bool, $($parameter),*> Hash for $name<$flag, $($parameter),*> {
            fn hash<H: Hasher>(&self, state: &mut H) {
                (self.loop_id, self.raw).hash(state);
            }
        }

        impl<const $flag: bool, $($parameter),*> fmt::Debug for $name<$flag, $($parameter),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}:{:x})"), self.loop_id.0, self.raw)
            }
        }
    };
}

identity! {
    /// The identity of a socket: `Copy`, and good on every thread.
    ///
    /// On the thread of its loop [`resolve`](Self::resolve) turns it back into a handle. It ends
    /// with the socket and with [`adopt`](Socket::adopt), and is not used again for another one.
    ///
    /// ```
    /// use usockets::{Loop, LoopHandle, SocketId};
    ///
    /// /// Sends an answer from a worker thread.
    /// fn answer(handle: &LoopHandle, client: SocketId<false, String>, text: String) {
    ///     let sent = handle.defer(move |event_loop| {
    ///         if let Ok(socket) = client.resolve(event_loop) {
    ///             let _taken = socket.write(text.as_bytes());
    ///         }
    ///     });
    ///     if sent.is_err() {
    ///         eprintln!("the loop is gone");
    ///     }
    /// }
    /// ```
    SocketId[SSL; S]
}

identity! {
    /// The identity of a context: `Copy`, and good on every thread.
    ///
    /// On the thread of its loop [`resolve`](Self::resolve) turns it back into a handle. It ends
    /// with the context, and does not keep it.
    ///
    /// ```
    /// use usockets::{Loop, SocketContext};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let context = SocketContext::<false, u32>::builder().build(&event_loop, 7)?;
    /// let id = context.id();
    /// let handle = event_loop.handle();
    /// std::thread::spawn(move || {
    ///     handle.defer(move |event_loop| {
    ///         let context = id.resolve(event_loop).expect("the context is still there");
    ///         context.with_state(|seven| assert_eq!(*seven, 7)).expect("nobody uses the state");
    ///     })
    /// })
    /// .join()
    /// .expect("the thread does not panic")?;
    /// event_loop.run()?;
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    ContextId[SSL; T, S]
}

impl<const SSL: bool, S: 'static> SocketId<SSL, S> {
    /// The handle of the socket.
    ///
    /// # Errors
    ///
    /// [`WrongLoop`](UsError::WrongLoop) if it is a socket of another loop,
    /// [`Closed`](UsError::Closed) if the socket is closed, [`Stale`](UsError::Stale) if it was
    /// closed a while ago or has been adopted, [`LoopClosed`](UsError::LoopClosed).
    pub fn resolve(self, event_loop: &LoopRef) -> Result<Socket<SSL, S>, UsError> {
        let shell = event_loop.shell();
        if shell.id() != self.loop_id {
            return Err(UsError::WrongLoop);
        }
        match shell.live_socket(self.raw)?.state() {
            State::Closing | State::Closed => Err(UsError::Closed),
            _ => Ok(Socket::new(shell.clone(), self.raw)),
        }
    }
}

impl<const SSL: bool, T: 'static, S: 'static> ContextId<SSL, T, S> {
    /// A handle of the context.
    ///
    /// # Errors
    ///
    /// [`WrongLoop`](UsError::WrongLoop) if it is a context of another loop,
    /// [`Stale`](UsError::Stale) if it is no more, [`LoopClosed`](UsError::LoopClosed).
    pub fn resolve(self, event_loop: &LoopRef) -> Result<SocketContext<SSL, T, S>, UsError> {
        let shell = event_loop.shell();
        if shell.id() != self.loop_id {
            return Err(UsError::WrongLoop);
        }
        let context = shell.engine()?.find_context(self.raw).ok_or(UsError::Stale)?;
        context.retain();
        Ok(SocketContext::from_counted(shell.clone(), self.raw))
    }
}
