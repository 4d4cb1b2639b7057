//! Timers made by hand, of what the standard library has: a heap of times beside boxed closures.
//! What was given up stays in the heap until it would have been due.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event};

use super::Clock;
use crate::Result;
use crate::cases::timers::{self, STEP, due};

pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Duration, usize)>>,
    closures: Vec<Option<Box<dyn FnMut()>>>,
    fired: Rc<Cell<u64>>,
    clock: Clock,
    /// The time, if it is moved by hand.
    now: Duration,
    begin: Instant,
    /// Every turn asks it, as a loop would.
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Timers {
    pub(super) fn new(clock: Clock) -> Result<Self> {
        Ok(Self {
            heap: BinaryHeap::new(),
            closures: Vec::new(),
            fired: Rc::default(),
            clock,
            now: Duration::ZERO,
            begin: Instant::now(),
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(1),
        })
    }

    fn now(&self) -> Duration {
        match self.clock {
            Clock::Real => self.begin.elapsed(),
            Clock::ByHand => self.now,
        }
    }
}

impl timers::Timers for Timers {
    fn arm(&mut self, count: u64) -> Result<()> {
        for index in 0..count {
            let fired = Rc::clone(&self.fired);
            self.heap.push(Reverse((self.now() + due(index), self.closures.len())));
            self.closures.push(Some(Box::new(move || fired.set(fired.get() + 1))));
        }
        Ok(())
    }

    fn give_up(&mut self) -> Result<()> {
        for closure in &mut self.closures {
            *closure = None;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        self.now += STEP;
        epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&Timespec::default()))?;
        while let Some(Reverse((time, index))) = self.heap.peek().copied() {
            if time > self.now() {
                break;
            }
            self.heap.pop();
            if let Some(mut closure) = self.closures[index].take() {
                closure();
            }
        }
        Ok(())
    }

    fn fired(&self) -> u64 {
        self.fired.get()
    }
}
