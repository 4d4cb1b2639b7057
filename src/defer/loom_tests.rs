#![forbid(unsafe_code)]
//! The queue under every interleaving that loom finds. Run by
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 cargo test --lib --release loom`.
//!
//! loom reports a thread that waits for ever as a deadlock, so a lost wake fails these tests.

use super::*;

use std::cell::Cell;

use loom::sync::Notify;
use loom::thread;

/// A wake-up descriptor: stays set until it is waited for, and counts.
struct Bell {
    rung: Notify,
    rings: AtomicUsize,
}

impl Bell {
    fn new() -> Self {
        Self { rung: Notify::new(), rings: AtomicUsize::new(0) }
    }
}

impl Wake for Bell {
    fn wake(&self) {
        self.rings.fetch_add(1, Ordering::Relaxed);
        self.rung.notify();
    }
}

type Numbers = Queue<(char, usize), Bell>;

type NumbersInbox = Inbox<(char, usize), Bell>;

fn pair() -> (Arc<Numbers>, NumbersInbox) {
    let queue = Arc::new(Queue::new(Bell::new(), None));
    (Arc::clone(&queue), Inbox::new(queue))
}

fn sender(queue: &Arc<Numbers>, name: char, count: usize) -> thread::JoinHandle<()> {
    let queue = Arc::clone(queue);
    thread::spawn(move || {
        for number in 0..count {
            queue.push((name, number)).expect("open");
        }
    })
}

/// Sleeps and takes as the engine does until `count` jobs have come. Returns them and the number of
/// sleeps.
fn receive(inbox: &NumbersInbox, count: usize, budget: usize) -> (Vec<(char, usize)>, usize) {
    let (mut jobs, mut sleeps) = (Vec::new(), 0);
    while jobs.len() < count {
        if inbox.park() {
            sleeps += 1;
            inbox.queue.waker().rung.wait();
        }
        jobs.extend(inbox.batch(budget));
    }
    (jobs, sleeps)
}

/// An event loop that has nothing but its queue: what runs until neither jobs nor expected jobs are
/// left. The questions to the queue are those of the engine.
fn run(inbox: &NumbersInbox) -> Vec<(char, usize)> {
    let live = Cell::new(0);
    let has_work = |park| inbox.has_work(park, |delta| live.set(live.get() + delta));
    let mut jobs = Vec::new();
    while live.get() > 0 || has_work(false) {
        if !has_work(true) {
            inbox.queue.waker().rung.wait();
        }
        jobs.extend(inbox.batch(usize::MAX));
    }
    jobs
}

#[test]
fn two_senders_lose_nothing_keep_their_order_and_wake_only_sleepers() {
    loom::model(|| {
        let (queue, inbox) = pair();
        let senders = [sender(&queue, 'a', 2), sender(&queue, 'b', 1)];
        let (jobs, sleeps) = receive(&inbox, 3, usize::MAX);
        for sender in senders {
            sender.join().expect("the sender has pushed everything");
        }
        let of =
            |name| jobs.iter().filter(|job| job.0 == name).map(|job| job.1).collect::<Vec<_>>();
        assert_eq!((of('a'), of('b')), (vec![0, 1], vec![0]));
        assert!(inbox.is_empty());
        assert!(queue.waker().rings.load(Ordering::Relaxed) <= sleeps);
    });
}

#[test]
fn a_calm_loop_that_stays_parked_is_woken() {
    loom::model(|| {
        let (queue, inbox) = pair();
        for _ in 0..=CALM_TURNS {
            assert!(inbox.park());
            assert_eq!(inbox.batch(usize::MAX).next(), None);
        }
        assert!(queue.phase.load(Ordering::Relaxed) == PARKED);
        let sender = sender(&queue, 'a', 2);
        let (jobs, _) = receive(&inbox, 2, usize::MAX);
        assert_eq!(jobs, [('a', 0), ('a', 1)]);
        sender.join().expect("the sender has pushed everything");
    });
}

#[test]
fn what_a_budget_left_comes_before_what_is_pushed_meanwhile() {
    loom::model(|| {
        let (queue, inbox) = pair();
        queue.push(('a', 0)).expect("open");
        queue.push(('a', 1)).expect("open");
        let sender = sender(&queue, 'b', 2);
        let (jobs, _) = receive(&inbox, 4, 1);
        assert_eq!(jobs, [('a', 0), ('a', 1), ('b', 0), ('b', 1)]);
        sender.join().expect("the sender has pushed everything");
    });
}

#[test]
fn every_job_is_run_handed_out_by_close_or_given_back() {
    loom::model(|| {
        let (queue, inbox) = pair();
        let sender = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let mut back = Vec::new();
                for number in 0..3 {
                    match queue.push(('a', number)) {
                        Ok(()) => assert!(back.is_empty(), "it opened again"),
                        Err(rejected) => back.push(rejected.into_job().1),
                    }
                }
                back
            })
        };
        let mut numbers: Vec<_> = inbox.batch(1).map(|job| job.1).collect();
        numbers.extend(inbox.close().into_iter().map(|job| job.1));
        numbers.extend(sender.join().expect("the sender has tried everything"));
        assert_eq!(numbers, [0, 1, 2]);
        assert!(inbox.close().is_empty());
    });
}

#[test]
fn a_batch_that_outlives_the_closing_returns_nothing_to_the_queue() {
    loom::model(|| {
        let (queue, inbox) = pair();
        queue.push(('a', 0)).expect("open");
        queue.push(('a', 1)).expect("open");
        let sender = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || usize::from(queue.push(('b', 0)).is_err()))
        };
        let mut batch = inbox.batch(usize::MAX);
        assert_eq!(batch.next(), Some(('a', 0)));
        let dropped = batch.jobs.len();
        let closed = inbox.close().len();
        drop(batch);
        let back = sender.join().expect("the sender has tried");
        assert_eq!(1 + dropped + closed + back, 3);
        assert!(inbox.is_empty());
        assert_eq!(queue.len(), 0, "a job came back after the closing");
    });
}

#[test]
fn the_loop_stays_until_the_expected_job_has_come() {
    loom::model(|| {
        let (queue, inbox) = pair();
        let expected = Expected::new(&queue).expect("open");
        let worker = thread::spawn(move || expected.push(('a', 0)).expect("open"));
        assert_eq!(run(&inbox), [('a', 0)]);
        worker.join().expect("the worker has answered");
    });
}

#[test]
fn the_loop_ends_when_no_expected_job_comes() {
    loom::model(|| {
        let (queue, inbox) = pair();
        let expected = Expected::new(&queue).expect("open");
        let worker = thread::spawn(move || drop(expected));
        assert_eq!(run(&inbox), []);
        worker.join().expect("the worker has ended");
    });
}

#[test]
fn one_job_comes_and_another_does_not() {
    loom::model(|| {
        let (queue, inbox) = pair();
        let (first, second) = (Expected::new(&queue).unwrap(), Expected::new(&queue).unwrap());
        let workers = [
            thread::spawn(move || drop(first)),
            thread::spawn(move || second.push(('b', 0)).expect("open")),
        ];
        assert_eq!(run(&inbox), [('b', 0)]);
        for worker in workers {
            worker.join().expect("the worker has ended");
        }
    });
}

#[test]
fn an_answer_that_leads_to_the_next_question_keeps_the_loop() {
    loom::model(|| {
        let (queue, inbox) = pair();
        let expected = Expected::new(&queue).expect("open");
        let worker = thread::spawn(move || {
            let next = Expected::new(&expected.queue).expect("open");
            expected.push(('a', 0)).expect("open");
            next.push(('a', 1)).expect("open");
        });
        assert_eq!(run(&inbox), [('a', 0), ('a', 1)]);
        worker.join().expect("the worker has answered");
    });
}

#[test]
fn an_answer_to_a_closed_loop_comes_back() {
    loom::model(|| {
        let (queue, inbox) = pair();
        let expected = Expected::new(&queue).expect("open");
        let worker = thread::spawn(move || match expected.push(('a', 0)) {
            Ok(()) => 0,
            Err(Rejected::Closed(_)) => 1,
            Err(Rejected::Full(_)) => unreachable!("there is no limit"),
        });
        let left = inbox.close().len();
        let back = worker.join().expect("the worker has answered");
        assert_eq!(left + back, 1);
        assert!(Expected::new(&queue).is_none());
    });
}
