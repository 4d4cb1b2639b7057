//! State of the program inside memory of the engine ("ext").
//!
//! A *block* is what one kind of engine object has in its ext: a header of plain fields and
//! `Cell`s, and places for values of the program. No reference ever covers a whole block; headers
//! are reached by `&`, the places through [`Slot`]s, which know whether there is a value and
//! whether it is lent.

mod context_block;
mod loop_block;
mod poll_block;
mod slot;
mod timer_block;

pub(crate) use context_block::{
    Callbacks, ContextView, Factory, Wanted, is_handshake_told, release_context,
    set_handshake_told, socket_slot, socket_slot_unchecked, viewed_slot_unchecked,
};
pub(crate) use loop_block::{create_loop, drop_loop_state, loop_slot, shell_of};
pub(crate) use poll_block::PollBlock;
pub(crate) use slot::Slot;
pub(crate) use timer_block::TimerBlock;

use std::ffi::c_uint;

use crate::ffi::EXT_ALIGNMENT;

/// The size of a `V` in an ext, whose alignment it must not exceed.
pub(crate) const fn ext_size<V>() -> c_uint {
    const {
        assert!(
            align_of::<V>() <= EXT_ALIGNMENT,
            "the state needs an alignment of more than 16 bytes: put it into a `Box`"
        );
        assert!(size_of::<V>() <= 1 << 30, "the state is larger than 1 GiB: put it into a `Box`");
    }
    #[expect(clippy::cast_possible_truncation, reason = "compared above")]
    return size_of::<V>() as c_uint;
}
