//! Two connections that are piped to one another.

use std::cell::RefCell;
use std::rc::Rc;

use usockets::{CloseReason, Socket, SocketContext, UsError};

use crate::peer::{End, Reader, narrow_pair, patient};
use crate::util::{Token, alone_for, pattern};
use crate::{Case, SWEEP_MAX, has_struck, sweep, test_loop};

/// Each peer gets all that the other one sent, or a reset.
fn both_ways(case: &Case) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let (drops, report, report_error) = (case.drops.clone(), case.reporter(), case.reporter());
    let ends = Rc::new(RefCell::new(0));
    let (closed, failed) = (Rc::clone(&ends), Rc::clone(&ends));
    let context = SocketContext::<false, (), Token>::builder_with(move || drops.token())
        .deadlines(patient())
        .on_open(|(), socket, _, _| socket.pause())
        .on_data(|(), _, _, _| panic!("it goes to the other one"))
        .on_close(move |(), _, _, reason| {
            *closed.borrow_mut() += 1;
            if *reason != CloseReason::End {
                report(reason.to_string());
            }
        })
        .on_connect_error(move |(), _, _, error| {
            *failed.borrow_mut() += 1;
            report_error(error.to_string());
        })
        .build(&event_loop, ())?;
    let (one, one_peer) = narrow_pair();
    let (two, two_peer) = narrow_pair();
    let data = [pattern(90_000), pattern(70_001)];
    let mut peers = [
        Reader::new(one_peer, 24 * 1024).sending(data[0].clone()),
        Reader::new(two_peer, 24 * 1024).sending(data[1].clone()),
    ];
    let (one, two) = (context.accept_fd(one)?, context.accept_fd(two)?);
    let is_settled = |socket: &Socket<false, Token>| socket.is_established() || socket.is_closed();
    case.turn_until(&event_loop, || is_settled(&one) && is_settled(&two));
    // A socket that never opens has its end in `on_connect_error`, and its peer sees one without a byte.
    let opened = [one.is_established(), two.is_established()];
    if let Err(error) = one.pipe_to(&two).and_then(|()| two.pipe_to(&one)) {
        case.report(error);
        one.reset();
        two.reset();
    }
    one.resume();
    two.resume();
    case.turn_until(&event_loop, || {
        peers.iter_mut().for_each(Reader::step);
        *ends.borrow() == 2
            && peers.iter().all(|peer| peer.end().is_some())
            && event_loop.metrics().live_sockets == 0
    });
    for ((peer, expected), opened) in peers.iter().zip([&data[1], &data[0]]).zip(opened) {
        let received = peer.data();
        assert!(expected.starts_with(received), "other bytes");
        if received.len() < expected.len() {
            let length = received.len();
            assert!(has_struck(), "{length} of {} bytes", expected.len());
            // The peer must not take it for all.
            let is_told = peer.end() == Some(End::Reset) || (!opened && length == 0);
            assert!(is_told, "{length} of {} bytes: {:?}", expected.len(), case.reports);
        }
    }
    Ok(())
}

#[test]
fn pipe() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("pipe both ways", both_ways);
}
