//! What a socket with TLS calls.

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_uchar, c_void};
use std::io;
use std::ops::ControlFlow;
use std::ptr;
use std::rc::Rc;

use usockets_sys as sys;
use usockets_sys::us_socket_t;

use super::socket::Scene;
use crate::ext::{self, Wanted};
use crate::ffi::{RawConfig, RawContext, RawSocket, bytes};
use crate::reason::CloseReason;
use crate::shell::{Frame, Shell};
use crate::tls::{AlpnOffer, CertificateError, Handshake, PeerCertificates, ServerNameAnswer};
use crate::tls::{TlsSession, is_server_name};

/// Has the engine call for what the program wants.
pub(super) fn register<const SSL: bool, T: 'static, S: 'static>(
    context: RawContext<'_>,
    wanted: &Wanted,
) {
    if wanted.on_handshake {
        context.on_handshake(on_handshake::<SSL, T, S>);
    }
    if wanted.on_verify {
        context.on_verify(on_verify::<SSL, T, S>);
    }
    if wanted.on_alpn {
        context.on_protocol(on_protocol::<SSL, T, S>);
    }
    if wanted.on_server_name {
        context.on_server_name(on_server_name::<SSL, T, S>);
    }
    if wanted.on_session {
        context.on_session(on_session::<SSL, T, S>);
    }
}

unsafe extern "C" fn on_handshake<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_t,
) -> *mut us_socket_t {
    // SAFETY: C calls, and this function was registered for a context of these types.
    let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
    ext::set_handshake_told(scene.socket);
    scene.call(|callbacks, context_state, socket, state| {
        let handshake = scene.socket.handshake().map(Handshake::from_raw);
        if let (Some(on_handshake), Some(handshake)) = (&mut callbacks.tls.on_handshake, handshake)
        {
            on_handshake(context_state, socket, state, Ok(&handshake));
        }
    });
    raw
}

/// Before the `on_close` of a socket: tells about a handshake that was never done. Breaks off if the program
/// panics, after which nothing may be called: the rest is for the next run.
pub(super) fn before_close<const SSL: bool, T: 'static, S: 'static>(
    scene: &Scene<'_, SSL, T, S>,
    reason: &CloseReason,
) -> ControlFlow<()> {
    if !SSL || ext::is_handshake_told(scene.socket) || scene.shell.has_panicked() {
        return ControlFlow::Continue(());
    }
    ext::set_handshake_told(scene.socket);
    scene.call(|callbacks, context_state, socket, state| {
        if let Some(on_handshake) = &mut callbacks.tls.on_handshake {
            on_handshake(context_state, socket, state, Err(reason));
        }
    });
    if scene.shell.has_panicked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

unsafe extern "C" fn on_verify<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_t,
    result: c_int,
) -> c_int {
    // SAFETY: C calls, and this function was registered for a context of these types.
    let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
    // Refused unless the program says otherwise: it may panic, or not be asked.
    let mut answer = Err(CertificateError::REJECTED);
    scene.call(|callbacks, context_state, socket, state| {
        // Without memory for the certificates nobody can look at them.
        let Ok(chain) = scene.socket.peer_chain() else { return };
        if let Some(on_verify) = &mut callbacks.tls.on_verify {
            let certificates = PeerCertificates::new(chain, result);
            answer = on_verify(context_state, socket, state, &certificates);
        }
    });
    answer.err().map_or(0, CertificateError::code)
}

/// The answer of [`on_protocol`] that none fits.
const NO_PROTOCOL: c_int = -1;

unsafe extern "C" fn on_protocol<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_t,
    offered: *const c_uchar,
    length: usize,
) -> c_int {
    // SAFETY: C calls, and this function was registered for a context of these types.
    let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
    // SAFETY: the bytes are ours to read during this call.
    let offer = AlpnOffer::new(unsafe { bytes(offered.cast(), length) });
    let mut chosen = None;
    scene.call(|callbacks, context_state, socket, state| {
        if let Some(on_alpn) = &mut callbacks.tls.on_alpn {
            chosen = on_alpn(context_state, socket, state, &offer);
        }
    });
    let offset = chosen.and_then(|position| offer.offset(position));
    offset.and_then(|offset| c_int::try_from(offset).ok()).unwrap_or(NO_PROTOCOL)
}

