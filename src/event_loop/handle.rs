//! The handle of a loop on any thread.

use std::fmt;
use std::marker::PhantomData;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::LoopRef;
use crate::defer::Rejected;
use crate::error::UsError;
use crate::ids::LoopId;
use crate::job::Job;
use crate::registry;
use crate::remote::Remote;
use crate::shell::Frame;
use crate::sync::Arc;

/// A handle of a loop for any thread.
///
/// Made by [`LoopRef::handle`] or, with the type of the loop's state, by
/// [`Loop::typed_handle`](crate::Loop::typed_handle). It does not keep the loop, nor keep it
/// running, and outlives it harmlessly.
///
/// ```
/// use usockets::Loop;
///
/// let event_loop = Loop::from_state(Vec::<i32>::new())?;
/// let keep_alive = event_loop.keep_alive()?;
/// let handle = event_loop.typed_handle();
/// let worker = std::thread::spawn(move || -> Result<usize, usockets::UsError> {
///     for number in 0..10 {
///         handle.defer(move |event_loop| {
///             event_loop
///                 .with_state(|numbers: &mut Vec<i32>| numbers.push(number))
///                 .expect("jobs run one after the other");
///         })?;
///     }
///     // Jobs of one thread run in order, so this sees the numbers.
///     let count = handle.run_on_loop(|event_loop| event_loop.with_state(|n: &mut Vec<i32>| n.len()))??;
///     handle.stop();
///     Ok(count)
/// });
/// event_loop.run()?;
/// drop(keep_alive);
/// assert_eq!(worker.join().expect("no panic")?, 10);
/// assert_eq!(event_loop.with_state(|numbers| numbers.len())?, 10);
/// # Ok::<(), usockets::UsError>(())
/// ```
pub struct LoopHandle<T: 'static = ()> {
    remote: Arc<Remote>,
    /// `fn`, so that the handle is `Send` and `Sync` whatever the state is.
    _state: PhantomData<fn() -> T>,
}

impl<T: 'static> LoopHandle<T> {
    pub(super) fn new(remote: &Arc<Remote>) -> Self {
        Self { remote: Arc::clone(remote), _state: PhantomData }
    }

    pub(crate) fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// The same handle with the type of the loop's state.
    ///
    /// # Errors
    ///
    /// [`WrongType`](UsError::WrongType) if the state is not a `U`.
    pub fn typed<U: 'static>(&self) -> Result<LoopHandle<U>, UsError> {
        if self.remote.state_type != std::any::TypeId::of::<U>() {
            return Err(UsError::WrongType);
        }
        Ok(LoopHandle::new(&self.remote))
    }

    /// The same handle without the type of the loop's state.
    pub fn untyped(&self) -> LoopHandle {
        LoopHandle::new(&self.remote)
    }

    /// The loop's identity.
    pub fn id(&self) -> LoopId {
        self.remote.id
    }

    /// Lets the loop call `job` on its thread, and wakes it for that if it sleeps.
    ///
    /// Jobs of one thread run in the order of the calls, each exactly once, or are dropped with the
    /// loop. A job that waits keeps [`run`](crate::Loop::run) from returning. Called on the loop's
    /// own thread this works just the same; see also [`LoopRef::defer`], which takes closures that
    /// are not `Send`.
    ///
    /// # Errors
    ///
    /// The job, with [`LoopClosed`](UsError::LoopClosed).
    pub fn defer<F>(&self, job: F) -> Result<(), DeferError<F>>
    where
        F: FnOnce(&LoopRef) + Send + 'static,
    {
        self.remote.queue.push(Job::new(job)).map_err(DeferError::from_rejected)
    }

    /// As [`defer`](Self::defer), but refuses the job when as many wait as the
    /// [capacity](crate::LoopBuilder::queue_capacity) of the queue says: for work that is better shed than
    /// piled up.
    ///
    /// # Errors
    ///
    /// The job, with [`LoopClosed`](UsError::LoopClosed) or [`QueueFull`](UsError::QueueFull).
    ///
    /// ```
    /// use usockets::{Loop, UsError};
    ///
    /// let event_loop = Loop::<()>::builder().queue_capacity(1).build(())?;
    /// let handle = event_loop.handle();
    /// handle.try_defer(|_| println!("first"))?;
    /// let error = handle.try_defer(|_| println!("second")).expect_err("one waits already");
    /// assert!(matches!(error.reason(), UsError::QueueFull));
    /// event_loop.run()?;
    /// handle.try_defer(error.into_job())?;
    /// event_loop.run()?;
    /// # Ok::<(), UsError>(())
    /// ```
    pub fn try_defer<F>(&self, job: F) -> Result<(), DeferError<F>>
    where
        F: FnOnce(&LoopRef) + Send + 'static,
    {
        self.remote.queue.try_push(Job::new(job)).map_err(DeferError::from_rejected)
    }

    /// Calls `f` on the loop and waits for its result.
    ///
    /// On the loop's own thread it is called at once. From another one it waits for its turn, after
    /// what that thread has deferred before; for ever, if nobody runs the loop. Two loops that wait
    /// for each other in this way wait for ever.
    ///
    /// # Errors
    ///
    /// [`LoopClosed`](UsError::LoopClosed) if the loop is gone or goes before it has called `f`, and
    /// [`JobPanicked`](UsError::JobPanicked) if `f` panicked, which then also panics out of
    /// [`run`](crate::Loop::run).
    pub fn run_on_loop<R, F>(&self, f: F) -> Result<R, UsError>
    where
        R: Send + 'static,
        F: FnOnce(&LoopRef) -> R + Send + 'static,
    {
        if self.remote.is_here() {
            let event_loop = self.loop_ref()?;
            let _frame = Frame::enter(event_loop.shell());
            return Ok(f(&event_loop));
        }
        let (answer, receiver) = bounded(1);
        let mut call = Call { answer, started: false };
        self.defer(move |event_loop: &LoopRef| {
            call.started = true;
            let result = f(event_loop);
            call.finish(result);
        })?;
        wait(&receiver)
    }

    /// The loop itself, on its own thread.
    ///
    /// # Errors
    ///
    /// [`WrongThread`](UsError::WrongThread) on any other thread,
    /// [`LoopClosed`](UsError::LoopClosed).
    pub fn loop_ref(&self) -> Result<LoopRef, UsError> {
        if !self.remote.is_here() {
            return Err(UsError::WrongThread);
        }
        registry::find(self.remote.id).map(LoopRef::new).ok_or(UsError::LoopClosed)
    }

    /// Makes the loop call its [wakeup hook](LoopRef::on_wakeup) soon; calls before it does merge
    /// into one. Does nothing if the loop is gone. Beneath: `usx_waker_wake`.
    pub fn wake(&self) {
        self.remote.ask_to_wake();
    }

    /// As [`LoopRef::stop`], from any thread. Does nothing if the loop is gone.
    pub fn stop(&self) {
        self.remote.ask_to_stop();
    }
}

