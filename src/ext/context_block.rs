//! The ext of contexts: state, callbacks, factory; and the place of the states of their sockets.

use std::any::TypeId;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use super::slot::HANDSHAKE_TOLD;
use super::{Slot, ext_size};
use crate::descriptors::ReceivedDescriptors;
use crate::error::UsError;
use crate::ffi::{RawContext, RawLoop, RawSocket, SocketView};
use crate::incoming::{Incoming, OpenInfo};
use crate::reason::CloseReason;
use crate::shell::Shell;
use crate::socket::Socket;
use crate::tls::{ContextTls, TlsCallbacks};
use crate::transfer::PipeEnd;

/// What a context has in its ext, whatever its types.
#[repr(C)]
struct ContextHeader {
    /// Outlives the context: the loop has a strong reference.
    shell: *const Shell,
    /// `Kind<SSL, T, S>`.
    kind: TypeId,
    /// `SocketKind<SSL, S>`.
    socket_kind: TypeId,
    /// Of the state. While it is lent, so are the callbacks.
    flags: Cell<u8>,
    release: unsafe fn(NonNull<Self>),
}

/// The ext of a `SocketContext<SSL, T, S>`. The header is at its beginning.
#[repr(C)]
struct ContextBlock<const SSL: bool, T: 'static, S: 'static> {
    header: ContextHeader,
    /// From `Box::into_raw`; null once released. Used mutably by the one callback that runs.
    callbacks: Cell<*mut Callbacks<SSL, T, S>>,
    /// From `Box::into_raw`; null once released. Used by shared reference, at any time.
    factory: Cell<*mut Factory<S>>,
    /// Cleared at release; no code of the program ever runs while it is borrowed.
    tls: ContextTls,
    state: MaybeUninit<T>,
}

/// Makes the states of accepted and connecting sockets.
pub(crate) type Factory<S> = Box<dyn Fn() -> S>;

/// Names the types of a context.
struct Kind<const SSL: bool, T, S>(PhantomData<(T, S)>);

/// Names the types of a socket.
struct SocketKind<const SSL: bool, S>(PhantomData<S>);

/// What the program wants to be called for; frozen when the context is built.
pub(crate) struct Callbacks<const SSL: bool, T: 'static, S: 'static> {
    pub(crate) on_open: Option<OnOpen<SSL, T, S>>,
    pub(crate) on_data: Option<OnData<SSL, T, S>>,
    pub(crate) on_descriptors: Option<OnDescriptors<SSL, T, S>>,
    /// With `on_descriptors`: credentials are wanted too.
    pub(crate) receives_credentials: bool,
    pub(crate) on_writable: Option<OnEvent<SSL, T, S>>,
    pub(crate) on_end: Option<OnEvent<SSL, T, S>>,
    pub(crate) on_close: Option<OnClose<SSL, T, S>>,
    pub(crate) on_timeout: Option<OnEvent<SSL, T, S>>,
    pub(crate) on_long_timeout: Option<OnEvent<SSL, T, S>>,
    pub(crate) on_connect_error: Option<OnConnectError<SSL, T, S>>,
    pub(crate) on_adopt: Option<OnEvent<SSL, T, S>>,
    pub(crate) on_drain: Option<OnEvent<SSL, T, S>>,
    pub(crate) on_drain_requested: Option<OnEvent<SSL, T, S>>,
    pub(crate) on_pipe_end: Option<OnPipeEnd<SSL, T, S>>,
    pub(crate) accept_filter: Option<AcceptFilter<T>>,
    pub(crate) tls: TlsCallbacks<SSL, T, S>,
}

type OnOpen<const SSL: bool, T, S> = Box<dyn FnMut(&mut T, &Socket<SSL, S>, &mut S, &OpenInfo)>;
type OnData<const SSL: bool, T, S> = Box<dyn FnMut(&mut T, &Socket<SSL, S>, &mut S, &mut [u8])>;
type OnDescriptors<const SSL: bool, T, S> =
    Box<dyn FnMut(&mut T, &Socket<SSL, S>, &mut S, ReceivedDescriptors)>;
