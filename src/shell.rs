//! What is left of a loop when the loop is gone: the part that every handle holds.

use std::cell::Cell;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{self, AssertUnwindSafe};
use std::ptr::{self, NonNull};
use std::rc::Rc;

use usockets_sys::us_loop_t;

use crate::defer::Inbox;
use crate::error::UsError;
use crate::event_loop::{Hooks, LocalJobs, LoopRef};
use crate::ext;
use crate::ffi::{Gather, RawLoop, RawSocket, Waker};
use crate::ids::LoopId;
use crate::job::Job;
use crate::panics::{PanicSlot, Payload};
use crate::remote::Remote;
use crate::sync::Arc;

/// Where a loop is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The owner was dropped: nothing new is made, what there is comes to its end.
    Closing,
    /// The engine's loop is freed.
    Closed,
}

/// The state that all handles of a loop share. Nothing but `&Shell` ever exists of it.
pub(crate) struct Shell {
    /// The address of this very value as its `Rc` has it, which leads to the counts beside it.
    this: Cell<*const Self>,
    /// Some until the phase is `Closed`.
    engine: Cell<Option<NonNull<us_loop_t>>>,
    /// Some as long as `engine`.
    gather: Cell<Option<Gather>>,
    phase: Cell<Phase>,
    /// The owner was dropped inside a frame, the outermost of which tears down.
    teardown_wanted: Cell<bool>,
    /// A call of the engine is on the stack that calls back: run, turn or teardown.
    calling: Cell<bool>,
    pub(crate) panics: PanicSlot,
    pub(crate) hooks: Hooks,
    pub(crate) local_jobs: LocalJobs,
    /// The loop's end of `remote.queue`.
    pub(crate) inbox: Inbox<Job<LoopRef>, Waker>,
    pub(crate) remote: Arc<Remote>,
}

impl Shell {
    /// The shell of a new loop.
    ///
    /// # Safety
    ///
    /// The loop belongs to this thread and, from now on, to this shell.
    pub(crate) unsafe fn new(engine: NonNull<us_loop_t>, remote: Arc<Remote>) -> Rc<Self> {
        // SAFETY: the caller vouches for the loop.
        let living = unsafe { RawLoop::new(engine) };
        // SAFETY: I9: it is cleared together with the pointer to the loop.
        let gather = unsafe { Gather::of(living) };
        let shell = Rc::new(Self {
            this: Cell::new(ptr::null()),
            engine: Cell::new(Some(engine)),
            gather: Cell::new(Some(gather)),
            phase: Cell::new(Phase::Open),
            teardown_wanted: Cell::new(false),
            calling: Cell::new(false),
            panics: PanicSlot::default(),
            hooks: Hooks::default(),
            local_jobs: LocalJobs::default(),
            inbox: Inbox::new(Arc::clone(&remote.queue)),
            remote,
        });
        shell.this.set(Rc::as_ptr(&shell));
        shell
    }

    pub(crate) fn id(&self) -> LoopId {
        self.remote.id
    }

