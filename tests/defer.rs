//! Work that is deferred: by other threads, and by the loop's own.

mod util;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use usockets::{DeferError, Loop, LoopHandle, Timer, UsError};
use util::{
    Drops, Echo, Log, drain, guard, guard_for, new_loop, panic_of, pump, settle, wait_until,
};

// -- From other threads -----------------------------------------------------------------------

#[test]
fn a_hundred_thousand_jobs_of_four_threads_each_in_order() -> Result<(), UsError> {
    const THREADS: usize = 4;
    const JOBS: usize = 25_000;
    let _guard = guard_for(Duration::from_secs(60));
    let event_loop = Loop::from_state(vec![0_usize; THREADS])?;
    let keep_alive = event_loop.keep_alive()?;
    let handle = event_loop.handle();
    let senders: Vec<_> = (0..THREADS)
        .map(|thread| {
            let handle = handle.clone();
            thread::spawn(move || {
                for number in 0..JOBS {
                    let job = move |event_loop: &usockets::LoopRef| {
                        let order = event_loop.with_state(|next: &mut Vec<usize>| {
                            assert_eq!(next[thread], number, "out of order");
                            next[thread] += 1;
                        });
                        order.expect("jobs run one after the other");
                    };
                    handle.defer(job).expect("the loop is there");
                }
            })
        })
        .collect();
    let stopper = thread::spawn(move || {
        senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
        handle.defer(|event_loop| event_loop.stop()).expect("the loop is there");
    });
    event_loop.run()?;
    drop(keep_alive);
    stopper.join().expect("no panic");
    assert_eq!(event_loop.with_state(|next| next.clone())?, [JOBS; THREADS]);
    assert_eq!(event_loop.metrics().queued_jobs, 0);
    Ok(())
}

#[test]
fn a_job_wakes_a_loop_that_sleeps() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let _keep_alive = event_loop.keep_alive()?;
    let handle = event_loop.handle();
    let sender = thread::spawn(move || {
        for round in 0..1000 {
            // Waits for an answer each time, so that the loop gets to sleep.
            let (answer, receiver) = mpsc::channel();
            handle.defer(move |_| answer.send(round).expect("it waits")).expect("it is there");
            assert_eq!(receiver.recv().expect("an answer"), round);
        }
        handle.stop();
    });
    event_loop.run()?;
    sender.join().expect("no panic");
    assert!(event_loop.metrics().wakeups > 0);
    Ok(())
}

#[test]
fn a_job_that_waits_keeps_the_loop_running() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..10 {
        let done = Arc::clone(&done);
        event_loop.handle().defer(move |_| {
            done.fetch_add(1, Ordering::Relaxed);
        })?;
    }
    assert_eq!(event_loop.metrics().queued_jobs, 10);
    assert!(event_loop.is_alive());
    assert_eq!(done.load(Ordering::Relaxed), 0, "not inside `defer`");
    event_loop.run()?;
    assert_eq!(done.load(Ordering::Relaxed), 10);
    assert!(!event_loop.is_alive());
    Ok(())
}

#[test]
fn a_job_may_defer_more() -> Result<(), UsError> {
    let _guard = guard();
    fn countdown(handle: &LoopHandle, left: u32, done: mpsc::Sender<u32>) {
        let again = handle.clone();
        let job = move |_: &usockets::LoopRef| {
            done.send(left).expect("it waits");
            if left > 0 {
                countdown(&again, left - 1, done);
            }
        };
        handle.defer(job).expect("the loop is there");
    }
    let event_loop = new_loop();
    let (done, receiver) = mpsc::channel();
    countdown(&event_loop.handle(), 100, done);
    event_loop.run()?;
    assert!(receiver.try_iter().eq((0..=100).rev()));
    Ok(())
}

