//! A panic in code of the program comes out of the call that runs the loop, once, and costs nothing else
//! (invariant I5). That it may happen anywhere is in the table of `tests/misuse`.

mod util;

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use usockets::{Loop, LoopRef, Socket, SocketContext, Timer, UsError};
use util::{Drops, Echo, Log, new_loop, own_address, panic_of, pump, unix_pair};

type Plain = SocketContext<false>;

/// Panics without printing.
fn quietly(message: &'static str) -> ! {
    resume_unwind(Box::new(message))
}

#[test]
fn payload_comes_out_unchanged_and_once() {
    let _guard = util::guard();
    let event_loop = new_loop();
    event_loop.defer(|_| resume_unwind(Box::new(vec![1, 2, 3]))).expect("it is open");

    let payload = catch_unwind(AssertUnwindSafe(|| event_loop.run())).expect_err("it panics");
    assert_eq!(payload.downcast_ref(), Some(&vec![1, 2, 3]));
    event_loop.run().expect("the panic is over");
}

#[test]
fn every_way_to_run_lets_the_panic_out() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let ways: [fn(&Loop); 3] = [
        |event_loop| event_loop.run().expect("no error"),
        |event_loop| event_loop.run_for(Duration::from_secs(1)).expect("no error"),
        |event_loop| {
            let _alive = event_loop.turn(None).expect("no error");
        },
    ];
    for way in ways {
        event_loop.defer(|_| quietly("in a job")).expect("it is open");
        assert_eq!(panic_of(|| way(&event_loop)), "in a job");
    }
    assert!(!event_loop.is_running());
}

#[test]
fn rest_of_a_batch_of_jobs_stays_for_the_next_run() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let (ran, handle) = (Log::<u32>::new(), event_loop.handle());
    for number in 0..6_u32 {
        let ran = ran.clone();
        event_loop
            .defer(move |_| if number % 2 == 0 { quietly("even") } else { ran.push(number) })
            .expect("it is open");
        handle
            .defer(move |_| {
                if number % 2 == 0 {
                    quietly("even")
                }
            })
            .expect("it is open");
    }
    let panics = (0..6).filter(|_| catch_unwind(AssertUnwindSafe(|| event_loop.run())).is_err());
    assert_eq!(panics.count(), 6);
    event_loop.run().expect("all jobs are done");
    assert_eq!(ran.take(), [1, 3, 5]);
}

#[test]
fn events_that_were_fetched_are_delivered_by_the_next_run() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = SocketContext::<false, Log<Vec<u8>>>::builder()
        .on_data(|log, _, (), data| {
            log.push(&*data);
            quietly("after the data");
        })
        .build(&event_loop, Log::new())
        .expect("a context");
    let log = context.with_state(|log| log.clone()).expect("it is not lent");
    let peers: Vec<_> = (0..10_u8)
        .map(|number| {
            let (ours, mut theirs) = unix_pair();
            context.accept_fd(ours).expect("a socket");
            std::io::Write::write_all(&mut theirs, &[number]).expect("there is room");
            theirs
        })
        .collect();
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
fn no_callback_runs_between_the_panic_and_the_end_of_the_run() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let log = Log::<&str>::new();
    let (pre, post) = (log.clone(), log.clone());
    event_loop.on_pre(move |_| pre.push("pre")).expect("it is open");
    event_loop.on_post(move |_| post.push("post")).expect("it is open");
    let (a, b) = (Timer::new(&event_loop, ()).expect("a"), Timer::new(&event_loop, ()).expect("b"));
    for timer in [&a, &b] {
        let log = log.clone();
        let set = timer.set(Duration::ZERO, None, move |_, ()| {
            log.push("timer");
            quietly("in a timer");
        });
        set.expect("it is open");
    }
    thread::yield_now();
    while log.count(&"timer") < 1 {
        let _panicked = catch_unwind(AssertUnwindSafe(|| event_loop.turn(None)));
    }
    let events = log.take();
    assert_eq!(events.last(), Some(&"timer"), "{events:?}");
    assert_eq!(panic_of(|| event_loop.turn(None)), "in a timer");
    assert_eq!(log.take(), ["pre", "timer"]);
    event_loop.turn(Some(Duration::ZERO)).expect("all is over");
    assert_eq!(log.take(), ["pre", "post"]);
}