type OnEvent<const SSL: bool, T, S> = Box<dyn FnMut(&mut T, &Socket<SSL, S>, &mut S)>;
type OnPipeEnd<const SSL: bool, T, S> = Box<dyn FnMut(&mut T, &Socket<SSL, S>, &mut S, PipeEnd)>;
type OnClose<const SSL: bool, T, S> = Box<dyn FnMut(&mut T, &Socket<SSL, S>, &mut S, &CloseReason)>;
type OnConnectError<const SSL: bool, T, S> =
    Box<dyn FnMut(&mut T, &Socket<SSL, S>, &mut S, &UsError)>;
type AcceptFilter<T> = Box<dyn FnMut(&mut T, Incoming<'_>)>;

impl<const SSL: bool, T: 'static, S: 'static> Default for Callbacks<SSL, T, S> {
    fn default() -> Self {
        Self {
            on_open: None,
            on_data: None,
            on_descriptors: None,
            receives_credentials: false,
            on_writable: None,
            on_end: None,
            on_close: None,
            on_timeout: None,
            on_long_timeout: None,
            on_connect_error: None,
            on_adopt: None,
            on_drain: None,
            on_drain_requested: None,
            on_pipe_end: None,
            accept_filter: None,
            tls: TlsCallbacks::default(),
        }
    }
}

impl<const SSL: bool, T: 'static, S: 'static> Callbacks<SSL, T, S> {
    /// Which of them the program has set, of those that the engine need not call for otherwise.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            on_data: self.on_data.is_some(),
            on_descriptors: self.on_descriptors.is_some(),
            receives_credentials: self.receives_credentials,
            on_writable: self.on_writable.is_some(),
            on_end: self.on_end.is_some(),
            on_timeout: self.on_timeout.is_some(),
            on_long_timeout: self.on_long_timeout.is_some(),
            on_drain: self.on_drain.is_some(),
            on_drain_requested: self.on_drain_requested.is_some(),
            on_pipe_end: self.on_pipe_end.is_some(),
            accept_filter: self.accept_filter.is_some(),
            on_handshake: self.tls.on_handshake.is_some(),
            on_verify: self.tls.on_verify.is_some(),
            on_alpn: self.tls.on_alpn.is_some(),
            on_server_name: self.tls.on_server_name.is_some(),
            on_session: self.tls.on_session.is_some(),
        }
    }
}

/// Which callbacks the program has set.
pub(crate) struct Wanted {
    pub(crate) on_data: bool,
    pub(crate) on_descriptors: bool,
    pub(crate) receives_credentials: bool,
    pub(crate) on_writable: bool,
    pub(crate) on_end: bool,
    pub(crate) on_timeout: bool,
    pub(crate) on_long_timeout: bool,
    pub(crate) on_drain: bool,
    pub(crate) on_drain_requested: bool,
    pub(crate) on_pipe_end: bool,
    pub(crate) accept_filter: bool,
    pub(crate) on_handshake: bool,
    pub(crate) on_verify: bool,
    pub(crate) on_alpn: bool,
    pub(crate) on_server_name: bool,
    pub(crate) on_session: bool,
}

/// The ext of a context that is alive for `'a`, with its types.
pub(crate) struct ContextView<'a, const SSL: bool, T: 'static, S: 'static> {
    block: NonNull<ContextBlock<SSL, T, S>>,
    _alive: PhantomData<&'a ()>,
}

impl<const SSL: bool, T: 'static, S: 'static> Clone for ContextView<'_, SSL, T, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<const SSL: bool, T: 'static, S: 'static> Copy for ContextView<'_, SSL, T, S> {}

