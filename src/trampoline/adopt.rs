//! What the move of a socket to another context calls.

use std::ffi::{c_int, c_void};
use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::rc::Rc;

use usockets_sys::us_socket_t;

use super::socket::Scene;
use crate::context::SocketContext;
use crate::error::UsError;
use crate::ext::{self, ContextView};
use crate::ffi::{Adoption, RawContext, RawSocket, State};
use crate::shell::{Frame, Shell};
use crate::socket::Socket;
use crate::tls::{StartTls, prepare_client, require_server};

/// A move that is under way. The engine keeps it as the argument of its functions.
struct Move<S, S2, F> {
    /// Outlives the move: the loop has a strong reference.
    shell: *const Shell,
    /// Taken when the socket's turn comes.
    convert: Option<F>,
    /// While the socket's memory is on its way: the state it leaves behind, and the one it will
    /// have.
    states: Option<(S, S2)>,
    /// Without a new state it does not go on in the old context, where it is not protected.
    starts_tls: bool,
}

/// The functions of a move of a socket with an `S` to a context of `SSL`, `T2` and `S2`, whatever the
/// socket had before.
struct Functions<const SSL: bool, S, T2, S2, F>(PhantomData<(S, T2, S2, F)>);

/// Begins the move of a socket to another context.
pub(crate) fn adopt<const SSL: bool, S: 'static, T2: 'static, S2: 'static, F>(
    socket: &Socket<SSL, S>,
    target: &SocketContext<SSL, T2, S2>,
    unread: usize,
    convert: F,
) -> Result<(), UsError>
where
    F: FnOnce(&mut S) -> S2 + 'static,
{
    begin(socket, target, convert, |raw, target, functions, argument| {
        // SAFETY: `begin` gives what the functions take.
        unsafe { raw.adopt_later(target, ext::ext_size::<S2>(), unread, functions, argument) }
    })
}

/// Begins the move of a socket to a context with TLS, which then shakes hands.
pub(crate) fn start_tls<S: 'static, T2: 'static, S2: 'static, F>(
    socket: &Socket<false, S>,
    target: &SocketContext<true, T2, S2>,
    role: &StartTls,
    unread: usize,
    convert: F,
) -> Result<(), UsError>
where
    F: FnOnce(&mut S) -> S2 + 'static,
{
    let server_name = role.server_name()?;
    let raw = target.raw()?;
    let view = ContextView::<true, T2, S2>::of(raw)?;
    if role.is_client() {
        prepare_client(view.tls(), raw)?;
    } else {
        require_server(view.tls())?;
    }
    begin(socket, target, convert, |raw, target, functions, argument| {
        let size = ext::ext_size::<S2>();
        let client = role.settings(&server_name);
        // SAFETY: `begin` gives what the functions take.
        unsafe { raw.start_tls_later(target, size, unread, functions, argument, client) }
    })
}

/// Calls the engine with functions and their argument.
fn begin<const FROM: bool, const TO: bool, S: 'static, T2: 'static, S2: 'static, F>(
    socket: &Socket<FROM, S>,
    target: &SocketContext<TO, T2, S2>,
    convert: F,
    call: impl FnOnce(RawSocket<'_>, RawContext<'_>, &Adoption, *mut c_void) -> io::Result<()>,
) -> Result<(), UsError>
where
    F: FnOnce(&mut S) -> S2 + 'static,
{
    let shell = socket.shell();
    let _frame = Frame::enter(shell);
    // A local, so that `convert` is dropped before the frame ends, should the move not begin.
    let arguments = Move {
        shell: Rc::as_ptr(shell),
        convert: Some(convert),
        states: None,
        starts_tls: FROM != TO,
    };
    if shell.id() != target.shell().id() {
        return Err(UsError::WrongLoop);
    }
    shell.open_engine()?;
    let raw = socket.raw()?;
    if raw.state() != State::Open {
        return Err(UsError::Closed);
    }
    let target = target.raw()?;
    let arguments: *mut Move<S, S2, F> = Box::into_raw(Box::new(arguments));
    // I4: the engine hands the argument to these functions of the same types, as often as they expect it.
    let functions = &Functions::<TO, S, T2, S2, F>::ADOPTION;
    let begun = call(raw, target, functions, arguments.cast());
    begun.map_err(|error| {
        // SAFETY: the engine has not kept the pointer.
        drop(unsafe { Box::from_raw(arguments) });
        match error.raw_os_error() {
            Some(libc::EINVAL) => UsError::invalid("unread", "it is more than the data at hand"),
            Some(libc::ENOTCONN) => UsError::Closed,
            Some(libc::EALREADY) => UsError::Stale,
            Some(libc::EBUSY) => UsError::Piped,
            Some(libc::EXDEV) => UsError::WrongLoop,
            _ => UsError::io("adopt", error),
        }
    })
}

