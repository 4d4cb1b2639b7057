//! A loop that is driven by another one: by `epoll` itself, and by a second loop of ours.

#![cfg(target_os = "linux")]

mod util;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use usockets::{Backend, Interest, Loop, Poll, Timer, UsError};
use util::{
    Echo, Event, Peer, Record, accept_one, guard, new_loop, pattern, recorded, settle,
    test_clock_loop,
};

/// An `epoll` that is not ours.
struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> Self {
        // SAFETY: takes nothing but a flag.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: a new descriptor, which belongs to nobody else.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn watch(&self, fd: BorrowedFd<'_>) {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        let (epoll, fd) = (self.0.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: both descriptors are open, and the event lives during the call.
        let added = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        assert_eq!(added, 0, "{}", io::Error::last_os_error());
    }

    /// Waits until the descriptor is ready, or the time is over; says whether it is.
    fn wait(&self, timeout: Option<Duration>) -> bool {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // Rounded up: a turn too early has nothing to do.
        let timeout = timeout.map_or(-1, |time| {
            i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        // SAFETY: the descriptor is open, and there is room for one event.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), &raw mut event, 1, timeout) };
        assert!(count >= 0, "{}", io::Error::last_os_error());
        count > 0
    }
}

/// A loop with a descriptor, watched by an `epoll`; none if the back end has none.
fn watched() -> Option<(Loop, Epoll)> {
    let event_loop = new_loop();
    let Some(fd) = event_loop.as_fd() else {
        println!("skipped: this back end has no descriptor");
        return None;
    };
    let epoll = Epoll::new();
    epoll.watch(fd);
    Some((event_loop, epoll))
}

/// Drives the loop as a foreign one does, until the condition holds. Returns the number of turns.
#[track_caller]
fn drive(event_loop: &Loop, epoll: &Epoll, mut condition: impl FnMut() -> bool) -> u32 {
    let ends = Instant::now() + util::scaled(Duration::from_secs(10));
    let mut turns = 0;
    while !condition() {
        assert!(Instant::now() < ends, "the condition does not come true");
        // The descriptor and the time are all that it goes by; a bound is for the test alone.
        let bound = Duration::from_secs(11);
        let timeout = event_loop.next_timeout().map_or(bound, |time| time.min(bound));
        epoll.wait(Some(timeout));
        event_loop.turn(Some(Duration::ZERO)).expect("a turn");
        turns += 1;
    }
    turns
}

#[test]
fn only_a_back_end_with_a_descriptor_has_one() -> Result<(), UsError> {
    let _guard = guard();
    let epoll = Loop::builder().backend(Backend::Epoll).build(())?;
    assert!(epoll.as_fd().is_some());
    let poll = Loop::builder().backend(Backend::Poll).build(())?;
    assert!(poll.as_fd().is_none());
    Ok(())
}

#[test]
fn sockets_are_served() -> Result<(), UsError> {
    let _guard = guard();
    let Some((event_loop, epoll)) = watched() else { return Ok(()) };
    let echo = Echo::new(&event_loop);
    let address = echo.address();
    let data = pattern(2 << 20);
    let (done, client) = {
        let (sender, done) = std::sync::mpsc::channel();
        let data = data.clone();
        let client = thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).expect("it listens");
            let mut writer = stream.try_clone().expect("a descriptor");
            let writing = thread::spawn(move || {
                io::Write::write_all(&mut writer, &data).expect("somebody reads");
            });
            let mut received = vec![0; 2 << 20];
            io::Read::read_exact(&mut stream, &mut received).expect("an echo");
            writing.join().expect("no panic");
            sender.send(received).expect("somebody waits");
        });
        (done, client)
    };
    let mut received = None;
    drive(&event_loop, &epoll, || {
        received = done.try_recv().ok();
        received.is_some()
    });
    client.join().expect("no panic");
    assert!(received.expect("it came") == data, "the echo differs");
    Ok(())
}

