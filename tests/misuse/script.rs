//! What the program does by itself: it comes through every place.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use socket2::SockRef;
use usockets::{
    CloseReason, Interest, OpenInfo, Origin, Poll, Socket, SocketContext, Timer, UsError,
};

use crate::SSL;
use crate::actions::Actor;
use crate::places::Place;
use crate::tls;
use crate::util::{Peer, Secured, own_address, scaled, unix_pair};
use crate::values::{
    Addresses, Buffer, ContextState, Descriptor, LoopState, Moved, Probe, Session, Source,
};
use crate::world::{Here, Main, Target, World, current, pool, set_current, visit};

/// What the sending side of a socket is filled with.
const CHUNK: [u8; 1 << 14] = [7; 1 << 14];

/// Goes through these steps, or all and all places, ends the loop, and returns what went wrong.
pub(crate) fn play(world: &Rc<World>, part: Option<Range<usize>>) -> Vec<String> {
    set_current(Some(Rc::clone(world)));
    world.guarded(|| set_up(world));
    world.arm();
    for (index, step) in STEPS.iter().chain(tls::STEPS).chain(LAST_STEPS).enumerate() {
        world.step.set(index);
        if part.as_ref().is_none_or(|part| part.contains(&index)) {
            world.guarded(|| step(world));
            world.drive(2);
        }
    }
    world.step.set(usize::MAX);
    world.drive(3);
    end(world);
    let faults = world.judge();
    set_current(None);
    faults
}

pub(crate) type Step = fn(&Rc<World>);

/// What the program does in turn. Each step does as much as previous actions have left possible.
const STEPS: &[Step] = &[
    accept,
    send,
    send_descriptors,
    fill,
    read_all_back,
    cork,
    end_pipe,
    expire_timeouts,
    expire_timer,
    make_poll_ready,
    run_jobs,
    wait_for_pool,
    wake_and_signal,
    lend_socket_state,
    lend_context_state,
    lend_loop_state,
    lend_timer_state,
    lend_poll_state,
    lend_descriptors,
    run_on_loop,
    connect,
    convert_addresses,
    convert_descriptor,
    make_state_by_closure,
];

/// Those after which no connections are accepted any more.
const LAST_STEPS: &[Step] = &[
    adopt_from_outside,
    adopt_in_data,
    adopt_and_close,
    adopt_in_vain,
    end_of_peer,
    replace_closures,
    drop_timer_and_poll,
    drop_context,
    drop_signal,
    drain,
    advance_and_drive,
];

// -- Setting up -------------------------------------------------------------------------------

fn set_up(world: &Rc<World>) {
    let event_loop = &world.loop_ref;
    world.main.put(main_context(world).expect("a context"));
    world.target.put(target_context(world).expect("a context"));
    let main = world.main.get().expect("it was just put there");
    world.listener.put(Rc::new(main.listen(own_address()).expect("a listener")));
    drop(main);

    let probe = Probe::with_teardown(Place::DropTimerState, Place::DropTimerStateAtTeardown);
    let timer = Timer::new(event_loop, Session::with_probe(probe)).expect("a timer");
    world.timer.put(Rc::new(timer));

    let probe = Probe::with_teardown(Place::DropPollState, Place::DropPollStateAtTeardown);
    let poll = new_poll(world, probe, Probe::silent()).expect("a poll");
    world.poll.put(Rc::new(poll));

    let probe = Probe::new(Place::DropSignalHandler);
    let watch = event_loop.on_signal(libc::SIGUSR1, move |_, _| {
        probe.hold();
        let _entered = visit(Place::Signal, &mut Here::default());
    });
    world.signal.put(Rc::new(watch.expect("a signal")));
    world.keep_alive.put(Rc::new(event_loop.keep_alive().expect("a guard")));
    set_hooks(world, Probe::new(Place::DropHook));

    let gone = world.new_socket().expect("a socket");
    world.spare.put(world.new_socket().expect("a socket"));
    world.other.put(world.new_socket().expect("a socket"));
    world.drive(2);
    gone.close();
    world.gone.put(gone);
    tls::set_up(world);
    world.drive(2);
}

