//! Jobs on threads, and their results on the loop.

mod limits;
mod results;
mod sockets;
#[path = "../util/mod.rs"]
mod util;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;

use usockets::{LoopHandle, LoopRef, UsError, WorkerPool};

use util::{Drops, guard, new_loop};

/// Counts calls, on any thread.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn pool(threads: usize) -> WorkerPool {
    WorkerPool::builder().threads(threads).unbounded_queue().build().expect("threads to be had")
}

/// A job that occupies its thread until the barrier is reached from elsewhere, and the moment it has
/// begun.
fn occupy(pool: &WorkerPool, handle: &LoopHandle<()>) -> Arc<Barrier> {
    let barrier = Arc::new(Barrier::new(2));
    let (begun, has_begun) = mpsc::channel();
    let waiting = Arc::clone(&barrier);
    let job = move || {
        begun.send(()).expect("the test waits");
        waiting.wait();
    };
    pool.run(handle, job, |_: &LoopRef, _| ()).expect("room for one job");
    has_begun.recv().expect("the job begins");
    barrier
}