#[test]
fn timers_come_at_their_time() -> Result<(), UsError> {
    let _guard = guard();
    let Some((event_loop, epoll)) = watched() else { return Ok(()) };
    assert_eq!(event_loop.next_timeout(), None);
    let timer = Timer::new(&event_loop, 0)?;
    let start = Instant::now();
    timer
        .set(Duration::from_millis(20), Some(Duration::from_millis(20)), |_, count| *count += 1)?;
    let next = event_loop.next_timeout().expect("there is a timer");
    assert!(next <= Duration::from_millis(20), "{next:?}");
    let turns = drive(&event_loop, &epoll, || timer.with_state(|n| *n == 5).expect("not lent"));
    assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
    assert!(turns < 50, "{turns} turns for 5 expiries");
    timer.cancel();
    assert_eq!(event_loop.next_timeout(), None);
    Ok(())
}

#[test]
fn timeouts_of_sockets_come_at_their_time() -> Result<(), UsError> {
    let _guard = guard();
    let Some((event_loop, epoll)) = watched() else { return Ok(()) };
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    settle(&event_loop);
    socket.set_timeout(Duration::from_millis(30))?;
    let turns = drive(&event_loop, &epoll, || record.has(&Event::Timeout));
    assert!(turns < 50, "{turns} turns for one timeout");
    Ok(())
}

#[test]
fn jobs_of_other_threads_make_the_descriptor_ready() -> Result<(), UsError> {
    let _guard = guard();
    let Some((event_loop, epoll)) = watched() else { return Ok(()) };
    let handle = event_loop.handle();
    let sent = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&sent);
    let sender = thread::spawn(move || {
        // Each waits until the one before has run, so that the loop is parked.
        for _ in 0..50 {
            handle.run_on_loop(|_| ()).expect("the loop is there");
        }
        handle.defer(move |_| done.store(true, Ordering::Relaxed)).expect("the loop is there");
    });
    drive(&event_loop, &epoll, || sent.load(Ordering::Relaxed));
    sender.join().expect("no panic");
    // A wake is answered too.
    let count = Rc::new(Cell::new(0));
    let calls = Rc::clone(&count);
    event_loop.on_wakeup(move |_| calls.set(calls.get() + 1))?;
    let handle = event_loop.handle();
    thread::spawn(move || handle.wake());
    drive(&event_loop, &epoll, || count.get() == 1);
    Ok(())
}

#[test]
fn work_that_is_queued_asks_for_a_turn_at_once() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let context = recorded(&event_loop, &record);
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    settle(&event_loop);
    assert_eq!(event_loop.next_timeout(), None);
    event_loop.defer(|_| ())?;
    assert_eq!(event_loop.next_timeout(), Some(Duration::ZERO));
    settle(&event_loop);
    assert_eq!(event_loop.next_timeout(), None);
    event_loop.handle().defer(|_| ())?;
    assert_eq!(event_loop.next_timeout(), Some(Duration::ZERO));
    settle(&event_loop);
    socket.close();
    assert_eq!(event_loop.next_timeout(), Some(Duration::ZERO), "a close is pending");
    settle(&event_loop);
    assert_eq!(event_loop.next_timeout(), None);

    // A test clock does not reach a time by waiting.
    let timer = Timer::new(&event_loop, ())?;
    timer.set(Duration::from_secs(3), None, |_, ()| ())?;
    assert_eq!(event_loop.next_timeout(), None);
    event_loop.advance_clock(Duration::from_secs(3))?;
    assert_eq!(event_loop.next_timeout(), Some(Duration::ZERO));
    Ok(())
}

#[test]
fn a_loop_inside_another_loop_of_ours() -> Result<(), UsError> {
    let _guard = guard();
    let inner = Rc::new(new_loop());
    let Some(fd) = inner.as_fd() else {
        println!("skipped: this back end has no descriptor");
        return Ok(());
    };
    let fd = fd.try_clone_to_owned().expect("a descriptor");
    let outer = new_loop();
    let echo = Echo::new(&inner);
    let driven = Rc::clone(&inner);
    let _poll = Poll::new(&outer, fd, Interest::READABLE, (), move |_, (), _| {
        // Another loop may run inside a callback of this one.
        driven.turn(Some(Duration::ZERO)).expect("a turn");
    })?;
    let mut peer = Peer::connect(echo.address());
    for round in 0..20 {
        let text = format!("round {round}");
        peer.write(&outer, text.as_bytes());
        assert_eq!(peer.read(&outer, text.len()), text.as_bytes());
    }
    Ok(())
}
