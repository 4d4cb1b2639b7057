#![forbid(unsafe_code)]
//! Keys of session tickets.

use std::fmt;

use crate::error::UsError;
use crate::ffi::{RawTicketKeys, TICKET_KEY_LENGTH, TICKET_KEYS_MAX};

/// What session tickets are encrypted with ([RFC 5077](https://www.rfc-editor.org/rfc/rfc5077),
/// [RFC 8446, 4.6.1](https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1)).
///
/// A client may resume a session with any server that has the key of its ticket: another loop, process or
/// machine. Configurations that are given clones of one value share their keys, and so do all that come of
/// [`with_identity`](crate::TlsServerConfig::with_identity). Without any, a configuration has random ones of its
/// own.
///
/// ```
/// use usockets::{TicketKeys, TlsIdentity, TlsServerOptions};
///
/// # #[cfg(feature = "tls")] {
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// # let identity = TlsIdentity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
/// # let (this_week, last_week) = ([1; 80], [2; 80]);
/// // As all servers of the service have them.
/// let keys = TicketKeys::from_bytes(&[this_week, last_week])?;
/// let config = TlsServerOptions::new(identity).ticket_keys(&keys).build()?;
/// # let next_week = [3; 80];
/// // Some days later, from any thread:
/// keys.rotate(&[next_week, this_week])?;
/// # drop(config);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TicketKeys(RawTicketKeys);

impl TicketKeys {
    /// Random keys: a new one every 12 hours, while tickets of the one before are still good. Beneath:
    /// `usx_tls_ticket_keys_create`.
    ///
    /// # Errors
    ///
    /// [`TlsUnavailable`](UsError::TlsUnavailable), [`UsError::Io`] without memory.
    pub fn random() -> Result<Self, UsError> {
        Self::create(&[])
    }

    /// 1 to 8 keys. New tickets are encrypted with the first one; tickets of the others are good as well,
    /// and are renewed when they come. The 80 bytes of a key are a name, which is in the ticket, of 16 bytes;
    /// a key for AES-256, and one for HMAC-SHA-256. They are secret, and must be random. Beneath:
    /// `usx_tls_ticket_keys_create`.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) for another number of keys;
    /// [`TlsUnavailable`](UsError::TlsUnavailable), [`UsError::Io`] without memory.
    pub fn from_bytes(keys: &[[u8; TICKET_KEY_LENGTH]]) -> Result<Self, UsError> {
        check_count(keys)?;
        Self::create(keys)
    }

    fn create(keys: &[[u8; TICKET_KEY_LENGTH]]) -> Result<Self, UsError> {
        if !cfg!(usockets_tls) {
            return Err(UsError::TlsUnavailable);
        }
        let keys = RawTicketKeys::create(keys);
        keys.map(Self).ok_or_else(|| UsError::out_of_memory("ticket_keys"))
    }

    /// Takes 1 to 8 keys instead, for everybody who shares this value, at once. Those that had been before and are
    /// still to be good must be among them. Random keys are no longer renewed after that. Beneath:
    /// `usx_tls_ticket_keys_set`.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) for another number of keys.
    pub fn rotate(&self, keys: &[[u8; TICKET_KEY_LENGTH]]) -> Result<(), UsError> {
        check_count(keys)?;
        self.0.set(keys).map_err(|error| UsError::io("ticket_keys", error))
    }

    pub(super) fn raw(&self) -> &RawTicketKeys {
        &self.0
    }
}

fn check_count(keys: &[[u8; TICKET_KEY_LENGTH]]) -> Result<(), UsError> {
    if (1..=TICKET_KEYS_MAX).contains(&keys.len()) {
        Ok(())
    } else {
        Err(UsError::invalid("ticket keys", "there are 1 to 8 of them"))
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_one_to_eight_keys() {
        for count in [0, 9] {
            let error = TicketKeys::from_bytes(&vec![[1; 80]; count]).expect_err("out of range");
            assert!(matches!(error, UsError::InvalidOption { option: "ticket keys", .. }));
        }
    }
}
