//! What is done, other than to sockets.

use std::rc::Rc;
use std::thread;
use std::time::Duration;

use usockets::{Interest, Loop, Poll, SocketContext, Timer, UsError};

use crate::SSL;
use crate::places::{Kind, Place};
use crate::states::{
    close_everything, drop_everything, forget_handles, keep_handles, replace_states, resolve,
    states, swap_states,
};
use crate::table::list;
use crate::util::{Secured, own_address, unix_pair};
use crate::values::{ContextState, Probe, Session, Source};
use crate::world::{Here, World, pool};

list! {
    /// What else is done.
    Deed {
        Nothing,
        DropContexts,
        DropContextsAndListener,
        CloneContext,
        CloseContext,
        CloseAllContexts,
        BuildContext,
        DrainContext,
        DrainContextAtOnce,
        DrainLoop,
        DropListener,
        DetachListener,
        PauseListener,
        Listen,
        Connect,
        ConnectRefused,
        ConnectSeveral,
        ConnectWithState,
        ConnectNonsense,
        AcceptFd,
        DropTimer,
        SetTimer,
        RearmTimer,
        CancelTimer,
        NewTimer,
        DropPoll,
        PollIntoInner,
        SetPollInterest,
        NewPoll,
        ReplaceHooks,
        ClearHooks,
        WatchSignal,
        DropSignal,
        TakeKeepAlive,
        DropKeepAlive,
        Run,
        Turn,
        RunFor,
        Stop,
        Wake,
        DropLoop,
        OtherLoop,
        AdvanceClock,
        DeferLocal,
        DeferRemote,
        DeferFromThread,
        RunOnLoop,
        PoolRun,
        States,
        SwapStates,
        ReplaceStates,
        KeepHandles,
        Forget,
        Resolve,
        DropEverything,
        CloseEverything,
        CloseAndDropEverything,
        Panic,
        CloseAndPanic,
        DropContextsAndPanic,
        DropLoopAndPanic,
        DropEverythingAndPanic,
    }
}

/// Does it.
pub(crate) fn perform(world: &Rc<World>, deed: Deed, here: &mut Here<'_>) {
    match deed {
        Deed::Nothing => {}
        Deed::DropContexts
        | Deed::DropContextsAndListener
        | Deed::CloneContext
        | Deed::CloseContext
        | Deed::CloseAllContexts
        | Deed::BuildContext => with_contexts(world, deed),
        Deed::DrainContext | Deed::DrainContextAtOnce | Deed::DrainLoop => drain(world, deed),
        Deed::DropListener | Deed::DetachListener | Deed::PauseListener | Deed::Listen => {
            with_listeners(world, deed);
        }
        Deed::Connect
        | Deed::ConnectRefused
        | Deed::ConnectSeveral
        | Deed::ConnectWithState
        | Deed::ConnectNonsense
        | Deed::AcceptFd => new_sockets(world, deed),
        Deed::DropTimer
        | Deed::SetTimer
        | Deed::RearmTimer
        | Deed::CancelTimer
        | Deed::NewTimer => with_timer(world, deed, here),
        Deed::DropPoll | Deed::PollIntoInner | Deed::SetPollInterest | Deed::NewPoll => {
            with_poll(world, deed, here);
        }
        Deed::ReplaceHooks
        | Deed::ClearHooks
        | Deed::WatchSignal
        | Deed::DropSignal
        | Deed::TakeKeepAlive
        | Deed::DropKeepAlive => with_loop_parts(world, deed),
        Deed::Run | Deed::Turn | Deed::RunFor => run_inside(world, deed, here),
        Deed::Stop | Deed::Wake | Deed::DropLoop | Deed::OtherLoop | Deed::AdvanceClock => {
            with_loop(world, deed);
        }
        Deed::DeferLocal
        | Deed::DeferRemote
        | Deed::DeferFromThread
        | Deed::RunOnLoop
        | Deed::PoolRun => with_jobs(world, deed),
        Deed::States => states(world, here),
        Deed::SwapStates => swap_states(world, here),
        Deed::ReplaceStates => replace_states(here),
        Deed::KeepHandles => keep_handles(world, here),
        Deed::Forget => forget_handles(world),
        Deed::Resolve => resolve(world),
        Deed::DropEverything => drop_everything(world),
        Deed::CloseEverything => close_everything(world, here),
        Deed::CloseAndDropEverything => {
            close_everything(world, here);
            drop_everything(world);
        }
        Deed::Panic
        | Deed::CloseAndPanic
        | Deed::DropContextsAndPanic
        | Deed::DropLoopAndPanic
        | Deed::DropEverythingAndPanic => {
            match deed {
                Deed::CloseAndPanic => close_everything(world, here),
                Deed::DropContextsAndPanic => with_contexts(world, Deed::DropContextsAndListener),
                Deed::DropLoopAndPanic => drop(world.event_loop.take()),
                Deed::DropEverythingAndPanic => drop_everything(world),
                _ => {}
            }
            world.panic(here.place)
        }
    }
}

