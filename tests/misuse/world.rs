//! The loop and what belongs to it, and what has been seen of it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use usockets::{
    KeepAlive, ListenSocket, Loop, LoopHandle, LoopRef, Poll, PollRef, SignalWatch, Socket,
    SocketContext, Timer, TimerRef, UsError, WorkerPool,
};

use crate::SSL;
use crate::actions::{self, Action, Actor};
use crate::kept::Kept;
use crate::places::{Kind, Place};
use crate::tls;
use crate::util::{Drops, Nobody, Peer, Token, panic_message, scaled, unix_pair};
use crate::values::{ContextState, LoopState, Moved, Session, Source};

pub(crate) type Main = SocketContext<SSL, ContextState, Session>;
pub(crate) type Target = SocketContext<SSL, ContextState, Moved>;

thread_local! {
    static CURRENT: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The world that is being played in, also for destructors.
pub(crate) fn current() -> Option<Rc<World>> {
    CURRENT.with_borrow(Clone::clone)
}

pub(crate) fn set_current(world: Option<Rc<World>>) {
    CURRENT.replace(world);
}

/// Something that must be dropped once by the end.
pub(crate) fn token() -> Token {
    current().map_or_else(|| Drops::new().token(), |world| world.drops.token())
}

/// What the program panics with.
struct Boom;

/// One thing of which the program has at most one, and which an action can take away at any time.
pub(crate) struct Shelf<V>(RefCell<Option<V>>);

impl<V> Default for Shelf<V> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<V> Shelf<V> {
    pub(crate) fn put(&self, value: V) {
        let old = self.0.replace(Some(value));
        // The cell is free again, whatever the destructor does.
        drop(old);
    }

    pub(crate) fn take(&self) -> Option<V> {
        self.0.take()
    }
}

impl<V: Clone> Shelf<V> {
    pub(crate) fn get(&self) -> Option<V> {
        self.0.borrow().clone()
    }
}

/// What is at hand in a place.
#[derive(Default)]
pub(crate) struct Here<'a> {
    pub(crate) place: Option<Place>,
    pub(crate) socket: Option<&'a dyn Actor>,
    pub(crate) session: Option<&'a mut Session>,
    pub(crate) state: Option<&'a mut ContextState>,
    pub(crate) timer: Option<&'a TimerRef<Session>>,
    pub(crate) poll: Option<&'a PollRef<Source, Session>>,
}

/// A loop with all that belongs to it, and what has been seen of it.
pub(crate) struct World {
    /// What is to be done where, each once.
    plan: RefCell<Vec<(Place, Action)>>,
    /// There is only one action, so that more is known of what must follow.
    single: bool,
    armed: Cell<bool>,
    /// Drives by `run` instead of `turn`.
    by_run: bool,
    /// In which step of the script for the first time.
    visited: RefCell<HashMap<Place, usize>>,
    pub(crate) step: Cell<usize>,

    pub(crate) event_loop: Shelf<Rc<Loop<LoopState>>>,
    pub(crate) loop_ref: LoopRef,
    pub(crate) handle: LoopHandle<LoopState>,
    pub(crate) main: Shelf<Main>,
    pub(crate) target: Shelf<Target>,
    pub(crate) listener: Shelf<Rc<ListenSocket>>,
    pub(crate) timer: Shelf<Rc<Timer<Session>>>,
    pub(crate) poll: Shelf<Rc<Poll<Source, Session>>>,
    pub(crate) signal: Shelf<Rc<SignalWatch>>,
    pub(crate) keep_alive: Shelf<Rc<KeepAlive>>,
    /// Sockets: an open one, one to be moved, and one that is gone.
    pub(crate) other: Shelf<Socket<SSL, Session>>,
    pub(crate) spare: Shelf<Socket<SSL, Session>>,
    pub(crate) gone: Shelf<Socket<SSL, Session>>,
    /// Handles that are kept until the loop is gone.
    pub(crate) kept: RefCell<Vec<Box<dyn Kept>>>,
    /// The peers of the sockets.
    pub(crate) peers: RefCell<Vec<Peer>>,
    pub(crate) tcp_peers: RefCell<Vec<Peer>>,
    pub(crate) extra: tls::Extra,
    /// A handle was forgotten.
    pub(crate) has_forgotten: Cell<bool>,
    /// Where nobody listens.
    pub(crate) refused: SocketAddr,

