//! No one keeps the loop from the others, and what a turn leaves over is not forgotten.

mod util;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use usockets::{CloseReason, SocketContext, UsError};
use util::{
    Drops, Echo, Token, alone, assert_nothing_live, drain, guard, new_loop, pump,
    raise_descriptor_limit, settle, test_clock_loop, unix_pair,
};

/// More than the loop does of anything in one turn.
const MANY: usize = 5000;

/// Descriptors that a process needs besides.
const OTHER_DESCRIPTORS: usize = 200;

/// [`MANY`], or as many pairs as the system allows descriptors for.
fn many() -> usize {
    let allowed = (raise_descriptor_limit() - OTHER_DESCRIPTORS) / 2;
    if allowed < MANY {
        println!("{allowed} sockets only: the system allows no more descriptors");
    }
    MANY.min(allowed)
}

/// So many open sockets, and the other ends.
fn many_sockets(
    context: &SocketContext<false, usize, Token>,
    many: usize,
) -> Result<Vec<UnixStream>, UsError> {
    (0..many)
        .map(|_| {
            let (ours, theirs) = unix_pair();
            context.accept_fd(ours).map(|_| theirs)
        })
        .collect()
}

#[test]
fn more_opens_and_closes_than_a_turn_does() -> Result<(), UsError> {
    let _guard = alone();
    let many = many();
    let event_loop = new_loop();
    let drops = Drops::new();
    let tokens = drops.clone();
    let context = SocketContext::<false, usize, Token>::builder_with(move || tokens.token())
        .on_open(|open, _, _, _| *open += 1)
        .on_close(|open, socket, token, reason| {
            token.hold();
            assert_eq!(*reason, CloseReason::ContextClosed);
            assert!(socket.is_closed());
            *open -= 1;
        })
        .build(&event_loop, 0)?;
    let others = many_sockets(&context, many)?;
    // Without limit, several times: the rest of one turn does not wait for an event.
    let start = Instant::now();
    while context.with_state(|open| *open)? < many {
        event_loop.turn(None)?;
    }
    context.close();
    while context.with_state(|open| *open)? > 0 {
        event_loop.turn(None)?;
    }
    assert!(start.elapsed() < util::scaled(Duration::from_secs(10)));
    drops.assert_all_dropped();
    drop(others);
    drain(&event_loop);
    drop(context);
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn more_timeouts_than_a_turn_does() -> Result<(), UsError> {
    let _guard = alone();
    let many = many();
    let event_loop = test_clock_loop();
    let tokens = Drops::new();
    let context = SocketContext::<false, usize, Token>::builder_with(move || tokens.token())
        .on_open(|_, socket, _, _| {
            socket.set_timeout(Duration::from_secs(1)).expect("it is open");
        })
        .on_timeout(|fired, _, _| *fired += 1)
        .build(&event_loop, 0)?;
    let _others = many_sockets(&context, many)?;
    settle(&event_loop);
    event_loop.advance_clock(Duration::from_secs(2))?;
    while context.with_state(|fired| *fired)? < many {
        event_loop.turn(None)?;
    }
    settle(&event_loop);
    assert_eq!(context.with_state(|fired| *fired)?, many);
    Ok(())
}

#[test]
fn more_ready_sockets_than_a_turn_does() -> Result<(), UsError> {
    let _guard = alone();
    let many = many();
    let event_loop = new_loop();
    let tokens = Drops::new();
    let context = SocketContext::<false, usize, Token>::builder_with(move || tokens.token())
        .on_data(|received, _, _, data| *received += data.len())
        .build(&event_loop, 0)?;
    let mut others = many_sockets(&context, many)?;
    settle(&event_loop);
    for round in 1..=3 {
        for other in &mut others {
            other.write_all(b"x").expect("there is room");
        }
        pump(&event_loop, || context.with_state(|n| *n == round * many).expect("not lent"));
    }
    // And all of them go at once.
    drop(others);
    drain(&event_loop);
    assert_eq!(event_loop.metrics().live_sockets, 0);
    Ok(())
}

#[test]
fn a_callback_that_opens_more_does_not_keep_the_loop() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let echo = Echo::new(&event_loop);
    // Each socket that closes begets another one, for ever.
    let context = SocketContext::<false, bool>::builder()
        .on_open(|_, socket, _, _| socket.close())
        .on_close(|going, socket, _, _| {
            if *going {
                let (ours, _theirs) = unix_pair();
                let context = socket.context::<bool>().expect("it is still there");
                context.accept_fd(ours).expect("the loop is there");
            }
        })
        .build(&event_loop, true)?;
    let (ours, _theirs) = unix_pair();
    context.accept_fd(ours)?;
    for _ in 0..10 {
        echo.assert_echoes(&event_loop);
    }
    context.with_state(|going| *going = false)?;
    drop(echo);
    drain(&event_loop);
    Ok(())
}