    /// The engine's loop, also while it is closing.
    #[inline]
    pub(crate) fn engine(&self) -> Result<RawLoop<'_>, UsError> {
        let Some(engine) = self.any_engine() else { return Err(UsError::LoopClosed) };
        Ok(engine)
    }

    #[inline]
    fn any_engine(&self) -> Option<RawLoop<'_>> {
        let engine = self.engine.get()?;
        // SAFETY: I6, I9: a shell never leaves its thread, and the loop is freed only after the
        // pointer was taken out of here, at a point where nobody can use an earlier one (see
        // `tear_down`).
        Some(unsafe { RawLoop::new(engine) })
    }

    /// The engine's loop for making something new, and for objects that teardown frees.
    #[inline]
    pub(crate) fn open_engine(&self) -> Result<RawLoop<'_>, UsError> {
        if self.phase.get() == Phase::Open { self.engine() } else { Err(UsError::LoopClosed) }
    }

    /// Whether the owner has been dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.phase.get() != Phase::Open
    }

    /// A socket that the program has a right to: neither gone nor on its way to another context.
    pub(crate) fn live_socket(&self, id: u64) -> Result<RawSocket<'_>, UsError> {
        match self.any_live_socket(id) {
            Some(socket) => Ok(socket),
            None if self.any_engine().is_none() => Err(UsError::LoopClosed),
            None => Err(UsError::Stale),
        }
    }

    /// The same without the reason.
    #[inline]
    pub(crate) fn any_live_socket(&self, id: u64) -> Option<RawSocket<'_>> {
        self.any_engine()?.find_socket(id).filter(|socket| !socket.is_moving())
    }

    /// Writes to a socket, and returns how many bytes were accepted. In the common case of a socket
    /// that has been written to before in the same turn this is a copy, and no call.
    #[inline]
    pub(crate) fn write(&self, id: u64, data: &[u8]) -> usize {
        if self.collect(id, data) {
            data.len()
        } else {
            self.any_engine().map_or(0, |engine| engine.write(id, data))
        }
    }

    /// Collects output without a call, if that can be.
    #[inline]
    pub(crate) fn collect(&self, id: u64, data: &[u8]) -> bool {
        self.gather.get().is_some_and(|gather| gather.append(id, data))
    }

    /// A reference to this shell that is not counted.
    ///
    /// # Safety
    ///
    /// The value is not dropped, and not used when nobody has a counted reference any more.
    #[inline]
    pub(crate) unsafe fn uncounted(&self) -> Rc<Self> {
        // SAFETY: every shell is in an `Rc` (see `new`), of which this is the address; the caller
        // vouches that the missing count is not missed.
        unsafe { Rc::from_raw(self.this.get()) }
    }

    /// Lends a handle to this very loop.
    pub(crate) fn with_loop_ref<R>(&self, f: impl FnOnce(&LoopRef) -> R) -> R {
        // SAFETY: I9: the loop has a counted reference while it calls anything, and the copy is not
        // dropped.
        let shell = unsafe { self.uncounted() };
        f(&ManuallyDrop::new(LoopRef::new(shell)))
    }

    // -- Code of the program ------------------------------------------------------------------

    /// Runs a callback for which C called us. `None` if it panicked or, since a panic is waiting,
    /// was not called.
    #[inline]
    pub(crate) fn callback<R>(&self, code: impl FnOnce() -> R) -> Option<R> {
        if self.panics.is_pending() { None } else { self.catch(code) }
    }

    /// Runs a destructor for which C called us: always.
    pub(crate) fn destructor(&self, code: impl FnOnce()) {
        let _done = self.catch(code);
    }

    /// No frame is opened here: C calls while the loop runs or is torn down, or inside a frame of
    /// whoever called C. Either refuses to run the loop, and holds back teardown.
    #[inline]
    fn catch<R>(&self, code: impl FnOnce() -> R) -> Option<R> {
        debug_assert!(self.is_guarded(), "C called out of the blue: bug in usockets");
        match panic::catch_unwind(AssertUnwindSafe(code)) {
            Ok(value) => Some(value),
            Err(payload) => {
                self.panicked(payload);
                None
            }
        }
    }

    /// Whether a panic waits, so that no callback may be called.
    pub(crate) fn has_panicked(&self) -> bool {
        self.panics.is_pending()
    }

    /// Keeps the panic for later, and lets C do no more than it must.
    #[cold]
    fn panicked(&self, payload: Payload) {
        self.panics.store(payload);
        if let Some(engine) = self.any_engine() {
            engine.halt();
        }
    }

    /// Whether a panic that is stored now will be resumed by somebody up the stack.
    fn is_guarded(&self) -> bool {
        self.calling.get() || self.any_engine().is_some_and(|engine| engine.frame_depth() > 0)
    }

    // -- Running ------------------------------------------------------------------------------

    /// Runs the loop until nothing is live or it is stopped.
    pub(crate) fn run(&self) -> Result<(), UsError> {
        // SAFETY: only this frame of the stack has pointers of the engine, and uses none
        // afterwards; with any other one further up the engine is in a frame or running, and
        // refuses.
        self.drive(|engine| unsafe { engine.run() })
    }

    /// One iteration; says whether the loop is still alive.
    pub(crate) fn turn(&self, timeout_ns: i64) -> Result<bool, UsError> {
        // SAFETY: as in `run`.
        self.drive(|engine| unsafe { engine.turn(timeout_ns) })
    }

    fn drive<R>(&self, call: impl FnOnce(RawLoop<'_>) -> io::Result<R>) -> Result<R, UsError> {
        let engine = self.open_engine()?;
        if self.remote.take_stop() {
            engine.stop();
        }
        let before = self.calling.replace(true);
        let result = call(engine);
        self.calling.set(before);
        if !before && engine.frame_depth() == 0 {
            self.after_frames();
        }
        result.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => UsError::LoopAlreadyRunning,
            _ => UsError::io("run", error),
        })
    }

    // -- The end ------------------------------------------------------------------------------

    /// The owner was dropped: ends the loop, now or after the outermost frame.
    pub(crate) fn close(&self) {
        self.phase.set(Phase::Closing);
        if self.is_guarded() {
            self.teardown_wanted.set(true);
        } else {
            self.tear_down();
        }
    }

    /// Ends everything, in the order of I9. Depth 0, outside calls of the engine.
    fn tear_down(&self) {
        let Ok(engine) = self.engine() else { return };
        self.teardown_wanted.set(false);
        self.calling.set(true);
        for job in self.inbox.close() {
            self.destructor(|| drop(job));
        }
        self.local_jobs.clear(self);
        self.hooks.clear(self);
        // SAFETY: I9: no frame is open, so nobody up the stack has a pointer of the engine, but for
        // those who leave their frame here and promise to be done (see `Frame`).
        unsafe { engine.teardown() };
        let owned = ext::drop_loop_state(engine);
        // What destructors have left behind.
        self.local_jobs.clear(self);
        self.hooks.clear(self);
        self.engine.set(None);
        self.gather.set(None);
        self.phase.set(Phase::Closed);
        // SAFETY: it is torn down, and `self.engine` no longer leads to it.
        unsafe { engine.free() };
        self.calling.set(false);
        // Not the last reference: the caller got here through another one.
        drop(owned);
        self.panics.resume();
    }
}

/// A stretch of time in which code of the program runs: nothing is called back meanwhile, and
/// nothing that it closes disappears.
///
/// Whoever opens a frame outside calls of the engine uses no pointer of the engine after its end:
/// the outermost frame may tear the loop down.
pub(crate) struct Frame<'a> {
    shell: &'a Shell,
    /// None if the loop is gone: then there is nothing to hold back.
    engine: Option<RawLoop<'a>>,
}

impl<'a> Frame<'a> {
    #[inline]
    pub(crate) fn enter(shell: &'a Shell) -> Self {
        let engine = shell.any_engine();
        if let Some(engine) = engine {
            engine.frame_enter();
        }
        Self { shell, engine }
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        let Some(engine) = self.engine else { return };
        let depth = engine.frame_leave();
        if depth == 0 && !self.shell.calling.get() {
            self.shell.after_frames();
        }
    }
}

impl Shell {
    /// What was held back until the outermost frame ended.
    fn after_frames(&self) {
        if self.teardown_wanted.get() {
            self.tear_down();
        } else {
            self.panics.resume();
        }
    }
}
