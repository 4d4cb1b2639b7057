//! What a socket calls.

use std::ffi::{c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::ptr::{self, NonNull};

use usockets_sys::{us_socket_t, usx_descriptors};

use crate::attempt::attempts;
use crate::ext::{self, Callbacks, ContextView, Slot, Wanted};
use crate::ffi::{self, RawContext, RawSocket, bytes_mut};
use crate::incoming::{OpenInfo, Origin};
use crate::reason::{CloseReason, connect_error};
use crate::shell::Shell;
use crate::socket::Socket;
use crate::transfer::PipeEnd;

/// Has the engine call for what the program wants, and for what makes and drops state.
pub(super) fn register<const SSL: bool, T: 'static, S: 'static>(
    context: RawContext<'_>,
    wanted: &Wanted,
) {
    context.on_open(on_open::<SSL, T, S>);
    context.on_close(on_close::<SSL, T, S>);
    context.on_connect_error(on_connect_error::<SSL, T, S>);
    if wanted.on_data {
        context.on_data(on_data::<SSL, T, S>);
    }
    if wanted.on_descriptors {
        context.on_descriptors(on_descriptors::<SSL, T, S>, wanted.receives_credentials);
    }
    if wanted.on_writable {
        context.on_writable(on_writable::<SSL, T, S>);
    }
    if wanted.on_end {
        context.on_end(on_end::<SSL, T, S>);
    }
    if wanted.on_timeout {
        context.on_timeout(on_timeout::<SSL, T, S>);
    }
    if wanted.on_long_timeout {
        context.on_long_timeout(on_long_timeout::<SSL, T, S>);
    }
    if wanted.on_pipe_end {
        context.on_pipe_end(on_pipe_end::<SSL, T, S>);
    }
    if wanted.on_drain {
        context.on_drain(on_drain::<SSL, T, S>);
    }
    if wanted.on_drain_requested {
        context.on_drain_requested(on_drain_requested::<SSL, T, S>);
    }
    if SSL {
        super::tls::register::<SSL, T, S>(context, wanted);
    }
}

/// A socket for which C calls, with all that belongs to it.
pub(super) struct Scene<'a, const SSL: bool, T: 'static, S: 'static> {
    pub(super) socket: RawSocket<'a>,
    pub(super) context: ContextView<'a, SSL, T, S>,
    pub(super) shell: &'a Shell,
    pub(super) state: Slot<'a, S>,
    /// Not counted: never dropped.
    handle: ManuallyDrop<Socket<SSL, S>>,
}

impl<'a, const SSL: bool, T: 'static, S: 'static> Scene<'a, SSL, T, S> {
    /// # Safety
    ///
    /// C calls for this socket, in a context of these types.
    #[inline]
    pub(super) unsafe fn new(raw: *mut us_socket_t) -> Self {
        // SAFETY: C calls with a socket.
        let raw = unsafe { NonNull::new_unchecked(raw) };
        // SAFETY: it lives until the end of the iteration at least.
        let socket = unsafe { RawSocket::new(raw) };
        let view = socket.view();
        // SAFETY: I4: the caller vouches for the types.
        let context = unsafe { ContextView::of_socket_unchecked(&view) };
        // SAFETY: I4: as above.
        let state = unsafe { ext::viewed_slot_unchecked(&view) };
        let shell = context.shell();
        // SAFETY: I9: the loop has a counted reference; this one is not dropped.
        let handle = Socket::new(unsafe { shell.uncounted() }, view.id);
        Self { socket, context, shell, state, handle: ManuallyDrop::new(handle) }
    }

    /// Lends both states to a callback.
    #[inline]
    pub(super) fn call(
        &self,
        callback: impl FnOnce(&mut Callbacks<SSL, T, S>, &mut T, &Socket<SSL, S>, &mut S),
    ) {
        self.shell.callback(|| {
            let Some(mut context_state) = self.context.state().try_lend() else { return };
            let Some(mut state) = self.state.try_lend() else { return };
            // SAFETY: I2: the context's state is lent, for as long as the callback runs.
            let Some(callbacks) = (unsafe { self.context.callbacks() }) else { return };
            callback(callbacks, &mut context_state, &self.handle, &mut state);
        });
    }
}

unsafe extern "C" fn on_open<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_t,
    is_client: c_int,
    _ip: *mut c_char,
    _ip_length: c_int,
) -> *mut us_socket_t {
    // SAFETY: C calls, and this function was registered for a context of these types.
    let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
    // Whoever connects or hands over a socket has filled in its state.
    let has_state = scene.state.is_present();
    if !has_state && !make_state(&scene) {
        scene.socket.discard();
        return ptr::null_mut();
    }
    let origin = match (is_client != 0, has_state) {
        (true, _) => Origin::Connected,
        (false, true) => Origin::HandedOver,
        (false, false) => Origin::Accepted,
    };
    scene.call(|callbacks, context_state, socket, state| {
        if let Some(on_open) = &mut callbacks.on_open {
            let info = OpenInfo::new(origin, accepted_peer(scene.shell));
            #[cfg(feature = "proxy-protocol")]
            let info = info.with_proxy_header(super::prelude::header(scene.shell));
            on_open(context_state, socket, state, &info);
        }
    });
    raw
}

