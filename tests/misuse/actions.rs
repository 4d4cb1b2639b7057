use std::any::Any;
use std::mem;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use usockets::{
    Interest, ListenSocket, Loop, LoopHandle, LoopRef, Poll, Socket, SocketContext, Timer, UsError,
};

use crate::places::{Kind, Place};
use crate::script;
use crate::util::unix_pair;
use crate::values::{ContextState, LoopState, Probe, Session, Source};
use crate::world::{Here, World, forget, pool, static_stream};

macro_rules! list {
    ($(#[$doc:meta])* $name:ident { $($variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($variant,)*
        }

        impl $name {
            const ALL: &[Self] = &[$(Self::$variant,)*];
        }
    };
}

list! {
    /// What is done to a socket.
    Verb {
        Close,
        CloseTwice,
        Reset,
        Shutdown,
        ShutdownRead,
        Pause,
        Resume,
        Write,
        SetTimeouts,
        Adopt,
        AdoptAndClose,
        CloseAndAdopt,
        Ask,
    }
}

list! {
    /// Which socket it is done to.
    Which {
        This,
        Other,
        Gone,
        Moving,
    }
}

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
        DropListener,
        DetachListener,
        Listen,
        Connect,
        ConnectRefused,
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

/// One thing that the program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    On(Which, Verb),
    Do(Deed),
}

impl Action {
    pub(crate) fn all() -> Vec<Self> {
        let verbs = |which| Verb::ALL.iter().map(move |verb| Self::On(which, *verb));
        let on_sockets = Which::ALL.iter().copied().flat_map(verbs);
        on_sockets.chain(Deed::ALL.iter().copied().map(Self::Do)).collect()
    }
}

/// Does it.
pub(crate) fn perform(world: &Rc<World>, action: Action, here: &mut Here<'_>) {
    match action {
        Action::On(which, verb) => on_socket(world, which, verb, here),
        Action::Do(deed) => deed_of(world, deed, here),
    }
}

// -- Sockets ----------------------------------------------------------------------------------

/// A socket, whatever its state is.
pub(crate) trait Actor {
    fn key(&self) -> String;
    fn act(&self, world: &World, verb: Verb);
    fn state(&self) -> Result<(), UsError>;
    fn keep(&self) -> Box<dyn Kept>;
}

impl<S: 'static> Actor for Socket<false, S> {
    fn key(&self) -> String {
        format!("{:?}", self.id())
    }

    fn act(&self, world: &World, verb: Verb) {
        act(world, self, verb);
    }

    fn state(&self) -> Result<(), UsError> {
        self.with_state(|_| ())
    }

    fn keep(&self) -> Box<dyn Kept> {
        Box::new(self.clone())
    }
}

fn on_socket(world: &World, which: Which, verb: Verb, here: &mut Here<'_>) {
    match (which, here.socket) {
        (Which::This, Some(socket)) => socket.act(world, verb),
        (Which::This | Which::Other, _) => {
            if let Some(socket) = world.other.get() {
                socket.act(world, verb);
            }
        }
        (Which::Gone, _) => {
            if let Some(socket) = world.gone.get() {
                world.expect(socket.is_closed(), "a socket that is gone is not closed");
                socket.act(world, verb);
            }
        }
        (Which::Moving, _) => {
            let Some(socket) = world.spare.get() else { return };
            if adopt(world, &socket).is_ok() {
                world.expect(matches!(socket.state(), Err(UsError::Stale)), "moving but not stale");
            }
            socket.act(world, verb);
        }
    }
}

fn act<S: 'static>(world: &World, socket: &Socket<false, S>, verb: Verb) {
    match verb {
        Verb::Close => {
            socket.close();
            expect_closed(world, socket);
        }
        Verb::CloseTwice => {
            socket.close();
            socket.reset();
            socket.close();
            expect_closed(world, socket);
        }
        Verb::Reset => {
            socket.reset();
            expect_closed(world, socket);
        }
        Verb::Shutdown => {
            socket.shutdown();
            let _asked = socket.is_shut_down();
        }
        Verb::ShutdownRead => socket.shutdown_read(),
        Verb::Pause => socket.pause(),
        Verb::Resume => {
            socket.pause();
            socket.resume();
            world.expect(!socket.is_paused(), "resumed but paused");
        }
        Verb::Write => {
            let open = !socket.is_closed();
            let taken = socket.write(b"some bytes");
            world.expect(open || taken == 0, "a closed socket takes bytes");
            let slices = [b"some".as_slice(), b"more"].map(std::io::IoSlice::new);
            let _taken = socket.write_vectored(&slices);
        }
        Verb::SetTimeouts => {
            let _set = socket.set_timeout(Duration::from_nanos(1));
            let _set = socket.set_long_timeout(Duration::from_secs(1));
            let _set = socket.set_timeout(Duration::from_secs(10_000_000));
        }
        Verb::Adopt => {
            if adopt(world, socket).is_ok() {
                expect_closed(world, socket);
                let again = adopt(world, socket);
                world.expect(matches!(again, Err(UsError::Stale)), "adopted twice");
            }
        }
        Verb::AdoptAndClose => {
            let _begun = adopt(world, socket);
            socket.close();
            expect_closed(world, socket);
        }
        Verb::CloseAndAdopt => {
            socket.close();
            world.expect(adopt(world, socket).is_err(), "a closed socket is adopted");
        }
        Verb::Ask => ask(socket),
    }
}

