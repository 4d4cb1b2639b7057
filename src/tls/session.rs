#![forbid(unsafe_code)]
//! Sessions that clients resume, and what else a client adds to a connect.

use std::ffi::{CStr, CString};

use super::names::server_name;
use super::secret::Secret;
use crate::error::UsError;
use crate::ffi::ClientSettings;

/// A session that a server has offered to resume: from
/// [`on_session`](crate::ContextBuilder::on_session), for
/// [`ConnectOptions::tls_session`](crate::ConnectOptions::tls_session).
///
/// Whoever has the bytes can read the connections that resume it, unless they exchange new keys as TLS 1.3
/// does. They are overwritten when they are dropped, and do not show in `Debug`. One of TLS 1.3 should be used
/// once, so that connections cannot be linked to each other
/// ([RFC 8446, C.4](https://www.rfc-editor.org/rfc/rfc8446#appendix-C.4)). It is resumed only for the server name that
/// it was made for, by a configuration that asks the same of the server; otherwise it does no harm. Nor is it, or one
/// that has renewed it, resumed more than 24 hours after the handshake in which the server showed its certificate.
///
/// ```
/// use usockets::TlsSession;
///
/// # let from_on_session = TlsSession::from_bytes("secret");
/// let kept: Vec<u8> = from_on_session.as_bytes().to_vec(); // to a file that nobody else can read
/// // Later, perhaps in another process, for `ConnectOptions::tls_session`:
/// let session = TlsSession::from_bytes(kept);
/// assert_eq!(session, from_on_session);
/// assert_eq!(format!("{session:?}"), "TlsSession([6 bytes])");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSession(Secret);

impl TlsSession {
    /// One that was [kept](Self::as_bytes). Bytes that are no session, that of another server or damaged, do no harm:
    /// the handshake is a full one. Whoever can write them, however, can pass for the server: it shows no certificate
    /// when a session is resumed.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Secret::new(bytes.into()))
    }

    /// The bytes, to be kept where nobody else sees or changes them.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// What a client adds to a connect; neither is nothing.
pub(crate) fn client_settings<'a>(
    server_name: Option<&'a CStr>,
    session: Option<&'a TlsSession>,
) -> Option<ClientSettings<'a>> {
    let session = session.map(TlsSession::as_bytes);
    (server_name.is_some() || session.is_some()).then_some(ClientSettings { server_name, session })
}

/// Names are checked before anything begins.
pub(crate) fn checked_name(text: Option<&str>) -> Result<Option<CString>, UsError> {
    text.map(server_name).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_bytes_and_secret() {
        let session = TlsSession::from_bytes(b"hunter2".to_vec());
        assert_eq!(session.as_bytes(), b"hunter2");
        assert!(!format!("{session:?}").contains("hunter2"));
    }
}