fn set_hooks(world: &World, probe: Probe) {
    let event_loop = &world.loop_ref;
    let _set = event_loop.on_pre(move |_| {
        probe.hold();
        let _entered = visit(Place::Pre, &mut Here::default());
    });
    let _set = event_loop.on_post(|_| {
        let _entered = visit(Place::Post, &mut Here::default());
    });
    let _set = event_loop.on_wakeup(|_| {
        let _entered = visit(Place::Wakeup, &mut Here::default());
    });
}

/// A poll on a descriptor whose peer is the last of the world's peers.
fn new_poll(world: &World, state: Probe, handler: Probe) -> Result<Poll<Source, Session>, UsError> {
    let (ours, theirs) = unix_pair();
    world.peers.borrow_mut().push(Peer::client_of(false, theirs));
    Poll::new(
        &world.loop_ref,
        Source::watched(ours),
        Interest::READABLE,
        Session::with_probe(state),
        move |poll, session, _ready| {
            handler.hold();
            let mut buffer = [0; 16];
            let read = (&poll.source().stream).read(&mut buffer);
            if !matches!(read, Ok(1..)) {
                let _set = poll.set_interest(Interest::NONE);
            }
            let mut here = Here { poll: Some(poll), session: Some(session), ..Here::default() };
            let _entered = visit(Place::Poll, &mut here);
        },
    )
}

// -- Contexts ---------------------------------------------------------------------------------

/// The place of an event, which is entered in the ledger.
pub(crate) fn event<S: 'static>(socket: &Socket<SSL, S>, place: Place) -> Place {
    if let Some(world) = current() {
        world.ledger.event(&socket.key());
        // Whoever closes a socket while it is being made or moved still sees it begin.
        let begins = matches!(place, Place::OpenAccepted | Place::Adopt | Place::Started);
        if socket.is_closed() && !begins {
            world.fault(format!("{place:?} on a socket that is closed"));
        }
    }
    place
}

pub(crate) fn with_session<'a>(
    socket: &'a Socket<SSL, Session>,
    session: &'a mut Session,
    state: &'a mut ContextState,
) -> Here<'a> {
    state.calls += 1;
    Here { socket: Some(socket), session: Some(session), state: Some(state), ..Here::default() }
}

pub(crate) fn with_moved<'a>(
    socket: &'a Socket<SSL, Moved>,
    state: &'a mut ContextState,
) -> Here<'a> {
    state.calls += 1;
    Here { socket: Some(socket), state: Some(state), ..Here::default() }
}

fn main_context(world: &World) -> Result<Main, UsError> {
    let probe = Probe::with_teardown(Place::DropCallback, Place::DropCallbackAtTeardown);
    tls::main_builder()
        .accept_filter(|state, _incoming| {
            let mut here = Here { state: Some(state), ..Here::default() };
            let _entered = visit(Place::AcceptFilter, &mut here);
        })
        .on_open(move |state, socket, session, info| {
            probe.hold();
            opened(state, socket, session, info);
        })
        .on_data(received)
        .on_descriptors(|state, socket, session, received| {
            let place = event(socket, Place::Descriptors);
            let _entered = visit(place, &mut with_session(socket, session, state));
            drop(received);
        })
        .on_writable(|state, socket, session| {
            let place = event(socket, Place::Writable);
            let _entered = visit(place, &mut with_session(socket, session, state));
        })
        .water_marks(6000, 1000)
        .on_drain(|state, socket, session| {
            let place = event(socket, Place::OnDrain);
            let _entered = visit(place, &mut with_session(socket, session, state));
        })
        .on_end(|state, socket, session| {
            let place = event(socket, Place::End);
            if let Some(world) = current() {
                world.ledger.read_to_the_end(&socket.key());
            }
            let _entered = visit(place, &mut with_session(socket, session, state));
            socket.close();
        })
        .on_close(closed)
        .on_pipe_end(|state, socket, session, _| {
            let place = event(socket, Place::PipeEnd);
            let _entered = visit(place, &mut with_session(socket, session, state));
        })
        .on_timeout(|state, socket, session| {
            let place = event(socket, Place::Timeout);
            let _entered = visit(place, &mut with_session(socket, session, state));
        })
        .on_long_timeout(|state, socket, session| {
            let place = event(socket, Place::LongTimeout);
            let _entered = visit(place, &mut with_session(socket, session, state));
        })
        .on_drain_requested(|state, socket, session| {
            let place = event(socket, Place::DrainRequested);
            let _entered = visit(place, &mut with_session(socket, session, state));
        })
        .on_connect_error(|state, socket, session, _error| {
            if let Some(world) = current() {
                world.ledger.failed(&socket.key());
            }
            let mut here = with_session(socket, session, state);
            let _entered = visit(Place::ConnectError, &mut here);
        })
        .build(&world.loop_ref, ContextState::new())
}