#[test]
fn jobs_do_not_keep_sockets_from_their_turn() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let echo = Echo::new(&event_loop);
    let going = Arc::new(AtomicBool::new(true));
    fn for_ever(handle: &LoopHandle, going: Arc<AtomicBool>) {
        let again = handle.clone();
        let job = move |_: &usockets::LoopRef| {
            if going.load(Ordering::Relaxed) {
                for_ever(&again, going);
            }
        };
        handle.defer(job).expect("the loop is there");
    }
    for_ever(&event_loop.handle(), Arc::clone(&going));
    let local = Rc::new(Cell::new(true));
    fn local_for_ever(event_loop: &usockets::LoopRef, going: Rc<Cell<bool>>) {
        let job = move |event_loop: &usockets::LoopRef| {
            if going.get() {
                local_for_ever(event_loop, going);
            }
        };
        event_loop.defer(job).expect("the loop is there");
    }
    local_for_ever(&event_loop, Rc::clone(&local));
    for _ in 0..10 {
        echo.assert_echoes(&event_loop);
    }
    going.store(false, Ordering::Relaxed);
    local.set(false);
    Ok(())
}

// -- Limits and ends --------------------------------------------------------------------------

#[test]
fn a_full_queue_gives_the_job_back() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Loop::builder().queue_capacity(3).build(Vec::<u32>::new())?;
    let handle = event_loop.typed_handle();
    let job = |number: u32| {
        move |event_loop: &usockets::LoopRef| {
            event_loop.with_state(|list: &mut Vec<u32>| list.push(number)).expect("not lent");
        }
    };
    for number in 0..3 {
        handle.try_defer(job(number))?;
    }
    let error = handle.try_defer(job(3)).expect_err("there is no room");
    assert!(matches!(error.reason(), UsError::QueueFull));
    assert_eq!(error.reason().kind(), std::io::ErrorKind::WouldBlock);
    assert!(error.to_string().contains("full"), "{error}");
    assert!(format!("{error:?}").contains("QueueFull"));
    assert_eq!(event_loop.metrics().queued_jobs, 3);

    // The job is as good as new.
    let job_back = error.into_job();
    event_loop.run()?;
    handle.try_defer(job_back)?;
    event_loop.run()?;
    assert_eq!(event_loop.with_state(|list| list.clone())?, [0, 1, 2, 3]);
    // Only `try_defer` minds the capacity.
    for number in 0..10 {
        event_loop.defer(job(number))?;
        handle.defer(job(number))?;
    }
    event_loop.run()?;
    assert_eq!(event_loop.with_state(|list| list.len())?, 24);
    Ok(())
}

#[test]
fn no_capacity_is_no_limit() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Loop::builder().queue_capacity(0).build(())?;
    let handle = event_loop.handle();
    for _ in 0..100_000 {
        handle.try_defer(|_| ())?;
    }
    event_loop.run()?;
    Ok(())
}

#[test]
fn jobs_that_are_refused_can_be_sent_again_in_order() -> Result<(), UsError> {
    const THREADS: usize = 3;
    const JOBS: usize = 3000;
    let _guard = guard();
    let event_loop = Loop::builder().queue_capacity(16).build(vec![0_usize; THREADS])?;
    let _keep_alive = event_loop.keep_alive()?;
    let refused = Arc::new(AtomicUsize::new(0));
    let left = Arc::new(AtomicUsize::new(THREADS));
    let senders: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (handle, refused) = (event_loop.handle(), Arc::clone(&refused));
            let left = Arc::clone(&left);
            thread::spawn(move || {
                for number in 0..JOBS {
                    let mut job = move |event_loop: &usockets::LoopRef| {
                        let order = event_loop.with_state(|next: &mut Vec<usize>| {
                            assert_eq!(next[thread], number, "out of order");
                            next[thread] += 1;
                        });
                        order.expect("jobs run one after the other");
                    };
                    while let Err(error) = handle.try_defer(job) {
                        assert!(matches!(error.reason(), UsError::QueueFull));
                        job = error.into_job();
                        refused.fetch_add(1, Ordering::Relaxed);
                        thread::yield_now();
                    }
                }
                if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                    handle.stop();
                }
            })
        })
        .collect();
    event_loop.run()?;
    senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
    settle(&event_loop);
    assert_eq!(event_loop.with_state(|next| next.clone())?, [JOBS; THREADS]);
    Ok(())
}

