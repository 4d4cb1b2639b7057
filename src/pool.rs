#![forbid(unsafe_code)]
//! Threads for work that would hold up a loop, and the way back.

mod outcome;

use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle, ThreadId};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::defer::Expected;
use crate::error::UsError;
use crate::event_loop::{LoopHandle, LoopRef};
use crate::ffi::Waker;
use crate::ids::SocketId;
use crate::job::{Job, Run};
use crate::socket::Socket;

pub use outcome::{JobError, JobPanic, JobResult, RunError};

/// Jobs that wait in a pool whose builder was not told otherwise. Who gets `QueueFull` can still shed
/// load; who waits behind a thousand jobs mostly has been given up on.
const DEFAULT_QUEUE_CAPACITY: usize = 1024;

/// Threads for work that would hold up a loop: hashing, compression, files, blocking libraries.
///
/// A job runs on one of the pool's threads; then a second closure gets its result on the thread of the
/// loop, in a turn of its own, where sockets can be used.
///
/// ```
/// use usockets::{Loop, WorkerPool};
///
/// let event_loop = Loop::<()>::new()?;
/// let pool = WorkerPool::builder().threads(2).name("factorial").build()?;
/// pool.run(
///     &event_loop.handle(),
///     || (1..=20_u64).product::<u64>(),
///     |_event_loop, result| assert_eq!(result.expect("no panic"), 2_432_902_008_176_640_000),
/// )?;
/// // Runs until the result was there.
/// event_loop.run()?;
/// # Ok::<(), usockets::UsError>(())
/// ```
///
/// # What is promised
///
/// - A job that was accepted runs once, or is [cancelled](Self::shutdown_now) before it started. Jobs
///   start in the order in which they were given.
/// - `done` is called exactly once for every accepted job, on the thread of the loop, whether the job
///   returned, panicked or was cancelled, provided that the loop still lives and is run, and with
///   [`run_for`](Self::run_for) the socket too. Otherwise `done` and the result are dropped, maybe on a
///   thread of the pool. The results of several threads come in any order; those of one thread in
///   the order of their jobs.
/// - A job under way is a reason for its loop to keep [running](crate::Loop::run).
/// - What is not accepted comes back in the [`RunError`].
///
/// # Threads
///
/// A pool can be used from every thread and by many loops; share it in an [`Arc`]. No method but
/// [`shutdown`](Self::shutdown) waits for anything.
///
/// Dropping the pool is the same as [`shutdown`](Self::shutdown) without waiting: what was accepted is
/// still done, and then the threads end by themselves.
pub struct WorkerPool {
    /// `None` once the pool accepts no more.
    sender: RwLock<Option<Sender<Task>>>,
    /// For cancelling what nobody has started.
    receiver: Receiver<Task>,
    /// The threads that have not been waited for.
    threads: Mutex<Vec<JoinHandle<()>>>,
    thread_ids: Vec<ThreadId>,
    counts: Arc<Counts>,
}

impl WorkerPool {
    /// A pool with one thread per processor and room for 1024 waiting jobs, unless it is told otherwise.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// Runs `job` on a thread of the pool and then, on the thread of the loop, `done` with the result.
    ///
    /// Can be called from any thread, also from inside a callback, a job or a `done`. The job may have
    /// run before this call returns; `done` always waits for the loop to come to its deferred jobs.
    ///
    /// A panic in `job` is a result, [`JobError::Panicked`]. A panic in `done` is one of the loop's user
    /// code, with which [`Loop::run`](crate::Loop::run) goes on.
    ///
    /// # Errors
    ///
    /// The [`RunError`] gives both closures back. It says [`QueueFull`](UsError::QueueFull),
    /// [`PoolClosed`](UsError::PoolClosed) or [`LoopClosed`](UsError::LoopClosed). How many deferred jobs
    /// the loop admits does not matter here.
    pub fn run<T, R, J, D>(
        &self,
        handle: &LoopHandle<T>,
        job: J,
        done: D,
    ) -> Result<(), RunError<J, D>>
    where
        T: 'static,
        R: Send + 'static,
        J: FnOnce() -> R + Send + 'static,
        D: FnOnce(&LoopRef, JobResult<R>) + Send + 'static,
    {
        self.submit(handle, job, done, |done, event_loop, result| done(event_loop, result))
    }

