#![forbid(unsafe_code)]
//! Loops: the owner, its handles, and what they run.

mod builder;
mod clock;
mod handle;
mod hooks;
mod jobs;
mod keep_alive;
mod loop_ref;
mod metrics;
mod owner;
mod signal;

pub use builder::{Backend, LoopBuilder};
pub use handle::{DeferError, LoopHandle};
pub use keep_alive::KeepAlive;
pub use loop_ref::LoopRef;
pub use metrics::Metrics;
pub use owner::Loop;
pub use signal::SignalWatch;

pub(crate) use clock::nanoseconds;
pub(crate) use hooks::Hooks;
pub(crate) use jobs::{LocalJobs, has_jobs, run_jobs};
