//! What is done with states and with handles.

use std::mem;
use std::time::Duration;

use usockets::{Interest, Poll, SocketContext, Timer, UsError};

use crate::actions::{Actor, Verb};
use crate::deeds::{Deed, with_poll, with_timer};
use crate::kept::Kept;
use crate::places::Place;
use crate::util::own_address;
use crate::values::{ContextState, LoopState, Probe, Session};
use crate::world::{Here, World, forget, static_stream};

/// Every state, directly and inside one another.
pub(crate) fn states(world: &World, here: &mut Here<'_>) {
    if let (Some(socket), true) = (here.socket, here.session.is_some()) {
        let lent = socket.state();
        world.expect(matches!(lent, Err(UsError::StateInUse)), "a lent socket state is lent");
    }
    let of_target =
        matches!(here.place, Some(Place::Adopt | Place::AdoptedData | Place::HandshakeMoved));
    if let (Some(main), true, false) = (world.main.get(), here.state.is_some(), of_target) {
        let lent = main.with_state(|_| ());
        world.expect(matches!(lent, Err(UsError::StateInUse)), "a lent context state is lent");
    }
    if let Some(timer) = here.timer {
        let lent = timer.with_state(|_| ());
        world.expect(matches!(lent, Err(UsError::StateInUse)), "a lent timer state is lent");
    }
    if let Some(poll) = here.poll {
        let lent = poll.with_state(|_| ());
        world.expect(matches!(lent, Err(UsError::StateInUse)), "a lent poll state is lent");
    }
    let loop_ref = &world.loop_ref;
    let wrong = loop_ref.with_state(|_: &mut u8| ());
    world.expect(wrong.is_err(), "the state has another type");
    let _nested = loop_ref.with_state(|_: &mut LoopState| {
        let again = loop_ref.with_state(|_: &mut LoopState| ());
        world.expect(matches!(again, Err(UsError::StateInUse)), "a loop state is lent twice");
        let (timer, poll) = (world.timer.get()?, world.poll.get()?);
        let (main, other) = (world.main.get()?, world.other.get()?);
        timer
            .with_state(|_| {
                poll.with_state(|_| {
                    main.with_state(|_| {
                        other.with_state(|session| {
                            session.received += 1;
                            let again = other.with_state(|_| ());
                            let refused = matches!(again, Err(UsError::StateInUse));
                            world.expect(refused, "a socket state is lent twice");
                        })
                    })
                })
            })
            .ok()
    });
}

/// Exchanges what is lent with each other.
pub(crate) fn swap_states(world: &World, here: &mut Here<'_>) {
    let (other, spare) = (world.other.get(), world.spare.get());
    if let (Some(session), Some(other)) = (here.session.as_deref_mut(), &other) {
        let _swapped = other.with_state(|theirs| mem::swap(theirs, session));
    }
    if let (Some(other), Some(spare)) = (&other, &spare) {
        let _swapped = other.with_state(|a| spare.with_state(|b| mem::swap(a, b)));
    }
    if let (Some(timer), Some(other)) = (world.timer.get(), &other) {
        let _swapped = timer.with_state(|a| other.with_state(|b| mem::swap(a, b)));
    }
    if let (Some(state), Some(target)) = (here.state.as_deref_mut(), world.target.get()) {
        let _swapped = target.with_state(|theirs| mem::swap(theirs, state));
    }
}

/// Puts new values into what is lent, which drops the old ones.
pub(crate) fn replace_states(here: &mut Here<'_>) {
    if let Some(session) = here.session.as_deref_mut() {
        drop(mem::replace(session, Session::silent()));
        *session = Session::silent();
    }
    if let Some(state) = here.state.as_deref_mut() {
        *state = ContextState::silent();
    }
}

