//! What a context calls: about incoming connections, and at its end.

use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;

use usockets_sys::us_socket_context_t;

use super::socket::register;
use crate::deadline::Deadlines;
use crate::error::UsError;
use crate::ext::{self, Callbacks, ContextView, Factory};
use crate::ffi::RawContext;
use crate::incoming::Incoming;
use crate::output::OutputOptions;
use crate::shell::{Frame, Shell};
use crate::tls::TlsSetup;

/// What a filter makes the engine do with a descriptor that the engine is no longer to own.
const TAKEN: c_int = -1;

/// What a context is like, besides its callbacks.
#[derive(Debug, Clone, Default)]
pub(crate) struct ContextSettings {
    pub(crate) output: OutputOptions,
    pub(crate) deadlines: Deadlines,
    /// Empty without TLS.
    pub(crate) tls: TlsSetup,
}

/// Makes a context with these callbacks, and returns its identity; one reference belongs to the
/// caller.
pub(crate) fn create_context<const SSL: bool, T: 'static, S: 'static>(
    shell: &Rc<Shell>,
    settings: &ContextSettings,
    callbacks: Callbacks<SSL, T, S>,
    factory: Factory<S>,
    state: T,
) -> Result<u64, UsError> {
    let (output, deadlines) = (settings.output.to_raw()?, settings.deadlines.to_raw()?);
    let engine = shell.open_engine()?;
    let wanted = callbacks.wanted();
    let context = ContextView::create(engine, shell, callbacks, factory, state)
        .ok_or_else(|| UsError::out_of_memory("create_context"))?;
    let configured = context.configure(&output, &deadlines);
    debug_assert!(configured, "the settings have been checked: bug in usockets");
    if SSL {
        // SAFETY: I4: it was just made with these types.
        let view = unsafe { ContextView::<SSL, T, S>::of_unchecked(context) };
        let TlsSetup { server, client, refuse_unknown_names } = settings.tls.clone();
        if let Err(error) = view.tls().set(context, server, client) {
            discard(shell, context);
            return Err(error);
        }
        // Before that it was no context of TLS.
        context.refuse_unknown_names(refuse_unknown_names);
    }
    register::<SSL, T, S>(context, &wanted);
    if wanted.accept_filter {
        context.on_pre_open(on_pre_open::<SSL, T, S>);
    }
    context.on_release(Some(on_release));
    Ok(context.id())
}

/// Gives up a context that nobody has seen yet.
fn discard(shell: &Shell, context: RawContext<'_>) {
    let _frame = Frame::enter(shell);
    context.on_release(Some(on_release));
    // SAFETY: I3: it has the reference that the caller would have got, and that is given back here alone.
    unsafe { context.release() };
}

/// A handle was dropped: gives its reference back.
pub(crate) fn release_context(shell: &Shell, id: u64) {
    // Destructors of the context may run: what they raise is resumed after C has returned, at the
    // end of this frame or of an outer one.
    let _frame = Frame::enter(shell);
    // A loop that is closing releases all its contexts itself, whoever holds them.
    let Ok(engine) = shell.open_engine() else { return };
    if let Some(context) = engine.find_context(id) {
        // SAFETY: I3: a handle owns one reference, which is given back here alone.
        unsafe { context.release() };
    }
}

/// Nobody holds the context any more.
unsafe extern "C" fn on_release(raw: *mut us_socket_context_t) {
    // SAFETY: C calls with a context.
    let raw = unsafe { NonNull::new_unchecked(raw) };
    // SAFETY: it is freed after this call.
    let context = unsafe { RawContext::new(raw) };
    ext::release_context(context);
}

/// A connection was accepted: asks the filter.
unsafe extern "C" fn on_pre_open<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_context_t,
    fd: c_int,
    _ip: *mut c_char,
    _ip_length: c_int,
) -> c_int {
    // SAFETY: C calls with a context.
    let raw = unsafe { NonNull::new_unchecked(raw) };
    // SAFETY: the listener has a reference to it.
    let context = unsafe { RawContext::new(raw) };
    // SAFETY: I4: this function was registered for a context of these types.
    let view = unsafe { ContextView::<SSL, T, S>::of_unchecked(context) };
    // SAFETY: the descriptor is open, and ours unless it is returned.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    filter(view, owned).map_or(TAKEN, IntoRawFd::into_raw_fd)
}

/// Returns the descriptor if the connection may proceed.
fn filter<const SSL: bool, T: 'static, S: 'static>(
    view: ContextView<'_, SSL, T, S>,
    fd: OwnedFd,
) -> Option<OwnedFd> {
    let shell = view.shell();
    let peer = shell.engine().ok()?.accepted_address().and_then(|address| address.as_inet());
    // SAFETY: whoever has the `Incoming` has the descriptor open: it, or the cell, owns it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
    let (owned, refused) = (Cell::new(Some(fd)), Cell::new(false));
    let decided = shell.callback(|| {
        let Some(mut state) = view.state().try_lend() else { return };
        // SAFETY: I2: the state is lent, for as long as the filter runs.
        let callbacks = unsafe { view.callbacks() };
        if let Some(filter) = callbacks.and_then(|callbacks| callbacks.accept_filter.as_mut()) {
            filter(&mut state, Incoming::new(&owned, borrowed, peer, &refused));
        }
    });
    if decided.is_none() || refused.get() { None } else { owned.into_inner() }
}
