//! What a listener calls that asks for headers of the PROXY protocol. No code of the program runs here.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;

use usockets_sys::{USX_PRELUDE_NONE, us_socket_t};

use crate::error::UsError;
use crate::ffi::{Prelude, RawListener, RawSocket, bytes};
use crate::proxy::{ProxyHeader, ProxyHeaderError, ProxyProtocol, Verdict};
use crate::shell::Shell;

/// Has connections to a new listener begin with a header.
pub(crate) fn set_proxy_protocol(
    listener: RawListener<'_>,
    protocol: ProxyProtocol,
) -> Result<(), UsError> {
    let (max_length, deadline) = protocol.limits()?;
    let argument = Box::into_raw(Box::new(protocol));
    let prelude = Prelude {
        parse: Some(parse),
        release: Some(release),
        argument: argument.cast(),
        max_length,
        deadline,
    };
    // SAFETY: both functions take the argument for what it is.
    let set = unsafe { listener.set_prelude(&prelude) };
    set.map_err(|error| {
        // SAFETY: the engine has not kept the pointer.
        drop(unsafe { Box::from_raw(argument) });
        UsError::io("listen", error)
    })
}

/// The header that the socket has begun with whose `on_open` runs.
pub(super) fn header(shell: &Shell) -> Option<ProxyHeader> {
    let bytes = shell.engine().ok()?.prelude();
    ProxyHeader::decode(bytes).ok().flatten().map(|(header, _)| header)
}

unsafe extern "C" fn parse(
    raw: *mut us_socket_t,
    argument: *mut c_void,
    data: *const c_char,
    length: usize,
) -> c_int {
    // SAFETY: the argument of `set_proxy_protocol`, which nobody changes.
    let protocol = unsafe { &*argument.cast::<ProxyProtocol>() };
    // SAFETY: the bytes are ours to read during this call.
    let data = unsafe { bytes(data, length) };
    let judged = if data.is_empty() {
        // SAFETY: C calls with a socket.
        let raw = unsafe { NonNull::new_unchecked(raw) };
        // SAFETY: it lives during this call at least.
        let socket = unsafe { RawSocket::new(raw) };
        let peer = socket.context().engine().accepted_address();
        protocol.judge_peer(peer.and_then(|address| address.as_inet()))
    } else {
        protocol.judge(data)
    };
    answer(judged)
}

/// The same for C.
fn answer(judged: Result<Verdict, ProxyHeaderError>) -> c_int {
    match judged {
        Ok(Verdict::Skip) => USX_PRELUDE_NONE,
        Ok(Verdict::More) => 0,
        Ok(Verdict::Complete(length)) => c_int::try_from(length).unwrap_or(USX_PRELUDE_NONE),
        Err(error) => -error.code(),
    }
}

unsafe extern "C" fn release(argument: *mut c_void) {
    // SAFETY: the argument of `set_proxy_protocol`, handed over for the last time.
    drop(unsafe { Box::from_raw(argument.cast::<ProxyProtocol>()) });
}