/// Begins the move of any socket to the target context.
fn adopt<S: 'static>(world: &World, socket: &Socket<false, S>) -> Result<(), UsError> {
    let target = world.target.get().ok_or(UsError::Stale)?;
    script::adopt(socket, &target, 0, |_, _| ())
}

fn expect_closed<S>(world: &World, socket: &Socket<false, S>) {
    world.expect(socket.is_closed(), "closed but not for its handle");
    world.expect(socket.write(b"late") == 0, "closed but takes bytes");
    world.expect(socket.set_timeout(Duration::ZERO).is_err(), "closed but has timeouts");
}

/// Every question that one can ask a socket.
fn ask<S: 'static>(socket: &Socket<false, S>) {
    let _asked = (
        socket.is_closed(),
        socket.is_established(),
        socket.is_paused(),
        socket.is_shut_down(),
        socket.is_write_pending(),
        socket.close_reason(),
    );
    let _asked = (socket.local_addr(), socket.peer_addr(), socket.peer_unix_addr());
    let _asked = (socket.as_raw_fd(), socket.try_clone_fd(), socket.with_fd(|_| ()));
    let _asked = (socket.set_nodelay(true), socket.set_keepalive(Some(Duration::from_millis(1))));
    let _asked = (socket.state(), socket.context::<ContextState>(), socket.context::<u8>());
    let _asked = (socket.id().resolve(&socket.event_loop()), format!("{socket:?}"));
    assert!(socket.clone() == *socket, "a clone is equal");
}

// -- Handles that outlive the loop ------------------------------------------------------------

/// A handle of whatever kind.
pub(crate) trait Kept: Any {
    /// Whether every call answers as it should when the loop is gone.
    fn knows_the_end(&self) -> bool;
}

impl<S: 'static> Kept for Socket<false, S> {
    fn knows_the_end(&self) -> bool {
        ask(self);
        self.close();
        self.reset();
        self.shutdown();
        self.shutdown_read();
        self.pause();
        self.resume();
        self.is_closed()
            && self.write(b"late") == 0
            && matches!(self.state(), Err(UsError::LoopClosed))
            && matches!(self.set_timeout(Duration::ZERO), Err(UsError::LoopClosed))
            && matches!(self.with_fd(|_| ()), Err(UsError::LoopClosed))
            && matches!(self.context::<ContextState>(), Err(UsError::LoopClosed))
    }
}

impl<S: 'static> Kept for SocketContext<false, ContextState, S> {
    fn knows_the_end(&self) -> bool {
        self.close();
        let again = self.clone();
        again == *self
            && matches!(self.with_state(|_| ()), Err(UsError::LoopClosed))
            && matches!(self.listen("127.0.0.1:0"), Err(UsError::LoopClosed))
            && matches!(self.connect("127.0.0.1:1"), Err(UsError::LoopClosed))
            && matches!(self.accept_fd(unix_pair().0), Err(UsError::LoopClosed))
            && matches!(self.id().resolve(&self.event_loop()), Err(UsError::LoopClosed))
    }
}

impl Kept for LoopRef {
    fn knows_the_end(&self) -> bool {
        self.stop();
        self.clear_hooks();
        self.is_closed()
            && !self.is_alive()
            && !self.is_running()
            && matches!(self.with_state(|_: &mut LoopState| ()), Err(UsError::LoopClosed))
            && matches!(self.on_pre(|_| ()), Err(UsError::LoopClosed))
            && matches!(self.keep_alive(), Err(UsError::LoopClosed))
            && matches!(self.on_signal(libc::SIGUSR1, |_, _| ()), Err(UsError::LoopClosed))
            && matches!(Timer::new(self, ()), Err(UsError::LoopClosed))
            && self.defer(|_| ()).is_err_and(|e| matches!(e.reason(), UsError::LoopClosed))
    }
}

impl Kept for LoopHandle<LoopState> {
    fn knows_the_end(&self) -> bool {
        self.wake();
        self.stop();
        matches!(self.loop_ref(), Err(UsError::LoopClosed))
            && matches!(self.run_on_loop(|_| ()), Err(UsError::LoopClosed))
            && self.defer(|_| ()).is_err_and(|e| matches!(e.reason(), UsError::LoopClosed))
            && pool().run(self, || (), |_, _| ()).is_err()
    }
}