    drops: Drops,
    pub(crate) ledger: Ledger,
    depth: Cell<usize>,
    driving: Cell<usize>,
    connecting: Cell<usize>,
    /// A callback has panicked, and the panic has not come out yet.
    panicking: Cell<bool>,
    thrown: Cell<usize>,
    caught: Cell<usize>,
    /// The panic came while the loop ended: callbacks are missing.
    pub(crate) incomplete: Cell<bool>,
    faults: RefCell<Vec<String>>,
}

impl World {
    pub(crate) fn new(plan: Vec<(Place, Action)>, by_run: bool) -> Rc<Self> {
        FORGOTTEN_DESCRIPTORS.store(0, Ordering::SeqCst);
        let drops = Drops::new();
        let state = LoopState::new(drops.token());
        let event_loop = Loop::builder().test_clock().build(state).expect("a loop");
        Rc::new(Self {
            single: plan.len() == 1,
            plan: RefCell::new(plan),
            armed: Cell::new(false),
            by_run,
            visited: RefCell::default(),
            step: Cell::new(0),
            loop_ref: event_loop.clone(),
            handle: event_loop.typed_handle(),
            event_loop: Shelf(RefCell::new(Some(Rc::new(event_loop)))),
            main: Shelf::default(),
            target: Shelf::default(),
            listener: Shelf::default(),
            timer: Shelf::default(),
            poll: Shelf::default(),
            signal: Shelf::default(),
            keep_alive: Shelf::default(),
            other: Shelf::default(),
            spare: Shelf::default(),
            gone: Shelf::default(),
            kept: RefCell::default(),
            peers: RefCell::default(),
            tcp_peers: RefCell::default(),
            extra: tls::Extra::default(),
            has_forgotten: Cell::new(false),
            refused: nobody().address(),
            drops,
            ledger: Ledger::default(),
            depth: Cell::new(0),
            driving: Cell::new(0),
            connecting: Cell::new(0),
            panicking: Cell::new(false),
            thrown: Cell::new(0),
            caught: Cell::new(0),
            incomplete: Cell::new(false),
            faults: RefCell::default(),
        })
    }

    // -- Places -------------------------------------------------------------------------------

    pub(crate) fn arm(&self) {
        self.armed.set(true);
    }

    /// What is to be done in this place now.
    fn take_action(&self, place: Place) -> Option<Action> {
        // A second panic would end the process.
        if !self.armed.get() || thread::panicking() {
            return None;
        }
        let mut plan = self.plan.borrow_mut();
        let index = plan.iter().position(|(planned, _)| *planned == place)?;
        Some(plan.remove(index).1)
    }

    pub(crate) fn was_visited(&self, place: Place) -> bool {
        self.first_visit(place).is_some()
    }

    /// The step of the script that comes to a place.
    pub(crate) fn first_visit(&self, place: Place) -> Option<usize> {
        self.visited.borrow().get(&place).copied()
    }

    pub(crate) fn is_connecting(&self) -> bool {
        self.connecting.get() > 0
    }

    pub(crate) fn fault(&self, what: impl Into<String>) {
        self.faults.borrow_mut().push(what.into());
    }

    pub(crate) fn expect(&self, holds: bool, what: &str) {
        if !holds {
            self.fault(what);
        }
    }