impl<const SSL: bool, S, T2, S2, F> Functions<SSL, S, T2, S2, F>
where
    S: 'static,
    T2: 'static,
    S2: 'static,
    F: FnOnce(&mut S) -> S2 + 'static,
{
    const ADOPTION: Adoption = Adoption {
        before: Some(Self::before),
        after: Some(Self::after),
        dropped: Some(Self::dropped),
    };

    /// Makes the new state. Returns non-zero if that failed: then nothing moves.
    unsafe extern "C" fn before(raw: *mut us_socket_t, argument: *mut c_void) -> c_int {
        let argument = argument.cast::<Move<S, S2, F>>();
        // SAFETY: the pointer of `adopt`, which nobody else uses meanwhile.
        let this = unsafe { &mut *argument };
        // SAFETY: the shell outlives the move (see the field).
        let shell = unsafe { &*this.shell };
        // SAFETY: C calls with the socket of `adopt`, whose state is an `S`.
        let state = unsafe { Self::old_state(raw) };
        let convert = this.convert.take();
        let made = shell.callback(|| Some(convert?(&mut *state.try_lend()?))).flatten();
        // The old state leaves the memory that is about to move.
        if let Some(made) = made {
            if let Some(old) = state.take() {
                this.states = Some((old, made));
                return 0;
            }
            shell.destructor(|| drop(made));
        }
        if this.starts_tls {
            // Both sides have agreed that nothing follows in the clear.
            // SAFETY: C calls with a socket.
            let raw = unsafe { NonNull::new_unchecked(raw) };
            // SAFETY: it is alive, and its context defers.
            unsafe { RawSocket::new(raw) }.close(true);
        }
        // SAFETY: neither `after` nor `dropped` follows a refusal.
        drop(unsafe { Box::from_raw(argument) });
        1
    }

    /// The socket is in its new context.
    unsafe extern "C" fn after(raw: *mut us_socket_t, argument: *mut c_void) {
        // SAFETY: the pointer of `adopt`, handed over for the last time.
        let this = unsafe { Box::from_raw(argument.cast::<Move<S, S2, F>>()) };
        // SAFETY: C calls, and the target of `adopt` has these types.
        let scene = unsafe { Scene::<SSL, T2, S2>::new(raw) };
        if let Some((old, new)) = this.states {
            let filled = scene.state.fill(new);
            debug_assert!(filled.is_ok(), "a moved socket has a state: bug in usockets");
            scene.shell.destructor(|| drop(old));
        }
        scene.call(|callbacks, context_state, socket, state| {
            if let Some(on_adopt) = &mut callbacks.on_adopt {
                on_adopt(context_state, socket, state);
            }
        });
    }

    /// The socket has not moved, and will not.
    unsafe extern "C" fn dropped(raw: *mut us_socket_t, argument: *mut c_void) {
        // SAFETY: the pointer of `adopt`, handed over for the last time.
        let this = *unsafe { Box::from_raw(argument.cast::<Move<S, S2, F>>()) };
        // SAFETY: the shell outlives the move (see the field).
        let shell = unsafe { &*this.shell };
        if let Some((old, new)) = this.states {
            // The move itself failed: the socket is as it was.
            // SAFETY: C calls with the socket of `adopt`, whose state is an `S`.
            let filled = unsafe { Self::old_state(raw) }.fill(old);
            debug_assert!(filled.is_ok(), "a state came from nowhere: bug in usockets");
            shell.destructor(|| drop(new));
        }
        shell.destructor(|| drop(this.convert));
    }

    /// The state of the socket in its old context.
    ///
    /// # Safety
    ///
    /// It is a living socket that has not moved yet.
    unsafe fn old_state<'a>(raw: *mut us_socket_t) -> ext::Slot<'a, S> {
        // SAFETY: the caller vouches for it.
        let raw = unsafe { NonNull::new_unchecked(raw) };
        // SAFETY: as above.
        let socket = unsafe { RawSocket::new(raw) };
        // SAFETY: I4: `adopt` was given a handle of a socket with an `S`.
        unsafe { ext::socket_slot_unchecked(socket) }
    }
}
