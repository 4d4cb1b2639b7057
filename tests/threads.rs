//! What other threads may do, and when (invariants I6 and I7).

mod util;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use usockets::{Loop, LoopHandle, LoopRef, SocketContext, SocketId, UsError};
use util::{Drops, Log, new_loop, pump, settle, unix_pair};

/// Runs the loop until `code`, on another thread, has ended.
fn beside<R: Send + 'static>(
    event_loop: &Loop,
    code: impl FnOnce(LoopHandle) -> R + Send + 'static,
) -> R {
    let keep_alive = event_loop.keep_alive().expect("a guard");
    let handle = event_loop.handle();
    let worker = thread::spawn(move || {
        let result = code(handle.clone());
        handle.stop();
        result
    });
    event_loop.run().expect("no error");
    drop(keep_alive);
    worker.join().expect("the worker does not panic")
}

#[test]
fn only_the_thread_of_the_loop_gets_the_loop() {
    let _guard = util::guard();
    let event_loop = new_loop();
    assert_eq!(event_loop.handle().loop_ref().expect("it is here"), *event_loop);
    beside(&event_loop, |handle| {
        assert!(matches!(handle.loop_ref(), Err(UsError::WrongThread)));
    });
}

#[test]
fn loop_ref_is_found_among_several_loops() {
    let _guard = util::guard();
    let loops: Vec<_> = (0..5).map(|number| Loop::from_state(number).expect("a loop")).collect();
    let handles: Vec<_> = loops.iter().map(Loop::typed_handle).collect();
    for (number, handle) in handles.iter().enumerate() {
        let found = handle.loop_ref().expect("it is here");
        assert_eq!(found.id(), handle.id());
        let state = found.with_state(|state: &mut i32| *state).expect("it is not lent");
        assert_eq!(usize::try_from(state), Ok(number));
    }
    drop(loops);
    assert!(handles.iter().all(|h| matches!(h.loop_ref(), Err(UsError::LoopClosed))));
}

#[test]
fn jobs_of_each_thread_run_in_order_and_once() {
    let _guard = util::guard();
    const THREADS: usize = 4;
    const JOBS: usize = 5000;
    let event_loop = Loop::from_state(HashMap::<usize, Vec<usize>>::new()).expect("a loop");
    let keep_alive = event_loop.keep_alive().expect("a guard");
    let start = Arc::new(Barrier::new(THREADS));
    let workers: Vec<_> = (0..THREADS)
        .map(|number| {
            let (handle, start) = (event_loop.handle(), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                for job in 0..JOBS {
                    let given = handle.defer(move |event_loop| {
                        let push = |seen: &mut HashMap<usize, Vec<usize>>| {
                            seen.entry(number).or_default().push(job);
                        };
                        event_loop.with_state(push).expect("jobs run one after the other");
                    });
                    given.expect("the queue has no limit");
                }
            })
        })
        .collect();
    let all = || event_loop.with_state(|seen| seen.values().map(Vec::len).sum::<usize>());
    pump(&event_loop, || all().expect("it is not lent") == THREADS * JOBS);
    for worker in workers {
        worker.join().expect("no panic");
    }
    let ordered = event_loop.with_state(|seen| {
        seen.values().all(|jobs| jobs.iter().copied().eq(0..JOBS)) && seen.len() == THREADS
    });
    assert!(ordered.expect("it is not lent"));
    drop(keep_alive);
    event_loop.run().expect("nothing is left");
}

#[test]
fn every_job_runs_or_comes_back_or_is_dropped_with_the_loop() {
    let _guard = util::guard();
    for round in 0..50 {
        let drops = Drops::new();
        let event_loop = new_loop();
        let ran = Arc::new(AtomicUsize::new(0));
        let start = Arc::new(Barrier::new(3));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (handle, drops) = (event_loop.handle(), drops.clone());
                let (ran, start) = (Arc::clone(&ran), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    let mut back = 0;
                    for _ in 0..200 {
                        let (token, ran) = (drops.token(), Arc::clone(&ran));
                        let given = handle.defer(move |_| {
                            token.hold();
                            ran.fetch_add(1, Ordering::SeqCst);
                        });
                        if let Err(error) = given {
                            assert!(matches!(error.reason(), UsError::LoopClosed));
                            drop(error.into_job());
                            back += 1;
                        }
                    }
                    back
                })
            })
            .collect();
        start.wait();
        for _ in 0..round {
            event_loop.turn(Some(Duration::ZERO)).expect("a turn");
        }
        drop(event_loop);
        let ran_before = ran.load(Ordering::SeqCst);
        let back: usize = workers.into_iter().map(|w| w.join().expect("no panic")).sum();
        drops.assert_all_dropped();
        assert_eq!(ran.load(Ordering::SeqCst), ran_before, "a job ran after the loop's end");
        assert!(ran_before + back <= 400, "a job ran twice, or ran and came back");
    }
}

