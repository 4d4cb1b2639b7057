//! The ext of polls: handler, source and state; and how these survive what the handler does.

use std::cell::Cell;
use std::ffi::c_int;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::rc::Rc;

use usockets_sys::us_poll_t;

use super::{Slot, ext_size};
use crate::error::UsError;
use crate::ffi::{RawLoop, RawPoll};
use crate::poll::{PollRef, Ready};
use crate::shell::{Frame, Shell};

/// The handler runs.
const RUNNING: u8 = 4;
/// The `Poll` was dropped while the handler ran.
const ORPHANED: u8 = 8;

/// What a poll runs.
pub(crate) type OnReady<F, T> = Box<dyn FnMut(&PollRef<F, T>, &mut T, Ready)>;

/// What a poll of this crate has in its ext.
#[repr(C)]
struct Content<F: 'static, T: 'static> {
    /// Outlives the poll: the loop has a strong reference.
    shell: *const Shell,
    /// Of the state, and those above.
    flags: Cell<u8>,
    /// Out of here while it runs.
    handler: Cell<Option<OnReady<F, T>>>,
    /// Keeps the descriptor open for as long as the engine watches it.
    source: Cell<Option<Rc<F>>>,
    state: MaybeUninit<T>,
}

/// A poll of the engine, and what is in its ext.
///
/// The engine's poll is alive while the loop is open, until [`close`](Self::close).
pub(crate) struct PollBlock<F: 'static, T: 'static> {
    raw: NonNull<us_poll_t>,
    shell: Rc<Shell>,
    /// Dropped in a frame: the last reference to what may be code of the program.
    source: ManuallyDrop<Rc<F>>,
    /// `close` was called.
    closed: Cell<bool>,
    _state: PhantomData<T>,
}

impl<F: AsFd + 'static, T: 'static> PollBlock<F, T> {
    /// Makes a poll and registers it. Gives the source back on failure.
    pub(crate) fn create(
        shell: &Rc<Shell>,
        keeps_alive: bool,
        source: F,
        events: c_int,
        state: T,
        handler: OnReady<F, T>,
    ) -> Result<Self, (UsError, F)> {
        // Code of the program, which must not run while we hold a pointer of the engine.
        let fd = source.as_fd().as_raw_fd();
        let poll = match Self::start(shell, keeps_alive, fd, events) {
            Ok(poll) => poll,
            Err(error) => {
                // Before there is a result, which a panic of theirs would lose.
                let frame = Frame::enter(shell);
                drop((handler, state));
                drop(frame);
                return Err((error, source));
            }
        };
        let source = Rc::new(source);
        let content = Content {
            shell: Rc::as_ptr(shell),
            flags: Cell::new(0),
            handler: Cell::new(Some(handler)),
            source: Cell::new(Some(Rc::clone(&source))),
            state: MaybeUninit::uninit(),
        };
        // SAFETY: the area has the size and alignment of the content (see `ext_size`).
        unsafe { poll.ext().cast::<Content<F, T>>().write(content) };
        // SAFETY: it was just made.
        let filled = unsafe { View::<F, T>::of(poll) }.state().fill(state);
        debug_assert!(filled.is_ok(), "a new poll has a state: bug in usockets");
        // SAFETY: the engine's objects are not null.
        let raw = unsafe { NonNull::new_unchecked(poll.as_ptr()) };
        Ok(Self {
            raw,
            shell: Rc::clone(shell),
            source: ManuallyDrop::new(source),
            closed: Cell::new(false),
            _state: PhantomData,
        })
    }

    /// A poll of the engine that watches the descriptor, and whose ext is still empty.
    fn start(
        shell: &Shell,
        keeps_alive: bool,
        fd: c_int,
        events: c_int,
    ) -> Result<RawPoll<'_>, UsError> {
        let engine = shell.open_engine()?;
        let poll = engine
            .create_poll(keeps_alive, ext_size::<Content<F, T>>())
            .ok_or_else(|| UsError::out_of_memory("create_poll"))?;
        poll.init(fd, ready::<F, T>, released::<F, T>);
        match poll.start(engine, events) {
            Ok(()) => Ok(poll),
            Err(error) => {
                // SAFETY: nobody else has seen the poll.
                unsafe { poll.free(engine) };
                Err(UsError::io("poll", error))
            }
        }
    }
}

