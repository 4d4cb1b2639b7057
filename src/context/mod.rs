#![forbid(unsafe_code)]
//! Socket contexts: what sockets share.

mod builder;
mod connect;
mod listen;

pub use builder::ContextBuilder;
pub use connect::ConnectOptions;

use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use crate::error::UsError;
use crate::event_loop::LoopRef;
use crate::ext::ContextView;
use crate::ffi::RawContext;
use crate::ids::ContextId;
use crate::shell::{Frame, Shell};
use crate::tls::{ContextTls, require_server};

/// A group of sockets that share callbacks and a state `T`; each socket has a state `S` of its own.
///
/// `SSL` says whether they speak TLS. This is a handle: cloning it makes another one of the same
/// context, and dropping one closes nothing. The context is gone when no handle, listener or socket
/// of it is left: then its state and callbacks are dropped. Callbacks that hold a handle of their
/// own context keep it until the loop is dropped; [`Socket::context`](crate::Socket::context) makes
/// a handle when one is needed.
///
/// Callbacks are given to a [`builder`](Self::builder) and do not change afterwards.
///
/// ```
/// use std::net::TcpStream;
/// use std::io::{Read, Write};
/// use usockets::{Loop, SocketContext};
///
/// let event_loop = Loop::<()>::new()?;
/// let shout = SocketContext::<false>::builder()
///     .on_data(|_, socket, _, data| {
///         data.make_ascii_uppercase();
///         let taken = socket.write(data);
///         assert_eq!(taken, data.len()); // else: keep the rest until `on_writable`
///     })
///     .on_close(|_, socket, _, _reason| socket.event_loop().stop())
///     .build(&event_loop, ())?;
/// let listener = shout.listen("127.0.0.1:0")?;
///
/// let address = listener.local_addr()?;
/// let client = std::thread::spawn(move || -> std::io::Result<String> {
///     let mut stream = TcpStream::connect(address)?;
///     stream.write_all(b"hello")?;
///     stream.shutdown(std::net::Shutdown::Write)?;
///     let mut answer = String::new();
///     stream.read_to_string(&mut answer)?;
///     Ok(answer)
/// });
/// event_loop.run()?;
/// assert_eq!(client.join().expect("no panic")?, "HELLO");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SocketContext<const SSL: bool, T: 'static = (), S: 'static = ()> {
    /// `Rc`: the handle stays on the thread of its loop.
    shell: Rc<Shell>,
    /// Of a context that lives: the handle has a counted reference to it, while the loop does.
    id: u64,
    _types: PhantomData<(T, S)>,
}

impl<const SSL: bool, T: 'static, S: Default + 'static> SocketContext<SSL, T, S> {
    /// Begins a context whose sockets start with `S::default()`.
    pub fn builder() -> ContextBuilder<SSL, T, S> {
        ContextBuilder::new(Box::new(S::default))
    }
}

impl<const SSL: bool, T: 'static, S: 'static> SocketContext<SSL, T, S> {
    /// Begins a context whose sockets start with what `factory` returns.
    ///
    /// A factory is called for every accepted socket just before its `on_open`, and by `connect`
    /// and [`accept_fd`](Self::accept_fd). Where it panics for an accepted socket, that is closed
    /// without callbacks.
    pub fn builder_with(factory: impl Fn() -> S + 'static) -> ContextBuilder<SSL, T, S> {
        ContextBuilder::new(Box::new(factory))
    }

    /// The handle that owns one counted reference.
    pub(crate) fn from_counted(shell: Rc<Shell>, id: u64) -> Self {
        Self { shell, id, _types: PhantomData }
    }

    pub(crate) fn shell(&self) -> &Rc<Shell> {
        &self.shell
    }

    /// The engine's context, also while the loop is closing.
    pub(crate) fn raw(&self) -> Result<RawContext<'_>, UsError> {
        self.shell.engine()?.find_context(self.id).ok_or(UsError::Stale)
    }

    /// The engine's context, to make something new in it.
    fn open(&self) -> Result<RawContext<'_>, UsError> {
        self.shell.open_engine()?;
        self.raw()
    }

    fn view(&self) -> Result<ContextView<'_, SSL, T, S>, UsError> {
        ContextView::of(self.raw()?)
    }

    /// The configurations of TLS.
    pub(crate) fn tls_state(&self) -> Result<&ContextTls, UsError> {
        Ok(self.view()?.tls())
    }

    /// The engine's context, to accept connections in it.
    fn open_for_accept(&self) -> Result<RawContext<'_>, UsError> {
        let context = self.open()?;
        if SSL {
            require_server(self.tls_state()?)?;
        }
        Ok(context)
    }

    /// Calls `f` with the context's state.
    ///
    /// # Errors
    ///
    /// [`StateInUse`](UsError::StateInUse) inside a callback of this context, which is lent the
    /// state, or another such call; [`LoopClosed`](UsError::LoopClosed).
    pub fn with_state<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, UsError> {
        let slot = self.view()?.state();
        // Before the loan, so that it ends last.
        let _frame = Frame::enter(&self.shell);
        let mut state = slot.lend()?;
        Ok(f(&mut state))
    }

    /// The context's identity, for other threads. Beneath: `usx_context_id`.
    pub fn id(&self) -> ContextId<SSL, T, S> {
        ContextId::new(self.shell.id(), self.id)
    }

    /// The context's loop.
    pub fn event_loop(&self) -> LoopRef {
        LoopRef::new(Rc::clone(&self.shell))
    }

    /// Closes all listeners and sockets of the context; the context can still be used. Beneath:
    /// `usx_context_close`.
    ///
    /// The sockets are closed at once for every observer; their `on_close` (or `on_connect_error`)
    /// follows from the loop, with
    /// [`CloseReason::ContextClosed`](crate::CloseReason::ContextClosed).
    pub fn close(&self) {
        if let Ok(context) = self.raw() {
            context.close_all();
        }
    }
}

impl<const SSL: bool, T: 'static, S: 'static> Clone for SocketContext<SSL, T, S> {
    fn clone(&self) -> Self {
        if let Ok(context) = self.raw() {
            context.retain();
        }
        Self::from_counted(Rc::clone(&self.shell), self.id)
    }
}

impl<const SSL: bool, T: 'static, S: 'static> Drop for SocketContext<SSL, T, S> {
    fn drop(&mut self) {
        crate::trampoline::release_context(&self.shell, self.id);
    }
}

impl<const SSL: bool, T: 'static, S: 'static> PartialEq for SocketContext<SSL, T, S> {
    /// Whether both are handles of the same context.
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl<const SSL: bool, T: 'static, S: 'static> Eq for SocketContext<SSL, T, S> {}

impl<const SSL: bool, T: 'static, S: 'static> std::hash::Hash for SocketContext<SSL, T, S> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl<const SSL: bool, T: 'static, S: 'static> fmt::Debug for SocketContext<SSL, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketContext").field("id", &self.id()).finish_non_exhaustive()
    }
}
