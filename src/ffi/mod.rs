//! The one door to the engine.
//!
//! Each type here stands for an engine object *that is alive for `'a`*, on the thread of its loop.
//! Making one is `unsafe` and is the proof of that; its methods are then safe, and turn return
//! codes into `Option` and `Result`. What may end the life of other objects, or runs code of the
//! program, stays `unsafe`.

mod address;
mod connect;
mod context;
mod descriptors;
mod event_loop;
mod gather;
mod inherited;
#[cfg(target_os = "linux")]
mod options;
mod poll;
mod socket;
mod timer;
mod tls;
mod waker;

pub(crate) use address::Address;
pub(crate) use connect::{ConnectSettings, RawAttempt};
#[cfg(feature = "proxy-protocol")]
pub(crate) use context::Prelude;
pub(crate) use context::{RawContext, RawListener};
pub(crate) use descriptors::{peer_credentials, take_descriptors};
pub(crate) use event_loop::RawLoop;
pub(crate) use gather::Gather;
pub(crate) use inherited::take_inherited_listeners;
#[cfg(target_os = "linux")]
pub(crate) use options::{TCP_INFO_MAX, tcp_info};
pub(crate) use poll::RawPoll;
pub(crate) use socket::{Adoption, Deadline, RawSocket, SocketView, State};
pub(crate) use timer::RawTimer;
pub(crate) use tls::{
    ClientSettings, ConfigError, ConfigSettings, ConnectionFailure, LibraryError, RawConfig,
    RawHandshake, RawTicketKeys, TICKET_KEY_LENGTH, TICKET_KEYS_MAX, TlsRole, alert_name,
    tls_kernel_support, tls_library, verify_text,
};
pub(crate) use waker::Waker;

use std::ffi::c_int;
use std::io;

/// Alignment of every area that the engine provides for state.
pub(crate) const EXT_ALIGNMENT: usize = usockets_sys::LIBUS_EXT_ALIGNMENT as usize;

/// Turns 0 or a negative errno into a `Result`.
fn check(code: c_int) -> io::Result<()> {
    if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
}

/// Defines a pointer to an engine object that is known to be alive.
macro_rules! live {
    ($(#[$doc:meta])* $name:ident, $raw:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name<'a>(
            std::ptr::NonNull<usockets_sys::$raw>,
            std::marker::PhantomData<&'a usockets_sys::$raw>,
        );

        impl $name<'_> {
            /// Vouches for an object.
            ///
            /// # Safety
            ///
            /// The object is alive for the lifetime chosen, and this is the thread of its loop.
            #[inline]
            pub(crate) unsafe fn new(raw: std::ptr::NonNull<usockets_sys::$raw>) -> Self {
                Self(raw, std::marker::PhantomData)
            }

            /// The pointer for a call into C.
            #[inline]
            pub(crate) fn as_ptr(self) -> *mut usockets_sys::$raw {
                self.0.as_ptr()
            }
        }
    };
}
use live;

/// The bytes that C lends as (address, length), which for nothing may be (NULL, 0).
///
/// # Safety
///
/// Unless `length` is 0, `data` points to that many initialised bytes which nobody else touches for
/// `'a`.
#[inline]
pub(crate) unsafe fn bytes_mut<'a>(data: *mut std::ffi::c_char, length: c_int) -> &'a mut [u8] {
    match (data.is_null(), usize::try_from(length)) {
        (false, Ok(length)) => {
            #[expect(clippy::disallowed_methods, reason = "this is the wrapper")]
            // SAFETY: the pointer is not null; the caller vouches for the rest.
            unsafe {
                std::slice::from_raw_parts_mut(data.cast(), length)
            }
        }
        _ => &mut [],
    }
}

/// As [`bytes_mut`], for what is only read.
///
/// # Safety
///
/// Unless `length` is 0, `data` points to that many initialised bytes which nobody changes for `'a`.
pub(crate) unsafe fn bytes<'a>(data: *const std::ffi::c_char, length: usize) -> &'a [u8] {
    if data.is_null() {
        return &[];
    }
    #[expect(clippy::disallowed_methods, reason = "this is the wrapper")]
    // SAFETY: the pointer is not null; the caller vouches for the rest.
    unsafe {
        std::slice::from_raw_parts(data.cast(), length)
    }
}

/// What `usx_loop_last_error` adds to the absolute value of a resolver's code.
pub(crate) const RESOLVE_ERROR: c_int = usockets_sys::USX_ERROR_RESOLVE;

/// The resolver's code in an error of the engine.
pub(crate) fn resolver_code(error: c_int) -> Option<c_int> {
    // The codes have one sign per system.
    let sign = libc::EAI_NONAME.signum();
    (error >= RESOLVE_ERROR).then(|| (error - RESOLVE_ERROR) * sign)
}

/// The system's explanation of a resolver's code.
pub(crate) fn resolver_message(code: c_int) -> String {
    // SAFETY: takes any number, and returns a static string.
    let message = unsafe { libc::gai_strerror(code) };
    // SAFETY: as above.
    let message = unsafe { std::ffi::CStr::from_ptr(message) };
    message.to_string_lossy().into_owned()
}
