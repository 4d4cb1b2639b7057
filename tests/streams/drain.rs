//! Contexts and loops that come to their end in order.

use std::cell::RefCell;
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use usockets::{
    CloseReason, ContextBuilder, DeadlineKind, DrainReport, Loop, Socket, SocketContext, Timer,
    UsError,
};

use super::client_of;
use crate::SSL;
use crate::util::{
    Drops, Log, Nobody, Peer, Secured, assert_nothing_live, drain, guard, hand_over, new_loop,
    own_address, panic_of, pump, settle, tcp_pair, test_clock_loop, unix_pair,
};

const SECOND: Duration = Duration::from_secs(1);

type Context = SocketContext<SSL>;
type Handle = Socket<SSL, ()>;

/// What a drain has reported, as a place for the report and what puts it there.
type Report = Rc<RefCell<Option<DrainReport>>>;

fn report() -> (Report, impl FnOnce(DrainReport) + 'static) {
    let report = Report::default();
    let place = Rc::clone(&report);
    let put = move |drained| {
        assert!(place.borrow_mut().replace(drained).is_none(), "it is reported twice");
    };
    (report, put)
}

#[track_caller]
fn assert_report(report: &Report, finished: u64, forced: u64) {
    let report = report.borrow().expect("it has drained");
    assert_eq!((report.finished, report.forced), (finished, forced), "finished and forced");
}

/// A context that writes down what happens in it.
fn logging(log: &Log<String>) -> ContextBuilder<SSL> {
    let (told, closed, failed) = (log.clone(), log.clone(), log.clone());
    Context::builder()
        .secured()
        .on_drain_requested(move |(), socket, ()| {
            assert!(socket.is_draining());
            told.push("told");
        })
        .on_close(move |(), _, (), reason| closed.push(format!("{reason:?}")))
        .on_connect_error(move |(), _, (), error| failed.push(format!("{error}")))
}

/// An open socket of the context, and its peer.
fn open(event_loop: &Loop, context: &Context) -> (Handle, Peer) {
    hand_over(event_loop, context, unix_pair())
}

// -- Finishing --------------------------------------------------------------------------------

#[test]
fn peers_that_finish_are_counted_and_run_returns() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = new_loop();
    let echo = Context::builder()
        .secured()
        .on_data(|(), socket, (), data| {
            socket.send(data).expect("room");
            if socket.is_draining() {
                socket.close_after_flush();
            }
        })
        .build(&event_loop, ())?;
    let listener = echo.listen(own_address())?;
    let mut peers: Vec<Peer> = (0..10).map(|_| client_of(&listener)).collect();
    pump(&event_loop, || event_loop.metrics().live_sockets == 10);

    let (report, put) = report();
    echo.drain(1000 * SECOND, put)?;
    assert!(echo.is_draining());
    assert!(listener.local_addr().is_err(), "the listener is closed");
    assert_eq!(event_loop.metrics().live_sockets, 10);
    for peer in &mut peers {
        assert!(report.borrow().is_none());
        peer.write(&event_loop, b"the last request");
        assert_eq!(peer.read_to_end(&event_loop), b"the last request");
    }
    drop(peers);
    event_loop.run()?;
    assert_report(&report, 10, 0);
    assert!(!echo.is_draining());
    let _listens_again = echo.listen(own_address())?;
    Ok(())
}

#[test]
fn everybody_is_told_once_whenever_it_opens() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = new_loop();
    let log = Log::new();
    let context = logging(&log).build(&event_loop, ())?;
    let other = Context::builder().secured().build(&event_loop, ())?;
    let listener = other.listen(own_address())?;
    let (first, _peer) = open(&event_loop, &context);
    assert!(!first.is_draining());

    let (report, put) = report();
    context.drain(1000 * SECOND, put)?;
    assert!(first.is_draining());
    assert!(log.is_empty(), "nothing is called back by the call");
    settle(&event_loop);
    assert_eq!(log.take(), ["told"]);
    // What is under way may need it.
    let connected = context.connect(listener.local_addr()?)?;
    pump(&event_loop, || connected.is_established() && !log.is_empty());
    let (_second, _peer) = open(&event_loop, &context);
    settle(&event_loop);
    assert_eq!(log.take(), ["told", "told"]);
    let error = context.listen(own_address()).expect_err("it drains");
    assert!(matches!(error, UsError::Draining), "{error:?}");

    context.close();
    pump(&event_loop, || report.borrow().is_some());
    assert_report(&report, 3, 0);
    assert_eq!(log.take(), ["ContextClosed", "ContextClosed", "ContextClosed"]);
    Ok(())
}