#[test]
fn queue_that_is_full_gives_the_job_back() {
    let _guard = util::guard();
    let event_loop = Loop::builder().queue_capacity(3).build(()).expect("a loop");
    let (drops, handle) = (Drops::new(), event_loop.handle());
    let job = || {
        let token = drops.token();
        move |_: &LoopRef| token.hold()
    };
    for _ in 0..3 {
        handle.try_defer(job()).expect("there is room");
    }
    let error = handle.try_defer(job()).expect_err("it is full");
    assert!(matches!(error.reason(), UsError::QueueFull));
    let job_back = error.into_job();
    assert_eq!(drops.live(), 4);
    handle.defer(job()).expect("this has no limit");
    event_loop.run().expect("no error");
    assert_eq!(drops.live(), 1);
    handle.try_defer(job_back).expect("there is room again");
    event_loop.run().expect("no error");
    drops.assert_all_dropped();
}

#[test]
fn jobs_that_defer_jobs_do_not_hold_the_loop_up() {
    let _guard = util::guard();
    let event_loop = new_loop();
    fn again(event_loop: &LoopRef) {
        event_loop.defer(again).expect("it is open");
        event_loop.handle().defer(again_from_afar).expect("it is open");
    }
    fn again_from_afar(event_loop: &LoopRef) {
        event_loop.defer(|_| ()).expect("it is open");
        event_loop.handle().defer(|_| ()).expect("it is open");
    }
    again(&event_loop);
    let log = Log::<&str>::new();
    let post = log.clone();
    event_loop.on_post(move |_| post.push("post")).expect("it is open");
    for _ in 0..100 {
        event_loop.turn(None).expect("work is queued, so this does not wait");
    }
    assert_eq!(log.len(), 100);
}

// -- Calls ------------------------------------------------------------------------------------

#[test]
fn run_on_loop_brings_the_result_back() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let home = thread::current().id();
    let (there, sum) = beside(&event_loop, |handle| {
        let there = handle.run_on_loop(|_| thread::current().id()).expect("it runs");
        let sum = (0..100).map(|n| handle.run_on_loop(move |_| n).expect("it runs")).sum::<i32>();
        (there, sum)
    });
    assert_eq!((there, sum), (home, 4950));
    assert_eq!(event_loop.handle().run_on_loop(|_| 7).expect("at once, here"), 7);
}

#[test]
fn thread_that_waits_learns_that_the_loop_is_gone() {
    let _guard = util::guard();
    for _ in 0..20 {
        let event_loop = new_loop();
        let handle = event_loop.handle();
        let (drops, waits) = (Drops::new(), Arc::new(Barrier::new(2)));
        let (token, begins) = (drops.token(), Arc::clone(&waits));
        let waiting = thread::spawn(move || {
            begins.wait();
            handle.run_on_loop(move |_| token.hold())
        });
        waits.wait();
        // It waits by now, or finds the loop gone.
        drop(event_loop);
        assert!(matches!(waiting.join().expect("no panic"), Err(UsError::LoopClosed)));
        drops.assert_all_dropped();
    }
}

#[test]
fn wakes_merge_and_reach_the_hook_only() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let woken = Log::<&str>::new();
    let log = woken.clone();
    event_loop.on_wakeup(move |_| log.push("woken")).expect("it is open");
    let handle = event_loop.handle();
    for _ in 0..100 {
        handle.wake();
    }
    settle(&event_loop);
    assert_eq!(woken.take().len(), 1);
    beside(&event_loop, |handle| {
        for _ in 0..100 {
            handle.defer(|_| ()).expect("it is open");
        }
        handle.run_on_loop(|_| ()).expect("it runs");
    });
    assert!(woken.is_empty(), "wakes of the loop's own are not the program's");
    beside(&event_loop, |handle| {
        handle.wake();
        // After the hook: both come in one turn, or in this order.
        handle.run_on_loop(|_| ()).expect("it runs");
    });
    assert_eq!(woken.take().len(), 1);
}

