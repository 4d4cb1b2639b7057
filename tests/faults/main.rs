//! Every call of the system, allocation and look-up of the engine fails once, in each of several ways.
//!
//! Needs an engine built with `USOCKETS_FAULT_INJECTION=1`. Whatever fails: nothing crashes or hangs,
//! every byte arrives or somebody is told, states are dropped once, and descriptors come back.

#![cfg(usockets_fault_injection)]

#[path = "../util/mod.rs"]
mod util;

mod connect;
mod echo;
mod handover;
mod listen;
mod objects;
mod output;
mod peer;
mod pipe;
#[cfg(usockets_tls)]
mod tls;

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::rc::Rc;
use std::time::Duration;

use usockets::{Loop, UsError};
use usockets_sys::{usx_fault_calls, usx_fault_fired, usx_fault_plan, usx_fault_set};
use util::{Descriptors, Drops};

/// How long the tests may take that try everything.
pub(crate) const SWEEP_MAX: Duration = Duration::from_secs(120);

/// Turns after which a scenario hangs. The clock moves by [`TICK`] in each.
const TURNS_MAX: u32 = 2000;
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// Turns without news after which a scenario is over.
const QUIET_TURNS: u32 = 8;

/// A way to fail.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Error(c_int),
    /// A transfer moves no more than so many bytes.
    Short(usize),
}

pub(crate) const FAULTS: [Fault; 9] = [
    Fault::Error(libc::EINTR),
    Fault::Error(libc::EAGAIN),
    Fault::Error(libc::EMFILE),
    Fault::Error(libc::ENOBUFS),
    Fault::Error(libc::ECONNABORTED),
    Fault::Error(libc::ENOMEM),
    Fault::Error(libc::ECONNRESET),
    Fault::Short(1),
    Fault::Short(1000),
];

/// Lets the `at`-th call from now on fail; 0: none.
pub(crate) fn set_fault(at: u64, fault: Fault) {
    let (error, short_count) = match fault {
        Fault::Error(error) => (error, 0),
        Fault::Short(count) => (0, count),
    };
    let plan = usx_fault_plan { at, error, short_count };
    // SAFETY: the plan is copied.
    unsafe { usx_fault_set(&raw const plan) };
}

/// Whether the fault has struck.
pub(crate) fn has_struck() -> bool {
    // SAFETY: asks for a number of this thread.
    unsafe { usx_fault_fired() != 0 }
}

/// Calls made since the fault was set.
pub(crate) fn calls() -> u64 {
    // SAFETY: asks for a number of this thread.
    unsafe { usx_fault_calls() }
}

/// What a scenario leaves behind for the judgement.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) drops: Drops,
    /// Failures that somebody was told of.
    pub(crate) reports: Rc<RefCell<Vec<String>>>,
}

impl Case {
    pub(crate) fn report(&self, what: impl ToString) {
        self.reports.borrow_mut().push(what.to_string());
    }

    /// For a callback.
    pub(crate) fn reporter(&self) -> impl Fn(String) + 'static {
        let reports = Rc::clone(&self.reports);
        move |what| reports.borrow_mut().push(what)
    }

    pub(crate) fn is_reported(&self) -> bool {
        !self.reports.borrow().is_empty()
    }

    /// Turns the loop until nothing has happened for a while after `done`.
    pub(crate) fn turn_until(&self, event_loop: &Loop, mut done: impl FnMut() -> bool) {
        let mut quiet = 0;
        for _ in 0..TURNS_MAX {
            if let Err(error) = event_loop.turn(Some(Duration::from_micros(200))) {
                self.report(error);
            }
            event_loop.advance_clock(TICK).expect("a test clock");
            quiet = if done() { quiet + 1 } else { 0 };
            if quiet > QUIET_TURNS {
                return;
            }
        }
        panic!("the scenario hangs; reported: {:?}", self.reports.borrow());
    }
}

/// Runs the scenario with every call failing in every way.
pub(crate) fn sweep(name: &str, scenario: impl Fn(&Case) -> Result<(), UsError>) {
    let before = Descriptors::now();
    // Says whether the fault has struck, and how many calls were made.
    let run = |at: u64, fault: Fault| {
        let case = Case::default();
        set_fault(at, fault);
        if let Err(error) = scenario(&case) {
            case.report(error);
        }
        let struck = has_struck();
        let made = calls();
        set_fault(0, fault);
        // Threads that look up names may take a moment to give theirs back.
        before.assert_unchanged();
        assert_eq!(case.drops.live(), 0, "states are left");
        assert!(struck || !case.is_reported(), "without a fault: {:?}", case.reports);
        (struck, made)
    };
    // Everything works without a fault.
    let (_, calls) = run(0, FAULTS[0]);
    let mut all_cases = 0;
    for fault in FAULTS {
        // Says where it was if it does not return.
        struct Position<'a>(&'a str, Fault, Cell<u64>);
        impl Drop for Position<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("{}: call {} fails with {:?}", self.0, self.2.get(), self.1);
                }
            }
        }
        let position = Position(name, fault, Cell::new(1));
        let mut cases = 0;
        loop {
            let (struck, made) = run(position.2.get(), fault);
            cases += u64::from(struck);
            // Not every call is a transfer that could be short.
            if made < position.2.get() {
                break;
            }
            position.2.set(position.2.get() + 1);
        }
        assert!(cases > 0 || matches!(fault, Fault::Short(_)), "{fault:?} was never tried");
        all_cases += cases;
    }
    println!("{name}: {calls} calls, {all_cases} cases");
}

/// A loop whose time passes by turns.
pub(crate) fn test_loop() -> Result<Loop, UsError> {
    Loop::builder().test_clock().build(())
}
