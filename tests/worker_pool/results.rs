//! What comes back from a job, and in which order.

use super::*;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;

use usockets::JobError;

#[test]
fn a_job_runs_on_a_named_thread_and_its_result_comes_back_to_the_loop() {
    let _guard = guard();
    let event_loop = new_loop();
    let pool = WorkerPool::builder().threads(1).name("hashing").build().unwrap();
    assert_eq!(pool.threads(), 1);
    let here = thread::current().id();
    let done = Count::default();
    let counted = done.clone();
    pool.run(
        &event_loop.handle(),
        || thread::current().name().map(str::to_owned),
        move |_: &LoopRef, result| {
            assert_eq!(result.unwrap().as_deref(), Some("hashing-0"));
            assert_eq!(thread::current().id(), here);
            counted.add();
        },
    )
    .unwrap();
    event_loop.run().unwrap();
    assert_eq!(done.get(), 1, "the loop stayed for the result, and only for that");
}

#[test]
fn a_panic_is_a_result_and_the_thread_lives_on() {
    let _guard = guard();
    let event_loop = new_loop();
    let handle = event_loop.handle();
    let pool = pool(1);
    let messages = Arc::new(Mutex::new(Vec::new()));
    let jobs: [fn(); 3] =
        [|| panic!("plain"), || panic!("number {}", 7), || panic::panic_any(42_u8)];
    for job in jobs {
        let messages = Arc::clone(&messages);
        pool.run(&handle, job, move |_: &LoopRef, result| match result.unwrap_err() {
            JobError::Panicked(panic) => {
                let (message, text) = (panic.message().to_owned(), panic.to_string());
                assert!(text.ends_with(&message), "{text}");
                messages.lock().unwrap().push((message, panic.into_payload().is::<u8>()));
            }
            other => unreachable!("{other:?}"),
        })
        .unwrap();
    }
    let last = Count::default();
    let counted = last.clone();
    pool.run(
        &handle,
        || 5,
        move |_: &LoopRef, result| {
            assert_eq!(result.unwrap(), 5);
            counted.add();
        },
    )
    .unwrap();
    event_loop.run().unwrap();
    assert_eq!(last.get(), 1);
    let messages = messages.lock().unwrap();
    let expected = [("plain", false), ("number 7", false), ("(the panic carries no text)", true)];
    assert!(messages.iter().map(|(text, number)| (text.as_str(), *number)).eq(expected));
}

#[test]
fn a_panic_can_go_on_on_the_loop() {
    let _guard = guard();
    let event_loop = new_loop();
    let pool = pool(1);
    let done = Count::default();
    let counted = done.clone();
    pool.run(
        &event_loop.handle(),
        || panic!("from the job"),
        |_: &LoopRef, result: Result<(), _>| {
            if let Err(JobError::Panicked(panic)) = result {
                panic.resume();
            }
        },
    )
    .unwrap();
    pool.run(&event_loop.handle(), || (), move |_: &LoopRef, _| counted.add()).unwrap();
    let payload = panic::catch_unwind(AssertUnwindSafe(|| event_loop.run())).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"from the job"));
    event_loop.run().unwrap();
    assert_eq!(done.get(), 1, "the loop can be run again and has lost nothing");
}

#[test]
fn the_results_of_one_thread_come_in_order() {
    let _guard = guard();
    let event_loop = new_loop();
    let pool = pool(1);
    let numbers = Arc::new(Mutex::new(Vec::new()));
    for number in 0..5_000_usize {
        let numbers = Arc::clone(&numbers);
        pool.run(
            &event_loop.handle(),
            move || number,
            move |_: &LoopRef, result| {
                numbers.lock().unwrap().push(result.unwrap());
            },
        )
        .unwrap();
    }
    event_loop.run().unwrap();
    assert!(numbers.lock().unwrap().iter().copied().eq(0..5_000));
}

#[test]
fn a_result_may_lead_to_the_next_job() {
    fn next(pool: &Arc<WorkerPool>, handle: &LoopHandle<()>, number: usize, done: &Count) {
        let (pool_then, handle_then, done) = (Arc::clone(pool), handle.clone(), done.clone());
        pool.run(
            handle,
            move || number + 1,
            move |_: &LoopRef, result| {
                done.add();
                let number = result.unwrap();
                if number < 1_000 {
                    next(&pool_then, &handle_then, number, &done);
                }
            },
        )
        .unwrap();
    }

    let _guard = guard();
    let event_loop = new_loop();
    let pool = Arc::new(WorkerPool::builder().threads(2).build().unwrap());
    let done = Count::default();
    next(&pool, &event_loop.handle(), 0, &done);
    event_loop.run().unwrap();
    assert_eq!(done.get(), 1_000);
}

#[test]
fn many_threads_give_many_jobs_and_every_result_comes_once() {
    const SENDERS: usize = 4;
    const JOBS: usize = 25_000;

    let _guard = guard();
    let event_loop = new_loop();
    let keep_alive = event_loop.keep_alive().unwrap();
    let pool = WorkerPool::builder().threads(3).queue_capacity(64).build().unwrap();
    let (seen, counted) = (Arc::new(Mutex::new(vec![0_u8; SENDERS * JOBS])), Count::default());
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (pool, handle) = (&pool, event_loop.handle());
            let (seen, counted) = (Arc::clone(&seen), counted.clone());
            scope.spawn(move || {
                for number in sender * JOBS..(sender + 1) * JOBS {
                    let (seen, counted) = (Arc::clone(&seen), counted.clone());
                    let mut job = (
                        move || number,
                        move |event_loop: &LoopRef, result: Result<usize, JobError>| {
                            seen.lock().unwrap()[result.unwrap()] += 1;
                            counted.add();
                            if counted.get() == SENDERS * JOBS {
                                event_loop.stop();
                            }
                        },
                    );
                    while let Err(refused) = pool.run(&handle, job.0, job.1) {
                        assert!(matches!(refused.error(), UsError::QueueFull), "{refused:?}");
                        job = refused.into_closures();
                        thread::yield_now();
                    }
                }
            });
        }
        event_loop.run().unwrap();
    });
    drop(keep_alive);
    assert_eq!(counted.get(), SENDERS * JOBS);
    assert!(seen.lock().unwrap().iter().all(|&times| times == 1));
    assert_eq!((pool.queued(), pool.lost_results()), (0, 0));
    event_loop.run().unwrap();
}

#[test]
fn one_pool_serves_several_loops() {
    let _guard = guard();
    let pool = pool(2);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let event_loop = new_loop();
                let here = thread::current().id();
                let done = Count::default();
                for _ in 0..500 {
                    let counted = done.clone();
                    pool.run(
                        &event_loop.handle(),
                        || (),
                        move |_: &LoopRef, _| {
                            assert_eq!(thread::current().id(), here);
                            counted.add();
                        },
                    )
                    .unwrap();
                }
                event_loop.run().unwrap();
                assert_eq!(done.get(), 500);
            });
        }
    });
}

#[test]
fn a_job_given_in_a_job_of_the_loop_keeps_the_loop_too() {
    let _guard = guard();
    let event_loop = new_loop();
    let (pool, handle) = (pool(1), event_loop.handle());
    let done = Count::default();
    let counted = done.clone();
    event_loop
        .handle()
        .defer(move |_| {
            let accepted = pool.run(&handle, || (), move |_: &LoopRef, _| counted.add());
            assert!(accepted.is_ok());
        })
        .unwrap();
    event_loop.run().unwrap();
    assert_eq!(done.get(), 1);
}