#[test]
fn periodic_timer_goes_on_after_its_panic() {
    let _guard = util::guard();
    let event_loop = util::test_clock_loop();
    let timer = Timer::new(&event_loop, 0).expect("a timer");
    let period = Duration::from_millis(10);
    let set = timer.set(period, Some(period), |_, count| {
        *count += 1;
        if *count % 2 == 1 {
            quietly("odd");
        }
    });
    set.expect("it is open");
    for round in 1..=4 {
        event_loop.advance_clock(period).expect("a test clock");
        let turned = catch_unwind(AssertUnwindSafe(|| event_loop.turn(Some(Duration::ZERO))));
        assert_eq!(turned.is_err(), round % 2 == 1, "round {round}");
        assert_eq!(timer.with_state(|count| *count).expect("it is given back"), round);
        assert!(timer.is_armed());
    }
}

#[test]
fn factory_that_panics_closes_the_accepted_connection_without_callbacks() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let broken = Rc::new(Cell::new(true));
    let (log, is_broken) = (Log::<&str>::new(), Rc::clone(&broken));
    let (opened, closed) = (log.clone(), log.clone());
    let context = SocketContext::<false, (), u8>::builder_with(move || {
        if is_broken.get() { quietly("in the factory") } else { 7 }
    })
    .on_open(move |(), _, seven, _| {
        assert_eq!(*seven, 7);
        opened.push("open");
    })
    .on_close(move |(), _, _, _| closed.push("close"))
    .build(&event_loop, ())
    .expect("a context");
    let listener = context.listen(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");

    let mut refused = util::Peer::connect(address);
    assert_eq!(panic_of(|| event_loop.run()), "in the factory");
    assert_eq!(refused.read_to_end(&event_loop), b"");
    assert!(log.is_empty());
    assert_eq!(event_loop.metrics().live_sockets, 0);

    broken.set(false);
    let _served = util::Peer::connect(address);
    pump(&event_loop, || log.len() == 1);
}

#[test]
fn factory_that_panics_in_connect_makes_nothing() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = SocketContext::<false, (), u8>::builder_with(|| quietly("in the factory"))
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
    let context = Plain::builder()
        .accept_filter(|(), _| quietly("in the filter"))
        .on_open(|(), _, (), _| unreachable!("it was refused"))
        .build(&event_loop, ())
        .expect("a context");
    let listener = context.listen(own_address()).expect("a listener");
    let stream = TcpStream::connect(listener.local_addr().expect("it is bound"));
    assert_eq!(panic_of(|| event_loop.run()), "in the filter");
    let mut peer = util::Peer::from_stream(stream.expect("it listens"));
    assert_eq!(peer.read_to_end(&event_loop), b"");
}

#[test]
fn conversion_that_panics_moves_nothing() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let target = SocketContext::<false, (), u64>::builder()
        .on_adopt(|(), _, _| unreachable!("nothing moves"))
        .build(&event_loop, ())
        .expect("a context");
    let context = SocketContext::<false, Log<String>, u8>::builder_with(|| 3)
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
    let (ours, theirs) = unix_pair();
    let socket = context.accept_fd(ours).expect("a socket");
    std::io::Write::write_all(&mut &theirs, b"abcde").expect("there is room");

    assert_eq!(panic_of(|| event_loop.run()), "in the conversion");
    assert!(!socket.is_closed(), "the old handle is good again");
    assert_eq!(socket.with_state(|number| *number).expect("the state is there"), 4);
    pump(&event_loop, || log.len() == 2);
    assert_eq!(log.take(), ["3: abcde", "4: de"], "what was not moved comes back");
}

#[test]
fn closure_that_panics_gives_the_state_back() {
    let _guard = util::guard();
    let event_loop = Loop::from_state(1).expect("a loop");
    let timer = Timer::new(&event_loop, 1).expect("a timer");
    let context = SocketContext::<false, i32>::builder().build(&event_loop, 1).expect("a context");
    assert_eq!(panic_of(|| event_loop.with_state(|_| quietly("loop"))), "loop");
    assert_eq!(panic_of(|| timer.with_state(|_| quietly("timer"))), "timer");
    assert_eq!(panic_of(|| context.with_state(|_| quietly("context"))), "context");
    assert_eq!(event_loop.with_state(|number| *number).expect("it is not lent"), 1);
    assert_eq!(timer.with_state(|number| *number).expect("it is not lent"), 1);
    assert_eq!(context.with_state(|number| *number).expect("it is not lent"), 1);
    event_loop.run().expect("no frame is left open");
}