impl<'a, const SSL: bool, T: 'static, S: 'static> ContextView<'a, SSL, T, S> {
    /// Makes a context of the engine and fills its ext. `None`, and the values are dropped: out of
    /// memory.
    pub(crate) fn create(
        engine: RawLoop<'a>,
        shell: &Shell,
        callbacks: Callbacks<SSL, T, S>,
        factory: Factory<S>,
        state: T,
    ) -> Option<RawContext<'a>> {
        let context = engine.create_context(ext_size::<ContextBlock<SSL, T, S>>())?;
        let block = context.ext().cast::<ContextBlock<SSL, T, S>>();
        let empty = ContextBlock {
            header: ContextHeader {
                shell,
                kind: TypeId::of::<Kind<SSL, T, S>>(),
                socket_kind: TypeId::of::<SocketKind<SSL, S>>(),
                flags: Cell::new(0),
                release: release::<SSL, T, S>,
            },
            callbacks: Cell::new(Box::into_raw(Box::new(callbacks))),
            factory: Cell::new(Box::into_raw(Box::new(factory))),
            tls: ContextTls::default(),
            state: MaybeUninit::uninit(),
        };
        // SAFETY: the area has the size and alignment of the block (see `ext_size`).
        unsafe { block.write(empty) };
        let filled = Self { block, _alive: PhantomData }.state().fill(state);
        debug_assert!(filled.is_ok(), "a new context has a state: bug in usockets");
        Some(context)
    }

    /// The ext of a context with these types.
    pub(crate) fn of(context: RawContext<'a>) -> Result<Self, UsError> {
        if header(context).kind != TypeId::of::<Kind<SSL, T, S>>() {
            return Err(UsError::WrongType);
        }
        // SAFETY: I4: the types were just compared.
        Ok(unsafe { Self::of_unchecked(context) })
    }

    /// The ext of a context that is known to have these types.
    ///
    /// # Safety
    ///
    /// The context has these types.
    #[inline]
    pub(crate) unsafe fn of_unchecked(context: RawContext<'a>) -> Self {
        Self { block: context.ext().cast(), _alive: PhantomData }
    }

    /// The context of a socket for which C calls.
    ///
    /// # Safety
    ///
    /// The context has these types.
    #[inline]
    pub(crate) unsafe fn of_socket_unchecked(socket: &SocketView<'a>) -> Self {
        Self { block: socket.context_ext.cast(), _alive: PhantomData }
    }

    /// The shell of the loop.
    #[inline]
    pub(crate) fn shell(self) -> &'a Shell {
        // SAFETY: the block is alive.
        let shell = unsafe { (*self.block.as_ptr()).header.shell };
        // SAFETY: the shell outlives the block (see the field).
        unsafe { &*shell }
    }

    /// The place of the context's state.
    #[inline]
    pub(crate) fn state(self) -> Slot<'a, T> {
        let block = self.block.as_ptr();
        // SAFETY: the block is alive, and this touches the flags alone.
        let flags = unsafe { &(*block).header.flags };
        // SAFETY: as above; this only computes an address.
        let place = unsafe { &raw mut (*block).state };
        // SAFETY: I4: the flags belong to this place, which only this function hands out.
        unsafe { Slot::new(flags, place.cast()) }
    }

    /// The callbacks, unless they have been dropped.
    ///
    /// # Safety
    ///
    /// The caller holds the context's state lent, for as long as it uses the callbacks.
    #[inline]
    pub(crate) unsafe fn callbacks(self) -> Option<&'a mut Callbacks<SSL, T, S>> {
        // SAFETY: the block is alive, and this touches one cell of it.
        let callbacks = unsafe { &(*self.block.as_ptr()).callbacks };
        // SAFETY: I2: who holds the state lent is the only callback that runs; nobody else uses
        // them.
        unsafe { callbacks.get().as_mut() }
    }

    /// The configurations of TLS.
    pub(crate) fn tls(self) -> &'a ContextTls {
        // SAFETY: the block is alive, and this touches one cell of it.
        unsafe { &(*self.block.as_ptr()).tls }
    }

    /// Makes a state for a socket. Code of the program; `None` if the context has been released.
    pub(crate) fn make_socket_state(self) -> Option<S> {
        // SAFETY: the block is alive, and this touches one cell of it.
        let factory = unsafe { &(*self.block.as_ptr()).factory };
        // SAFETY: factories are shared, and are freed by `release` alone, which cannot happen here:
        // whoever has a view holds a reference to the context, or is called for a socket of it.
        let factory = unsafe { factory.get().as_ref() };
        factory.map(|factory| factory())
    }
}