fn opened(
    state: &mut ContextState,
    socket: &Socket<SSL, Session>,
    session: &mut Session,
    info: &OpenInfo,
) {
    let place = match info.origin() {
        Origin::Accepted => Place::OpenAccepted,
        Origin::Connected => Place::OpenConnected,
        _ => Place::OpenHandedOver,
    };
    if let Some(world) = current() {
        world.ledger.opened(&socket.key());
        world.expect(socket.is_established(), "open but not established");
    }
    let _entered = visit(event(socket, place), &mut with_session(socket, session, state));
}

fn received(
    state: &mut ContextState,
    socket: &Socket<SSL, Session>,
    session: &mut Session,
    data: &mut [u8],
) {
    let place = event(socket, Place::Data);
    session.received += data.len();
    // What follows an exclamation mark belongs to another protocol.
    if let (true, Some(world)) = (data.contains(&b'!'), current()) {
        if let Some(target) = world.target.get() {
            let converted = |old: &mut Session, key: &str| leave(old, key);
            let _begun = adopt(socket, &target, 1, converted);
        }
        return;
    }
    let _entered = visit(place, &mut with_session(socket, session, state));
    drop(_entered);
    let event_loop = socket.event_loop();
    let _lent = event_loop.with_state(|_: &mut LoopState| {
        let mut here = with_session(socket, session, state);
        let _entered = visit(Place::StateInsideCallback, &mut here);
    });
    data.fill(0);
}

fn closed(
    state: &mut ContextState,
    socket: &Socket<SSL, Session>,
    session: &mut Session,
    _reason: &CloseReason,
) {
    let Some(world) = current() else { return };
    world.ledger.closed(&socket.key());
    world.expect(socket.is_closed(), "on_close of a socket that is not closed");
    world.extra.closed(&world, &socket.key());
    let ending = world.loop_ref.is_closed();
    let place = if ending { Place::CloseAtTeardown } else { Place::Close };
    let _entered = visit(place, &mut with_session(socket, session, state));
}

fn target_context(world: &World) -> Result<Target, UsError> {
    let factory = || {
        let _entered = visit(Place::FactoryClosure, &mut Here::default());
        Moved::new()
    };
    tls::target_builder(SocketContext::<SSL, ContextState, Moved>::builder_with(factory))
        .on_open(|_, socket, _, _| {
            if let Some(world) = current() {
                world.ledger.opened(&socket.key());
            }
        })
        .on_adopt(|state, socket, moved| {
            if let Some(world) = current() {
                world.ledger.arrived(&socket.key());
                world.expect(moved.padding == [7; 64], "the new state is damaged");
            }
            let place = event(socket, Place::Adopt);
            let _entered = visit(place, &mut with_moved(socket, state));
        })
        .on_data(|state, socket, _, _| {
            let place = event(socket, Place::AdoptedData);
            let _entered = visit(place, &mut with_moved(socket, state));
        })
        .on_close(|_, socket, moved, _| {
            let Some(world) = current() else { return };
            world.ledger.closed(&socket.key());
            world.expect(moved.padding == [7; 64], "the new state is damaged");
        })
        .on_connect_error(|_, socket, _, _| {
            if let Some(world) = current() {
                world.ledger.failed(&socket.key());
            }
        })
        .build(&world.loop_ref, ContextState::silent())
}