#[test]
fn a_loop_that_is_gone_gives_the_job_back() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let handle = event_loop.handle();
    let loop_ref = event_loop.clone();
    drop(event_loop);
    let drops = Drops::new();

    let token = drops.token();
    let error = handle.defer(move |_| token.hold()).expect_err("it is gone");
    assert!(matches!(error.reason(), UsError::LoopClosed));
    assert_eq!(drops.live(), 1);
    let _job = error.into_job();
    assert_eq!(drops.live(), 1);

    let token = drops.token();
    let error = handle.try_defer(move |_| token.hold()).expect_err("it is gone");
    assert!(matches!(error.reason(), UsError::LoopClosed));
    drop(error.into_job());

    let token = drops.token();
    let error: DeferError<_> = loop_ref.defer(move |_| token.hold()).expect_err("it is gone");
    assert!(matches!(UsError::from(error), UsError::LoopClosed));
    assert_eq!(drops.live(), 1, "the conversion drops the job");

    handle.stop();
    handle.wake();
    assert!(matches!(handle.run_on_loop(|_| ()), Err(UsError::LoopClosed)));
    assert!(matches!(handle.loop_ref(), Err(UsError::LoopClosed)));
    let other = thread::spawn(move || {
        assert!(matches!(handle.run_on_loop(|_| ()), Err(UsError::LoopClosed)));
        handle.stop();
        handle.wake();
    });
    other.join().expect("no panic");
    Ok(())
}

#[test]
fn jobs_that_have_not_run_are_dropped_with_the_loop() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    for _ in 0..10 {
        let (sent, local) = (drops.token(), drops.token());
        event_loop.handle().defer(move |_| {
            sent.hold();
            panic!("nobody runs the loop");
        })?;
        event_loop.defer(move |_| {
            local.hold();
            panic!("nobody runs the loop");
        })?;
    }
    assert_eq!(drops.live(), 20);
    drop(event_loop);
    drops.assert_all_dropped();
    Ok(())
}

#[test]
fn a_job_that_is_dropped_with_the_loop_may_defer() -> Result<(), UsError> {
    let _guard = guard();
    /// Defers when it is dropped, and keeps what comes back.
    struct Defers(LoopHandle, Arc<AtomicUsize>);
    impl Drop for Defers {
        fn drop(&mut self) {
            let error = self.0.defer(|_| ()).expect_err("the loop is being dropped");
            assert!(matches!(error.reason(), UsError::LoopClosed));
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    let event_loop = new_loop();
    let refused = Arc::new(AtomicUsize::new(0));
    let job = Defers(event_loop.handle(), Arc::clone(&refused));
    event_loop.handle().defer(move |_| drop(job))?;
    let job = Defers(event_loop.handle(), Arc::clone(&refused));
    event_loop.defer(move |_| drop(job))?;
    drop(event_loop);
    assert_eq!(refused.load(Ordering::Relaxed), 2);
    Ok(())
}

#[test]
fn threads_that_send_while_the_loop_goes_lose_nothing() -> Result<(), UsError> {
    let _guard = guard();
    for _ in 0..20 {
        let event_loop = new_loop();
        let drops = Drops::new();
        let returned = Arc::new(AtomicUsize::new(0));
        let started = Arc::new(AtomicUsize::new(0));
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let (handle, drops) = (event_loop.handle(), drops.clone());
                let (returned, started) = (Arc::clone(&returned), Arc::clone(&started));
                thread::spawn(move || {
                    loop {
                        let token = drops.token();
                        started.fetch_add(1, Ordering::Relaxed);
                        if let Err(error) = handle.defer(move |_| token.hold()) {
                            returned.fetch_add(1, Ordering::Relaxed);
                            drop(error.into_job());
                            return;
                        }
                    }
                })
            })
            .collect();
        pump(&event_loop, || started.load(Ordering::Relaxed) > 100);
        drop(event_loop);
        senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
        assert_eq!(returned.load(Ordering::Relaxed), 3);
        drops.assert_all_dropped();
    }
    Ok(())
}

