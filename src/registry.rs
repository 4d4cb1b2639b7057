#![forbid(unsafe_code)]
//! The loops of this thread, by identity: how a [`LoopHandle`](crate::LoopHandle) finds its loop.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use crate::ids::LoopId;
use crate::shell::Shell;

thread_local! {
    static LOOPS: RefCell<HashMap<LoopId, Weak<Shell>>> = RefCell::default();
}

/// Makes a loop findable on this thread.
pub(crate) fn add(shell: &Rc<Shell>) {
    // While a thread ends, nothing is to be found any more.
    let _ended =
        LOOPS.try_with(|loops| loops.borrow_mut().insert(shell.id(), Rc::downgrade(shell)));
}

/// The loop was dropped.
pub(crate) fn remove(id: LoopId) {
    let _ended = LOOPS.try_with(|loops| loops.borrow_mut().remove(&id));
}

/// The loop of that identity, if it is of this thread and was not dropped.
pub(crate) fn find(id: LoopId) -> Option<Rc<Shell>> {
    LOOPS.try_with(|loops| loops.borrow().get(&id).and_then(Weak::upgrade)).ok().flatten()
}