fn with_contexts(world: &Rc<World>, deed: Deed) {
    let (main, target) = (world.main.get(), world.target.get());
    match deed {
        Deed::CloneContext => drop((main.clone(), main, target.clone(), target)),
        Deed::CloseContext => {
            if let Some(main) = main {
                main.close();
            }
        }
        Deed::CloseAllContexts => {
            for _ in 0..2 {
                main.iter().for_each(SocketContext::close);
                target.iter().for_each(SocketContext::close);
            }
        }
        Deed::BuildContext => {
            let context = SocketContext::<SSL, ContextState, Session>::builder()
                .secured()
                .on_open(|_, _, _, _| ())
                .build(&world.loop_ref, ContextState::silent());
            world.expect(context.is_err() == world.loop_ref.is_closed(), "a context can be built");
        }
        _ => {
            drop((main, target));
            if deed == Deed::DropContextsAndListener {
                drop(world.listener.take());
            }
            drop(world.main.take());
            drop(world.target.take());
        }
    }
}

/// Drains what is left, twice.
fn drain(world: &Rc<World>, deed: Deed) {
    let main = world.main.get();
    for _ in 0..2 {
        let probe = Probe::silent();
        let drained = move |_| probe.hold();
        let begun = match (deed, &main) {
            (Deed::DrainLoop, _) => world.loop_ref.drain(Duration::from_millis(10), drained),
            (Deed::DrainContext, Some(main)) => main.drain(Duration::from_millis(10), drained),
            (_, Some(main)) => main.drain(Duration::ZERO, drained),
            _ => return,
        };
        world.expect(begun.is_err() == world.loop_ref.is_closed(), "it drains");
    }
    if let Some(main) = main {
        world.expect(main.is_draining() || world.loop_ref.is_closed(), "it is draining");
    }
}

fn with_listeners(world: &World, deed: Deed) {
    match deed {
        Deed::Listen => {
            let Some(main) = world.main.get() else { return };
            let listener = main.listen(own_address());
            let refuses = world.loop_ref.is_closed() || main.is_draining();
            world.expect(listener.is_err() == refuses, "one can listen");
        }
        Deed::DetachListener => {
            if let Some(listener) = world.listener.take().and_then(Rc::into_inner) {
                listener.detach();
            }
        }
        Deed::PauseListener => {
            let Some(listener) = world.listener.get() else { return };
            listener.pause();
            world.expect(listener.is_paused() != listener.is_closed(), "a listener pauses");
            world.expect(listener.connections().is_none(), "it has no limit");
            listener.resume();
            world.expect(!listener.is_paused(), "a listener resumes");
        }
        _ => drop(world.listener.take()),
    }
}

fn new_sockets(world: &World, deed: Deed) {
    let address = world.listener.get().and_then(|listener| listener.local_addr().ok());
    let address = address.unwrap_or(world.refused);
    let Some(main) = world.main.get() else { return };
    let socket = match deed {
        Deed::Connect => world.connect(|| Some(main.connect(address))),
        Deed::ConnectRefused => world.connect(|| Some(main.connect(world.refused))),
        Deed::ConnectSeveral => world.connect(|| Some(main.connect(vec![world.refused, address]))),
        Deed::ConnectWithState => {
            world.connect(|| Some(main.connect_with_state(address, Session::silent())))
        }
        Deed::ConnectNonsense => world.connect(|| Some(main.connect("nonsense"))),
        _ => world.new_socket(),
    };
    if let Some(socket) = socket {
        world.expect(!socket.is_closed(), "a new socket is closed");
        world.expect(!socket.is_established(), "a new socket is open already");
        let several = if deed == Deed::ConnectSeveral { 2 } else { 0 };
        world.expect(socket.connect_attempts().len() == several, "it has its attempts");
        world.expect(socket.write(b"early") == 0, "a socket that is not open takes bytes");
    }
}

