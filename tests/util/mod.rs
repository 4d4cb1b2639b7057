//! What the integration tests share: waiting, expectations, counting.
//!
//! A test begins with [`guard`] or, if it counts descriptors, with [`alone`]. It waits with [`pump`], never by
//! sleeping. What was made is counted by [`Drops`], what is open by [`Descriptors`].

// Every test program uses a part of this.
#![allow(dead_code, unreachable_pub, unused_imports)]

mod certificates;
mod drops;
mod kind;
mod net;
mod peer;
mod tls_peer;

pub(crate) use certificates::{Authority, Issued, certificates};
pub(crate) use drops::{Drops, Token};
pub(crate) use kind::{Ready, Secured};
pub(crate) use net::{Echo, read_some, tcp_pair, unix_pair};
pub(crate) use peer::Peer;
pub(crate) use tls_peer::{TlsPeer, client_context, identify, server_context};

use std::cell::RefCell;
use std::env;
use std::fmt::{Debug, Write as _};
use std::fs;
use std::mem;
use std::process;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use usockets::{Loop, LoopRef};

/// How long a test may take, and each of its waits.
const TEST_MAX: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Multiplies both: for slow machines, instrumented builds and valgrind.
const FACTOR: &str = "USOCKETS_TEST_TIME_FACTOR";

/// How long one turn of [`pump`] waits for an event: conditions may depend on other threads.
const TURN_MAX: Duration = Duration::from_millis(5);

/// A time, multiplied for the circumstances.
pub(crate) fn scaled(time: Duration) -> Duration {
    let sanitized = if env::var_os("USOCKETS_SANITIZE").is_some() { 4 } else { 1 };
    let factor = env::var(FACTOR).ok().and_then(|text| text.parse().ok()).unwrap_or(sanitized);
    time * factor
}

// -- Guards -----------------------------------------------------------------------------------

/// Tests that count descriptors exclude all others.
static DESCRIPTORS: RwLock<()> = RwLock::new(());

/// Ends the process if it is not dropped in time: a test of an event loop that hangs must fail.
#[must_use = "the time is watched while this lives"]
pub(crate) struct Guard {
    number: u64,
    _shared: Option<RwLockReadGuard<'static, ()>>,
    _alone: Option<RwLockWriteGuard<'static, ()>>,
}

/// Begins a test that other tests of the same program may run beside.
pub(crate) fn guard() -> Guard {
    guard_for(TEST_MAX)
}

/// As [`guard`], for a test that may take longer.
pub(crate) fn guard_for(time: Duration) -> Guard {
    let shared = DESCRIPTORS.read().unwrap_or_else(PoisonError::into_inner);
    Guard { number: watch(time), _shared: Some(shared), _alone: None }
}

/// Begins a test that runs alone, so that it can count the descriptors of the process.
pub(crate) fn alone() -> Guard {
    alone_for(TEST_MAX)
}

/// As [`alone`], for a test that may take longer.
pub(crate) fn alone_for(time: Duration) -> Guard {
    let alone = DESCRIPTORS.write().unwrap_or_else(PoisonError::into_inner);
    Guard { number: watch(time), _shared: None, _alone: Some(alone) }
}