    /// As [`run`](Self::run), for a result that concerns one socket. When that is closed or has been
    /// [adopted](Socket::adopt) by the time the result is there, `done` is dropped without being called.
    ///
    /// ```
    /// use usockets::{Loop, SocketContext, WorkerPool};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let handle = event_loop.handle();
    /// let pool = WorkerPool::builder().threads(1).build()?;
    ///
    /// let shouting = SocketContext::<false>::builder()
    ///     .on_data(move |_, socket, _, data| {
    ///         let text = data.to_vec();
    ///         let accepted = pool.run_for(
    ///             &handle,
    ///             socket.id(),
    ///             move || text.to_ascii_uppercase(),
    ///             |socket, result| {
    ///                 let _taken = socket.write(&result.unwrap_or_default());
    ///             },
    ///         );
    ///         if accepted.is_err() {
    ///             socket.close();
    ///         }
    ///     })
    ///     .build(&event_loop, ())?;
    /// # drop(shouting);
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run), and [`WrongLoop`](UsError::WrongLoop) if the socket is one of another
    /// loop than `handle`.
    pub fn run_for<T, const SSL: bool, S, R, J, D>(
        &self,
        handle: &LoopHandle<T>,
        socket: SocketId<SSL, S>,
        job: J,
        done: D,
    ) -> Result<(), RunError<J, D>>
    where
        T: 'static,
        S: 'static,
        R: Send + 'static,
        J: FnOnce() -> R + Send + 'static,
        D: FnOnce(&Socket<SSL, S>, JobResult<R>) + Send + 'static,
    {
        if socket.loop_id() != handle.id() {
            return Err(RunError { job, done, error: UsError::WrongLoop });
        }
        self.submit(handle, job, done, move |done, event_loop, result| {
            if let Ok(socket) = socket.resolve(event_loop) {
                done(&socket, result);
            }
        })
    }

    /// Accepts no more jobs, and waits until those that were accepted are done and the threads have
    /// ended. Their results may still be on the way to their loops.
    ///
    /// This is the one call that blocks: a loop stands still meanwhile if it is made on its thread.
    /// Called by a job of this very pool it does not wait, since that would be for ever. May be called
    /// again.
    pub fn shutdown(&self) {
        self.close();
        if self.thread_ids.contains(&thread::current().id()) {
            return;
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for worker in threads.drain(..) {
            // Workers catch every panic, so there is none to be passed on.
            let _ = worker.join();
        }
    }

    /// Accepts no more jobs and cancels those that have not started; each of them ends in a call of its
    /// `done` with [`JobError::Cancelled`]. Returns how many these were. Does not wait for the jobs
    /// that are running, which nothing can stop; [`shutdown`](Self::shutdown) afterwards does.
    pub fn shutdown_now(&self) -> usize {
        self.close();
        self.receiver.try_iter().map(|task| task.run(&Order::Cancel)).count()
    }

    /// The number of threads the pool was built with.
    pub fn threads(&self) -> usize {
        self.thread_ids.len()
    }

    /// Jobs that were accepted and have not started.
    pub fn queued(&self) -> usize {
        self.receiver.len()
    }

    /// Results that were dropped because their loop was gone. Those for a socket that is gone are not
    /// among them.
    pub fn lost_results(&self) -> u64 {
        self.counts.lost_results.load(Ordering::Relaxed)
    }

    /// Announces the result to the loop and hands the job to the threads. `deliver` calls `done`.
    fn submit<T, R, J, D, F>(
        &self,
        handle: &LoopHandle<T>,
        job: J,
        done: D,
        deliver: F,
    ) -> Result<(), RunError<J, D>>
    where
        T: 'static,
        R: Send + 'static,
        J: FnOnce() -> R + Send + 'static,
        D: Send + 'static,
        F: FnOnce(D, &LoopRef, JobResult<R>) + Send + 'static,
    {
        let Some(expected) = Expected::new(&handle.remote().queue) else {
            return Err(RunError { job, done, error: UsError::LoopClosed });
        };
        let work = Work { job, done, deliver, expected, counts: Arc::clone(&self.counts) };
        let (task, error) = match self.send(Job::new(work)) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(task)) => (task, UsError::QueueFull),
            Err(TrySendError::Disconnected(task)) => (task, UsError::PoolClosed),
        };
        let Ok(Work { job, done, .. }) = task.downcast::<Work<J, D, F>>() else {
            unreachable!("bug in usockets: a channel gave back another task than it was given");
        };
        Err(RunError { job, done, error })
    }

    fn send(&self, task: Task) -> Result<(), TrySendError<Task>> {
        match &*self.sender.read().unwrap_or_else(PoisonError::into_inner) {
            Some(sender) => sender.try_send(task),
            None => Err(TrySendError::Disconnected(task)),
        }
    }

    /// Without a sender the threads end when the queue is empty.
    fn close(&self) {
        *self.sender.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool")
            .field("threads", &self.threads())
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}

