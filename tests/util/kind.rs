//! What contexts need for the tests that run over plain TCP and over TLS.

use usockets::{ContextBuilder, Socket};

/// Builders of both kinds.
pub(crate) trait Secured {
    /// Gives a context of TLS the tests' certificates, for both sides; leaves a plain one as it is.
    fn secured(self) -> Self;
}

impl<T: 'static, S: 'static> Secured for ContextBuilder<false, T, S> {
    fn secured(self) -> Self {
        self
    }
}

/// Sockets of both kinds.
pub(crate) trait Ready {
    /// Whether no handshake has to be waited for.
    fn is_ready(&self) -> bool;
}

impl<S: 'static> Ready for Socket<false, S> {
    fn is_ready(&self) -> bool {
        true
    }
}