unsafe extern "C" fn on_server_name<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_t,
    name: *const c_char,
) -> c_int {
    // SAFETY: C calls, and this function was registered for a context of these types.
    let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
    // SAFETY: it is a string during this call.
    let name = unsafe { CStr::from_ptr(name) };
    let mut answer = ServerNameAnswer::Refuse;
    scene.call(|callbacks, context_state, socket, state| {
        let Some(name) = name.to_str().ok().filter(|name| is_server_name(name)) else { return };
        if let Some(on_server_name) = &mut callbacks.tls.on_server_name {
            answer = on_server_name(context_state, socket, state, name);
        }
    });
    match answer {
        ServerNameAnswer::LookUp => sys::USX_TLS_NAME_LOOK_UP,
        ServerNameAnswer::Wait => sys::USX_TLS_NAME_WAIT,
        ServerNameAnswer::Refuse => sys::USX_TLS_NAME_REFUSE,
    }
}

unsafe extern "C" fn on_session<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_t,
    session: *const c_void,
    length: usize,
) {
    // SAFETY: C calls, and this function was registered for a context of these types.
    let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
    // SAFETY: the bytes are ours to read during this call.
    let session = unsafe { bytes(session.cast(), length) };
    scene.call(|callbacks, context_state, socket, state| {
        if let Some(on_session) = &mut callbacks.tls.on_session {
            on_session(context_state, socket, state, TlsSession::from_bytes(session));
        }
    });
}

// -- Server names -----------------------------------------------------------------------------

/// What the engine keeps with a server name.
struct NameData {
    data: Rc<dyn Any>,
    /// Outlives the entry: the loop has a strong reference.
    shell: *const Shell,
}

/// Adds or replaces a server name.
pub(crate) fn add_server_name(
    shell: &Rc<Shell>,
    context: RawContext<'_>,
    pattern: &CStr,
    config: &RawConfig,
    data: Option<Rc<dyn Any>>,
    replace: bool,
) -> io::Result<()> {
    let _frame = Frame::enter(shell);
    let user = data.map_or(ptr::null_mut(), |data| {
        Box::into_raw(Box::new(NameData { data, shell: Rc::as_ptr(shell) }))
    });
    let release = (!user.is_null()).then_some(release as unsafe extern "C" fn(*mut c_void));
    // SAFETY: `release` takes what was boxed.
    let added = unsafe { context.add_server_name(pattern, config, user.cast(), release, replace) };
    if added.is_err() && !user.is_null() {
        // SAFETY: the engine has not kept the pointer.
        drop(unsafe { Box::from_raw(user) });
    }
    added
}

/// What was given with the server name that was selected for a socket.
pub(crate) fn server_name_data(socket: RawSocket<'_>) -> Option<Rc<dyn Any>> {
    let user = socket.server_name_user()?.cast::<NameData>();
    // SAFETY: contexts of this crate are given such pointers only, and the entry lives while the socket
    // has it.
    Some(Rc::clone(unsafe { &user.as_ref().data }))
}

/// Dropping it may run code of the program, which must not run while the engine looks at its names: the loop
/// does it in its stage of jobs, and at once when there will be none.
unsafe extern "C" fn release(user: *mut c_void) {
    // SAFETY: it is what `add_server_name` boxed, and this is called once.
    let kept = unsafe { Box::from_raw(user.cast::<NameData>()) };
    let NameData { data, shell } = *kept;
    // SAFETY: the shell outlives the entry (see the field).
    let shell = unsafe { &*shell };
    if shell.is_closed() {
        shell.destructor(|| drop(data));
    } else {
        shell.local_jobs.push(Box::new(move |_| drop(data)));
    }
}