#[test]
fn stop_from_another_thread_ends_the_run() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let _keep_alive = event_loop.keep_alive().expect("a guard");
    for _ in 0..50 {
        let handle = event_loop.handle();
        let stopping = thread::spawn(move || handle.stop());
        event_loop.run().expect("it is stopped");
        stopping.join().expect("no panic");
    }
    event_loop.handle().stop();
    event_loop.run().expect("a stop before the run counts");
}

// -- Handles and identities elsewhere ---------------------------------------------------------

#[test]
fn handle_outlives_its_loop_on_any_thread() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let handle = event_loop.handle();
    let (sender, receiver) = mpsc::channel::<()>();
    let worker = thread::spawn(move || {
        receiver.recv().expect("the loop is gone first");
        handle.wake();
        handle.stop();
        assert!(matches!(handle.loop_ref(), Err(UsError::WrongThread | UsError::LoopClosed)));
        assert!(matches!(handle.run_on_loop(|_| ()), Err(UsError::LoopClosed)));
        let copy = handle.clone();
        drop(handle);
        copy.defer(|_| ()).is_err()
    });
    drop(event_loop);
    sender.send(()).expect("the worker waits");
    assert!(worker.join().expect("no panic"));
}

#[test]
fn identity_of_a_socket_travels_and_answers_the_right_one() {
    let _guard = util::guard();
    let event_loop = new_loop();
    let context = SocketContext::<false, (), u32>::builder().build(&event_loop, ());
    let context = context.expect("a context");
    let (ours, mut theirs) = unix_pair();
    let open = context.accept_fd(ours).expect("a socket");
    let (gone, _peer) = unix_pair();
    let gone = context.accept_fd(gone).expect("a socket");
    settle(&event_loop);
    gone.close();
    settle(&event_loop);
    let ids: [SocketId<false, u32>; 2] = [open.id(), gone.id()];
    let answers = beside(&event_loop, move |handle| {
        ids.map(|id| {
            let answer = handle.run_on_loop(move |event_loop| {
                let socket = id.resolve(event_loop).ok()?;
                Some(socket.write(b"answer"))
            });
            answer.expect("it runs")
        })
    });
    assert_eq!(answers, [Some(6), None]);
    assert_eq!(util::read_some(&mut theirs).expect("it is open"), b"answer");
}

#[test]
fn jobs_are_dropped_on_the_thread_of_the_loop() {
    let _guard = util::guard();
    struct Where(mpsc::Sender<thread::ThreadId>);
    impl Drop for Where {
        fn drop(&mut self) {
            let _sent = self.0.send(thread::current().id());
        }
    }
    let event_loop = new_loop();
    let (sender, receiver) = mpsc::channel();
    let handle = event_loop.handle();
    let home = thread::current().id();
    let worker = thread::spawn(move || {
        let value = Where(sender);
        handle.defer(move |_| _ = &value).is_ok()
    });
    assert!(worker.join().expect("no panic"));
    drop(event_loop);
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [home]);
}

#[test]
fn loops_of_several_threads_do_not_mix() {
    let _guard = util::guard();
    let threads: Vec<_> = (0..4)
        .map(|number| {
            thread::spawn(move || {
                let event_loop = Loop::from_state(number).expect("a loop");
                let echo = util::Echo::new(&event_loop);
                for _ in 0..20 {
                    echo.assert_echoes(&event_loop);
                }
                let state = event_loop.with_state(|state| *state).expect("it is not lent");
                (event_loop.id(), state)
            })
        })
        .collect();
    let results: HashMap<_, _> =
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
    assert_eq!(results.len(), 4, "identities of loops are of the whole process");
    let mut states: Vec<_> = results.into_values().collect();
    states.sort_unstable();
    assert_eq!(states, [0, 1, 2, 3]);
}

#[test]
fn loop_is_run_from_inside_another_loops_thread_only_by_its_own() {
    let _guard = util::guard();
    // A loop that waits for another one's answer, which that gives while it runs.
    let event_loop = new_loop();
    let answer = beside(&event_loop, |handle| {
        let own = new_loop();
        let keep_alive = own.keep_alive().expect("a guard");
        let log = Log::<i32>::new();
        let result = log.clone();
        own.defer(move |own| {
            result.push(handle.run_on_loop(|_| 42).expect("the other loop runs"));
            own.stop();
        })
        .expect("it is open");
        own.run().expect("it is stopped");
        drop(keep_alive);
        log.take()
    });
    assert_eq!(answer, [42]);
}
