//! Deadlines that end connections.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use socket2::SockRef;
use usockets::{CloseReason, DeadlineKind, Deadlines, Loop, Socket, SocketContext, UsError};

use super::Record;
use crate::SSL;
use crate::util::{
    self, Event, Ready, Secured, accept_one, guard, pattern, pump, settle, test_clock_loop,
};

/// How much later than its time a deadline may be.
const GRANULARITY: Duration = Duration::from_nanos(1 << 22);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn context(event_loop: &Loop, record: &Record<()>, deadlines: Deadlines) -> SocketContext<SSL> {
    record.builder().deadlines(deadlines).build(event_loop, ()).expect("a context")
}

/// Moves the clock, and lets happen what is due.
fn pass(event_loop: &Loop, time: Duration) {
    event_loop.advance_clock(time).expect("a test clock");
    settle(event_loop);
}

fn ended_by(record: &Record<()>) -> Option<DeadlineKind> {
    match record.closed()? {
        CloseReason::Deadline(kind) => Some(kind),
        other => panic!("closed because: {other}"),
    }
}

fn clog(socket: &Socket<SSL>) {
    let set = socket.with_fd(|fd| SockRef::from(&fd).set_send_buffer_size(16 * 1024));
    set.expect("the socket is open").expect("the size is legal");
    while socket.buffered() == 0 {
        socket.send(&pattern(1 << 18)).expect("there is room in the queue");
    }
}

#[test]
fn the_first_byte_is_waited_for_as_long_as_said() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::new();
    let context = context(&event_loop, &record, Deadlines::none().first_byte(seconds(5)));
    let (_silent, _peer) = accept_one(&event_loop, &context, &record);
    pass(&event_loop, seconds(5) - Duration::from_millis(1));
    assert_eq!(record.closed(), None);
    pass(&event_loop, GRANULARITY + Duration::from_millis(1));
    assert_eq!(ended_by(&record), Some(DeadlineKind::FirstByte));
    assert_eq!(event_loop.metrics().deadlines_missed, 1);
    Ok(())
}

#[test]
fn who_has_sent_something_is_left_in_peace() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::new();
    let context = context(&event_loop, &record, Deadlines::none().first_byte(seconds(5)));
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    peer.write(&event_loop, b"x");
    pump(&event_loop, || record.data_length() == 1);
    pass(&event_loop, seconds(3600));
    assert_eq!(record.closed(), None);
    // It is over, whatever is set now.
    socket.set_deadline(DeadlineKind::FirstByte, seconds(1))?;
    pass(&event_loop, seconds(3600));
    assert_eq!(record.closed(), None);
    Ok(())
}

#[test]
fn connections_of_our_own_owe_no_first_byte() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::new();
    let accepting = Record::new();
    let server = context(&event_loop, &accepting, Deadlines::none());
    let listener = util::listen(&server);
    let client = context(&event_loop, &record, Deadlines::default().first_byte(seconds(5)));
    client.connect(listener.local_addr()?)?;
    pump(&event_loop, || record.opened() == 1 && record.socket().is_ready());
    pass(&event_loop, seconds(3600));
    assert_eq!(record.closed(), None);
    Ok(())
}

#[test]
fn connecting_ends_in_time() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let context = context(&event_loop, &record, Deadlines::none().connect(seconds(3)));
    // A listener with a full queue does not answer.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let listener = listener.expect("a socket");
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    listener.listen(0).expect("it is bound");
    let address = listener.local_addr().expect("it is bound").as_socket().expect("an IP address");
    let _first = std::net::TcpStream::connect(address).expect("there is room for one");
    let socket = context.connect(address)?;
    settle(&event_loop);
    pass(&event_loop, seconds(3) - Duration::from_millis(1));
    assert_eq!(record.take(), []);
    pass(&event_loop, GRANULARITY + Duration::from_millis(1));
    assert_eq!(record.take(), [Event::ConnectError(ErrorKind::TimedOut)]);
    assert!(socket.is_closed());
    Ok(())
}

#[test]
fn idle_begins_anew_with_every_transfer() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<()>::new();
    let deadlines = Deadlines::none().idle(seconds(10));
    let context = SocketContext::<SSL>::builder().secured().deadlines(deadlines);
    let (opened, closed) = (record.clone(), record.clone());
    let context = context
        .on_open(move |(), socket, (), _| opened.add_socket(socket, Event::Open))
        .on_data(|(), _, (), _| {})
        .on_close(move |(), _, (), reason| closed.push(Event::Close(*reason)))
        .build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    for round in 0..6 {
        pass(&event_loop, seconds(9));
        let received = event_loop.metrics().bytes_received;
        if round % 2 == 0 {
            peer.write(&event_loop, b"x");
            pump(&event_loop, || event_loop.metrics().bytes_received > received);
        } else {
            socket.send(b"y")?;
        }
    }
    assert_eq!(record.closed(), None);
    pass(&event_loop, seconds(10) + GRANULARITY);
    assert_eq!(ended_by(&record), Some(DeadlineKind::Idle));
    Ok(())
}

