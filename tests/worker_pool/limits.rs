//! Full queues, and the ends of pools and loops.

use super::*;

use usockets::JobError;

#[test]
fn a_full_queue_gives_both_closures_back() {
    let _guard = guard();
    let event_loop = new_loop();
    let handle = event_loop.handle();
    let pool = WorkerPool::builder().threads(1).queue_capacity(2).build().unwrap();
    let barrier = occupy(&pool, &handle);
    let done = Count::default();
    for _ in 0..2 {
        let counted = done.clone();
        pool.run(&handle, || (), move |_: &LoopRef, _| counted.add()).unwrap();
    }
    assert_eq!(pool.queued(), 2);

    let text = String::from("the job that came back");
    let counted = done.clone();
    let refused = pool
        .run(&handle, move || text, move |_: &LoopRef, _| counted.add())
        .expect_err("there is room for two");
    assert!(matches!(refused.error(), UsError::QueueFull), "{refused:?}");
    let (job, _done) = refused.into_closures();
    assert_eq!(job(), "the job that came back");

    barrier.wait();
    event_loop.run().unwrap();
    assert_eq!(done.get(), 2);
}

#[test]
fn without_a_queue_a_job_needs_a_free_thread() {
    let _guard = guard();
    let event_loop = new_loop();
    let handle = event_loop.handle();
    let pool = WorkerPool::builder().threads(1).queue_capacity(0).build().unwrap();
    let (begun, has_begun) = mpsc::channel();
    let barrier = Arc::new(Barrier::new(2));
    let waiting = Arc::clone(&barrier);
    let mut job: Box<dyn FnOnce() + Send> = Box::new(move || {
        begun.send(()).expect("the test waits");
        waiting.wait();
    });
    // The thread needs a moment until it waits for jobs.
    loop {
        match pool.run(&handle, job, |_: &LoopRef, _| ()) {
            Ok(()) => break,
            Err(refused) => job = refused.into_closures().0,
        }
        thread::yield_now();
    }
    has_begun.recv().unwrap();
    let refused = pool.run(&handle, || (), |_: &LoopRef, _| ()).unwrap_err();
    assert!(matches!(UsError::from(refused), UsError::QueueFull));
    barrier.wait();
    event_loop.run().unwrap();
}

#[test]
fn a_shutdown_finishes_what_is_queued() {
    let _guard = guard();
    let event_loop = new_loop();
    let handle = event_loop.handle();
    let pool = pool(2);
    let (ran, done) = (Count::default(), Count::default());
    for _ in 0..50 {
        let (ran, done) = (ran.clone(), done.clone());
        pool.run(&handle, move || ran.add(), move |_: &LoopRef, _| done.add()).unwrap();
    }
    pool.shutdown();
    assert_eq!(ran.get(), 50, "it waits for them");
    assert_eq!(done.get(), 0, "the loop has not run yet");
    let refused = pool.run(&handle, || 1, |_: &LoopRef, _| ()).unwrap_err();
    assert!(matches!(refused.error(), UsError::PoolClosed), "{refused:?}");
    assert_eq!(refused.into_closures().0(), 1);
    pool.shutdown();
    event_loop.run().unwrap();
    assert_eq!(done.get(), 50);
}

#[test]
fn an_immediate_shutdown_cancels_what_has_not_started() {
    let _guard = guard();
    let event_loop = new_loop();
    let handle = event_loop.handle();
    let pool = pool(1);
    let barrier = occupy(&pool, &handle);
    let (cancelled, dropped) = (Count::default(), Drops::new());
    for _ in 0..10 {
        let (cancelled, token) = (cancelled.clone(), dropped.token());
        pool.run(
            &handle,
            move || drop(token),
            move |_: &LoopRef, result| {
                assert!(matches!(result, Err(JobError::Cancelled)), "{result:?}");
                cancelled.add();
            },
        )
        .unwrap();
    }
    assert_eq!(pool.shutdown_now(), 10);
    assert_eq!((pool.queued(), dropped.dropped()), (0, 10));
    assert_eq!(pool.shutdown_now(), 0);
    barrier.wait();
    event_loop.run().unwrap();
    assert_eq!(cancelled.get(), 10);
    pool.shutdown();
}