#[test]
fn run_on_loop_tells_the_other_thread() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let keep_alive = event_loop.keep_alive().expect("a guard");
    let handle = event_loop.handle();
    let caller = thread::spawn(move || handle.run_on_loop(|_| -> u8 { quietly("over there") }));
    assert_eq!(panic_of(|| event_loop.run()), "over there");
    assert!(matches!(caller.join(), Ok(Err(UsError::JobPanicked))));
    drop(keep_alive);
}

// -- Several panics ---------------------------------------------------------------------------

/// Panics when it is dropped.
struct Grenade(&'static str);

impl Drop for Grenade {
    fn drop(&mut self) {
        if !thread::panicking() {
            quietly(self.0);
        }
    }
}

#[test]
fn first_of_several_panics_wins() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = SocketContext::<false, Grenade>::builder()
        .build(&event_loop, Grenade("the second"))
        .expect("a context");
    event_loop
        .defer(move |_| {
            // The last handle: the state's destructor panics, and waits.
            drop(context);
            quietly("the third");
        })
        .expect("it is open");
    let first = Grenade("the first");
    event_loop.defer(move |_| drop(first)).expect("it is open");
    assert_eq!(panic_of(|| event_loop.run()), "the second");
    assert_eq!(panic_of(|| event_loop.run()), "the first");
    event_loop.run().expect("all are out");
}

/// A payload whose own destructor would panic. Without bytes, so that it is no loss of memory.
struct Booby;

static DROPPED: AtomicUsize = AtomicUsize::new(0);

impl Drop for Booby {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
        if !thread::panicking() {
            quietly("dropped a payload");
        }
    }
}

/// A state that panics with such a payload.
struct Trap;

impl Drop for Trap {
    fn drop(&mut self) {
        resume_unwind(Box::new(Booby));
    }
}

#[test]
fn later_payloads_are_not_dropped() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let contexts: Vec<_> = (0..3)
        .map(|_| SocketContext::<false, Trap>::builder().build(&event_loop, Trap))
        .map(|context| context.expect("a context"))
        .collect();
    event_loop.defer(move |_| drop(contexts)).expect("it is open");

    let payload = catch_unwind(AssertUnwindSafe(|| event_loop.run())).expect_err("it panics");
    assert!(payload.is::<Booby>());
    assert_eq!(DROPPED.load(Ordering::SeqCst), 0, "no payload was dropped on the way");
    let _kept = ManuallyDrop::new(payload);
    event_loop.run().expect("all are out");
}

// -- The end ----------------------------------------------------------------------------------

#[test]
fn teardown_completes_and_then_panics() {
    let _guard = util::alone();
    let descriptors = util::Descriptors::now();
    let drops = Drops::new();
    let event_loop = Loop::from_state(drops.token()).expect("a loop");
    let (counted, made) = (Rc::new(Cell::new(0)), drops.clone());
    let calls = Rc::clone(&counted);
    let context =
        SocketContext::<false, util::Token, util::Token>::builder_with(move || made.token())
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
        let context = Plain::builder()
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
fn loop_inside_a_callback_of_another_one_passes_the_panic_on() {
    let _guard = util::guard();
    let (outer, inner) = (new_loop(), new_loop());
    inner.defer(|_| quietly("in the inner loop")).expect("it is open");
    let inner = Rc::new(inner);
    let runs = Rc::clone(&inner);
    outer.defer(move |_| runs.run().expect("another loop can be run")).expect("it is open");
    assert_eq!(panic_of(|| outer.run()), "in the inner loop");
    inner.run().expect("it is over");
    outer.run().expect("it is over");
}

#[test]
fn panic_that_the_program_catches_itself_is_none() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let job = |event_loop: &LoopRef| {
        let caught = catch_unwind(AssertUnwindSafe(|| quietly("caught")));
        assert!(caught.is_err());
        event_loop.stop();
    };
    event_loop.defer(job).expect("it is open");
    event_loop.run().expect("the panic never left the job");
}

#[test]
fn server_serves_on_after_panics() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let echo = Echo::new(&event_loop);
    let poison = Plain::builder()
        .on_data(|(), socket: &Socket<false>, (), _| {
            socket.close();
            quietly("poisoned");
        })
        .build(&event_loop, ())
        .expect("a context");
    for _ in 0..20 {
        let (ours, mut theirs) = unix_pair();
        let socket = poison.accept_fd(ours).expect("a socket");
        std::io::Write::write_all(&mut theirs, b"x").expect("there is room");
        assert_eq!(panic_of(|| event_loop.run()), "poisoned");
        assert!(socket.is_closed());
        echo.assert_echoes(&event_loop);
    }
    assert_eq!(poison.with_state(|()| ()).ok(), Some(()));
}