/// The real address of the peer of a connection that was accepted, in the callback that begins or ends
/// it.
fn accepted_peer(shell: &Shell) -> Option<SocketAddr> {
    shell.engine().ok()?.accepted_address()?.as_inet()
}

/// Calls the factory for an accepted socket; false if it panicked.
fn make_state<const SSL: bool, T: 'static, S: 'static>(scene: &Scene<'_, SSL, T, S>) -> bool {
    let made = scene.shell.callback(|| scene.context.make_socket_state()).flatten();
    made.is_some_and(|state| scene.state.fill(state).is_ok())
}

unsafe extern "C" fn on_data<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_t,
    data: *mut c_char,
    length: c_int,
) -> *mut us_socket_t {
    // SAFETY: C calls, and this function was registered for a context of these types.
    let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
    // SAFETY: the bytes are the handler's during this call.
    let data = unsafe { bytes_mut(data, length) };
    scene.call(|callbacks, context_state, socket, state| {
        if let Some(on_data) = &mut callbacks.on_data {
            on_data(context_state, socket, state, data);
        }
    });
    raw
}

unsafe extern "C" fn on_descriptors<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_t,
    descriptors: *const usx_descriptors,
) {
    // SAFETY: C calls, and this function was registered for a context of these types.
    let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
    // SAFETY: C calls with a structure that is valid during this call.
    let descriptors = unsafe { &*descriptors };
    // SAFETY: the descriptors are the handler's from here on, and this is taken once.
    let received = unsafe { ffi::take_descriptors(descriptors) };
    // Dropped where no callback may run, and closed by that.
    scene.call(|callbacks, context_state, socket, state| {
        if let Some(on_descriptors) = &mut callbacks.on_descriptors {
            on_descriptors(context_state, socket, state, received);
        }
    });
}

unsafe extern "C" fn on_close<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_t,
    _code: c_int,
    _reason: *mut c_void,
) -> *mut us_socket_t {
    // SAFETY: C calls, and this function was registered for a context of these types.
    let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
    let reason = CloseReason::of(scene.socket).unwrap_or(CloseReason::Local);
    if super::tls::before_close(&scene, &reason).is_break() {
        scene.socket.close_again();
        return raw;
    }
    scene.call(|callbacks, context_state, socket, state| {
        if let Some(on_close) = &mut callbacks.on_close {
            on_close(context_state, socket, state, &reason);
        }
    });
    scene.state.dispose(scene.shell);
    raw
}

unsafe extern "C" fn on_pipe_end<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_t,
    result: c_int,
) -> *mut us_socket_t {
    // SAFETY: C calls, and this function was registered for a context of these types.
    let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
    scene.call(|callbacks, context_state, socket, state| {
        if let Some(on_pipe_end) = &mut callbacks.on_pipe_end {
            on_pipe_end(context_state, socket, state, PipeEnd::from_raw(result));
        }
    });
    raw
}

unsafe extern "C" fn on_connect_error<const SSL: bool, T: 'static, S: 'static>(
    raw: *mut us_socket_t,
    _code: c_int,
) -> *mut us_socket_t {
    // SAFETY: C calls, and this function was registered for a context of these types.
    let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
    // An accepted socket that did not begin as it was to has no state yet.
    if !scene.state.is_present() && !make_state(&scene) {
        return raw;
    }
    scene.call(|callbacks, context_state, socket, state| {
        if let Some(on_connect_error) = &mut callbacks.on_connect_error {
            let peer = accepted_peer(scene.shell);
            let error = connect_error(scene.socket.close_reason(), peer, || attempts(scene.socket));
            on_connect_error(context_state, socket, state, &error);
        }
    });
    scene.state.dispose(scene.shell);
    raw
}

/// Defines the trampoline of a callback that is told no more than that something happened.
macro_rules! event {
    ($name:ident) => {
        unsafe extern "C" fn $name<const SSL: bool, T: 'static, S: 'static>(
            raw: *mut us_socket_t,
        ) -> *mut us_socket_t {
            // SAFETY: C calls, and this function was registered for a context of these types.
            let scene = unsafe { Scene::<SSL, T, S>::new(raw) };
            scene.call(|callbacks, context_state, socket, state| {
                if let Some(callback) = &mut callbacks.$name {
                    callback(context_state, socket, state);
                }
            });
            raw
        }
    };
}
event!(on_writable);
event!(on_end);
event!(on_timeout);
event!(on_long_timeout);
event!(on_drain);
event!(on_drain_requested);