// -- Results ----------------------------------------------------------------------------------

#[test]
fn run_on_loop_brings_a_result_to_another_thread() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Loop::from_state(41)?;
    let _keep_alive = event_loop.keep_alive()?;
    let handle = event_loop.typed_handle();
    let home = thread::current().id();
    let caller = thread::spawn(move || {
        // After what this thread has deferred before.
        handle
            .defer(|event_loop| event_loop.with_state(|number: &mut i32| *number += 1).expect("ok"))
            .expect("the loop is there");
        let answer = handle.run_on_loop(move |event_loop| {
            assert_eq!(thread::current().id(), home);
            assert!(event_loop.is_running());
            event_loop.with_state(|number: &mut i32| *number)
        });
        handle.stop();
        answer
    });
    event_loop.run()?;
    assert_eq!(caller.join().expect("no panic")??, 42);
    Ok(())
}

#[test]
fn run_on_loop_on_the_loops_thread_is_a_plain_call() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Loop::from_state(1)?;
    let handle = event_loop.handle();
    let local = String::from("not sent anywhere");
    let length = handle.run_on_loop(move |event_loop| {
        // It runs in a frame.
        assert!(!event_loop.is_running());
        local.len()
    })?;
    assert_eq!(length, 17);
    // Inside a callback too.
    let (inner, done) = (handle.clone(), Rc::new(Cell::new(false)));
    let called = Rc::clone(&done);
    event_loop.defer(move |_| {
        inner.run_on_loop(|_| ()).expect("the loop is there");
        called.set(true);
    })?;
    event_loop.run()?;
    assert!(done.get());
    assert_eq!(panic_of(|| handle.run_on_loop(|_| panic!("mine"))), "mine");
    event_loop.run()?;
    Ok(())
}

#[test]
fn a_panic_on_the_loop_is_told_to_both_sides() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let keep_alive = event_loop.keep_alive()?;
    let handle = event_loop.handle();
    let caller = thread::spawn(move || handle.run_on_loop(|_| panic!("on the loop")));
    assert_eq!(panic_of(|| event_loop.run()), "on the loop");
    let answer: Result<(), _> = caller.join().expect("no panic here");
    assert!(matches!(answer, Err(UsError::JobPanicked)));
    // The loop can be run again.
    drop(keep_alive);
    event_loop.run()?;
    Ok(())
}

#[test]
fn whoever_waits_for_a_loop_that_goes_is_told() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let handle = event_loop.handle();
    let caller = thread::spawn(move || handle.run_on_loop(|_| 1));
    wait_until(|| event_loop.metrics().queued_jobs == 1);
    drop(event_loop);
    assert!(matches!(caller.join().expect("no panic"), Err(UsError::LoopClosed)));
    Ok(())
}

// -- Handles ----------------------------------------------------------------------------------

#[test]
fn handles_lead_back_on_their_own_thread_only() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Loop::from_state(5_u8)?;
    let handle = event_loop.handle();
    assert_eq!(handle.loop_ref()?, *event_loop);
    assert_eq!(handle.id(), event_loop.id());
    let elsewhere = handle.clone();
    thread::spawn(move || {
        let error = elsewhere.loop_ref().expect_err("another thread");
        assert!(matches!(error, UsError::WrongThread), "{error}");
        // With a loop of its own as well.
        let _own = new_loop();
        assert!(matches!(elsewhere.loop_ref(), Err(UsError::WrongThread)));
    })
    .join()
    .expect("no panic");

    // Types are checked.
    assert!(matches!(handle.typed::<u16>(), Err(UsError::WrongType)));
    assert!(matches!(event_loop.handle_of::<u16>(), Err(UsError::WrongType)));
    let typed: LoopHandle<u8> = handle.typed()?;
    assert_eq!(typed.untyped().id(), handle.id());
    assert_eq!(event_loop.handle_of::<u8>()?.id(), event_loop.typed_handle().id());
    assert!(!format!("{typed:?}").is_empty());
    Ok(())
}