impl Guard {
    /// Gives the test its time once more, and says how far it is, for the message if it hangs.
    pub(crate) fn step(&self, what: &str) {
        if let Some(watched) = watched().list.iter_mut().find(|one| one.number == self.number) {
            watched.ends = Instant::now() + watched.time;
            watched.step.clear();
            watched.step.push_str(what);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        watched().list.retain(|one| one.number != self.number);
    }
}

struct Watched {
    number: u64,
    test: String,
    step: String,
    time: Duration,
    ends: Instant,
}

struct WatchList {
    last: u64,
    list: Vec<Watched>,
}

fn watched() -> MutexGuard<'static, WatchList> {
    static WATCHED: Mutex<WatchList> = Mutex::new(WatchList { last: 0, list: Vec::new() });
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the watchdog look at the calling thread from now on.
fn watch(time: Duration) -> u64 {
    static WATCHDOG: Once = Once::new();
    WATCHDOG.call_once(|| {
        thread::Builder::new().name("watchdog".into()).spawn(watchdog).expect("a thread");
    });
    let time = scaled(time);
    let test = thread::current().name().unwrap_or("?").to_owned();
    let mut watched = watched();
    watched.last += 1;
    let number = watched.last;
    let ends = Instant::now() + time;
    watched.list.push(Watched { number, test, step: String::new(), time, ends });
    number
}

/// The one place that sleeps, in a thread of its own.
fn watchdog() {
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = Instant::now();
        if let Some(late) = watched().list.iter().find(|one| one.ends <= now) {
            let mut message = format!("test `{}` took more than {:?}", late.test, late.time);
            if !late.step.is_empty() {
                let _written = write!(message, " in step `{}`", late.step);
            }
            eprintln!("{message}; ending the process");
            process::abort();
        }
    }
}

// -- Waiting ----------------------------------------------------------------------------------

/// Turns the loop until `condition` holds. Panics if it takes too long.
#[track_caller]
pub(crate) fn pump<T: 'static>(event_loop: &Loop<T>, condition: impl FnMut() -> bool) {
    pump_for(event_loop, WAIT_MAX, condition);
}

/// As [`pump`], with a time of its own.
#[track_caller]
pub(crate) fn pump_for<T: 'static>(
    event_loop: &Loop<T>,
    time: Duration,
    mut condition: impl FnMut() -> bool,
) {
    let ends = Instant::now() + scaled(time);
    while !condition() {
        assert!(Instant::now() < ends, "the condition does not come true");
        event_loop.turn(Some(TURN_MAX)).expect("a turn");
    }
}

/// Turns the loop until nothing is live in it, and no more. Panics if that takes too long.
#[track_caller]
pub(crate) fn drain<T: 'static>(event_loop: &Loop<T>) {
    let ends = Instant::now() + scaled(WAIT_MAX);
    while event_loop.turn(Some(TURN_MAX)).expect("a turn") {
        assert!(Instant::now() < ends, "the loop does not come to its end");
    }
}

/// Turns a loop a few times without waiting: for what must *not* happen.
#[track_caller]
pub(crate) fn settle<T: 'static>(event_loop: &Loop<T>) {
    for _ in 0..5 {
        event_loop.turn(Some(Duration::ZERO)).expect("a turn");
    }
}

/// Waits for what another thread does. Panics if it takes too long.
#[track_caller]
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) {
    let ends = Instant::now() + scaled(WAIT_MAX);
    while !condition() {
        assert!(Instant::now() < ends, "the condition does not come true");
        thread::yield_now();
    }
}

/// A loop without state.
pub(crate) fn new_loop() -> Loop {
    Loop::new().expect("a loop")
}

/// A loop whose time stands still but for [`Loop::advance_clock`].
pub(crate) fn test_clock_loop() -> Loop {
    Loop::builder().test_clock().build(()).expect("a loop")
}

/// Panics if sockets, listeners, timers, polls or contexts are left in the loop.
#[track_caller]
pub(crate) fn assert_nothing_live(event_loop: &LoopRef) {
    let metrics = event_loop.metrics();
    assert_eq!(metrics.live_sockets, 0, "sockets are left");
    assert_eq!(metrics.live_listeners, 0, "listeners are left");
    assert_eq!(metrics.live_timers, 0, "timers are left");
    assert_eq!(metrics.live_polls, 0, "polls are left");
    assert_eq!(metrics.live_contexts, 0, "contexts are left");
}

// -- Expectations -----------------------------------------------------------------------------

/// What happened, in order. Clones write into the same log.
#[derive(Debug)]
pub(crate) struct Log<E>(Rc<RefCell<Vec<E>>>);