pub(crate) fn with_timer(world: &World, deed: Deed, here: &mut Here<'_>) {
    let count = move |session: &mut Session| session.received += 1;
    match deed {
        Deed::DropTimer => {
            drop(world.timer.take());
            // Elsewhere whoever lends the timer still has it.
            if let (Some(timer), Some(Place::Timer)) = (here.timer, here.place) {
                world.expect(!timer.is_armed(), "a dropped timer is armed");
                let set = timer.set(Duration::ZERO, None, |_, _| ());
                world.expect(set.is_err(), "a dropped timer is set");
            }
        }
        Deed::NewTimer => {
            let probe = Probe::silent();
            let Ok(timer) = Timer::new(&world.loop_ref, Session::silent()) else { return };
            let _set = timer.set(Duration::from_nanos(1), None, move |_, session| {
                probe.hold();
                count(session);
            });
            world.kept.borrow_mut().push(Box::new(timer));
        }
        _ => {
            let kept = world.timer.get();
            let Some(timer) = here.timer.or_else(|| kept.as_ref().map(|timer| &***timer)) else {
                return;
            };
            for round in 0..2 {
                let probe = Probe::silent();
                let set = || {
                    timer.set(Duration::from_millis(1), None, move |_, session| {
                        probe.hold();
                        count(session);
                    })
                };
                match deed {
                    Deed::SetTimer => drop(set()),
                    Deed::RearmTimer => drop(timer.rearm(Duration::from_millis(round), None)),
                    _ => timer.cancel(),
                }
            }
        }
    }
}

pub(crate) fn with_poll(world: &World, deed: Deed, here: &mut Here<'_>) {
    match deed {
        Deed::DropPoll => {
            drop(world.poll.take());
            if let (Some(poll), Some(Place::Poll)) = (here.poll, here.place) {
                let set = poll.set_interest(Interest::READABLE);
                world.expect(set.is_err(), "a dropped poll is changed");
            }
        }
        Deed::PollIntoInner => {
            let Some(poll) = world.poll.take().and_then(Rc::into_inner) else { return };
            let inside = here.poll.is_some();
            match poll.into_inner() {
                Ok(_source) => world.expect(!inside, "the source of a running poll is given away"),
                Err(poll) => world.poll.put(Rc::new(poll)),
            }
        }
        Deed::SetPollInterest => {
            let kept = world.poll.get();
            let Some(poll) = here.poll.or_else(|| kept.as_ref().map(|poll| &***poll)) else {
                return;
            };
            for interest in [Interest::NONE, Interest::READABLE | Interest::WRITABLE] {
                let _set = poll.set_interest(interest);
            }
        }
        _ => {
            let (ours, _theirs) = unix_pair();
            let probe = Probe::silent();
            let poll = Poll::new(
                &world.loop_ref,
                Source::new(ours),
                Interest::READABLE,
                Session::silent(),
                move |poll, session, _| {
                    probe.hold();
                    session.received += 1;
                    // The peer is gone, which would be told for ever.
                    let _set = poll.set_interest(Interest::NONE);
                },
            );
            if let Ok(poll) = poll {
                world.kept.borrow_mut().push(Box::new(poll));
            }
        }
    }
}

