#![forbid(unsafe_code)]
//! The callbacks of TLS, and what they are told.

use super::failure::CertificateError;
use super::handshake::Handshake;
use super::session::TlsSession;
use crate::reason::CloseReason;
use crate::socket::Socket;

/// What the program wants to be called for because of TLS; always empty without.
pub(crate) struct TlsCallbacks<const SSL: bool, T: 'static, S: 'static> {
    pub(crate) on_handshake: Option<OnHandshake<SSL, T, S>>,
    pub(crate) on_verify: Option<OnVerify<SSL, T, S>>,
    pub(crate) on_alpn: Option<OnAlpn<SSL, T, S>>,
    pub(crate) on_server_name: Option<OnServerName<SSL, T, S>>,
    pub(crate) on_session: Option<OnSession<SSL, T, S>>,
}

type OnHandshake<const SSL: bool, T, S> =
    Box<dyn FnMut(&mut T, &Socket<SSL, S>, &mut S, Result<&Handshake, &CloseReason>)>;
type OnVerify<const SSL: bool, T, S> = Box<
    dyn FnMut(&mut T, &Socket<SSL, S>, &mut S, &PeerCertificates) -> Result<(), CertificateError>,
>;
type OnAlpn<const SSL: bool, T, S> =
    Box<dyn FnMut(&mut T, &Socket<SSL, S>, &mut S, &AlpnOffer<'_>) -> Option<usize>>;
type OnServerName<const SSL: bool, T, S> =
    Box<dyn FnMut(&mut T, &Socket<SSL, S>, &mut S, &str) -> ServerNameAnswer>;
type OnSession<const SSL: bool, T, S> = Box<dyn FnMut(&mut T, &Socket<SSL, S>, &mut S, TlsSession)>;

impl<const SSL: bool, T: 'static, S: 'static> Default for TlsCallbacks<SSL, T, S> {
    fn default() -> Self {
        Self {
            on_handshake: None,
            on_verify: None,
            on_alpn: None,
            on_server_name: None,
            on_session: None,
        }
    }
}

/// The peer's certificates, about which [`on_verify`](crate::ContextBuilder::on_verify) decides, where there is an
/// example. Plain data, which may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificates {
    chain: Vec<Vec<u8>>,
    verified: Result<(), CertificateError>,
}

impl PeerCertificates {
    pub(crate) fn new(chain: Vec<Vec<u8>>, result: i32) -> Self {
        Self { chain, verified: CertificateError::check(result) }
    }

    /// What the library thinks of them: trust, times, purpose, name. Where this is `Err`, the connection fails
    /// whatever the answer, unless the options [accept invalid
    /// certificates](crate::TlsClientOptions::danger_accept_invalid_certificates).
    pub fn verified(&self) -> Result<(), CertificateError> {
        self.verified
    }

    /// The peer's own certificate, in DER.
    pub fn leaf(&self) -> &[u8] {
        self.chain.first().map_or(&[], Vec::as_slice)
    }

    /// All certificates that the peer has sent, in DER, its own first. Nothing says that they are in order,
    /// or belong together.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }
}

/// The protocols that a client offers, among which [`on_alpn`](crate::ContextBuilder::on_alpn) chooses.
///
/// The answer is the position of the one that is chosen, which [`select`](Self::select) and
/// [`position`](Self::position) find. See the example of [`on_alpn`](crate::ContextBuilder::on_alpn).
#[derive(Debug, Clone, Copy)]
pub struct AlpnOffer<'a> {
    /// Each with its length before it.
    list: &'a [u8],
}

impl<'a> AlpnOffer<'a> {
    pub(crate) fn new(list: &'a [u8]) -> Self {
        Self { list }
    }

    /// The protocols, in the client's order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        self.entries().map(|(_, name)| name)
    }

    /// Where a protocol is in the offer.
    pub fn position(&self, protocol: impl AsRef<[u8]>) -> Option<usize> {
        self.iter().position(|name| name == protocol.as_ref())
    }

    /// Where the first of these protocols is that the client offers: the server's order decides.
    pub fn select<P: AsRef<[u8]>>(&self, protocols: impl IntoIterator<Item = P>) -> Option<usize> {
        protocols.into_iter().find_map(|protocol| self.position(protocol))
    }

    /// Offset and name of each. What is behind a length that does not fit is left out.
    fn entries(&self) -> impl Iterator<Item = (usize, &'a [u8])> {
        let list = self.list;
        let mut offset = 0;
        std::iter::from_fn(move || {
            let length = usize::from(*list.get(offset)?);
            let name = list.get(offset + 1..offset + 1 + length)?;
            let entry = (offset, name);
            offset += 1 + length;
            Some(entry)
        })
    }

    /// Where the entry at a position begins.
    pub(crate) fn offset(&self, position: usize) -> Option<usize> {
        self.entries().nth(position).map(|(offset, _)| offset)
    }
}

/// What becomes of a handshake with a server name that has no entry: the answer of
/// [`on_server_name`](crate::ContextBuilder::on_server_name), where there is an example; for one with
/// [`Wait`](Self::Wait) see [`continue_handshake`](crate::Socket::continue_handshake).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerNameAnswer {
    /// Look again, for it may have been [added](crate::SocketContext::add_server_name) just now. If it was not,
    /// the client gets the certificate of the context, or is refused if the context
    /// [does that](crate::ContextBuilder::refuse_unknown_names).
    LookUp,
    /// The handshake waits, until
    /// [`continue_handshake`](crate::Socket::continue_handshake) or
    /// [`refuse_handshake`](crate::Socket::refuse_handshake), or its deadline.
    Wait,
    /// The client is refused, by the alert `unrecognized_name`.
    Refuse,
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: AlpnOffer<'_> = AlpnOffer { list: b"\x02h2\x08http/1.1\x03foo" };

    #[test]
    fn offers_are_read_in_order() {
        assert_eq!(OFFER.iter().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1", b"foo"]);
        assert_eq!(OFFER.select(["spdy", "foo", "h2"]), Some(2));
        assert_eq!(OFFER.select(["spdy"]), None);
        assert_eq!(OFFER.offset(0), Some(0));
        assert_eq!(OFFER.offset(1), Some(3));
        assert_eq!(OFFER.offset(2), Some(12));
        assert_eq!(OFFER.offset(3), None);
    }

    #[test]
    fn offers_that_break_off_end() {
        let offer = AlpnOffer { list: b"\x02h2\x08http" };
        assert_eq!(offer.iter().collect::<Vec<_>>(), [b"h2"]);
        assert_eq!(AlpnOffer { list: b"" }.iter().count(), 0);
    }

    #[test]
    fn certificates_know_the_verdict() {
        let certificates = PeerCertificates::new(vec![b"leaf".to_vec(), b"root".to_vec()], 18);
        assert_eq!(certificates.leaf(), b"leaf");
        assert_eq!(certificates.chain().len(), 2);
        assert_eq!(certificates.verified(), Err(CertificateError::SELF_SIGNED));
        assert_eq!(PeerCertificates::new(Vec::new(), 0).leaf(), b"");
    }
}