#[test]
fn context_without_sockets_reports_in_the_next_turn() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = Context::builder().secured().build(&event_loop, ())?;
    let (first, put) = report();
    context.drain(1000 * SECOND, put)?;
    assert!(event_loop.is_alive() && first.borrow().is_none());
    event_loop.turn(None)?; // does not sleep
    assert_report(&first, 0, 0);
    let (second, put) = report();
    event_loop.drain(1000 * SECOND, put)?;
    event_loop.run()?;
    assert_report(&second, 0, 0);
    Ok(())
}

#[test]
fn drain_of_a_loop_ends_run_whatever_else_there_is() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = new_loop();
    let log = Log::new();
    let contexts = [logging(&log).build(&event_loop, ())?, logging(&log).build(&event_loop, ())?];
    let _listeners = [contexts[0].listen(own_address())?, contexts[1].listen(own_address())?];
    let (socket, _peer) = open(&event_loop, &contexts[0]);
    let _keep_alive = event_loop.keep_alive()?;
    let timer = Timer::new(&event_loop, ())?;
    timer.set(1000 * SECOND, None, |_, ()| ())?;

    let (report, put) = report();
    event_loop.defer(move |event_loop| {
        event_loop.drain(1000 * SECOND, put).expect("it begins");
    })?;
    event_loop.defer(move |_| socket.close())?;
    event_loop.run()?;
    assert_report(&report, 1, 0);
    assert_eq!(event_loop.metrics().live_listeners, 0);
    assert!(event_loop.is_alive());
    Ok(())
}

// -- The deadline -----------------------------------------------------------------------------

#[test]
fn stuck_peers_end_at_the_deadline_and_not_before() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let log = Log::new();
    let context = logging(&log).build(&event_loop, ())?;
    // Over TCP, where the end of one that is forced is no end in order.
    let peers = (0..20).map(|_| hand_over(&event_loop, &context, tcp_pair()));
    let peers: Vec<_> = peers.collect();
    // One of them sends more than its peer takes.
    peers[0].0.send(&vec![7; 32 << 20])?;
    assert!(peers[0].0.buffered() > 0);

    let (report, put) = report();
    context.drain(5 * SECOND, put)?;
    peers[19].0.reset();
    settle(&event_loop);
    event_loop.advance_clock(5 * SECOND - Duration::from_nanos(1))?;
    settle(&event_loop);
    assert!(report.borrow().is_none());
    assert_eq!(event_loop.metrics().live_sockets, 19);
    assert_eq!(log.take().len(), 20);
    event_loop.advance_clock(Duration::from_nanos(1))?;
    drain(&event_loop);
    assert_report(&report, 1, 19);
    assert_eq!(report.borrow().expect("a report").elapsed, 5 * SECOND);
    let reason = CloseReason::Deadline(DeadlineKind::Drain);
    assert_eq!(log.take(), vec![format!("{reason:?}"); 19]);
    assert_eq!(event_loop.metrics().deadlines_missed, 19);
    for (socket, mut peer) in peers.into_iter().skip(1) {
        assert!(socket.is_closed() && !socket.is_draining());
        assert_eq!(peer.read_to_end(&event_loop), b"");
    }
    Ok(())
}

#[test]
fn connections_that_are_not_made_by_the_deadline_time_out() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let errors = Log::<ErrorKind>::new();
    let failed = errors.clone();
    let context = Context::builder()
        .secured()
        .on_connect_error(move |(), _, (), error| {
            let UsError::Io { source, .. } = error else { panic!("{error}") };
            failed.push(source.kind());
        })
        .build(&event_loop, ())?;
    let nobody = Nobody::new();
    context.connect(nobody.address())?; // fails by itself
    pump(&event_loop, || errors.len() == 1);
    assert_eq!(errors.take(), [ErrorKind::ConnectionRefused]);

    let (ours, _theirs) = unix_pair();
    context.accept_fd(ours)?; // not open yet when its time is over
    let (report, put) = report();
    context.drain(Duration::ZERO, put)?;
    drain(&event_loop);
    let told = report.borrow().expect("a report");
    assert_eq!(told.finished + told.forced, 1);
    Ok(())
}

