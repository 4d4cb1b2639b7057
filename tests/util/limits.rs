use std::io;

/// Raises the number of descriptors that this process may have as far as it is allowed to, and returns
/// it. Children inherit it.
pub(crate) fn raise_descriptor_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: there is room for the answer.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(asked, 0, "{}", io::Error::last_os_error());
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: a valid structure.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    let limit = if raised == 0 { limit.rlim_cur } else { before };
    usize::try_from(limit).unwrap_or(usize::MAX)
}
