//! States of all shapes: nothing at all, zero-sized with a destructor, aligned, large.

mod util;

use std::cell::Cell;
use std::fmt::Debug;
use std::rc::Rc;
use std::time::Duration;

use usockets::{Interest, Loop, Poll, Socket, SocketContext, Timer, UsError};
use util::{
    Event, Peer, Record, accept_one, assert_nothing_live, drain, guard, listen, new_loop, pump,
    recorded, settle, test_clock_loop, unix_pair,
};

thread_local! {
    static DROPPED: Cell<usize> = const { Cell::new(0) };
    static MADE: Cell<usize> = const { Cell::new(0) };
}

fn bump(count: &'static std::thread::LocalKey<Cell<usize>>) {
    count.with(|count| count.set(count.get() + 1));
}

/// Has no size, but is made and dropped all the same.
#[derive(Debug)]
struct Nothing;

impl Default for Nothing {
    fn default() -> Self {
        bump(&MADE);
        Self
    }
}

impl Drop for Nothing {
    fn drop(&mut self) {
        bump(&DROPPED);
    }
}

/// As aligned as a state may be.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(16))]
struct Aligned([u8; 16]);

impl Default for Aligned {
    fn default() -> Self {
        Self([0x5a; 16])
    }
}

/// 64 bytes with a destructor in the middle.
#[derive(Debug, Clone, PartialEq)]
struct Cache {
    before: u64,
    text: String,
    after: [u64; 4],
}

impl Default for Cache {
    fn default() -> Self {
        Self { before: 0xb, text: "cached".into(), after: [0xa; 4] }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Large([u8; 10_000]);

impl Default for Large {
    fn default() -> Self {
        Self([0x77; 10_000])
    }
}

#[track_caller]
fn assert_aligned<V>(value: &V) {
    assert!(std::ptr::from_ref(value).is_aligned());
}

/// Takes sockets with such a state through all that may happen to them.
fn take_through<S: Default + PartialEq + Debug + 'static>() -> Result<(), UsError> {
    let event_loop = new_loop();
    let (server, client, adopted) = (Record::<S>::new(), Record::<S>::new(), Record::<S>::new());
    fn check<S: Default + PartialEq + Debug>(state: &S) {
        assert_aligned(state);
        assert_eq!(*state, S::default());
    }
    let log = server.clone();
    let context = server
        .builder()
        .on_data(move |(), socket: &Socket<false, S>, state, data| {
            check(state);
            log.push_data(data);
            assert_eq!(socket.write(data), data.len());
        })
        .build(&event_loop, ())?;
    let target = recorded(&event_loop, &adopted);
    let listener = listen(&context);
    // Blocks beside one another, so that one that is too small shows.
    let connecting = recorded(&event_loop, &client);
    let sockets: Vec<_> = (0..20)
        .map(|_| connecting.connect(listener.local_addr().expect("it is bound")).expect("begun"))
        .collect();
    pump(&event_loop, || server.opened() >= 20 && client.opened() == 20);
    assert_eq!(server.opened(), 20);
    for socket in &sockets {
        socket.with_state(|state| check(state))?;
        assert_eq!(socket.write(b"echo"), 4);
    }
    pump(&event_loop, || client.data_length() == 80);
    for socket in &sockets {
        socket.with_state(|state| check(state))?;
        socket.adopt(&target, 0, |state| {
            check(state);
            S::default()
        })?;
    }
    pump(&event_loop, || adopted.opened() == 20);
    adopted.socket().with_state(|state| check(state))?;
    let (ours, _theirs) = unix_pair();
    context.accept_fd(ours)?.with_state(|state| check(state))?;
    target.close();
    context.close();
    drain(&event_loop);
    drop((context, target, connecting, listener));
    assert_nothing_live(&event_loop);
    Ok(())
}

#[test]
fn states_of_all_shapes_keep_their_value() -> Result<(), UsError> {
    let _guard = guard();
    take_through::<()>()?;
    take_through::<u8>()?;
    take_through::<[u8; 7]>()?;
    take_through::<[u64; 8]>()?;
    take_through::<Cache>()?;
    take_through::<Aligned>()?;
    take_through::<[Aligned; 4]>()?;
    take_through::<(u8, Aligned)>()?;
    take_through::<Large>()?;
    take_through::<Option<Box<u32>>>()?;
    Ok(())
}

#[test]
#[expect(clippy::default_constructed_unit_structs, reason = "`default` counts")]
fn a_state_without_size_is_made_and_dropped_once() -> Result<(), UsError> {
    let _guard = guard();
    assert_eq!(size_of::<Nothing>(), 0);
    let (made, dropped) = (MADE.get(), DROPPED.get());
    let event_loop = Loop::<Nothing>::new()?;
    let context = SocketContext::<false, Nothing, Nothing>::builder()
        .build(&event_loop, Nothing::default())?;
    let timer = Timer::new(&event_loop, Nothing::default())?;
    let (source, _other) = unix_pair();
    let poll =
        Poll::new(&event_loop, source, Interest::READABLE, Nothing::default(), |_, _, _| ())?;
    assert_eq!((MADE.get() - made, DROPPED.get() - dropped), (4, 0));
    for _ in 0..5 {
        let (ours, _theirs) = unix_pair();
        let socket = context.accept_fd(ours)?;
        socket.with_state(|_| {
            assert!(matches!(socket.with_state(|_| ()), Err(UsError::StateInUse)))
        })?;
    }
    assert_eq!((MADE.get() - made, DROPPED.get() - dropped), (9, 0));
    // Their peers are gone, and they close.
    settle(&event_loop);
    settle(&event_loop);
    assert_eq!((MADE.get() - made, DROPPED.get() - dropped), (9, 5));
    drop((timer, poll));
    assert_eq!(DROPPED.get() - dropped, 7);
    drop(context);
    assert_eq!(DROPPED.get() - dropped, 8);
    drop(event_loop);
    assert_eq!((MADE.get() - made, DROPPED.get() - dropped), (9, 9));
    Ok(())
}

#[test]
fn the_states_of_other_objects_are_aligned_too() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Loop::<Aligned>::new()?;
    event_loop.with_state(|state| {
        assert_aligned(state);
        assert_eq!(*state, Aligned::default());
    })?;
    let opened = Rc::new(Cell::new(false));
    let open = Rc::clone(&opened);
    let context = SocketContext::<false, Aligned, u8>::builder()
        .on_open(move |state, _, _, _| {
            assert_aligned(state);
            open.set(true);
        })
        .build(&event_loop, Aligned::default())?;
    context.with_state(|state| assert_eq!(*state, Aligned::default()))?;
    let listener = listen(&context);
    let _peer = Peer::connect(listener.local_addr()?);
    pump(&event_loop, || opened.get());
    // Several, since the first one may be aligned by chance.
    let timers: Vec<_> = (0..9)
        .map(|_| Timer::new(&event_loop, (1_u8, Aligned::default())).expect("a timer"))
        .collect();
    for timer in &timers {
        timer.set(Duration::ZERO, None, |_, state| {
            assert_aligned(&state.1);
            state.0 += 1;
        })?;
    }
    settle(&event_loop);
    pump(&event_loop, || timers.iter().all(|timer| !timer.is_armed()));
    for timer in &timers {
        assert_eq!(timer.with_state(|state| *state)?, (2, Aligned::default()));
    }
    let (source, _other) = unix_pair();
    let poll = Poll::new(
        &event_loop,
        source,
        Interest::WRITABLE,
        Aligned::default(),
        |poll, state, _| {
            assert_aligned(state);
            state.0 = [1; 16];
            poll.set_interest(Interest::NONE).expect("it is watched");
        },
    )?;
    pump(&event_loop, || poll.with_state(|state| state.0 == [1; 16]).expect("not lent"));
    Ok(())
}