impl<F: 'static, T: 'static> PollBlock<F, T> {
    pub(crate) fn shell(&self) -> &Rc<Shell> {
        &self.shell
    }

    pub(crate) fn source(&self) -> &F {
        &self.source
    }

    /// The living poll and its loop.
    fn view(&self) -> Result<(View<'_, F, T>, RawLoop<'_>), UsError> {
        let engine = self.shell.open_engine()?;
        // SAFETY: the loop is open, and the owner has not been dropped, or its handler still runs.
        let poll = unsafe { RawPoll::new(self.raw) };
        // SAFETY: I4: `raw` is of the poll that `create` made.
        Ok((unsafe { View::of(poll) }, engine))
    }

    pub(crate) fn set_events(&self, events: c_int) -> Result<(), UsError> {
        let (view, engine) = self.view()?;
        if view.has(ORPHANED) {
            return Err(UsError::Stale);
        }
        view.poll.change(engine, events).map_err(|source| UsError::io("poll", source))
    }

    pub(crate) fn events(&self) -> Result<c_int, UsError> {
        self.view().map(|(view, _)| view.poll.events())
    }

    /// The place of the state.
    pub(crate) fn state(&self) -> Result<Slot<'_, T>, UsError> {
        self.view().map(|(view, _)| view.state())
    }

    /// Whether [`Self::close`] makes the engine let go of the source at once, or it has already.
    pub(crate) fn can_end(&self) -> bool {
        match self.view() {
            Ok((view, _)) => !view.has(RUNNING),
            Err(_) => Rc::strong_count(&self.source) == 1,
        }
    }

    /// Ends the poll. Its owner calls this, and nothing afterwards but [`Self::share_source`].
    pub(crate) fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        // A loop that is closing frees its polls itself.
        let Ok((view, engine)) = self.view() else { return };
        view.poll.stop(engine);
        if view.has(RUNNING) {
            view.add(ORPHANED);
            return;
        }
        let content = view.content();
        let values = (content.handler.take(), content.source.take(), view.state().take());
        // SAFETY: the owner is gone and its handler does not run, so nobody uses the poll any more.
        unsafe { view.poll.free(engine) };
        let _frame = Frame::enter(&self.shell);
        drop(values);
    }

    /// One more reference to the source, of which a closed poll has the only one.
    pub(crate) fn share_source(&self) -> Rc<F> {
        Rc::clone(&self.source)
    }
}

impl<F: 'static, T: 'static> Drop for PollBlock<F, T> {
    fn drop(&mut self) {
        let _frame = Frame::enter(&self.shell);
        // SAFETY: nobody uses the field after this.
        unsafe { ManuallyDrop::drop(&mut self.source) };
    }
}

/// A living poll with its content.
struct View<'a, F: 'static, T: 'static> {
    poll: RawPoll<'a>,
    _types: PhantomData<(F, T)>,
}

impl<F, T> Clone for View<'_, F, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, T> Copy for View<'_, F, T> {}

impl<'a, F: 'static, T: 'static> View<'a, F, T> {
    /// # Safety
    ///
    /// A poll that `PollBlock<F, T>` has made and written the content of.
    unsafe fn of(poll: RawPoll<'a>) -> Self {
        Self { poll, _types: PhantomData }
    }

