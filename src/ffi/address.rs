//! Socket addresses, as the system has them.

use std::ffi::c_int;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net as unix;
use std::path::Path;

use libc::{sockaddr, sockaddr_storage, socklen_t};
use socket2::{SockAddr, SockAddrStorage};

use super::check;

/// A socket address in the form that the engine and the system take.
#[derive(Clone)]
pub(crate) struct Address(SockAddr);

impl Address {
    /// The address of a Unix socket: a path, or, with a leading NUL, an abstract name.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        SockAddr::unix(path).map(Self)
    }

    /// Has a function of the engine write the address of an object.
    ///
    /// # Safety
    ///
    /// The function may be called with `object`, and writes a valid address and its length if it
    /// succeeds.
    pub(super) unsafe fn ask<O>(
        function: unsafe extern "C" fn(*mut O, *mut sockaddr_storage, *mut socklen_t) -> c_int,
        object: *mut O,
    ) -> io::Result<Self> {
        let mut storage = SockAddrStorage::zeroed();
        let mut length = storage.size_of();
        // SAFETY: the caller vouches for the call; a `SockAddrStorage` is a `sockaddr_storage`.
        check(unsafe { function(object, (&raw mut storage).cast(), &raw mut length) })?;
        // SAFETY: the function succeeded.
        Ok(Self(unsafe { SockAddr::new(storage, length) }))
    }

    /// Copies an address.
    ///
    /// # Safety
    ///
    /// `address` points to `length` bytes of a valid address.
    pub(super) unsafe fn copy(address: *const sockaddr, length: socklen_t) -> Self {
        let mut storage = SockAddrStorage::zeroed();
        let length = length.min(storage.size_of());
        let (from, to) = (address.cast::<u8>(), (&raw mut storage).cast::<u8>());
        // SAFETY: `length` is within both, as the caller vouches and the line above sees to.
        unsafe { std::ptr::copy_nonoverlapping(from, to, length as usize) };
        // SAFETY: the caller vouches that it is a valid address of its family.
        Self(unsafe { SockAddr::new(storage, length) })
    }

    pub(super) fn as_ptr(&self) -> *const sockaddr {
        self.0.as_ptr().cast()
    }

    /// In the form that holds every kind of address: a `sockaddr_storage`.
    pub(super) fn into_storage(self) -> SockAddrStorage {
        self.0.as_storage()
    }

    pub(super) fn len(&self) -> socklen_t {
        self.0.len()
    }

    /// The address as the standard library has it, if it is an IP address.
    pub(crate) fn as_inet(&self) -> Option<SocketAddr> {
        self.0.as_socket()
    }

    /// The address as the standard library has it, if it is a Unix socket's.
    pub(crate) fn as_unix(&self) -> Option<unix::SocketAddr> {
        let address = &self.0;
        if !address.is_unix() {
            return None;
        }
        #[cfg(target_os = "linux")]
        if let Some(name) = address.as_abstract_namespace() {
            use std::os::linux::net::SocketAddrExt;
            return unix::SocketAddr::from_abstract_name(name).ok();
        }
        // Without a path it is unnamed.
        let path = address.as_pathname().unwrap_or_else(|| Path::new(""));
        unix::SocketAddr::from_pathname(path).ok()
    }
}

/// As a person would write it: an abstract name begins with `@`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.as_inet() {
            return address.fmt(f);
        }
        if let Some(path) = self.0.as_pathname() {
            return path.display().fmt(f);
        }
        #[cfg(target_os = "linux")]
        if let Some(name) = self.0.as_abstract_namespace() {
            return write!(f, "@{}", name.escape_ascii());
        }
        f.write_str("an address of another kind")
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(address.into())
    }
}
