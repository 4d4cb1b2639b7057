//! The ext of loops: the shell, and the state of the program.

use std::any::TypeId;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::rc::Rc;

use super::{Slot, ext_size};
use crate::error::UsError;
use crate::ffi::RawLoop;
use crate::shell::Shell;

/// What a loop has in its ext, whatever its state.
#[repr(C)]
struct LoopHeader {
    /// A strong reference, given back by [`drop_loop_state`].
    shell: *const Shell,
    state_type: TypeId,
    flags: Cell<u8>,
    drop_state: unsafe fn(NonNull<Self>, &Shell),
}

/// The ext of a `Loop<T>`. The header is at its beginning.
#[repr(C)]
struct LoopBlock<T> {
    header: LoopHeader,
    state: MaybeUninit<T>,
}

/// Makes the engine's loop, fills its ext and connects both with a shell.
pub(crate) fn create_loop<T: 'static>(
    backend: std::ffi::c_int,
    test_clock: bool,
    make_shell: impl FnOnce(NonNull<usockets_sys::us_loop_t>, RawLoop<'_>) -> Rc<Shell>,
    state: T,
) -> Result<Rc<Shell>, UsError> {
    let raw = RawLoop::create(backend, test_clock, ext_size::<LoopBlock<T>>())
        .map_err(|source| UsError::io("create_loop", source))?;
    // SAFETY: it was just made, by this thread.
    let engine = unsafe { RawLoop::new(raw) };
    let shell = make_shell(raw, engine);
    let block = engine.ext().cast::<LoopBlock<T>>();
    let header = LoopHeader {
        shell: Rc::into_raw(Rc::clone(&shell)),
        state_type: TypeId::of::<T>(),
        flags: Cell::new(0),
        drop_state: drop_state::<T>,
    };
    // SAFETY: the area has the size and alignment of the block (see `ext_size`).
    unsafe { block.cast::<LoopHeader>().write(header) };
    // SAFETY: I4: the block was made for a `T`.
    let filled = unsafe { slot::<T>(block.cast()) }.fill(state);
    debug_assert!(filled.is_ok(), "a new loop has a state: bug in usockets");
    Ok(shell)
}

/// The header of a loop, which every loop of this crate has.
fn header<'a>(engine: RawLoop<'a>) -> &'a LoopHeader {
    // SAFETY: `create_loop` wrote it before anybody else saw the loop, and nobody writes it again;
    // what changes is in cells.
    unsafe { engine.ext().cast().as_ref() }
}

/// The place of the state.
///
/// # Safety
///
/// The header is that of a block with a `T`, which lives for `'a`.
unsafe fn slot<'a, T>(header: NonNull<LoopHeader>) -> Slot<'a, T> {
    let block = header.cast::<LoopBlock<T>>().as_ptr();
    // SAFETY: I4: the caller vouches for the block.
    let flags = unsafe { &(*block).header.flags };
    // SAFETY: as above; this only computes an address.
    let place = unsafe { &raw mut (*block).state };
    // SAFETY: I4: the flags belong to this place, which only this module hands out.
    unsafe { Slot::new(flags, place.cast()) }
}

/// The shell of a loop.
#[inline]
pub(crate) fn shell_of(engine: RawLoop<'_>) -> &Shell {
    // SAFETY: I9: the loop has a strong reference to its shell for as long as it lives.
    unsafe { &*header(engine).shell }
}

/// The state of a loop.
pub(crate) fn loop_slot<'a, T: 'static>(engine: RawLoop<'a>) -> Result<Slot<'a, T>, UsError> {
    if header(engine).state_type != TypeId::of::<T>() {
        return Err(UsError::WrongType);
    }
    // SAFETY: I4: the types were just compared.
    Ok(unsafe { slot(engine.ext().cast()) })
}

/// Drops the state of a loop and hands out the loop's reference to its shell.
pub(crate) fn drop_loop_state(engine: RawLoop<'_>) -> Rc<Shell> {
    let (shell, drop_state) = (shell_of(engine), header(engine).drop_state);
    // SAFETY: the function was stored by `create_loop` for this very block.
    unsafe { drop_state(engine.ext().cast(), shell) };
    // SAFETY: I9: this is the reference that `create_loop` made; teardown, which happens once, is
    // the only caller.
    unsafe { Rc::from_raw(shell) }
}

/// # Safety
///
/// The header is that of a block with a `T`.
unsafe fn drop_state<T: 'static>(header: NonNull<LoopHeader>, shell: &Shell) {
    // SAFETY: I4: the caller vouches for the type.
    unsafe { slot::<T>(header) }.dispose(shell);
}