// -- Adoption ---------------------------------------------------------------------------------

/// Begins the move of a socket to the target; `converted` is called with the old state.
pub(crate) fn adopt<S: 'static>(
    socket: &Socket<SSL, S>,
    target: &Target,
    unread: usize,
    converted: impl FnOnce(&mut S, &str) + 'static,
) -> Result<(), UsError> {
    let key = socket.key();
    let probe = Probe::with_teardown(Place::DropConvert, Place::DropConvertAtTeardown);
    socket.adopt(target, unread, move |old| {
        converted(old, &key);
        let moved = Moved::new();
        // Its destructor may panic, and then nothing moves.
        drop(probe);
        if let Some(world) = current() {
            world.ledger.left(&key);
        }
        moved
    })
}

/// The place where an old state becomes a new one.
fn leave(old: &mut Session, _key: &str) {
    let mut here = Here { session: Some(old), ..Here::default() };
    drop(visit(Place::Convert, &mut here));
    old.probe.place = Some(Place::DropMovedSession);
}

fn adopt_from_outside(world: &Rc<World>) {
    let Some(socket) = world.new_socket() else { return };
    world.drive(1);
    let Some(target) = world.target.get() else { return };
    let _begun = adopt(&socket, &target, 0, leave);
    drop(target);
    world.drive(2);
    write_to_last_peer(world, b"for the new side");
}

fn adopt_in_data(world: &Rc<World>) {
    if world.new_socket().is_some() {
        if SSL {
            world.drive(1);
        }
        write_to_last_peer(world, b"old!new");
    }
}

fn adopt_and_close(world: &Rc<World>) {
    let Some(socket) = world.new_socket() else { return };
    world.drive(1);
    let Some(target) = world.target.get() else { return };
    let _begun = adopt(&socket, &target, 0, leave);
    drop(target);
    if let Some(main) = world.main.get() {
        main.close();
    }
}

/// The move of a socket that is gone does not begin.
fn adopt_in_vain(world: &Rc<World>) {
    let (Some(gone), Some(target)) = (world.gone.get(), world.target.get()) else { return };
    let probe = Probe::new(Place::DropConvertRefused);
    let refused = gone.adopt(&target, 0, move |_| {
        probe.hold();
        Moved::new()
    });
    world.expect(refused.is_err(), "a socket that is gone moves");
}

// -- Steps ------------------------------------------------------------------------------------

fn write_to_last_peer(world: &World, data: &[u8]) {
    if let Some(peer) = world.peers.borrow_mut().last_mut() {
        let _written = Write::write(peer, data);
    }
}

fn accept(world: &Rc<World>) {
    let Some(listener) = world.listener.get() else { return };
    let Ok(address) = listener.local_addr() else { return };
    let peer = TcpStream::connect(address).expect("it listens");
    world.tcp_peers.borrow_mut().push(Peer::client_of(SSL, peer));
}

fn send(world: &Rc<World>) {
    if let Some(peer) = world.tcp_peers.borrow_mut().last_mut() {
        let _written = Write::write(peer, b"hello");
    }
}

