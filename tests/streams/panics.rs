//! A panic in code of the program comes out of the call that runs the loop, once, and costs nothing else
//! (invariant I5): what it leaves of connections.

use std::cell::Cell;
use std::io::Write;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use usockets::{Loop, Socket, SocketContext};

use crate::SSL;
use crate::util::{
    self, Drops, Echo, Log, Peer, Secured, hand_over, new_loop, own_address, panic_of, pump,
    unix_pair,
};

type Context = SocketContext<SSL>;

/// Panics without printing.
fn quietly(message: &'static str) -> ! {
    resume_unwind(Box::new(message))
}

#[test]
fn events_that_were_fetched_are_delivered_by_the_next_run() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = SocketContext::<SSL, Log<Vec<u8>>>::builder()
        .secured()
        .on_data(|log, _, (), data| {
            log.push(&*data);
            quietly("after the data");
        })
        .build(&event_loop, Log::new())
        .expect("a context");
    let log = context.with_state(|log| log.clone()).expect("it is not lent");
    let mut peers: Vec<_> = (0..10_u8)
        .map(|number| {
            let (_, peer) = hand_over(&event_loop, &context, unix_pair());
            (number, peer)
        })
        .collect();
    for (number, peer) in &mut peers {
        peer.write_all(&[*number]).expect("there is room");
    }
    let mut panics = 0;
    while log.len() < peers.len() {
        let turned = catch_unwind(AssertUnwindSafe(|| event_loop.turn(Some(Duration::ZERO))));
        panics += usize::from(turned.is_err());
    }
    let mut received = log.take();
    received.sort();
    assert_eq!(received, (0..10).map(|number| vec![number]).collect::<Vec<_>>());
    assert_eq!(panics, 10, "one panic per run");
}

#[test]
fn factory_that_panics_closes_the_accepted_connection_without_callbacks() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let broken = Rc::new(Cell::new(true));
    let (log, is_broken) = (Log::<&str>::new(), Rc::clone(&broken));
    let (opened, closed) = (log.clone(), log.clone());
    let context = SocketContext::<SSL, (), u8>::builder_with(move || {
        if is_broken.get() { quietly("in the factory") } else { 7 }
    })
    .secured()
    .on_open(move |(), _, seven, _| {
        assert_eq!(*seven, 7);
        opened.push("open");
    })
    .on_close(move |(), _, _, _| closed.push("close"))
    .build(&event_loop, ())
    .expect("a context");
    let listener = context.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");

    let mut refused = Peer::connect(address);
    assert_eq!(panic_of(|| event_loop.run()), "in the factory");
    assert_eq!(refused.read_to_end(&event_loop), b"");
    assert!(log.is_empty());
    assert_eq!(event_loop.metrics().live_sockets, 0);

    broken.set(false);
    let _served = Peer::connect(address);
    pump(&event_loop, || log.len() == 1);
}

#[test]
fn factory_that_panics_in_connect_makes_nothing() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = SocketContext::<SSL, (), u8>::builder_with(|| quietly("in the factory"))
        .secured()
        .on_connect_error(|(), _, _, _| unreachable!("there is no connection"))
        .build(&event_loop, ())
        .expect("a context");
    assert_eq!(panic_of(|| context.connect("127.0.0.1:1")), "in the factory");
    assert_eq!(panic_of(|| context.accept_fd(unix_pair().0)), "in the factory");
    assert_eq!(event_loop.metrics().live_sockets, 0);
    event_loop.run().expect("the panic was the caller's");
}

#[test]
fn filter_that_panics_refuses_the_connection() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = Context::builder()
        .secured()
        .accept_filter(|(), _| quietly("in the filter"))
        .on_open(|(), _, (), _| unreachable!("it was refused"))
        .build(&event_loop, ())
        .expect("a context");
    let listener = context.listen(own_address()).expect("a listener");
    let stream = TcpStream::connect(listener.local_addr().expect("it is bound"));
    assert_eq!(panic_of(|| event_loop.run()), "in the filter");
    let mut peer = Peer::from_stream(stream.expect("it listens"));
    assert_eq!(peer.read_to_end(&event_loop), b"");
}

