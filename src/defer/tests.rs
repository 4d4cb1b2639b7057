#![forbid(unsafe_code)]
//! The queue on one thread, step by step, and then with real threads.

use super::*;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Weak};
use std::thread;

use crate::job::Job;

/// A wake-up descriptor: stays set until it is waited for, and counts.
#[derive(Default)]
struct Bell {
    rings: Mutex<(bool, usize)>,
    rung: Condvar,
}

impl Bell {
    fn wait(&self) {
        let mut rings = self.rings.lock().expect("no panic while ringing");
        while !mem::take(&mut rings.0) {
            rings = self.rung.wait(rings).expect("no panic while ringing");
        }
    }

    fn count(&self) -> usize {
        self.rings.lock().expect("no panic while ringing").1
    }
}

impl Wake for Bell {
    fn wake(&self) {
        let mut rings = self.rings.lock().expect("no panic while ringing");
        *rings = (true, rings.1 + 1);
        self.rung.notify_one();
    }
}

type Pair<J> = (Arc<Queue<J, Bell>>, Inbox<J, Bell>);

fn pair<J>() -> Pair<J> {
    with_capacity(0)
}

/// 0: no limit.
fn with_capacity<J>(capacity: usize) -> Pair<J> {
    let queue = Arc::new(Queue::new(Bell::default(), NonZeroUsize::new(capacity)));
    (Arc::clone(&queue), Inbox::new(queue))
}

fn is_parked<J>(queue: &Queue<J, Bell>) -> bool {
    queue.phase.load(Ordering::Relaxed) == PARKED
}

fn all<J>(inbox: &Inbox<J, Bell>) -> Vec<J> {
    inbox.batch(usize::MAX).collect()
}

#[test]
fn jobs_come_out_in_order() {
    let (queue, inbox) = pair();
    for job in 0..5 {
        queue.push(job).expect("open");
    }
    assert_eq!(queue.len(), 5);
    assert_eq!(all(&inbox), [0, 1, 2, 3, 4]);
    assert!(inbox.is_empty());
    assert_eq!(all(&inbox), []);
}

#[test]
fn what_a_batch_leaves_goes_in_front_of_what_arrived_meanwhile() {
    let (queue, inbox) = pair();
    for job in 0..5 {
        queue.push(job).expect("open");
    }
    let mut batch = inbox.batch(2);
    assert_eq!(batch.next(), Some(0));
    queue.push(5).expect("open");
    assert_eq!(batch.next(), Some(1));
    assert_eq!(batch.next(), None, "the budget is used up");
    drop(batch);

    queue.push(6).expect("open");
    assert_eq!(queue.len(), 5);
    assert!(!inbox.park(), "there are jobs");
    assert_eq!(inbox.batch(1).collect::<Vec<_>>(), [2]);
    let mut left = Vec::new();
    while !inbox.is_empty() {
        left.extend(inbox.batch(usize::MAX));
    }
    assert_eq!(left, [3, 4, 5, 6]);
}

#[test]
fn a_batch_within_a_batch_keeps_the_order() {
    let (queue, inbox) = pair();
    for job in 0..3 {
        queue.push(job).expect("open");
    }
    let mut outer = inbox.batch(usize::MAX);
    assert_eq!(outer.next(), Some(0));
    queue.push(3).expect("open");
    queue.push(4).expect("open");
    assert_eq!(inbox.batch(1).next(), Some(3));
    drop(outer);
    assert_eq!(all(&inbox), [1, 2, 4]);
}

#[test]
fn a_panic_while_a_batch_runs_loses_nothing() {
    let (queue, inbox) = pair();
    for job in 0..4 {
        queue.push(job).expect("open");
    }
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        for job in inbox.batch(usize::MAX) {
            assert_ne!(job, 1, "the job panics");
        }
    }));
    assert!(panicked.is_err());
    assert_eq!(all(&inbox), [2, 3]);
}