#[test]
fn flags_beside_the_state_do_not_touch_it() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = test_clock_loop();
    let record = Record::<[u8; 64]>::new();
    let context = record.builder_with(|| [0xff; 64]).build(&event_loop, ())?;
    let (socket, mut peer) = accept_one(&event_loop, &context, &record);
    socket.with_state(|state| state.fill(0xee))?;
    socket.pause();
    socket.set_timeout(Duration::from_secs(1))?;
    socket.set_long_timeout(Duration::from_secs(2))?;
    socket.resume();
    peer.write(&event_loop, &[0; 1000]);
    pump(&event_loop, || record.data_length() == 1000);
    event_loop.advance_clock(Duration::from_secs(3))?;
    pump(&event_loop, || record.has(&Event::LongTimeout));
    socket.shutdown();
    socket.with_state(|state| assert_eq!(*state, [0xee; 64]))?;
    Ok(())
}

#[test]
fn states_may_be_moved_out_and_exchanged() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let record = Record::<Vec<u8>>::new();
    let context = recorded(&event_loop, &record);
    let (one, _far_one) = accept_one(&event_loop, &context, &record);
    let (two, _far_two) = accept_one(&event_loop, &context, &record);
    one.with_state(|state| state.extend_from_slice(b"one"))?;
    two.with_state(|state| state.extend_from_slice(b"two"))?;
    // States of two sockets, lent at once.
    one.with_state(|first| two.with_state(|second| std::mem::swap(first, second)))??;
    assert_eq!(one.with_state(std::mem::take)?, b"two");
    assert_eq!(two.with_state(std::mem::take)?, b"one");
    Ok(())
}