    /// The content but for the state, of which no reference may cover a part.
    fn content(self) -> Fields<'a, F, T> {
        let content = self.poll.ext().cast::<Content<F, T>>().as_ptr();
        // SAFETY: `create` wrote the content; this touches the flags alone.
        let flags = unsafe { &(*content).flags };
        // SAFETY: as above, for the handler.
        let handler = unsafe { &(*content).handler };
        // SAFETY: as above, for the source.
        let source = unsafe { &(*content).source };
        Fields { flags, handler, source }
    }

    fn shell(self) -> &'a Shell {
        let content = self.poll.ext().cast::<Content<F, T>>().as_ptr();
        // SAFETY: `create` wrote the content.
        let shell = unsafe { (*content).shell };
        // SAFETY: the shell outlives the poll (see the field).
        unsafe { &*shell }
    }

    fn state(self) -> Slot<'a, T> {
        let content = self.poll.ext().cast::<Content<F, T>>().as_ptr();
        // SAFETY: as above; this only computes an address.
        let place = unsafe { &raw mut (*content).state };
        // SAFETY: I4: the flags belong to this place, which only this function hands out.
        unsafe { Slot::new(self.content().flags, place.cast()) }
    }

    fn has(self, flag: u8) -> bool {
        self.content().flags.get() & flag != 0
    }

    fn add(self, flag: u8) {
        let flags = self.content().flags;
        flags.set(flags.get() | flag);
    }

    fn remove(self, flag: u8) {
        let flags = self.content().flags;
        flags.set(flags.get() & !flag);
    }

    /// Drops everything as code of the program that C called us for.
    fn dispose(self) {
        let (handler, source) = (self.content().handler.take(), self.content().source.take());
        self.shell().destructor(|| drop(handler));
        self.state().dispose(self.shell());
        self.shell().destructor(|| drop(source));
    }
}

/// The fields of a content that are cells.
struct Fields<'a, F: 'static, T: 'static> {
    flags: &'a Cell<u8>,
    handler: &'a Cell<Option<OnReady<F, T>>>,
    source: &'a Cell<Option<Rc<F>>>,
}

/// The descriptor is ready.
unsafe extern "C" fn ready<F: 'static, T: 'static>(raw: *mut us_poll_t, events: c_int) {
    // SAFETY: the engine calls with a living poll.
    let raw = unsafe { NonNull::new_unchecked(raw) };
    // SAFETY: as above; it stays alive because `close` spares it while it runs.
    let poll = unsafe { RawPoll::new(raw) };
    // SAFETY: I4: this function was set for a poll with these types.
    let view = unsafe { View::<F, T>::of(poll) };
    let content = view.content();
    let (Some(mut handler), Some(source)) = (content.handler.take(), content.source.take()) else {
        return;
    };
    content.source.set(Some(Rc::clone(&source)));
    // The second reference, which the handler sees; given back below.
    let seen = Rc::into_raw(source);
    let shell = view.shell();
    view.add(RUNNING);
    let lent = ManuallyDrop::new(PollRef::from_block(PollBlock {
        raw,
        // SAFETY: I9: the loop has a counted reference; this one is not dropped.
        shell: unsafe { shell.uncounted() },
        // SAFETY: the reference in `seen`, which this copy, never dropped, stands for.
        source: ManuallyDrop::new(unsafe { Rc::from_raw(seen) }),
        closed: Cell::new(false),
        _state: PhantomData,
    }));
    shell.callback(|| {
        if let Some(mut state) = view.state().try_lend() {
            handler(&lent, &mut state, Ready::from_raw(events));
        }
    });
    view.remove(RUNNING);
    // SAFETY: it came from `into_raw` above, and is taken back only here.
    let source = unsafe { Rc::from_raw(seen) };
    shell.destructor(|| drop(source));
    if !view.has(ORPHANED) {
        content.handler.set(Some(handler));
        return;
    }
    shell.destructor(|| drop(handler));
    view.dispose();
    if let Ok(engine) = shell.engine() {
        // SAFETY: the owner is gone, and we are the last to know of the poll.
        unsafe { view.poll.free(engine) };
    }
}

/// Teardown is about to free the poll.
unsafe extern "C" fn released<F: 'static, T: 'static>(raw: *mut us_poll_t) {
    // SAFETY: the engine calls with a living poll.
    let raw = unsafe { NonNull::new_unchecked(raw) };
    // SAFETY: as above.
    let poll = unsafe { RawPoll::new(raw) };
    // SAFETY: I4: this function was set for a poll with these types.
    let view = unsafe { View::<F, T>::of(poll) };
    if let Ok(engine) = view.shell().engine() {
        // Before the descriptor is closed, which may happen with the source.
        view.poll.stop(engine);
    }
    view.dispose();
}