#[test]
fn idle_is_told_to_who_wants_to_know() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::new();
    let context = context(&event_loop, &record, Deadlines::none().idle(seconds(10)));
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    pass(&event_loop, seconds(10) + GRANULARITY);
    assert_eq!(record.take(), [Event::Open, Event::Timeout]);
    pass(&event_loop, seconds(100));
    assert_eq!(record.take(), [], "once, until something moves");
    peer.write(&event_loop, b"x");
    pump(&event_loop, || record.data_length() == 1);
    pass(&event_loop, seconds(10) + GRANULARITY);
    assert!(record.has(&Event::Timeout));
    // A time of the socket's own, none, and the plain timeout instead.
    record.take();
    socket.set_deadline(DeadlineKind::Idle, seconds(2))?;
    pass(&event_loop, seconds(2) + GRANULARITY);
    assert_eq!(record.take(), [Event::Timeout]);
    socket.set_deadline(DeadlineKind::Idle, None)?;
    pass(&event_loop, seconds(1000));
    assert_eq!(record.take(), []);
    socket.set_timeout(seconds(3))?;
    socket.send(b"y")?;
    pass(&event_loop, seconds(3) + GRANULARITY);
    assert_eq!(record.take(), [Event::Timeout]);
    Ok(())
}

#[test]
fn a_peer_that_does_not_read_is_given_up() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::new();
    let context = context(&event_loop, &record, Deadlines::none().write_stall(seconds(10)));
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    clog(&socket);
    settle(&event_loop);
    // As long as something moves, it lives.
    for _ in 0..5 {
        pass(&event_loop, seconds(9));
        assert_eq!(record.closed(), None);
        let before = socket.buffered();
        socket.send(&pattern(1 << 20))?;
        let before = before + (1 << 20);
        let mut buffer = vec![0; 1 << 16];
        pump(&event_loop, || {
            let _read = Read::read(&mut peer, &mut buffer);
            socket.buffered() < before
        });
    }
    // What the system had room for may still go.
    while record.closed().is_none() {
        let before = socket.buffered();
        pass(&event_loop, seconds(10) + GRANULARITY);
        assert!(socket.buffered() < before, "it stalls for ever");
    }
    assert_eq!(ended_by(&record), Some(DeadlineKind::WriteStall));
    assert_eq!(event_loop.metrics().queued_bytes, 0);
    Ok(())
}

#[test]
fn what_has_left_is_not_waited_for() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::new();
    let context = context(&event_loop, &record, Deadlines::none().write_stall(seconds(10)));
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    clog(&socket);
    let mut buffer = vec![0; 1 << 16];
    pump(&event_loop, || {
        let _read = Read::read(&mut peer, &mut buffer);
        socket.buffered() == 0
    });
    pass(&event_loop, seconds(3600));
    assert_eq!(record.closed(), None);
    Ok(())
}

#[test]
fn sockets_have_deadlines_of_their_own() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::new();
    let context = context(&event_loop, &record, Deadlines::default());
    let (patient, _one) = accept_one(&event_loop, &context, &record);
    patient.set_deadline(DeadlineKind::FirstByte, None)?;
    let (hasty, _other) = accept_one(&event_loop, &context, &record);
    hasty.set_deadline(DeadlineKind::FirstByte, Duration::ZERO)?;
    pass(&event_loop, GRANULARITY);
    assert!(hasty.is_closed());
    pass(&event_loop, seconds(3600));
    assert!(!patient.is_closed());
    Ok(())
}

#[test]
fn adoption_begins_those_of_the_new_context() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let (record, target_record) = (Record::new(), Record::new());
    let old = context(&event_loop, &record, Deadlines::none().first_byte(seconds(5)));
    let new = context(&event_loop, &target_record, Deadlines::none().idle(seconds(7)));
    let (socket, _peer) = accept_one(&event_loop, &old, &record);
    socket.adopt(&new, 0, |()| ())?;
    pump(&event_loop, || target_record.opened() == 1);
    pass(&event_loop, seconds(6));
    assert_eq!(target_record.take(), [Event::Adopt]);
    pass(&event_loop, seconds(1) + GRANULARITY);
    assert_eq!(target_record.take(), [Event::Timeout]);
    Ok(())
}

#[test]
fn values_out_of_range_are_errors() -> Result<(), UsError> {
    let event_loop = test_clock_loop();
    let too_long = Deadlines::default().idle(seconds(51 * 86_400));
    let built =
        SocketContext::<SSL>::builder().secured().deadlines(too_long).build(&event_loop, ());
    assert!(matches!(built, Err(UsError::InvalidOption { option: "idle deadline", .. })));
    let record = Record::new();
    let context = context(&event_loop, &record, Deadlines::default());
    let (socket, _peer) = accept_one(&event_loop, &context, &record);
    let set = socket.set_deadline(DeadlineKind::Drain, Duration::MAX);
    assert!(matches!(set, Err(UsError::InvalidOption { .. })));
    socket.close();
    assert!(matches!(socket.set_deadline(DeadlineKind::Idle, None), Err(UsError::Closed)));
    Ok(())
}