    /// Checks that code of the program may run in this place now.
    fn check_entry(&self, place: Place) {
        if place.kind() != Kind::Callback {
            return;
        }
        if self.depth.get() > 0 {
            self.fault(format!("{place:?} is called inside other code"));
        }
        if self.driving.get() == 0 && !self.loop_ref.is_closed() {
            self.fault(format!("{place:?} is called while the loop does not run"));
        }
        if self.panicking.get() {
            self.fault(format!("{place:?} is called while a panic waits"));
        }
    }

    // -- Sockets ------------------------------------------------------------------------------

    /// Makes a socket by `make`, if the context is still there, and enters it in the ledger.
    pub(crate) fn connect<const OVER: bool, S: 'static>(
        &self,
        make: impl FnOnce() -> Option<Result<Socket<OVER, S>, UsError>>,
    ) -> Option<Socket<OVER, S>> {
        self.connecting.set(self.connecting.get() + 1);
        let _end = OnDrop(|| self.connecting.set(self.connecting.get() - 1));
        match make()? {
            Ok(socket) => {
                self.ledger.begun(&key_of(&socket));
                Some(socket)
            }
            Err(_) => None,
        }
    }

    /// A socket of the main context whose peer is the last of `peers`.
    pub(crate) fn new_socket(&self) -> Option<Socket<SSL, Session>> {
        let (ours, theirs) = unix_pair();
        self.peers.borrow_mut().push(Peer::client_of(SSL, theirs));
        self.connect(|| Some(self.main.get()?.accept_fd(ours)))
    }

    // -- Running ------------------------------------------------------------------------------

    /// Runs a part of the script; what panics in it is counted.
    pub(crate) fn guarded<R>(&self, code: impl FnOnce() -> R) -> Option<R> {
        match panic::catch_unwind(AssertUnwindSafe(code)) {
            Ok(value) => Some(value),
            Err(payload) => {
                self.panicking.set(false);
                if payload.is::<Boom>() {
                    self.caught.set(self.caught.get() + 1);
                } else {
                    self.fault(format!("a panic of ours: {}", panic_message(&*payload)));
                }
                None
            }
        }
    }

    /// Lets callbacks be called meanwhile.
    pub(crate) fn driving<R>(&self, code: impl FnOnce() -> R) -> R {
        self.driving.set(self.driving.get() + 1);
        let _end = OnDrop(|| {
            self.driving.set(self.driving.get() - 1);
            // If one waited, it has come out.
            self.panicking.set(false);
        });
        code()
    }

    /// Some iterations.
    pub(crate) fn drive(&self, iterations: usize) {
        // Time for a handshake.
        for _ in 0..if SSL { 4 * iterations } else { iterations } {
            for peer in self.peers.borrow_mut().iter_mut() {
                peer.go_on();
            }
            for peer in self.tcp_peers.borrow_mut().iter_mut() {
                peer.go_on();
            }
            self.turn();
        }
    }

    /// One, in which peers do nothing.
    pub(crate) fn turn(&self) {
        self.guarded(|| {
            // The last reference, if an action has dropped the loop meanwhile.
            let Some(event_loop) = self.event_loop.get() else { return };
            let result = self.driving(|| {
                if self.by_run {
                    event_loop.defer(LoopRef::stop)?;
                    event_loop.run()
                } else {
                    event_loop.turn(Some(Duration::ZERO)).map(drop)
                }
            });
            if let Err(error) = result {
                self.fault(format!("the loop does not run: {error}"));
            }
        });
    }

    /// An iteration that waits a while for other threads.
    pub(crate) fn drive_patiently(&self) {
        self.guarded(|| {
            let Some(event_loop) = self.event_loop.get() else { return };
            let turned = self.driving(|| event_loop.turn(Some(Duration::from_millis(20))));
            self.expect(turned.is_ok(), "the loop does not turn");
        });
    }

    /// Panics as the program.
    pub(crate) fn panic(&self, place: Option<Place>) -> ! {
        self.thrown.set(self.thrown.get() + 1);
        if place.is_some_and(|place| place.kind() == Kind::Callback) {
            self.panicking.set(true);
        }
        // Callbacks may be missing at the end.
        if self.loop_ref.is_closed() || !self.single {
            self.incomplete.set(true);
        }
        // Not `panic!`, which would print.
        panic::resume_unwind(Box::new(Boom))
    }

    // -- The end ------------------------------------------------------------------------------

    /// What must hold when everything is gone; returns all that did not.
    pub(crate) fn judge(&self) -> Vec<String> {
        if self.single && !self.plan.borrow().is_empty() {
            self.fault("the place was not reached");
        }
        // The first of several panics wins.
        let (thrown, caught) = (self.thrown.get(), self.caught.get());
        if caught > thrown || (caught == 0) != (thrown == 0) {
            self.fault(format!("{thrown} panics, {caught} came out"));
        }
        if self.depth.get() != 0 {
            self.fault("code of the program has not ended");
        }
        if !self.incomplete.get() {
            self.ledger.check_end();
        }
        // The pool may still have a job, which it drops.
        let ends = Instant::now() + scaled(Duration::from_secs(2));
        while self.drops.live() != 0 && Instant::now() < ends {
            thread::yield_now();
        }
        if self.drops.live() != 0 {
            let made = self.drops.made();
            self.fault(format!("{} of {made} values are not dropped", self.drops.live()));
        }
        let mut faults = self.faults.take();
        faults.append(&mut self.ledger.faults.take());
        faults
    }
}