/// Bytes with a descriptor, from a peer and, if `other` is there, to one.
fn send_descriptors(world: &Rc<World>) {
    if world.new_socket().is_none() {
        return;
    }
    world.drive(1);
    if let Some(peer) = world.peers.borrow().last().map(Peer::stream) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [peer.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "there is room");
        let data = [IoSlice::new(b"with one")];
        let _sent = sendmsg(peer, &data, &mut control, SendFlags::NOSIGNAL);
        if let Some(other) = world.other.get() {
            let _sent = other.send_with_descriptors(b"x", &[peer.as_fd()], true);
        }
    }
}

fn fill(world: &Rc<World>) {
    let Some(other) = world.other.get() else { return };
    let _set = other.with_fd(|fd| SockRef::from(&fd).set_send_buffer_size(1 << 12));
    for _ in 0..1000 {
        if other.write(&CHUNK) < CHUNK.len() {
            break;
        }
    }
    // More than the high-water mark.
    let _queued = other.send_bytes(Bytes::from_owner(Buffer::new(8192)));
}

/// Until all that was queued has gone: each turn sends no more than there is room for.
fn read_all_back(world: &Rc<World>) {
    for _ in 0..10 {
        read_back(world);
        world.drive(1);
    }
}

fn cork(world: &Rc<World>) {
    let Some(other) = world.other.get() else { return };
    other.cork(|socket| {
        let _taken = socket.write(b"before");
        let mut here = Here { socket: Some(socket), ..Here::default() };
        let _entered = visit(Place::Cork, &mut here);
        let _taken = socket.write(b"after");
    });
}

fn read_back(world: &Rc<World>) {
    let mut buffer = vec![0; 1 << 16];
    for peer in world.peers.borrow_mut().iter_mut() {
        while matches!(Read::read(peer, &mut buffer), Ok(1..)) {}
    }
}

fn end_pipe(world: &Rc<World>) {
    let (source, target) = (world.new_socket(), world.new_socket());
    world.drive(1);
    if let (Some(source), Some(target)) = (source, target) {
        let _piped = source.pipe_to_and_keep(&target);
        target.shutdown();
    }
}

fn expire_timeouts(world: &Rc<World>) {
    if let Some(other) = world.other.get() {
        let _set = other.set_timeout(Duration::from_millis(5));
        let _set = other.set_long_timeout(Duration::from_millis(50));
    }
    advance(world);
}

fn expire_timer(world: &Rc<World>) {
    let Some(timer) = world.timer.get() else { return };
    let probe = Probe::new(Place::DropTimerClosure);
    let every = Some(Duration::from_millis(1));
    let _set = timer.set(Duration::from_millis(1), every, move |timer, session| {
        probe.hold();
        let mut here = Here { timer: Some(timer), session: Some(session), ..Here::default() };
        let _entered = visit(Place::Timer, &mut here);
    });
    drop(timer);
    advance(world);
}

fn advance(world: &World) {
    if let Some(event_loop) = world.event_loop.get() {
        let _advanced = event_loop.advance_clock(Duration::from_millis(100));
    }
}

fn make_poll_ready(world: &Rc<World>) {
    // The peer of the poll is the first that was made.
    if let Some(peer) = world.peers.borrow_mut().first_mut() {
        let _written = Write::write(peer, b"x");
    }
}

fn run_jobs(world: &Rc<World>) {
    let probe = Probe::new(Place::DropJobThatRan);
    let _given = world.loop_ref.defer(move |_| {
        probe.hold();
        let _entered = visit(Place::LocalJob, &mut Here::default());
    });
    let _given = world.handle.defer(|_| {
        let _entered = visit(Place::RemoteJob, &mut Here::default());
    });
}

fn wait_for_pool(world: &Rc<World>) {
    let given = pool().run(
        &world.handle,
        || (),
        |_, _| {
            let _entered = visit(Place::PoolDone, &mut Here::default());
        },
    );
    let ends = Instant::now() + scaled(Duration::from_secs(10));
    let waits = || given.is_ok() && !world.was_visited(Place::PoolDone);
    while waits() && Instant::now() < ends {
        if world.loop_ref.is_closed() {
            return;
        }
        world.drive_patiently();
    }
}