/// The header of a context, which every context of this crate has.
#[inline]
fn header<'a>(context: RawContext<'a>) -> &'a ContextHeader {
    // SAFETY: `create` wrote it before anybody else saw the context, and nobody writes it again;
    // what changes is in cells.
    unsafe { context.ext().cast().as_ref() }
}

/// Drops callbacks, factory and state of a context. Does nothing the second time.
pub(crate) fn release_context(context: RawContext<'_>) {
    let release = header(context).release;
    // SAFETY: the function was stored by `create` for this very block.
    unsafe { release(context.ext().cast()) };
}

/// # Safety
///
/// The header is that of a living block with these types.
unsafe fn release<const SSL: bool, T: 'static, S: 'static>(header: NonNull<ContextHeader>) {
    let block = header.cast::<ContextBlock<SSL, T, S>>();
    let view = ContextView::<'_, SSL, T, S> { block, _alive: PhantomData };
    let shell = view.shell();
    view.state().dispose(shell);
    view.tls().clear();
    // SAFETY: the block is alive, and this touches one cell of it.
    drop_box(unsafe { &(*block.as_ptr()).callbacks }, shell);
    // SAFETY: as above.
    drop_box(unsafe { &(*block.as_ptr()).factory }, shell);
}

/// Drops a box that is kept as a pointer.
fn drop_box<V>(cell: &Cell<*mut V>, shell: &Shell) {
    let boxed = cell.replace(std::ptr::null_mut());
    if !boxed.is_null() {
        // SAFETY: the cells have pointers of `Box::into_raw` only, and this one no more.
        let boxed = unsafe { Box::from_raw(boxed) };
        shell.destructor(|| drop(boxed));
    }
}

/// The place of a socket's state, if the state is an `S`.
pub(crate) fn socket_slot<'a, const SSL: bool, S: 'static>(
    socket: RawSocket<'a>,
) -> Result<Slot<'a, S>, UsError> {
    if header(socket.context()).socket_kind != TypeId::of::<SocketKind<SSL, S>>() {
        return Err(UsError::WrongType);
    }
    // SAFETY: I4: the types were just compared.
    Ok(unsafe { socket_slot_unchecked(socket) })
}

/// The place of a socket's state.
///
/// # Safety
///
/// The socket's context was made for sockets with an `S`.
#[inline]
pub(crate) unsafe fn socket_slot_unchecked<'a, S>(socket: RawSocket<'a>) -> Slot<'a, S> {
    // SAFETY: I4: sockets of a context are made with the ext that its `S` needs; only these two
    // functions hand out the place.
    unsafe { Slot::new(socket.flags(), socket.ext().cast().as_ptr()) }
}

/// Whether the program was told that the handshake of a socket is done.
pub(crate) fn is_handshake_told(socket: RawSocket<'_>) -> bool {
    socket.flags().get() & HANDSHAKE_TOLD != 0
}

/// The program is told now.
pub(crate) fn set_handshake_told(socket: RawSocket<'_>) {
    let flags = socket.flags();
    flags.set(flags.get() | HANDSHAKE_TOLD);
}

/// The place of the state of a socket for which C calls.
///
/// # Safety
///
/// The socket's context was made for sockets with an `S`.
#[inline]
pub(crate) unsafe fn viewed_slot_unchecked<'a, S>(socket: &SocketView<'a>) -> Slot<'a, S> {
    // SAFETY: I4: as in `socket_slot_unchecked`.
    unsafe { Slot::new(socket.flags, socket.ext.cast().as_ptr()) }
}
