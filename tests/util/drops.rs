use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts how many [`Token`]s were made and dropped. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drops(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    made: AtomicUsize,
    dropped: AtomicUsize,
}

impl Drops {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Something that is to be dropped exactly once.
    pub(crate) fn token(&self) -> Token {
        self.0.made.fetch_add(1, Ordering::SeqCst);
        Token { drops: self.clone(), alive: true }
    }

    pub(crate) fn made(&self) -> usize {
        self.0.made.load(Ordering::SeqCst)
    }

    pub(crate) fn dropped(&self) -> usize {
        self.0.dropped.load(Ordering::SeqCst)
    }

    pub(crate) fn live(&self) -> usize {
        self.made() - self.dropped()
    }

    /// Panics unless every token was dropped once, and there were some.
    #[track_caller]
    pub(crate) fn assert_all_dropped(&self) {
        assert!(self.made() > 0, "no token was made");
        assert_eq!(self.dropped(), self.made(), "tokens dropped, and made");
    }
}

/// To be captured or kept by whatever must be dropped exactly once.
#[derive(Debug)]
pub(crate) struct Token {
    drops: Drops,
    alive: bool,
}

impl Token {
    /// Makes a closure own the token that mentions it.
    pub(crate) fn hold(&self) {
        assert!(self.alive, "a token is used after it was dropped");
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if !std::mem::replace(&mut self.alive, false) {
            // Nothing else is safe to do with a value that is no more.
            eprintln!("a token is dropped twice");
            std::process::abort();
        }
        self.drops.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}
