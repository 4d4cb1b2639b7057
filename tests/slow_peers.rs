//! A thousand peers that never read, never write, or dribble: bounded memory, a deadline, a reason.

mod util;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

use usockets::{CloseReason, DeadlineKind, Deadlines, Loop, SocketContext, UsError};
use util::{alone_for, drain, own_address, pump, raise_descriptor_limit, settle, test_clock_loop};

const PEERS: usize = 1000;

/// How many connections ended for which reason.
#[derive(Clone, Default)]
struct Reasons(Rc<RefCell<HashMap<CloseReason, usize>>>);

impl Reasons {
    fn add(&self, reason: CloseReason) {
        *self.0.borrow_mut().entry(reason).or_default() += 1;
    }

    fn total(&self) -> usize {
        self.0.borrow().values().sum()
    }

    #[track_caller]
    fn assert_all(&self, kind: DeadlineKind) {
        let expected = HashMap::from([(CloseReason::Deadline(kind), PEERS)]);
        assert_eq!(*self.0.borrow(), expected);
    }
}

/// Panics if the process has taken more than `bound` bytes of memory since it had `before`. Sanitizers
/// have memory of their own, about which this says nothing.
#[track_caller]
fn assert_grown_by_less(before: usize, bound: usize) {
    let used = private_memory().saturating_sub(before);
    let sanitized = std::env::var_os("USOCKETS_SANITIZE").is_some();
    assert!(sanitized || used < bound, "{used} bytes for {PEERS} peers");
}

/// Memory of this process that nothing else uses, in bytes.
fn private_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux says it");
    let kilobytes = line.split_whitespace().nth(1).expect("a number");
    kilobytes.parse::<usize>().expect("a number") * 1024
}

fn connect(event_loop: &Loop, context: &SocketContext<false, (), usize>) -> Vec<TcpStream> {
    let listener = context.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    let peers = (0..PEERS).map(|_| {
        let peer = TcpStream::connect(address).expect("it listens");
        event_loop.turn(Some(Duration::ZERO)).expect("a turn");
        peer.set_nonblocking(true).expect("a socket");
        peer
    });
    let peers = peers.collect();
    pump(event_loop, || event_loop.metrics().accepted == PEERS as u64);
    peers
}

#[test]
fn who_never_writes_is_closed_in_time() -> Result<(), UsError> {
    let _guard = alone_for(Duration::from_secs(60));
    raise_descriptor_limit();
    let event_loop = test_clock_loop();
    let reasons = Reasons::default();
    let log = reasons.clone();
    let context = SocketContext::<false, (), usize>::builder()
        .on_close(move |(), _, _, reason| log.add(*reason))
        .build(&event_loop, ())?;
    let before = private_memory();
    let peers = connect(&event_loop, &context);
    assert_grown_by_less(before, PEERS * 1024);
    event_loop.advance_clock(Duration::from_secs(61))?;
    pump(&event_loop, || reasons.total() == PEERS);
    reasons.assert_all(DeadlineKind::FirstByte);
    drop(peers);
    Ok(())
}

#[test]
fn who_never_reads_holds_no_more_than_the_limit() -> Result<(), UsError> {
    const LIMIT: usize = 64 * 1024;
    let _guard = alone_for(Duration::from_secs(120));
    raise_descriptor_limit();
    let event_loop = test_clock_loop();
    let reasons = Reasons::default();
    let log = reasons.clone();
    // Every byte that comes is answered with 16 KiB, until the peer must be held back.
    let context = SocketContext::<false, (), usize>::builder()
        .send_limit(LIMIT)
        .water_marks(LIMIT / 2, LIMIT / 4)
        .on_data(|(), socket, refused, data| {
            for _ in 0..data.len() {
                if socket.send(&[0; 16 * 1024]).is_err() {
                    *refused += 1;
                }
            }
            if socket.needs_drain() {
                socket.pause();
            }
        })
        .on_drain(|(), socket, _| socket.resume())
        .on_close(move |(), _, _, reason| log.add(*reason))
        .build(&event_loop, ())?;
    let peers = connect(&event_loop, &context);
    let before = private_memory();
    // Enough requests for more than the system takes.
    pump(&event_loop, || {
        for mut peer in &peers {
            let _room = peer.write(&[1; 64]);
        }
        event_loop.metrics().queued_bytes > (PEERS * LIMIT / 2) as u64
    });
    settle(&event_loop);
    let queued = usize::try_from(event_loop.metrics().queued_bytes).expect("a size");
    assert!(queued <= PEERS * LIMIT, "{queued} bytes wait");
    assert_grown_by_less(before, PEERS * (LIMIT + 8 * 1024));
    while reasons.total() < PEERS {
        event_loop.advance_clock(Duration::from_secs(61))?;
        event_loop.turn(Some(Duration::ZERO))?;
    }
    reasons.assert_all(DeadlineKind::WriteStall);
    assert_eq!(event_loop.metrics().queued_bytes, 0);
    drop(peers);
    drain(&event_loop);
    Ok(())
}

#[test]
fn who_dribbles_is_closed_by_a_deadline_for_the_whole() -> Result<(), UsError> {
    let _guard = alone_for(Duration::from_secs(60));
    raise_descriptor_limit();
    let event_loop = test_clock_loop();
    let closed = Rc::new(Cell::new(0));
    let count = Rc::clone(&closed);
    // A request has 100 bytes, and 30 seconds: what comes meanwhile changes nothing about that.
    let context = SocketContext::<false, (), usize>::builder()
        .deadlines(Deadlines::default().idle(Duration::from_secs(10)))
        .on_open(|(), socket, _, _| {
            socket.set_long_timeout(Duration::from_secs(30)).expect("it is open");
        })
        .on_data(|(), _, received, data| *received += data.len())
        .on_long_timeout(|(), socket, received| {
            assert!(*received < 100);
            socket.reset();
        })
        .on_close(move |(), _, _, reason| {
            assert_eq!(*reason, CloseReason::LocalReset);
            count.set(count.get() + 1);
        })
        .build(&event_loop, ())?;
    let peers = connect(&event_loop, &context);
    for second in 1..=31 {
        let received = event_loop.metrics().bytes_received;
        for mut peer in &peers {
            let _sent = peer.write(b".");
        }
        if second < 30 {
            let all = received + PEERS as u64;
            pump(&event_loop, || event_loop.metrics().bytes_received == all);
            assert_eq!(closed.get(), 0);
        }
        event_loop.advance_clock(Duration::from_secs(1))?;
        settle(&event_loop);
    }
    pump(&event_loop, || closed.get() == PEERS);
    drop(peers);
    Ok(())
}

#[test]
fn connections_without_end_do_not_keep_others_waiting() -> Result<(), UsError> {
    let _guard = alone_for(Duration::from_secs(60));
    raise_descriptor_limit();
    let event_loop = test_clock_loop();
    let context = SocketContext::<false, (), usize>::builder()
        .on_data(|(), socket, _, data| socket.send(data).expect("there is room"))
        .build(&event_loop, ())?;
    let listener = context.listen(own_address())?;
    let address = listener.local_addr()?;
    let mut peer = util::Peer::connect(address);
    let mut crowd = Vec::new();
    for round in 0..PEERS / 10 {
        crowd.extend((0..10).map(|_| TcpStream::connect(address).expect("it listens")));
        let message = round.to_le_bytes();
        peer.write(&event_loop, &message);
        assert_eq!(peer.read(&event_loop, message.len()), message);
    }
    Ok(())
}