#[test]
fn a_dropped_pool_finishes_without_anybody_waiting() {
    let _guard = guard();
    let event_loop = new_loop();
    let handle = event_loop.handle();
    let pool = pool(1);
    let barrier = occupy(&pool, &handle);
    let done = Count::default();
    for _ in 0..20 {
        let counted = done.clone();
        pool.run(
            &handle,
            || (),
            move |_: &LoopRef, result| {
                assert!(result.is_ok());
                counted.add();
            },
        )
        .unwrap();
    }
    // Would never return if it waited for the thread.
    drop(pool);
    barrier.wait();
    event_loop.run().unwrap();
    assert_eq!(done.get(), 20);
}

#[test]
fn a_job_may_shut_its_own_pool_down_or_drop_it() {
    let _guard = guard();
    let event_loop = new_loop();
    let handle = event_loop.handle();
    let done = Count::default();

    let pool = Arc::new(pool(1));
    let (inner, counted) = (Arc::clone(&pool), done.clone());
    pool.run(
        &handle,
        move || inner.shutdown(),
        move |_: &LoopRef, result| {
            assert!(result.is_ok());
            counted.add();
        },
    )
    .unwrap();
    event_loop.run().unwrap();
    pool.shutdown();

    let pool = Arc::new(self::pool(1));
    let (inner, counted) = (Arc::clone(&pool), done.clone());
    let (let_go, was_let_go) = mpsc::channel();
    let job = move || {
        was_let_go.recv().expect("the test drops its pool first");
        assert_eq!(Arc::strong_count(&inner), 1);
        drop(inner);
    };
    pool.run(&handle, job, move |_: &LoopRef, result| {
        assert!(result.is_ok());
        counted.add();
    })
    .unwrap();
    drop(pool);
    let_go.send(()).unwrap();
    event_loop.run().unwrap();
    assert_eq!(done.get(), 2);
}

#[test]
fn results_for_a_loop_that_is_gone_are_dropped_and_counted() {
    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("nobody took the result");
        }
    }

    let _guard = guard();
    let event_loop = new_loop();
    let handle = event_loop.handle();
    let pool = pool(1);
    let barrier = occupy(&pool, &handle);
    let (called, dropped) = (Count::default(), Drops::new());
    for _ in 0..10 {
        let (called, token) = (called.clone(), dropped.token());
        pool.run(
            &handle,
            || (),
            move |_: &LoopRef, _| {
                let _token = token;
                called.add();
            },
        )
        .unwrap();
    }
    pool.run(&handle, || PanicsWhenDropped, |_: &LoopRef, _| ()).unwrap();
    drop(event_loop);

    let refused = pool.run(&handle, || (), |_: &LoopRef, _| ()).unwrap_err();
    assert!(matches!(refused.error(), UsError::LoopClosed), "{refused:?}");

    barrier.wait();
    pool.shutdown();
    assert_eq!((called.get(), dropped.dropped()), (0, 10));
    assert_eq!(pool.lost_results(), 12);
}

#[test]
fn results_that_arrived_but_were_not_handled_are_dropped_with_the_loop() {
    let _guard = guard();
    let event_loop = new_loop();
    let pool = pool(1);
    let (called, dropped) = (Count::default(), Drops::new());
    for _ in 0..10 {
        let (called, token) = (called.clone(), dropped.token());
        pool.run(
            &event_loop.handle(),
            || (),
            move |_: &LoopRef, _| {
                let _token = token;
                called.add();
            },
        )
        .unwrap();
    }
    pool.shutdown();
    assert_eq!(dropped.dropped(), 0);
    drop(event_loop);
    assert_eq!((called.get(), dropped.dropped()), (0, 10));
    assert_eq!(pool.lost_results(), 0, "they did arrive");
}

#[test]
fn settings_are_checked() {
    let none = WorkerPool::builder().threads(0).build().unwrap_err();
    assert!(matches!(none, UsError::InvalidOption { option: "threads", .. }), "{none:?}");
    let nul = WorkerPool::builder().name("a\0b").build().unwrap_err();
    assert!(matches!(nul, UsError::InvalidOption { option: "name", .. }), "{nul:?}");
    assert!(WorkerPool::builder().build().unwrap().threads() > 0);
}
