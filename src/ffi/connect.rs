//! Connections that contexts of the engine begin.

use std::ffi::{CStr, c_int, c_uint};
use std::mem::MaybeUninit;
use std::ptr;

use usockets_sys as sys;

use super::{Address, RawContext, RawSocket};

/// The options of a connection, with the engine's defaults.
#[derive(Clone, Copy, Default)]
pub(crate) struct ConnectSettings<'a> {
    pub(crate) local: Option<&'a Address>,
    pub(crate) device: Option<&'a CStr>,
    /// In nanoseconds; 0 for the default.
    pub(crate) attempt_delay: u64,
    pub(crate) no_cache: bool,
}

impl ConnectSettings<'_> {
    fn to_raw(self) -> sys::usx_connect_options {
        sys::usx_connect_options {
            local: self.local.map_or(ptr::null(), Address::as_ptr),
            local_length: self.local.map_or(0, Address::len),
            device: self.device.map_or(ptr::null(), CStr::as_ptr),
            attempt_delay: self.attempt_delay,
            no_cache: c_int::from(self.no_cache),
        }
    }
}

/// What became of one address of a connection.
pub(crate) struct RawAttempt {
    pub(crate) address: Address,
    /// One of `USX_ATTEMPT_*`.
    pub(crate) state: c_int,
    pub(crate) errno: c_int,
    /// In nanoseconds since the call that connects.
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// `Err` is what `RawLoop::last_error` says.
impl<'a> RawContext<'a> {
    pub(crate) fn connect(
        self,
        address: &Address,
        settings: ConnectSettings<'_>,
        ext_size: c_uint,
    ) -> Result<RawSocket<'a>, c_int> {
        let options = settings.to_raw();
        // SAFETY: the context is alive (see `live`); the other pointers are valid for the call.
        let made = unsafe {
            sys::usx_context_connect(
                self.as_ptr(),
                address.as_ptr(),
                address.len(),
                &raw const options,
                ext_size,
            )
        };
        self.socket(made)
    }

    pub(crate) fn connect_any(
        self,
        addresses: impl Iterator<Item = Address>,
        settings: ConnectSettings<'_>,
        ext_size: c_uint,
    ) -> Result<RawSocket<'a>, c_int> {
        let addresses: Vec<_> = addresses.map(Address::into_storage).collect();
        let options = settings.to_raw();
        let count = c_uint::try_from(addresses.len()).unwrap_or(c_uint::MAX);
        // SAFETY: the context is alive (see `live`); the other pointers are valid for the call, one
        // of them for `count` addresses.
        let made = unsafe {
            sys::usx_context_connect_any(
                self.as_ptr(),
                addresses.as_ptr().cast(),
                count,
                &raw const options,
                ext_size,
            )
        };
        self.socket(made)
    }

    pub(crate) fn connect_name(
        self,
        host: &CStr,
        port: u16,
        settings: ConnectSettings<'_>,
        ext_size: c_uint,
    ) -> Result<RawSocket<'a>, c_int> {
        let options = settings.to_raw();
        // SAFETY: the context is alive (see `live`); the other pointers are valid for the call.
        let made = unsafe {
            sys::usx_context_connect_name(
                self.as_ptr(),
                host.as_ptr(),
                c_int::from(port),
                &raw const options,
                ext_size,
            )
        };
        self.socket(made)
    }
}

impl RawSocket<'_> {
    /// What became of the addresses of a connection so far, while the engine knows.
    pub(crate) fn connect_attempts(self) -> Vec<RawAttempt> {
        // SAFETY: the socket is alive (see `live`); nothing is written.
        let count = unsafe { sys::usx_socket_connect_attempts(self.as_ptr(), ptr::null_mut(), 0) };
        if count == 0 {
            return Vec::new();
        }
        let mut attempts: Vec<MaybeUninit<sys::usx_connect_attempt>> =
            vec![MaybeUninit::uninit(); count as usize];
        let place = attempts.as_mut_ptr().cast();
        // SAFETY: the socket is alive (see `live`); there is room for that many.
        unsafe { sys::usx_socket_connect_attempts(self.as_ptr(), place, count) };
        let attempts = attempts.iter().map(|attempt| {
            // SAFETY: all of them have been filled in.
            let attempt = unsafe { attempt.assume_init_ref() };
            let address = (&raw const attempt.address).cast();
            RawAttempt {
                // SAFETY: it is a valid address of that length.
                address: unsafe { Address::copy(address, attempt.address_length) },
                state: attempt.state,
                errno: attempt.error,
                began: attempt.began,
                ended: attempt.ended,
            }
        });
        attempts.collect()
    }
}
