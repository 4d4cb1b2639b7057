//! Times as the engine counts them.

use std::time::Duration;

/// A duration in nanoseconds; beyond 584 years it stays at that.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A waiting time for the engine, where the longest of all stands for ever.
pub(super) fn timeout(duration: Option<Duration>) -> i64 {
    duration.map_or(usockets_sys::USX_NO_TIMEOUT, |duration| {
        i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
    })
}