fn wake_and_signal(world: &Rc<World>) {
    world.handle.wake();
    if world.signal.get().is_some() {
        signal_hook::low_level::raise(libc::SIGUSR1).expect("a signal");
    }
}

fn lend_socket_state(world: &Rc<World>) {
    let Some(other) = world.other.get() else { return };
    let _lent = other.with_state(|session| {
        let mut here = Here { socket: Some(&other), session: Some(session), ..Here::default() };
        let _entered = visit(Place::SocketState, &mut here);
    });
}

fn lend_context_state(world: &Rc<World>) {
    let Some(main) = world.main.get() else { return };
    let _lent = main.with_state(|state| {
        let mut here = Here { state: Some(state), ..Here::default() };
        let _entered = visit(Place::ContextState, &mut here);
    });
}

fn lend_loop_state(world: &Rc<World>) {
    let _lent = world.loop_ref.with_state(|_: &mut LoopState| {
        let _entered = visit(Place::LoopState, &mut Here::default());
    });
}

fn lend_timer_state(world: &Rc<World>) {
    let Some(timer) = world.timer.get() else { return };
    let _lent = timer.with_state(|session| {
        let mut here = Here { timer: Some(&timer), session: Some(session), ..Here::default() };
        let _entered = visit(Place::TimerState, &mut here);
    });
}

fn lend_poll_state(world: &Rc<World>) {
    let Some(poll) = world.poll.get() else { return };
    let _lent = poll.with_state(|session| {
        let mut here = Here { poll: Some(&poll), session: Some(session), ..Here::default() };
        let _entered = visit(Place::PollState, &mut here);
    });
}

fn lend_descriptors(world: &Rc<World>) {
    if let Some(other) = world.other.get() {
        let lent = other.with_fd(|fd| {
            let mut here = Here { socket: Some(&other), ..Here::default() };
            let _entered = visit(Place::SocketDescriptor, &mut here);
            SockRef::from(&fd).r#type().is_ok()
        });
        world.expect(lent.unwrap_or(true), "a descriptor was closed while it was lent");
    }
    if let Some(listener) = world.listener.get() {
        let lent = listener.with_fd(|fd| {
            let _entered = visit(Place::ListenerDescriptor, &mut Here::default());
            SockRef::from(&fd).r#type().is_ok()
        });
        world.expect(lent.unwrap_or(true), "a descriptor was closed while it was lent");
    }
}

fn run_on_loop(world: &Rc<World>) {
    let _ran = world.handle.run_on_loop(|_| {
        let _entered = visit(Place::RunOnLoop, &mut Here::default());
    });
}

fn connect(world: &Rc<World>) {
    let Some(listener) = world.listener.get() else { return };
    let Ok(address) = listener.local_addr() else { return };
    drop(listener);
    world.connect(|| Some(world.main.get()?.connect(address)));
    world.connect(|| Some(world.main.get()?.connect(world.refused)));
}

fn convert_addresses(world: &Rc<World>) {
    let nowhere = world.refused;
    if let Some(main) = world.main.get() {
        drop(main.listen(Addresses(own_address())));
    }
    world.connect(|| Some(world.main.get()?.connect(Addresses(nowhere))));
}

fn convert_descriptor(world: &Rc<World>) {
    let (ours, theirs) = unix_pair();
    world.peers.borrow_mut().push(Peer::client_of(SSL, theirs));
    world.connect(|| Some(world.main.get()?.accept_fd(Descriptor(ours))));
}

fn make_state_by_closure(world: &Rc<World>) {
    let (ours, theirs) = unix_pair();
    world.peers.borrow_mut().push(Peer::client_of(SSL, theirs));
    world.connect(|| Some(world.target.get()?.accept_fd(ours)));
}

