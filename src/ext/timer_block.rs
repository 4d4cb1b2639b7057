//! The ext of timers: closure and state; and how these survive what the closure does.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::NonNull;
use std::rc::Rc;

use usockets_sys::us_timer_t;

use super::{Slot, ext_size};
use crate::error::UsError;
use crate::ffi::RawTimer;
use crate::shell::{Frame, Shell};
use crate::timer::TimerRef;

/// The closure runs.
const RUNNING: u8 = 4;
/// The `Timer` was dropped while the closure ran.
const ORPHANED: u8 = 8;
/// The timer is among the loop's reasons to run.
const COUNTED: u8 = 16;
/// The closure was replaced while it ran.
const REPLACED: u8 = 32;
/// Does not keep the loop running when armed.
const UNREF: u8 = 64;

/// What a timer runs.
pub(crate) type OnExpiry<T> = Box<dyn FnMut(&TimerRef<T>, &mut T)>;

/// What a timer of this crate has in its ext.
#[repr(C)]
struct Content<T: 'static> {
    /// Outlives the timer: the loop has a strong reference.
    shell: *const Shell,
    /// Of the state, and those above.
    flags: Cell<u8>,
    /// Out of here while it runs.
    closure: Cell<Option<OnExpiry<T>>>,
    state: MaybeUninit<T>,
}

/// A timer of the engine, and what is in its ext.
///
/// The engine's timer is alive while the loop is open, until [`close`](Self::close).
pub(crate) struct TimerBlock<T: 'static> {
    raw: NonNull<us_timer_t>,
    shell: Rc<Shell>,
    _state: PhantomData<T>,
}

impl<T: 'static> TimerBlock<T> {
    /// Makes a disarmed timer.
    pub(crate) fn create(shell: &Rc<Shell>, keeps_alive: bool, state: T) -> Result<Self, UsError> {
        let engine = shell.open_engine()?;
        let timer = engine
            .create_timer(ext_size::<Content<T>>())
            .ok_or_else(|| UsError::out_of_memory("create_timer"))?;
        let content = Content {
            shell: Rc::as_ptr(shell),
            flags: Cell::new(if keeps_alive { 0 } else { UNREF }),
            closure: Cell::new(None),
            state: MaybeUninit::uninit(),
        };
        // SAFETY: the area has the size and alignment of the content (see `ext_size`).
        unsafe { timer.ext().cast::<Content<T>>().write(content) };
        timer.on_release(released::<T>);
        // SAFETY: it was just made.
        let filled = unsafe { View::<T>::of(timer) }.state().fill(state);
        debug_assert!(filled.is_ok(), "a new timer has a state: bug in usockets");
        // SAFETY: the engine's objects are not null.
        let raw = unsafe { NonNull::new_unchecked(timer.as_ptr()) };
        Ok(Self { raw, shell: Rc::clone(shell), _state: PhantomData })
    }

    pub(crate) fn shell(&self) -> &Rc<Shell> {
        &self.shell
    }

    /// The living timer.
    fn view(&self) -> Result<View<'_, T>, UsError> {
        let _open = self.shell.open_engine()?;
        // SAFETY: the loop is open, and the owner has not been dropped, or its closure still runs.
        let timer = unsafe { RawTimer::new(self.raw) };
        // SAFETY: I4: `raw` is of the timer that `create` made.
        Ok(unsafe { View::of(timer) })
    }

    /// Stores the closure and arms the timer.
    pub(crate) fn set(&self, after: u64, every: u64, closure: OnExpiry<T>) -> Result<(), UsError> {
        let view = self.view()?;
        if view.has(ORPHANED) {
            return Err(UsError::Stale);
        }
        view.add(REPLACED);
        let old = view.content().closure.replace(Some(closure));
        view.timer.set(fired::<T>, after, every);
        view.count();
        let _frame = Frame::enter(&self.shell);
        drop(old);
        Ok(())
    }

    /// Arms the timer with the closure it has.
    pub(crate) fn rearm(&self, after: u64, every: u64) -> Result<(), UsError> {
        let view = self.view()?;
        if view.has(ORPHANED) {
            return Err(UsError::Stale);
        }
        let closure = view.content().closure.take();
        let is_set = closure.is_some() || view.has(RUNNING);
        view.content().closure.set(closure);
        if !is_set {
            return Err(UsError::invalid("timer", "it has no closure yet"));
        }
        view.timer.set(fired::<T>, after, every);
        view.count();
        Ok(())
    }

    pub(crate) fn disarm(&self) {
        if let Ok(view) = self.view() {
            view.timer.disarm();
            view.count();
        }
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.view().is_ok_and(|view| view.timer.is_armed())
    }

    /// The place of the state.
    pub(crate) fn state(&self) -> Result<Slot<'_, T>, UsError> {
        self.view().map(View::state)
    }

    /// Ends the timer. Its owner calls this, once, and nothing afterwards.
    pub(crate) fn close(&self) {
        // A loop that is closing frees its timers itself.
        let Ok(view) = self.view() else { return };
        view.timer.disarm();
        view.count();
        if view.has(RUNNING) {
            view.add(ORPHANED);
            return;
        }
        let (closure, state) = (view.content().closure.take(), view.state().take());
        // SAFETY: the owner is gone and its closure does not run, so nobody uses the timer any
        // more.
        unsafe { view.timer.close() };
        let _frame = Frame::enter(&self.shell);
        drop((closure, state));
    }
}