#[test]
fn lingering_output_is_waited_for_and_cut_at_the_deadline() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let context = Context::builder().secured().build(&event_loop, ())?;
    let mut peers: Vec<_> = (0..2)
        .map(|_| {
            let (socket, peer) = open(&event_loop, &context);
            socket.send(&vec![7; 4 << 20]).expect("room");
            socket.close();
            peer
        })
        .collect();
    pump(&event_loop, || event_loop.metrics().sockets_closed == 2);

    let (report, put) = report();
    context.drain(5 * SECOND, put)?;
    settle(&event_loop);
    assert!(report.borrow().is_none(), "they are still sending");
    // One of them reads on, and gets everything.
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    pump(&event_loop, || match Read::read(&mut peers[0], &mut buffer) {
        Ok(0) => true,
        Ok(count) => {
            received += count;
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    });
    assert_eq!(received, 4 << 20);
    drop(peers.remove(0));
    pump(&event_loop, || event_loop.metrics().live_sockets == 1);
    assert!(report.borrow().is_none());
    event_loop.advance_clock(5 * SECOND)?;
    drain(&event_loop);
    assert_report(&report, 1, 1);
    Ok(())
}

#[test]
fn second_drain_can_only_hurry_the_first() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let log = Log::<String>::new();
    let context = logging(&log).build(&event_loop, ())?;
    let (_socket, _peer) = open(&event_loop, &context);
    for (name, time) in [("a", 10), ("b", 5), ("c", 100)] {
        let log = log.clone();
        context.drain(time * SECOND, move |report| {
            log.push(format!("{name}: {} {}", report.finished, report.forced));
        })?;
    }
    event_loop.advance_clock(5 * SECOND - Duration::from_nanos(1))?;
    settle(&event_loop);
    assert_eq!(log.take(), ["told"]);
    event_loop.advance_clock(Duration::from_nanos(1))?;
    drain(&event_loop);
    assert_eq!(log.take(), ["Deadline(Drain)", "a: 0 1", "b: 0 1", "c: 0 1"]);
    Ok(())
}

#[test]
fn too_long_is_an_error() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = new_loop();
    let context = Context::builder().secured().build(&event_loop, ())?;
    let listener = context.listen(own_address())?;
    let too_long = 50 * 86_400 * SECOND + Duration::from_nanos(1);
    for time in [too_long, Duration::MAX] {
        let drops = Drops::new();
        for result in [
            context.drain(time, {
                let token = drops.token();
                move |_| token.hold()
            }),
            event_loop.drain(time, {
                let token = drops.token();
                move |_| token.hold()
            }),
        ] {
            let error = result.expect_err("beyond 50 days");
            assert!(matches!(error, UsError::InvalidOption { option: "deadline", .. }), "{error}");
        }
        drops.assert_all_dropped();
    }
    assert!(!context.is_draining());
    listener.local_addr()?;
    Ok(())
}

// -- Adoption ---------------------------------------------------------------------------------

#[test]
fn adopted_sockets_belong_to_the_drain_of_their_new_context() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let (here, there) = (Log::new(), Log::new());
    let source = logging(&here).build(&event_loop, ())?;
    let target = logging(&there).build(&event_loop, ())?;
    let (socket, _peer) = open(&event_loop, &source);
    let (report_here, put) = report();
    source.drain(5 * SECOND, put)?;
    settle(&event_loop);
    socket.adopt(&target, 0, |()| ())?;
    drain_until_reported(&event_loop, &report_here);
    assert_report(&report_here, 0, 0);
    assert_eq!((here.take().len(), there.take().len()), (1, 0));

    let (report_there, put) = report();
    target.drain(5 * SECOND, put)?;
    settle(&event_loop);
    assert_eq!(there.take(), ["told"]);
    event_loop.advance_clock(5 * SECOND)?;
    drain(&event_loop);
    assert_report(&report_there, 0, 1);
    Ok(())
}

fn drain_until_reported(event_loop: &Loop, report: &Report) {
    pump(event_loop, || report.borrow().is_some());
}

// -- Inside callbacks, panics, the end --------------------------------------------------------

#[test]
fn drains_inside_callbacks() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = new_loop();
    let log = Log::<String>::new();
    let (told, closed) = (log.clone(), log.clone());
    let context = Context::builder()
        .secured()
        .on_drain_requested(move |(), socket, ()| {
            let log = told.clone();
            let context = socket.context::<()>().expect("its context");
            context.drain(SECOND, move |_| log.push("from told")).expect("it begins");
            socket.close();
        })
        .on_close(move |(), socket, (), _| {
            let log = closed.clone();
            socket.event_loop().drain(SECOND, move |_| log.push("from close")).expect("it begins");
        })
        .build(&event_loop, ())?;
    let (_socket, _peer) = open(&event_loop, &context);
    let (again, reported) = (context.clone(), log.clone());
    context.drain(1000 * SECOND, move |report| {
        assert_eq!((report.finished, report.forced), (1, 0));
        reported.push("first");
        // The context has drained; its loop is about to have.
        let log = reported.clone();
        again.drain(SECOND, move |_| log.push("from report")).expect("it begins");
    })?;
    event_loop.run()?; // ended by the loop's drain
    event_loop.turn(Some(Duration::ZERO))?;
    assert_eq!(log.take(), ["first", "from told", "from close", "from report"]);
    settle(&event_loop);
    assert!(log.is_empty());
    Ok(())
}

