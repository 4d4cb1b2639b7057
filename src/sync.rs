#![forbid(unsafe_code)]
//! The synchronisation that code shared between threads is built from: the standard library's, or
//! loom's in a build that explores interleavings (`--cfg loom`).

#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};