#[test]
fn only_the_first_push_to_a_parked_queue_wakes() {
    let (queue, inbox) = pair();
    queue.push(1).expect("open");
    assert_eq!(queue.waker().count(), 0, "nobody sleeps");
    assert!(!inbox.park());
    assert_eq!(all(&inbox), [1]);

    assert!(inbox.park());
    assert!(inbox.park(), "still parked");
    queue.push(2).expect("open");
    queue.push(3).expect("open");
    assert_eq!(queue.waker().count(), 1);
    assert_eq!(all(&inbox), [2, 3]);
    queue.push(4).expect("open");
    assert_eq!(queue.waker().count(), 1, "taking ended the parking");
}

#[test]
fn a_turn_ends_the_parking_until_there_have_been_no_jobs_for_long() {
    let (queue, inbox) = pair();
    for _ in 0..CALM_TURNS {
        assert!(inbox.park());
        assert_eq!(all(&inbox), []);
        assert!(!is_parked(&queue));
    }
    assert!(inbox.park());
    assert_eq!(all(&inbox), []);
    assert!(is_parked(&queue));

    queue.push(1).expect("open");
    assert_eq!(queue.waker().count(), 1, "a parked loop is woken, busy or not");
    assert_eq!(all(&inbox), [1]);
    assert!(inbox.park());
    assert_eq!(all(&inbox), []);
    assert!(!is_parked(&queue));
}

#[test]
fn a_full_queue_gives_the_job_back() {
    let (queue, inbox) = with_capacity(2);
    queue.try_push("first").expect("room");
    queue.try_push("second").expect("room");
    assert!(matches!(queue.try_push("third"), Err(Rejected::Full("third"))));

    let mut batch = inbox.batch(1);
    assert_eq!(batch.next(), Some("first"));
    drop(batch);
    queue.try_push("third").expect("room again");
    let rejected = queue.try_push("fourth").expect_err("what was not run still counts");
    assert_eq!(rejected.into_job(), "fourth");
}

#[test]
fn a_closed_queue_hands_out_what_is_left_and_gives_back_what_comes() {
    let (queue, inbox) = pair();
    for job in 0..4 {
        queue.push(job).expect("open");
    }
    drop(inbox.batch(0));
    queue.push(4).expect("open");
    assert_eq!(inbox.close(), [0, 1, 2, 3, 4]);
    assert!(matches!(queue.push(5), Err(Rejected::Closed(5))));
    assert!(Expected::new(&queue).is_none());
    assert_eq!(inbox.close(), []);
}