/// How the ledger calls a socket.
pub(crate) fn key_of<const OVER: bool, S: 'static>(socket: &Socket<OVER, S>) -> String {
    format!("{:?}", socket.id())
}

/// Runs a closure at the end of a scope, also when that panics.
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Marks the time in which a piece of the program's code runs.
#[must_use = "the code runs while this lives"]
pub(crate) struct Entered(Option<Rc<World>>);

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(world) = &self.0 {
            world.depth.set(world.depth.get() - 1);
        }
    }
}

/// The program is in a place: acts, if this is the one.
pub(crate) fn visit(place: Place, here: &mut Here<'_>) -> Entered {
    let Some(world) = current() else { return Entered(None) };
    here.place = Some(place);
    world.check_entry(place);
    if world.armed.get() {
        let step = world.step.get();
        world.visited.borrow_mut().entry(place).or_insert(step);
    }
    let entered = if place.kind() == Kind::Trait {
        Entered(None)
    } else {
        world.depth.set(world.depth.get() + 1);
        Entered(Some(Rc::clone(&world)))
    };
    if let Some(action) = world.take_action(place) {
        actions::perform(&world, action, here);
    }
    entered
}

/// What became of each connection.
#[derive(Default)]
pub(crate) struct Ledger {
    pending: RefCell<HashSet<String>>,
    open: RefCell<HashSet<String>>,
    ended: RefCell<HashSet<String>>,
    /// Their `on_end` was called.
    read: RefCell<HashSet<String>>,
    /// Left an old context, and arrived in the new one.
    moved: Cell<usize>,
    arrived: Cell<usize>,
    faults: RefCell<Vec<String>>,
}

impl Ledger {
    fn fault(&self, key: &str, what: &str) {
        self.faults.borrow_mut().push(format!("{key}: {what}"));
    }

    /// A call made a socket, which has yet to open.
    fn begun(&self, key: &str) {
        self.pending.borrow_mut().insert(key.to_owned());
    }

    pub(crate) fn opened(&self, key: &str) {
        self.pending.borrow_mut().remove(key);
        if self.ended.borrow().contains(key) || !self.open.borrow_mut().insert(key.to_owned()) {
            self.fault(key, "opened twice");
        }
    }