#[test]
fn panics_leave_the_rest_for_the_next_run() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = new_loop();
    let mut calls = 0;
    let context = Context::builder()
        .secured()
        .on_drain_requested(move |(), socket, ()| {
            socket.close();
            calls += 1;
            assert!(calls != 1, "the first one fails");
        })
        .build(&event_loop, ())?;
    let _pairs = [open(&event_loop, &context), open(&event_loop, &context)];
    let drops = Drops::new();
    let token = drops.token();
    context.drain(1000 * SECOND, move |_| {
        token.hold();
        panic!("the report fails");
    })?;
    let (report, put) = report();
    context.drain(1000 * SECOND, put)?;
    assert_eq!(panic_of(|| event_loop.run()), "the first one fails");
    assert_eq!(panic_of(|| event_loop.run()), "the report fails");
    drops.assert_all_dropped();
    assert!(report.borrow().is_none());
    event_loop.run()?;
    assert_report(&report, 2, 0);
    Ok(())
}

#[test]
fn loop_that_is_dropped_drops_what_waits_for_its_drain() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let drops = Drops::new();
    let event_loop = new_loop();
    let context = Context::builder()
        .secured()
        .on_close(|(), socket, (), _| {
            let context = socket.context::<()>().expect("its context");
            let error = context.drain(SECOND, |_| unreachable!()).expect_err("the loop closes");
            assert!(matches!(error, UsError::LoopClosed), "{error}");
        })
        .build(&event_loop, ())?;
    let (_socket, _peer) = open(&event_loop, &context);
    for _ in 0..3 {
        let (token, kept) = (drops.token(), context.clone());
        context.drain(SECOND, move |_| drop((token, kept)))?;
        let (token, kept) = (drops.token(), context.clone());
        event_loop.drain(SECOND, move |_| drop((token, kept)))?;
    }
    settle(&event_loop);
    drop(event_loop);
    drops.assert_all_dropped();
    assert!(matches!(context.drain(SECOND, |_| ()), Err(UsError::LoopClosed)));
    assert!(!context.is_draining());
    Ok(())
}

/// Drains a context when it is dropped.
struct DrainWhenDropped(Option<Context>, Log<&'static str>);

impl Drop for DrainWhenDropped {
    fn drop(&mut self) {
        let log = self.1.clone();
        let context = self.0.take().expect("it is dropped once");
        let result = context.drain(SECOND, move |_| log.push("drained"));
        self.1.push(if result.is_ok() { "begun" } else { "refused" });
    }
}

#[test]
fn drains_inside_destructors() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let log = Log::new();
    let event_loop = new_loop();
    let context = Context::builder().secured().build(&event_loop, ())?;
    let (inner, outer) = (context.clone(), log.clone());
    context.drain(SECOND, move |_| drop(DrainWhenDropped(Some(inner), outer)))?;
    let state = DrainWhenDropped(Some(context.clone()), log.clone());
    let owner =
        SocketContext::<SSL, DrainWhenDropped>::builder().secured().build(&event_loop, state)?;
    drop(owner);
    drain(&event_loop);
    assert_eq!(log.take(), ["begun", "begun", "drained", "drained"]);
    let state = DrainWhenDropped(Some(context.clone()), log.clone());
    let _owner =
        SocketContext::<SSL, DrainWhenDropped>::builder().secured().build(&event_loop, state)?;
    context.drain(SECOND, {
        let log = log.clone();
        move |_| log.push("never")
    })?;
    drop(event_loop);
    assert_eq!(log.take(), ["refused"]);
    Ok(())
}

#[test]
fn last_handle_may_go_while_it_drains() -> Result<(), Box<dyn Error>> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let context = SocketContext::<SSL, _>::builder().secured().build(&event_loop, drops.token())?;
    let (_, mut peer) = hand_over(&event_loop, &context, unix_pair());
    let (report, put) = report();
    context.drain(1000 * SECOND, put)?;
    drop(context);
    settle(&event_loop);
    assert_eq!(drops.live(), 1);
    peer.write_all(b"bye")?;
    drop(peer);
    drain(&event_loop);
    assert_report(&report, 1, 0);
    drops.assert_all_dropped();
    assert_nothing_live(&event_loop);
    Ok(())
}