#[test]
fn a_batch_that_outlives_the_closing_drops_its_jobs() {
    let (queue, inbox) = pair();
    let token = Arc::new(());
    queue.push(Arc::clone(&token)).expect("open");
    let batch = inbox.batch(usize::MAX);
    assert!(inbox.close().is_empty());
    drop(batch);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn jobs_are_dropped_outside_the_lock() {
    /// Uses its queue when it is dropped, which would wait for ever under the lock.
    struct Nosy(Weak<Queue<Self, Bell>>);

    impl Drop for Nosy {
        fn drop(&mut self) {
            if let Some(queue) = self.0.upgrade() {
                assert_ne!(queue.len(), usize::MAX);
            }
        }
    }

    let (queue, inbox) = with_capacity(1);
    let job = || Nosy(Arc::downgrade(&queue));
    queue.try_push(job()).expect("room");
    drop(queue.try_push(job()));
    let batch = inbox.batch(usize::MAX);
    let expected = Expected::new(&queue).expect("open");
    drop(inbox.close());
    drop(batch);
    drop(queue.push(job()));
    drop(expected.push(job()));
}

#[test]
fn the_memory_of_a_burst_is_released_and_that_of_a_trickle_is_kept() {
    let (queue, inbox) = pair();
    for job in 0..10 * RETAINED_JOBS {
        queue.push(job).expect("open");
    }
    drop(all(&inbox));
    let spare = || {
        let spare = inbox.spare.take();
        let capacity = spare.capacity();
        inbox.spare.set(spare);
        capacity
    };
    assert!(spare() >= 10 * RETAINED_JOBS, "the next burst may follow at once: {}", spare());

    for _ in 0..4 {
        queue.push(0).expect("open");
        drop(all(&inbox));
    }
    let capacities = [spare(), queue.lock().jobs.capacity()];
    assert!(capacities.iter().all(|&capacity| capacity <= RETAINED_JOBS), "{capacities:?}");
    assert!(capacities.iter().any(|&capacity| capacity > 0), "{capacities:?}");
}

#[test]
fn only_try_push_minds_the_capacity() {
    let (queue, inbox) = with_capacity(1);
    let expected = Expected::new(&queue).expect("open");
    queue.try_push(1).expect("room");
    expected.push(2).expect("open");
    queue.push(3).expect("open");
    assert_eq!(all(&inbox), [1, 2, 3]);

    let expected = Expected::new(&queue).expect("open");
    assert_eq!(inbox.close(), []);
    assert!(matches!(expected.push(3), Err(Rejected::Closed(3))));
}

#[test]
fn an_expected_job_keeps_the_loop_alive_until_it_was_there() {
    let (queue, inbox) = pair();
    let live = Cell::new(0);
    let has_work = |park| inbox.has_work(park, |delta| live.set(live.get() + delta));

    assert!(!has_work(false));
    let (first, second) = (Expected::new(&queue).unwrap(), Expected::new(&queue).unwrap());
    assert!(has_work(false), "now there is a reason to go on");
    assert_eq!(live.get(), 1);
    assert!(!has_work(false), "which from now on is counted elsewhere");
    assert!(!has_work(true), "and lets the loop sleep");

    first.push('a').expect("open");
    assert_eq!(queue.waker().count(), 1);
    assert!(has_work(true));
    assert_eq!(all(&inbox), ['a']);
    assert!(!has_work(true));
    assert_eq!(live.get(), 1);

    drop(second);
    assert_eq!(queue.waker().count(), 2, "the loop learns that it can end");
    assert!(has_work(true), "it does not sleep before it has looked whether it is alive");
    assert_eq!(live.get(), 0);
    assert_eq!(all(&inbox), []);
    assert!(!has_work(false));
    assert_eq!(live.get(), 0);
}

#[test]
fn what_was_announced_by_another_thread_during_a_sleep_counts_before_the_next() {
    let (queue, inbox) = pair();
    let live = Cell::new(0);
    let has_work = |park| inbox.has_work(park, |delta| live.set(live.get() + delta));
    assert!(!has_work(true));
    let expected = Expected::new(&queue).unwrap();
    assert_eq!(all(&inbox), [0; 0]);
    assert!(!has_work(true), "counted, and asleep");
    assert_eq!(live.get(), 1);
    expected.push(1).expect("open");
    assert_eq!(all(&inbox), [1]);
    assert!(has_work(true));
    assert_eq!(live.get(), 0);
}

#[test]
fn threads_push_and_a_sleeping_loop_runs_everything_once_and_in_order() {
    const SENDERS: usize = 3;
    const JOBS: usize = if cfg!(miri) { 50 } else { 50_000 };

    type Seen = Cell<[usize; SENDERS]>;
    let (queue, inbox) = pair::<Job<Seen>>();
    let senders = [0, 1, 2].map(|sender| {
        let queue = Arc::clone(&queue);
        thread::spawn(move || {
            for number in 0..JOBS {
                let job = Job::new(move |seen: &Seen| {
                    let mut counts = seen.get();
                    assert_eq!(counts[sender], number);
                    counts[sender] += 1;
                    seen.set(counts);
                });
                queue.push(job).expect("open");
            }
        })
    });

    let seen = Seen::new([0; SENDERS]);
    let mut sleeps = 0;
    while seen.get() != [JOBS; SENDERS] {
        if inbox.park() {
            sleeps += 1;
            queue.waker().wait();
        }
        for job in inbox.batch(JOBS_PER_TURN) {
            job.run(&seen);
        }
    }
    for sender in senders {
        sender.join().expect("the sender has pushed everything");
    }
    assert_eq!(seen.get(), [JOBS; SENDERS]);
    let wakes = queue.waker().count();
    assert!(wakes <= sleeps, "{wakes} wakes for {sleeps} sleeps");
}
