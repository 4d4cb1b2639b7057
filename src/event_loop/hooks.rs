//! The closures that a loop calls in every iteration, or when it is woken.

use std::cell::{Cell, RefCell};

use super::LoopRef;
use crate::shell::Shell;

/// A closure of a hook.
type Closure = Box<dyn FnMut(&LoopRef)>;

/// The hooks of a loop.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) pre: Hook,
    pub(crate) post: Hook,
    pub(crate) wakeup: Hook,
    /// The engine has been told to call for `pre` and `post`.
    pub(crate) around_iterations: Cell<bool>,
}

impl Hooks {
    /// Drops all closures as code of the program that C called us for.
    pub(crate) fn clear(&self, shell: &Shell) {
        for hook in [&self.pre, &self.post, &self.wakeup] {
            let closure = hook.replace(None);
            shell.destructor(|| drop(closure));
        }
    }
}

/// A closure that can be replaced at any time, also by itself.
#[derive(Default)]
pub(crate) struct Hook {
    /// Empty while the closure runs.
    closure: RefCell<Option<Closure>>,
    /// Counts replacements, so that a closure which was replaced while it ran is not put back.
    version: Cell<u64>,
}

impl Hook {
    /// Stores a closure and hands out the one before, for the caller to drop.
    pub(crate) fn replace(&self, closure: Option<Closure>) -> Option<Closure> {
        self.version.set(self.version.get() + 1);
        self.closure.replace(closure)
    }

    /// Calls the closure, if there is one.
    pub(crate) fn call(&self, shell: &Shell) {
        let Some(mut closure) = self.closure.take() else { return };
        let version = self.version.get();
        shell.callback(|| shell.with_loop_ref(|event_loop| closure(event_loop)));
        if self.version.get() == version {
            self.closure.replace(Some(closure));
        } else {
            shell.destructor(|| drop(closure));
        }
    }
}