fn with_loop_parts(world: &World, deed: Deed) {
    let event_loop = &world.loop_ref;
    match deed {
        Deed::ReplaceHooks => {
            for _ in 0..2 {
                let probes = [(); 3].map(|()| Probe::silent());
                let [pre, post, wakeup] = probes;
                let _set = event_loop.on_pre(move |_| pre.hold());
                let _set = event_loop.on_post(move |_| post.hold());
                let _set = event_loop.on_wakeup(move |_| wakeup.hold());
            }
        }
        Deed::ClearHooks => event_loop.clear_hooks(),
        Deed::WatchSignal => {
            let probe = Probe::silent();
            if let Ok(watch) = event_loop.on_signal(libc::SIGUSR1, move |_, _| probe.hold()) {
                world.signal.put(Rc::new(watch));
            }
        }
        Deed::DropSignal => drop(world.signal.take()),
        Deed::TakeKeepAlive => {
            if let Ok(keep_alive) = event_loop.keep_alive() {
                world.keep_alive.put(Rc::new(keep_alive));
            }
        }
        _ => drop(world.keep_alive.take()),
    }
}

/// A run inside a run, or inside a closure of this crate.
fn run_inside(world: &World, deed: Deed, here: &Here<'_>) {
    let Some(event_loop) = world.event_loop.get() else { return };
    if here.place.is_some_and(|place| place.kind() == Kind::Trait) {
        // Nothing speaks against a turn here.
        let turned = world.driving(|| event_loop.turn(Some(Duration::ZERO)));
        world.expect(turned.is_ok(), "a turn outside of everything is refused");
        return;
    }
    // Should a run be let through, it must not last.
    event_loop.stop();
    let result = match deed {
        Deed::Run => event_loop.run(),
        Deed::Turn => event_loop.turn(Some(Duration::ZERO)).map(drop),
        _ => event_loop.run_for(Duration::ZERO),
    };
    if !matches!(result, Err(UsError::LoopAlreadyRunning)) {
        world.fault(format!("a run inside: {result:?}"));
    }
}

fn with_loop(world: &World, deed: Deed) {
    match deed {
        Deed::Stop => {
            world.loop_ref.stop();
            world.handle.stop();
        }
        Deed::Wake => world.handle.wake(),
        Deed::DropLoop => drop(world.event_loop.take()),
        Deed::AdvanceClock => {
            if let Some(event_loop) = world.event_loop.get() {
                let advanced = event_loop.advance_clock(Duration::from_secs(1));
                world.expect(advanced.is_ok(), "the clock stands still");
            }
        }
        _ => {
            let event_loop = Loop::<()>::new().expect("a second loop");
            let timer = Timer::new(&event_loop, 0).expect("a timer");
            timer.set(Duration::ZERO, None, |_, count| *count += 1).expect("it can be set");
            let ran = event_loop.run();
            world.expect(ran.is_ok(), "another loop cannot be run");
            world
                .expect(timer.with_state(|count| *count).ok() == Some(1), "its timer did not fire");
            let foreign = world.other.get().map(|socket| socket.id().resolve(&event_loop));
            let refused = !matches!(foreign, Some(Ok(_)));
            world.expect(refused, "a socket is found in another loop");
        }
    }
}

fn with_jobs(world: &World, deed: Deed) {
    let handle = world.handle.clone();
    let closed = world.loop_ref.is_closed();
    match deed {
        Deed::DeferLocal => {
            let probe = Probe::silent();
            let given = world.loop_ref.defer(move |event_loop| {
                probe.hold();
                let _again = event_loop.defer(|_| ());
            });
            world.expect(given.is_err() == closed, "a local job");
        }
        Deed::DeferRemote => {
            let probe = Probe::silent();
            // Until teardown begins a loop that is closed may take jobs, which it drops.
            let _given = handle.defer(move |_| probe.hold());
        }
        Deed::DeferFromThread => {
            let probe = Probe::silent();
            let sent = thread::spawn(move || handle.defer(move |_| probe.hold()).is_ok());
            let _given = sent.join();
        }
        Deed::RunOnLoop => {
            let ran = handle.run_on_loop(|event_loop| event_loop.is_closed());
            let expected = if closed { ran.is_err() } else { matches!(ran, Ok(false)) };
            world.expect(expected, "run_on_loop on the loop's thread");
        }
        _ => {
            let probes = (Probe::silent(), Probe::silent());
            let _given = pool().run(
                &handle,
                move || probes.0.hold(),
                move |_, _| {
                    probes.1.hold();
                },
            );
        }
    }
}
