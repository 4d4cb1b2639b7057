//! What contexts need for the tests that run over plain connections and over TLS.

use std::sync::OnceLock;

use usockets::{ContextBuilder, Socket, TlsClientConfig, TlsServerConfig, TlsServerOptions};

use super::certificates::certificates;

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

impl<T: 'static, S: 'static> Secured for ContextBuilder<true, T, S> {
    fn secured(self) -> Self {
        static CONFIGS: OnceLock<(TlsServerConfig, TlsClientConfig)> = OnceLock::new();
        let (server, client) = CONFIGS.get_or_init(|| {
            let server = TlsServerOptions::new(certificates().server.identity());
            (server.build().expect("a configuration"), certificates().authority.client())
        });
        self.tls_server(server).tls_client(client)
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

impl<S: 'static> Ready for Socket<true, S> {
    fn is_ready(&self) -> bool {
        !self.is_handshaking()
    }
}