/// Settings of a [`WorkerPool`] to be.
///
/// ```
/// use usockets::WorkerPool;
///
/// let pool = WorkerPool::builder().threads(3).queue_capacity(100).name("images").build()?;
/// assert_eq!(pool.threads(), 3);
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "`build` makes the pool"]
pub struct PoolBuilder {
    /// `None`: one per processor.
    threads: Option<usize>,
    /// `None`: no limit.
    queue_capacity: Option<usize>,
    name: String,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self {
            threads: None,
            queue_capacity: Some(DEFAULT_QUEUE_CAPACITY),
            name: String::from("worker"),
        }
    }
}

impl PoolBuilder {
    /// The number of threads, at least one. Without this call it is one per processor.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// How many accepted jobs may wait for a thread; one more is
    /// [`QueueFull`](UsError::QueueFull). With 0 a job is accepted only if a thread is waiting for one.
    /// Without this call it is 1024.
    pub fn queue_capacity(mut self, jobs: usize) -> Self {
        self.queue_capacity = Some(jobs);
        self
    }

    /// Lets as many jobs wait as there is memory for.
    pub fn unbounded_queue(mut self) -> Self {
        self.queue_capacity = None;
        self
    }

    /// What the threads are called, with a number behind it, in debuggers and in messages of panics.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) for no thread at all and for a name with a NUL in it;
    /// [`Io`](UsError::Io) if the system gives no more threads. Then none is left running.
    pub fn build(self) -> Result<WorkerPool, UsError> {
        let threads = match self.threads {
            Some(0) => return Err(UsError::invalid("threads", "a pool needs at least one")),
            Some(threads) => threads,
            None => thread::available_parallelism().map_or(1, usize::from),
        };
        if self.name.contains('\0') {
            return Err(UsError::invalid("name", "it contains a NUL"));
        }
        let (sender, receiver) = match self.queue_capacity {
            Some(capacity) => crossbeam_channel::bounded(capacity),
            None => crossbeam_channel::unbounded(),
        };
        // If one cannot be started, dropping the sender ends those before it.
        let threads = (0..threads)
            .map(|number| {
                let tasks: Receiver<Task> = receiver.clone();
                thread::Builder::new()
                    .name(format!("{}-{number}", self.name))
                    .spawn(move || tasks.iter().for_each(|task| task.run(&Order::Work)))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| UsError::io("starting a thread", error))?;
        Ok(WorkerPool {
            sender: RwLock::new(Some(sender)),
            receiver,
            thread_ids: threads.iter().map(|worker| worker.thread().id()).collect(),
            threads: Mutex::new(threads),
            counts: Arc::default(),
        })
    }
}

#[derive(Debug, Default)]
struct Counts {
    lost_results: AtomicU64,
}

/// What the threads take from the queue.
type Task = Job<Order>;

/// What a task is run for.
enum Order {
    /// To do the job.
    Work,
    /// To answer without doing it.
    Cancel,
}

/// An accepted job and everything that its result needs.
struct Work<J, D, F> {
    job: J,
    done: D,
    deliver: F,
    /// The place for the result, which keeps the loop.
    expected: Expected<Job<LoopRef>, Waker>,
    counts: Arc<Counts>,
}

impl<R, J, D, F> Run<Order> for Work<J, D, F>
where
    R: Send + 'static,
    J: FnOnce() -> R + Send + 'static,
    D: Send + 'static,
    F: FnOnce(D, &LoopRef, JobResult<R>) + Send + 'static,
{
    fn run(self, order: &Order) {
        let Self { job, done, deliver, expected, counts } = self;
        // What a job leaves behind when it panics is the business of those who share it.
        let result = panic::catch_unwind(AssertUnwindSafe(|| match order {
            Order::Work => Ok(job()),
            Order::Cancel => {
                drop(job);
                Err(JobError::Cancelled)
            }
        }));
        let result =
            result.unwrap_or_else(|payload| Err(JobError::Panicked(JobPanic::new(payload))));
        let answer = Job::new(move |event_loop: &LoopRef| deliver(done, event_loop, result));
        if let Err(rejected) = expected.push(answer) {
            counts.lost_results.fetch_add(1, Ordering::Relaxed);
            drop_quietly(rejected);
        }
    }
}

/// Drops something of the program's that concerns nobody any more, without ending the thread when a
/// destructor panics.
fn drop_quietly<T>(value: T) {
    let caught = panic::catch_unwind(AssertUnwindSafe(|| drop(value)));
    // Dropping what the panic carries could panic anew; what that carries is leaked.
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(|| drop(caught))) {
        let _leaked = ManuallyDrop::new(second);
    }
}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync + 'static>() {}
    is_send_and_sync::<WorkerPool>();
    is_send_and_sync::<PoolBuilder>();
    is_send_and_sync::<JobError>();
};
