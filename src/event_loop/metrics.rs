//! Counts.

use usockets_sys as sys;

/// What a loop has done since it was made, and what it has now.
///
/// Plain data, taken by [`LoopRef::metrics`](crate::LoopRef::metrics).
///
/// ```
/// use usockets::{Loop, Timer};
///
/// let event_loop = Loop::<()>::new()?;
/// let timer = Timer::new(&event_loop, ())?;
/// assert_eq!(event_loop.metrics().live_timers, 1);
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Iterations begun.
    pub iterations: u64,
    /// Waits for events, sleeping or not.
    pub waits: u64,
    /// Events that the waits brought.
    pub events: u64,
    /// Times the loop was woken from elsewhere.
    pub wakeups: u64,
    /// Connections taken from listeners.
    pub accepted: u64,
    /// Times a connection could not be taken, for lack of descriptors or memory.
    pub accept_failures: u64,
    /// Connections that were accepted and closed because of a [limit](crate::ListenOptions) of their
    /// listener.
    pub refused_connections: u64,
    /// Accepted connections that did not begin with the PROXY protocol header that their listener asks for.
    pub prelude_failures: u64,
    /// Connect attempts begun.
    pub connects: u64,
    /// Receive calls that gave bytes.
    pub receives: u64,
    /// Bytes received from the system; of TLS, its records.
    pub bytes_received: u64,
    /// Send calls that took bytes.
    pub sends: u64,
    /// Bytes that the system took; of TLS, its records.
    pub bytes_sent: u64,
    /// Expiries of timers.
    pub timers_fired: u64,
    /// Timeouts of sockets, both kinds.
    pub timeouts_fired: u64,
    /// Sockets closed.
    pub sockets_closed: u64,
    /// Sockets there are, including those that were closed in the current iteration.
    pub live_sockets: u64,
    /// Listeners there are.
    pub live_listeners: u64,
    /// Timers there are, armed or not.
    pub live_timers: u64,
    /// Polls there are.
    pub live_polls: u64,
    /// Contexts there are.
    pub live_contexts: u64,
    /// Bytes of memory held for sockets, in use or free.
    pub live_block_bytes: u64,
    /// Sockets ended by a [deadline](crate::Deadlines), lingering ones included.
    pub deadlines_missed: u64,
    /// Closed sockets whose output is still being sent.
    pub live_lingering: u64,
    /// Bytes of output that wait in sockets.
    pub queued_bytes: u64,
    /// Jobs of other threads that wait.
    pub queued_jobs: u64,
}

impl Metrics {
    pub(super) fn new(raw: &sys::usx_loop_statistics, queued_jobs: usize) -> Self {
        Self {
            iterations: raw.iterations,
            waits: raw.waits,
            events: raw.events,
            wakeups: raw.wakeups,
            accepted: raw.accepted,
            accept_failures: raw.accept_failures,
            refused_connections: raw.refused_connections,
            prelude_failures: raw.prelude_failures,
            connects: raw.connects,
            receives: raw.receives,
            bytes_received: raw.bytes_received,
            sends: raw.sends,
            bytes_sent: raw.bytes_sent,
            timers_fired: raw.timers_fired,
            timeouts_fired: raw.timeouts_fired,
            sockets_closed: raw.sockets_closed,
            live_sockets: raw.live_sockets,
            live_listeners: raw.live_listeners,
            live_timers: raw.live_timers,
            live_polls: raw.live_polls,
            live_contexts: raw.live_contexts,
            live_block_bytes: raw.live_block_bytes,
            deadlines_missed: raw.deadlines_missed,
            live_lingering: raw.live_lingering,
            queued_bytes: raw.queued_bytes,
            queued_jobs: queued_jobs as u64,
        }
    }
}
