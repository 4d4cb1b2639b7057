#![forbid(unsafe_code)]
//! What can become of a job besides its result.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::panic;
use std::sync::{Mutex, PoisonError};

use crate::error::UsError;

/// What became of a job: what it returned, or why it returned nothing.
pub type JobResult<R> = Result<R, JobError>;

/// A job that a [`WorkerPool`](crate::WorkerPool) did not accept, why, and the closures.
///
/// `?` turns it into the [`UsError`] and drops the closures.
pub struct RunError<J, D> {
    pub(super) job: J,
    pub(super) done: D,
    pub(super) error: UsError,
}

impl<J, D> RunError<J, D> {
    /// Why.
    pub fn error(&self) -> &UsError {
        &self.error
    }

    /// The two closures, to try again or to run the job here and now.
    pub fn into_closures(self) -> (J, D) {
        (self.job, self.done)
    }
}

impl<J, D> fmt::Debug for RunError<J, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<J, D> fmt::Display for RunError<J, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the job was not accepted: {}", self.error)
    }
}

impl<J, D> Error for RunError<J, D> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl<J, D> From<RunError<J, D>> for UsError {
    fn from(error: RunError<J, D>) -> Self {
        error.error
    }
}

/// Why a job has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// It panicked.
    #[error(transparent)]
    Panicked(JobPanic),

    /// [`WorkerPool::shutdown_now`](crate::WorkerPool::shutdown_now) came before it was started.
    #[error("the job was cancelled before it was started")]
    Cancelled,
}

/// A panic of a job.
pub struct JobPanic {
    message: Cow<'static, str>,
    /// In a mutex because what a panic carries need not be `Sync`.
    payload: Mutex<Box<dyn Any + Send>>,
}

impl JobPanic {
    pub(super) fn new(payload: Box<dyn Any + Send>) -> Self {
        let message = if let Some(message) = payload.downcast_ref::<&'static str>() {
            Cow::Borrowed(*message)
        } else if let Some(message) = payload.downcast_ref::<String>() {
            Cow::Owned(message.clone())
        } else {
            Cow::Borrowed("(the panic carries no text)")
        };
        Self { message, payload: Mutex::new(payload) }
    }

    /// The text given to `panic!`.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the panic carries, as from [`std::panic::catch_unwind`].
    pub fn into_payload(self) -> Box<dyn Any + Send> {
        self.payload.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with the panic, here.
    pub fn resume(self) -> ! {
        panic::resume_unwind(self.into_payload())
    }
}

impl fmt::Debug for JobPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobPanic").field("message", &self.message).finish_non_exhaustive()
    }
}

impl fmt::Display for JobPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the job panicked: {}", self.message)
    }
}

impl Error for JobPanic {}