impl<E> Log<E> {
    pub(crate) fn new() -> Self {
        Self(Rc::default())
    }

    pub(crate) fn push(&self, event: impl Into<E>) {
        self.0.borrow_mut().push(event.into());
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What happened since the last call.
    pub(crate) fn take(&self) -> Vec<E> {
        mem::take(&mut self.0.borrow_mut())
    }
}

impl<E: Clone + Debug + PartialEq> Log<E> {
    pub(crate) fn count(&self, event: &E) -> usize {
        self.0.borrow().iter().filter(|one| *one == event).count()
    }

    pub(crate) fn contains(&self, event: &E) -> bool {
        self.count(event) > 0
    }
}

impl<E> Clone for Log<E> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<E> Default for Log<E> {
    fn default() -> Self {
        Self::new()
    }
}

/// The message of a panic.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "a panic without a message",
    }
}

/// Runs `code`, which must panic, and returns its message.
#[track_caller]
pub(crate) fn panic_of<R>(code: impl FnOnce() -> R) -> String {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(code)) {
        Ok(_) => panic!("it did not panic"),
        Err(payload) => panic_message(&*payload).to_owned(),
    }
}

// -- Descriptors ------------------------------------------------------------------------------

/// The number of descriptors that were open at some time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptors(usize);

impl Descriptors {
    /// Counts. Only of use in a test that runs [`alone`]. What helper threads of earlier tests hold is not
    /// there to stay, so they are waited for.
    pub(crate) fn now() -> Self {
        let ends = Instant::now() + scaled(WAIT_MAX);
        while has_helper_threads() && Instant::now() < ends {
            thread::yield_now();
        }
        Self(open_descriptors())
    }

    /// Panics unless as many are open again. Waits a while: helper threads may still be about to close
    /// theirs.
    #[track_caller]
    pub(crate) fn assert_unchanged(self) {
        if let Err(message) = self.check_unchanged_but_for(0) {
            panic!("{message}");
        }
    }

    /// `Err` says what is wrong, if the test itself has leaked some.
    pub(crate) fn check_unchanged_but_for(self, leaked: usize) -> Result<(), String> {
        let (expected, ends) = (self.0 + leaked, Instant::now() + scaled(Duration::from_secs(5)));
        loop {
            let open = open_descriptors();
            if open == expected {
                return Ok(());
            }
            if Instant::now() >= ends {
                let names = descriptor_names();
                return Err(format!(
                    "{expected} descriptors should be open, there are {open}: {names:?}"
                ));
            }
            thread::yield_now();
        }
    }
}

#[cfg(target_os = "linux")]
fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}

#[cfg(not(target_os = "linux"))]
fn open_descriptors() -> usize {
    fs::read_dir("/dev/fd").expect("/dev/fd").count()
}

/// True while look-ups of names go on, also for loops that are gone. Their threads are the only ones with all
/// signals blocked.
fn has_helper_threads() -> bool {
    let blocks_signals = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"))?;
        let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
        Some(mask & (1 << (libc::SIGTERM - 1)) != 0)
    };
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return false };
    tasks.flatten().any(|task| blocks_signals(task).unwrap_or(false))
}

/// What the descriptors lead to, for messages.
fn descriptor_names() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let describe = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        Some(format!("{} -> {}", entry.file_name().to_string_lossy(), target.display()))
    };
    entries.filter_map(|entry| describe(entry.ok()?)).collect()
}

// -- Records and bytes ------------------------------------------------------------------------

mod bytes;
mod child;
mod limits;
mod record;

pub use bytes::{Random, assert_same, pattern};
pub use child::{child_command, child_role, run_child};
pub(crate) use limits::raise_descriptor_limit;
pub(crate) use net::{Nobody, localhost_listener, own_address};
pub use record::{Event, Record, accept_one, hand_over, listen, recorded};