fn end_of_peer(world: &Rc<World>) {
    if world.new_socket().is_none() {
        return;
    }
    world.drive(1);
    if let Some(peer) = world.peers.borrow_mut().last_mut() {
        let _told = SSL.then(|| peer.tls().close_notify());
        let _ended = peer.stream().shutdown(Shutdown::Write);
    }
}

fn replace_closures(world: &Rc<World>) {
    set_hooks(world, Probe::with_teardown(Place::DropHook, Place::DropHookAtTeardown));
    let Some(timer) = world.timer.get() else { return };
    let _set = timer.set(Duration::from_secs(1), None, |_, _| ());
}

fn drop_timer_and_poll(world: &Rc<World>) {
    let probe = Probe::new(Place::DropTimerState);
    let timer = Timer::new(&world.loop_ref, Session::with_probe(probe));
    drop(timer);
    let (state, handler) = (Probe::new(Place::DropPollState), Probe::new(Place::DropPollHandler));
    drop(new_poll(world, state, handler));
}

/// A context whose last handle goes.
fn drop_context(world: &Rc<World>) {
    let (callback, factory) = (Probe::new(Place::DropCallback), Probe::new(Place::DropFactory));
    let context = SocketContext::<SSL, ContextState, Session>::builder_with(move || {
        factory.hold();
        Session::silent()
    })
    .secured()
    .on_open(move |_, _, _, _| callback.hold())
    .build(&world.loop_ref, ContextState::new());
    drop(context);
}

fn drop_signal(world: &Rc<World>) {
    drop(world.signal.take());
}

fn drain(world: &Rc<World>) {
    world.new_socket();
    begin_to_drain(world, Place::DropDrained);
}

fn begin_to_drain(world: &World, at_drop: Place) {
    let Some(main) = world.main.get() else { return };
    let probe = Probe::new(at_drop);
    let _begun = main.drain(Duration::from_millis(50), move |_| {
        probe.hold();
        let _entered = visit(Place::Drained, &mut Here::default());
    });
}

/// The time of whatever drains is over.
fn advance_and_drive(world: &Rc<World>) {
    advance(world);
    world.drive(3);
}

// -- The end ----------------------------------------------------------------------------------

/// Ends the loop with as much as possible under way, and then all handles.
fn end(world: &Rc<World>) {
    world.guarded(|| leave_something(world));
    world.guarded(|| drop(world.event_loop.take()));
    world.guarded(|| {
        let mut kept = world.kept.take();
        kept.retain(|handle| !handle.knows_the_end());
        world.expect(kept.is_empty(), "a handle does not know that the loop is gone");
    });
    world.guarded(|| drop((world.main.take(), world.target.take(), world.listener.take())));
    world.guarded(|| world.extra.clear());
    world.guarded(|| drop(world.timer.take()));
    world.guarded(|| drop(world.poll.take()));
    world.guarded(|| drop((world.signal.take(), world.keep_alive.take())));
    world.guarded(|| drop((world.other.take(), world.spare.take(), world.gone.take())));
    drop((world.peers.take(), world.tcp_peers.take()));
}

fn leave_something(world: &Rc<World>) {
    // Some that are open, one that moves, and one that opens.
    for _ in 0..3 {
        world.new_socket();
    }
    let moving = world.new_socket();
    // Over TLS their handshakes are under way.
    world.turn();
    tls::leave_something(world);
    if let (Some(socket), Some(target)) = (moving, world.target.get()) {
        let _begun = adopt(&socket, &target, 0, leave);
    }
    if let Some(socket) = world.new_socket() {
        // More than a system takes at once.
        let _queued = socket.send_bytes(Bytes::from_owner(Buffer::new(1 << 20)));
    }
    let local = Probe::new(Place::DropLocalJobAtTeardown);
    let _given = world.loop_ref.defer(move |_| local.hold());
    let remote = Probe::new(Place::DropRemoteJobAtTeardown);
    let _given = world.handle.defer(move |_| remote.hold());
    begin_to_drain(world, Place::DropDrainedAtTeardown);
}
