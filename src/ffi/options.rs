//! Socket options that `socket2` does not have.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::socklen_t;

/// Bytes that are taken of what the kernel says of a TCP connection: more than any version has so far.
pub(crate) const TCP_INFO_MAX: usize = 512;

/// Asks for `TCP_INFO`. Returns how many bytes the kernel has filled in.
pub(crate) fn tcp_info(fd: BorrowedFd<'_>, bytes: &mut [u8; TCP_INFO_MAX]) -> io::Result<usize> {
    let mut length = socklen_t::try_from(TCP_INFO_MAX).unwrap_or(socklen_t::MAX);
    let place = bytes.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `length` bytes, which are there, and the length.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(length as usize) }
}