#[test]
fn conversion_that_panics_moves_nothing() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let target = SocketContext::<SSL, (), u64>::builder()
        .secured()
        .on_adopt(|(), _, _| unreachable!("nothing moves"))
        .build(&event_loop, ())
        .expect("a context");
    let context = SocketContext::<SSL, Log<String>, u8>::builder_with(|| 3)
        .secured()
        .on_data(move |log, socket, number, data| {
            log.push(format!("{number}: {}", String::from_utf8_lossy(data)));
            if data.len() == 5 {
                *number += 1;
                socket.adopt(&target, 2, |_| quietly("in the conversion")).expect("it begins");
                assert!(socket.is_closed());
            }
        })
        .build(&event_loop, Log::new())
        .expect("a context");
    let log = context.with_state(|log| log.clone()).expect("it is not lent");
    let (socket, mut peer) = hand_over(&event_loop, &context, unix_pair());
    peer.write_all(b"abcde").expect("there is room");

    assert_eq!(panic_of(|| event_loop.run()), "in the conversion");
    assert!(!socket.is_closed(), "the old handle is good again");
    assert_eq!(socket.with_state(|number| *number).expect("the state is there"), 4);
    pump(&event_loop, || log.len() == 2);
    assert_eq!(log.take(), ["3: abcde", "4: de"], "what was not moved comes back");
}

#[test]
fn teardown_completes_and_then_panics() {
    let _guard = util::alone();
    let descriptors = util::Descriptors::now();
    let drops = Drops::new();
    let event_loop = Loop::from_state(drops.token()).expect("a loop");
    let (counted, made) = (Rc::new(Cell::new(0)), drops.clone());
    let calls = Rc::clone(&counted);
    let context =
        SocketContext::<SSL, util::Token, util::Token>::builder_with(move || made.token())
            .secured()
            .on_close(move |_, _, _, _| {
                calls.set(calls.get() + 1);
                quietly("in on_close");
            })
            .build(&event_loop, drops.token())
            .expect("a context");
    let peers: Vec<_> = (0..3)
        .map(|_| {
            let (ours, theirs) = unix_pair();
            context.accept_fd(ours).expect("a socket");
            theirs
        })
        .collect();
    event_loop.turn(Some(Duration::ZERO)).expect("they open");

    assert_eq!(panic_of(|| drop(event_loop)), "in on_close");
    assert_eq!(counted.get(), 1, "no callback follows a panic");
    drops.assert_all_dropped();
    drop((context, peers));
    descriptors.assert_unchanged();
}

#[test]
fn loop_that_is_dropped_by_a_panic_ends_quietly() {
    let _guard = util::guard();
    let log = Log::<&str>::new();
    let closed = log.clone();
    let message = panic_of(move || {
        let event_loop = new_loop();
        let context = Context::builder()
            .secured()
            .on_close(move |(), _, (), _| {
                closed.push("closed");
                quietly("a second panic would end the process");
            })
            .build(&event_loop, ())
            .expect("a context");
        let (ours, _theirs) = unix_pair();
        context.accept_fd(ours).expect("a socket");
        event_loop.turn(Some(Duration::ZERO)).expect("it opens");
        quietly("of the program")
    });
    assert_eq!(message, "of the program");
    assert_eq!(log.take(), ["closed"]);
}

#[test]
fn server_serves_on_after_panics() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let echo = Echo::<SSL>::over(&event_loop);
    let poison = Context::builder()
        .secured()
        .on_data(|(), socket: &Socket<SSL>, (), _| {
            socket.close();
            quietly("poisoned");
        })
        .build(&event_loop, ())
        .expect("a context");
    for _ in 0..20 {
        let (socket, mut peer) = hand_over(&event_loop, &poison, unix_pair());
        peer.write_all(b"x").expect("there is room");
        assert_eq!(panic_of(|| event_loop.run()), "poisoned");
        assert!(socket.is_closed());
        echo.assert_echoes(&event_loop);
    }
    assert_eq!(poison.with_state(|()| ()).ok(), Some(()));
}