/// What a closure of `run_on_loop` owes to the thread that waits. If it is dropped without an
/// answer the closure has panicked, or was never called.
struct Call<R> {
    answer: Sender<Answer<R>>,
    started: bool,
}

/// What came of a closure of `run_on_loop`.
enum Answer<R> {
    Done(R),
    Panicked,
}

impl<R> Call<R> {
    fn finish(&mut self, result: R) {
        self.started = false;
        // Whoever waits cannot have gone away.
        let _sent = self.answer.send(Answer::Done(result));
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        if self.started {
            let _sent = self.answer.send(Answer::Panicked);
        }
    }
}

fn wait<R>(receiver: &Receiver<Answer<R>>) -> Result<R, UsError> {
    match receiver.recv() {
        Ok(Answer::Done(result)) => Ok(result),
        Ok(Answer::Panicked) => Err(UsError::JobPanicked),
        Err(_) => Err(UsError::LoopClosed),
    }
}

impl<T: 'static> Clone for LoopHandle<T> {
    fn clone(&self) -> Self {
        Self::new(&self.remote)
    }
}

impl<T: 'static> fmt::Debug for LoopHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle").field("loop", &self.id()).finish_non_exhaustive()
    }
}

/// A job that was not taken, and why.
///
/// ```
/// use usockets::{Loop, UsError};
///
/// let event_loop = Loop::<()>::new()?;
/// let handle = event_loop.handle();
/// drop(event_loop);
///
/// let message = String::from("precious");
/// let error = handle.defer(move |_| println!("{message}")).expect_err("the loop is gone");
/// assert!(matches!(error.reason(), UsError::LoopClosed));
/// let _job = error.into_job(); // nothing is lost
/// # Ok::<(), UsError>(())
/// ```
pub struct DeferError<F> {
    job: F,
    full: bool,
}

impl<F> DeferError<F> {
    pub(super) fn closed(job: F) -> Self {
        Self { job, full: false }
    }

    fn from_rejected(rejected: Rejected<Job<LoopRef>>) -> Self
    where
        F: FnOnce(&LoopRef) + Send + 'static,
    {
        let full = matches!(rejected, Rejected::Full(_));
        let job = rejected.into_job().downcast::<F>().unwrap_or_else(|_| {
            unreachable!("the queue gives back the job it was given: bug in usockets")
        });
        Self { job, full }
    }

    /// The job.
    pub fn into_job(self) -> F {
        self.job
    }

    /// [`LoopClosed`](UsError::LoopClosed) or [`QueueFull`](UsError::QueueFull).
    pub fn reason(&self) -> UsError {
        if self.full { UsError::QueueFull } else { UsError::LoopClosed }
    }
}

impl<F> From<DeferError<F>> for UsError {
    /// The reason; drops the job.
    fn from(error: DeferError<F>) -> Self {
        error.reason()
    }
}

impl<F> fmt::Debug for DeferError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeferError").field("reason", &self.reason()).finish_non_exhaustive()
    }
}

impl<F> fmt::Display for DeferError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason().fmt(f)
    }
}

impl<F> std::error::Error for DeferError<F> {}