impl Kept for Timer<Session> {
    fn knows_the_end(&self) -> bool {
        let set = self.set(Duration::ZERO, None, |_, _| ());
        self.cancel();
        !self.is_armed()
            && matches!(set, Err(UsError::LoopClosed))
            && matches!(self.rearm(Duration::ZERO, None), Err(UsError::LoopClosed))
            && matches!(self.with_state(|_| ()), Err(UsError::LoopClosed))
    }
}

impl Kept for Poll<Source, Session> {
    fn knows_the_end(&self) -> bool {
        let _source = &self.source().stream;
        self.interest() == Interest::NONE
            && matches!(self.set_interest(Interest::READABLE), Err(UsError::LoopClosed))
            && matches!(self.with_state(|_| ()), Err(UsError::LoopClosed))
    }
}

impl Kept for ListenSocket {
    fn knows_the_end(&self) -> bool {
        let _text = format!("{self:?}");
        self.is_closed() && self.local_addr().is_err() && self.with_fd(|_| ()).is_err()
    }
}

// -- Deeds ------------------------------------------------------------------------------------

fn deed_of(world: &Rc<World>, deed: Deed, here: &mut Here<'_>) {
    match deed {
        Deed::Nothing => {}
        Deed::DropContexts
        | Deed::DropContextsAndListener
        | Deed::CloneContext
        | Deed::CloseContext
        | Deed::CloseAllContexts
        | Deed::BuildContext => with_contexts(world, deed),
        Deed::DropListener | Deed::DetachListener | Deed::Listen => with_listeners(world, deed),
        Deed::Connect
        | Deed::ConnectRefused
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
            let context = SocketContext::<false, ContextState, Session>::builder()
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

fn with_listeners(world: &World, deed: Deed) {
    match deed {
        Deed::Listen => {
            let Some(main) = world.main.get() else { return };
            let listener = main.listen("127.0.0.1:0");
            world.expect(listener.is_err() == world.loop_ref.is_closed(), "one can listen");
        }
        Deed::DetachListener => {
            if let Some(listener) = world.listener.take().and_then(Rc::into_inner) {
                listener.detach();
            }
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
        Deed::ConnectWithState => {
            world.connect(|| Some(main.connect_with_state(address, Session::silent())))
        }
        Deed::ConnectNonsense => world.connect(|| Some(main.connect("nonsense"))),
        _ => world.new_socket(),
    };
    if let Some(socket) = socket {
        world.expect(!socket.is_closed(), "a new socket is closed");
        world.expect(!socket.is_established(), "a new socket is open already");
        world.expect(socket.write(b"early") == 0, "a socket that is not open takes bytes");
    }
}

fn with_timer(world: &World, deed: Deed, here: &mut Here<'_>) {
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
            let Some(timer) = here.timer.or(kept.as_ref().map(|timer| &***timer)) else { return };
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

fn with_poll(world: &World, deed: Deed, here: &mut Here<'_>) {
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
            let Some(poll) = here.poll.or(kept.as_ref().map(|poll| &***poll)) else { return };
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

/// Every state, directly and inside one another.
fn states(world: &World, here: &mut Here<'_>) {
    if let (Some(socket), true) = (here.socket, here.session.is_some()) {
        let lent = socket.state();
        world.expect(matches!(lent, Err(UsError::StateInUse)), "a lent socket state is lent");
    }
    let of_target = matches!(here.place, Some(Place::Adopt | Place::AdoptedData));
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
fn swap_states(world: &World, here: &mut Here<'_>) {
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
fn replace_states(here: &mut Here<'_>) {
    if let Some(session) = here.session.as_deref_mut() {
        drop(mem::replace(session, Session::silent()));
        *session = Session::silent();
    }
    if let Some(state) = here.state.as_deref_mut() {
        *state = ContextState::silent();
    }
}

/// Clones of all handles, to be used when the loop is gone.
fn keep_handles(world: &World, here: &mut Here<'_>) {
    let mut kept: Vec<Box<dyn Kept>> = Vec::new();
    kept.extend(here.socket.map(Actor::keep));
    for socket in [world.other.get(), world.spare.get(), world.gone.get()].into_iter().flatten() {
        kept.push(socket.keep());
    }
    if let Some(main) = world.main.get() {
        kept.extend(main.listen("127.0.0.1:0").ok().map(|l| Box::new(l) as Box<dyn Kept>));
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
fn forget_handles(world: &World) {
    let event_loop = &world.loop_ref;
    if let Some(main) = world.main.get() {
        if let Ok(listener) = main.listen("127.0.0.1:0") {
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
fn resolve(world: &World) {
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
fn drop_everything(world: &World) {
    drop(world.listener.take());
    drop(world.main.take());
    drop(world.target.take());
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
fn close_everything(world: &World, here: &mut Here<'_>) {
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