/// Clones of all handles, to be used when the loop is gone.
pub(crate) fn keep_handles(world: &World, here: &mut Here<'_>) {
    let mut kept: Vec<Box<dyn Kept>> = Vec::new();
    kept.extend(here.socket.map(Actor::keep));
    for socket in [world.other.get(), world.spare.get(), world.gone.get()].into_iter().flatten() {
        kept.push(socket.keep());
    }
    if let Some(main) = world.main.get() {
        kept.extend(main.listen(own_address()).ok().map(|l| Box::new(l) as Box<dyn Kept>));
        kept.push(Box::new(main));
    }
    kept.extend(world.target.get().map(|target| Box::new(target) as Box<dyn Kept>));
    kept.push(Box::new(world.loop_ref.clone()));
    kept.push(Box::new(world.handle.clone()));
    world.kept.borrow_mut().append(&mut kept);
    with_timer(world, Deed::NewTimer, here);
    with_poll(world, Deed::NewPoll, here);
}

/// Handles whose destructor never runs.
pub(crate) fn forget_handles(world: &World) {
    let event_loop = &world.loop_ref;
    if let Some(main) = world.main.get() {
        if let Ok(listener) = main.listen(own_address()) {
            forget(listener, 0);
        }
        forget(main, 0);
    }
    if let Some(socket) = world.other.get() {
        forget(socket, 0);
    }
    if let Ok(timer) = Timer::new(event_loop, Session::silent()) {
        let probe = Probe::silent();
        let _set = timer.set(Duration::from_nanos(1), None, move |_, _| probe.hold());
        forget(timer, 0);
    }
    let probe = Probe::silent();
    let interest = Interest::NONE;
    let watched =
        Poll::new(event_loop, static_stream(), interest, (), move |_, (), _| probe.hold());
    if let Ok(poll) = watched {
        forget(poll, 0);
    }
    if let Ok(keep_alive) = event_loop.keep_alive() {
        forget(keep_alive, 0);
    }
    let probe = Probe::silent();
    if let Ok(watch) = event_loop.on_signal(libc::SIGUSR2, move |_, _| probe.hold()) {
        // Both ends of its connection.
        forget(watch, 2);
    }
    // All handles keep the one waker of their loop.
    forget(event_loop.clone(), usize::from(!world.has_forgotten.replace(true)));
    // A lent value that is taken out and forgotten leaves another one in its place.
    if let Some(other) = world.other.get() {
        let _replaced = other.with_state(|session| drop(mem::replace(session, Session::silent())));
    }
}

/// Identities back into handles.
pub(crate) fn resolve(world: &World) {
    let event_loop = &world.loop_ref;
    if let Some(other) = world.other.get() {
        match other.id().resolve(event_loop) {
            Ok(socket) => world.expect(socket == other, "another socket is found"),
            Err(_) => world.expect(other.is_closed(), "an open socket is not found"),
        }
    }
    if let Some(gone) = world.gone.get() {
        world.expect(gone.id().resolve(event_loop).is_err(), "a socket that is gone is found");
    }
    if let Some(main) = world.main.get() {
        if let Ok(context) = main.id().resolve(event_loop) {
            world.expect(context == main, "another context is found");
        }
    }
}

/// All handles at once.
pub(crate) fn drop_everything(world: &World) {
    drop(world.listener.take());
    drop(world.main.take());
    drop(world.target.take());
    world.extra.clear();
    drop(world.timer.take());
    drop(world.poll.take());
    drop(world.signal.take());
    drop(world.keep_alive.take());
    drop((world.other.take(), world.spare.take(), world.gone.take()));
    world.loop_ref.clear_hooks();
    let peers = (world.peers.take(), world.tcp_peers.take());
    drop(peers);
}

/// Whatever can be closed.
pub(crate) fn close_everything(world: &World, here: &mut Here<'_>) {
    if let Some(socket) = here.socket {
        socket.act(world, Verb::Close);
    }
    for socket in [world.other.get(), world.spare.get(), world.gone.get()].into_iter().flatten() {
        socket.close();
    }
    world.main.get().iter().for_each(SocketContext::close);
    world.target.get().iter().for_each(SocketContext::close);
    drop(world.listener.take());
    if let Some(timer) = world.timer.get() {
        timer.cancel();
    }
}