/// A living timer with its content.
struct View<'a, T: 'static> {
    timer: RawTimer<'a>,
    _state: PhantomData<T>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T: 'static> View<'a, T> {
    /// # Safety
    ///
    /// A timer that `TimerBlock<T>` has made and written the content of.
    unsafe fn of(timer: RawTimer<'a>) -> Self {
        Self { timer, _state: PhantomData }
    }

    /// The content but for the state, of which no reference may cover a part.
    fn content(self) -> Fields<'a, T> {
        let content = self.timer.ext().cast::<Content<T>>().as_ptr();
        // SAFETY: `create` wrote the content; this touches the flags alone.
        let flags = unsafe { &(*content).flags };
        // SAFETY: as above, for the closure.
        let closure = unsafe { &(*content).closure };
        Fields { flags, closure }
    }

    fn shell(self) -> &'a Shell {
        let content = self.timer.ext().cast::<Content<T>>().as_ptr();
        // SAFETY: `create` wrote the content.
        let shell = unsafe { (*content).shell };
        // SAFETY: the shell outlives the timer (see the field).
        unsafe { &*shell }
    }

    fn state(self) -> Slot<'a, T> {
        let content = self.timer.ext().cast::<Content<T>>().as_ptr();
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

    /// Makes the loop stay while the timer is armed.
    fn count(self) {
        let armed = self.timer.is_armed();
        if self.has(UNREF) || armed == self.has(COUNTED) {
            return;
        }
        let Ok(engine) = self.shell().engine() else { return };
        if armed {
            self.add(COUNTED);
            engine.keep_alive(1);
        } else {
            self.remove(COUNTED);
            engine.keep_alive(-1);
        }
    }

    /// Drops closure and state as code of the program that C called us for.
    fn dispose(self) {
        let closure = self.content().closure.take();
        self.shell().destructor(|| drop(closure));
        self.state().dispose(self.shell());
    }
}

/// The fields of a content that are cells.
struct Fields<'a, T: 'static> {
    flags: &'a Cell<u8>,
    closure: &'a Cell<Option<OnExpiry<T>>>,
}

/// The timer has expired.
unsafe extern "C" fn fired<T: 'static>(raw: *mut us_timer_t) {
    // SAFETY: the engine calls with a living timer.
    let raw = unsafe { NonNull::new_unchecked(raw) };
    // SAFETY: as above; it stays alive because `close` spares it while it runs.
    let timer = unsafe { RawTimer::new(raw) };
    // SAFETY: I4: this function was set for a timer with a `T`.
    let view = unsafe { View::<T>::of(timer) };
    let Some(mut closure) = view.content().closure.take() else { return };
    let shell = view.shell();
    view.add(RUNNING);
    view.remove(REPLACED);
    let lent = ManuallyDrop::new(TimerRef::from_block(TimerBlock {
        raw,
        // SAFETY: I9: the loop has a counted reference; this one is not dropped.
        shell: unsafe { shell.uncounted() },
        _state: PhantomData,
    }));
    shell.callback(|| {
        if let Some(mut state) = view.state().try_lend() {
            closure(&lent, &mut state);
        }
    });
    view.remove(RUNNING);
    if view.has(REPLACED | ORPHANED) {
        shell.destructor(|| drop(closure));
    } else {
        view.content().closure.set(Some(closure));
    }
    if view.has(ORPHANED) {
        view.dispose();
        // SAFETY: the owner is gone, and we are the last to know of the timer.
        unsafe { view.timer.close() };
    } else {
        view.count();
    }
}

/// Teardown is about to free the timer.
unsafe extern "C" fn released<T: 'static>(raw: *mut us_timer_t) {
    // SAFETY: the engine calls with a living timer.
    let raw = unsafe { NonNull::new_unchecked(raw) };
    // SAFETY: as above.
    let timer = unsafe { RawTimer::new(raw) };
    // SAFETY: I4: this function was set for a timer with a `T`.
    unsafe { View::<T>::of(timer) }.dispose();
}