    pub(crate) fn failed(&self, key: &str) {
        if !self.pending.borrow_mut().remove(key) {
            self.fault(key, "on_connect_error for what was not pending");
        }
        self.ended.borrow_mut().insert(key.to_owned());
    }

    /// Something other than an end happened.
    pub(crate) fn event(&self, key: &str) {
        if !self.open.borrow().contains(key) {
            if self.ended.borrow().contains(key) {
                self.fault(key, "an event after the end");
            }
            self.arrived_late(key);
        }
    }

    pub(crate) fn read_to_the_end(&self, key: &str) {
        self.read.borrow_mut().insert(key.to_owned());
    }

    pub(crate) fn is_read_to_the_end(&self, key: &str) -> bool {
        self.read.borrow().contains(key)
    }

    pub(crate) fn closed(&self, key: &str) {
        if self.ended.borrow().contains(key) {
            self.fault(key, "closed twice");
        }
        if !self.open.borrow().contains(key) {
            self.arrived_late(key);
        }
        self.open.borrow_mut().remove(key);
        self.ended.borrow_mut().insert(key.to_owned());
    }

    pub(crate) fn left(&self, key: &str) {
        self.open.borrow_mut().remove(key);
        self.ended.borrow_mut().insert(key.to_owned());
        self.moved.set(self.moved.get() + 1);
    }

    pub(crate) fn arrived(&self, key: &str) {
        self.arrived.set(self.arrived.get() + 1);
        self.open.borrow_mut().insert(key.to_owned());
        if self.arrived.get() > self.moved.get() {
            self.fault(key, "came from nowhere");
        }
    }

    /// Its `on_adopt` was not called, since a panic waited.
    fn arrived_late(&self, key: &str) {
        if self.arrived.get() < self.moved.get() {
            self.arrived(key);
        } else {
            self.fault(key, "an event before `on_open`");
        }
    }

    fn check_end(&self) {
        for key in self.pending.borrow().iter() {
            self.fault(key, "neither opened nor failed");
        }
        for key in self.open.borrow().iter() {
            self.fault(key, "not closed");
        }
        if self.arrived.get() != self.moved.get() {
            self.fault("a moved socket", "did not arrive");
        }
    }
}

// -- What is forgotten ------------------------------------------------------------------------

static FORGOTTEN_DESCRIPTORS: AtomicUsize = AtomicUsize::new(0);

/// How many descriptors the program itself has leaked in this world.
pub(crate) fn forgotten_descriptors() -> usize {
    FORGOTTEN_DESCRIPTORS.load(Ordering::SeqCst)
}

/// Never drops a value, as `mem::forget`; but a leak checker can still see it.
pub(crate) fn forget<V: Any>(value: V, descriptors: usize) {
    static FORGOTTEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    FORGOTTEN_DESCRIPTORS.fetch_add(descriptors, Ordering::SeqCst);
    let place = Box::into_raw(Box::new(value)).expose_provenance();
    FORGOTTEN.lock().unwrap_or_else(PoisonError::into_inner).push(place);
}

// -- What all worlds share --------------------------------------------------------------------

/// Makes it, so that it is not counted as left behind by the first world that uses it.
pub(crate) fn make_shared() {
    pool();
    static_stream();
    nobody();
    tls::make_shared();
}

pub(crate) fn pool() -> &'static WorkerPool {
    static POOL: OnceLock<WorkerPool> = OnceLock::new();
    POOL.get_or_init(|| WorkerPool::builder().threads(1).build().expect("a pool"))
}

/// A stream that is always writable, for polls that are forgotten.
pub(crate) fn static_stream() -> &'static UnixStream {
    static STREAM: OnceLock<(UnixStream, UnixStream)> = OnceLock::new();
    &STREAM.get_or_init(unix_pair).0
}

/// Refuses the connections of all worlds.
fn nobody() -> &'static Nobody {
    static NOBODY: OnceLock<Nobody> = OnceLock::new();
    NOBODY.get_or_init(Nobody::new)
}