#[test]
fn a_stop_from_another_thread_ends_the_run() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let _keep_alive = event_loop.keep_alive()?;
    let handle = event_loop.handle();
    let stopper = thread::spawn(move || handle.stop());
    event_loop.run()?;
    stopper.join().expect("no panic");
    // Sticky, when it comes before the run.
    event_loop.handle().stop();
    event_loop.run()?;
    Ok(())
}

// -- On the loop's own thread -----------------------------------------------------------------

#[test]
fn local_jobs_run_in_order_and_may_keep_anything() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let log = Log::<u32>::new();
    for number in 0..1000_u32 {
        // An `Rc` is not `Send`.
        let log = log.clone();
        event_loop.defer(move |_| log.push(number))?;
    }
    assert!(log.is_empty(), "not inside `defer`");
    assert!(event_loop.is_alive());
    event_loop.run()?;
    assert!(log.take().into_iter().eq(0..1000));
    Ok(())
}

#[test]
fn local_jobs_come_after_those_of_other_threads() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Loop::from_state(Vec::<&str>::new())?;
    let push = |name: &'static str| {
        move |event_loop: &usockets::LoopRef| {
            event_loop.with_state(|log: &mut Vec<&str>| log.push(name)).expect("not lent");
        }
    };
    event_loop.defer(push("own"))?;
    event_loop.handle().defer(push("other"))?;
    event_loop.turn(Some(Duration::ZERO))?;
    assert_eq!(event_loop.with_state(std::mem::take)?, ["other", "own"]);
    Ok(())
}

#[test]
fn what_a_job_defers_comes_in_the_next_iteration() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let iterations = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&iterations);
    event_loop.defer(move |event_loop| {
        log.borrow_mut().push(event_loop.metrics().iterations);
        let log = Rc::clone(&log);
        let deferred = event_loop.defer(move |event_loop| {
            log.borrow_mut().push(event_loop.metrics().iterations);
        });
        deferred.expect("the loop is there");
    })?;
    // It does not sleep in between.
    event_loop.run()?;
    let iterations = iterations.take();
    assert_eq!(iterations.len(), 2);
    assert_eq!(iterations[1], iterations[0] + 1);
    Ok(())
}

#[test]
fn what_a_timer_defers_comes_without_a_sleep() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let _keep_alive = event_loop.keep_alive()?;
    let timer = Timer::new(&event_loop, ())?;
    timer.set(Duration::from_millis(1), None, |timer, ()| {
        let deferred = timer.event_loop().defer(|event_loop| event_loop.stop());
        deferred.expect("the loop is there");
    })?;
    event_loop.run()?;
    Ok(())
}

#[test]
fn jobs_after_a_panic_are_kept() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = Loop::from_state(Vec::<u32>::new())?;
    let push = |number: u32| {
        move |event_loop: &usockets::LoopRef| {
            assert_ne!(number % 5, 2, "unlucky");
            event_loop.with_state(|log: &mut Vec<u32>| log.push(number)).expect("not lent");
        }
    };
    for number in 0..5 {
        event_loop.handle().defer(push(number))?;
    }
    for number in 5..10 {
        event_loop.defer(push(number))?;
    }
    for _ in 0..2 {
        assert!(panic_of(|| event_loop.run()).contains("unlucky"));
    }
    event_loop.run()?;
    assert_eq!(event_loop.with_state(std::mem::take)?, [0, 1, 3, 4, 5, 6, 8, 9]);
    settle(&event_loop);
    drain(&event_loop);
    Ok(())
}
