#![forbid(unsafe_code)]
//! Where to connect to.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::Path;

use crate::error::UsError;
use crate::ffi::Address;

/// What [`connect`](crate::SocketContext::connect) takes: an address, or a name and a port.
///
/// Unlike [`ToSocketAddrs`](std::net::ToSocketAddrs) it looks nothing up: names are resolved on a
/// helper thread. Implemented for socket addresses, one or several, for pairs of a host or IP address and a port,
/// and for strings `"host:port"`, where an IPv6 address is in brackets.
///
/// ```
/// use usockets::{ConnectTarget, Target, UsError};
///
/// /// The service behind a name of our own.
/// struct Service(u16);
///
/// impl ConnectTarget for Service {
///     fn into_target(self) -> Result<Target, UsError> {
///         Target::name("service.internal", self.0)
///     }
/// }
///
/// assert_eq!("[::1]:80".into_target()?, Target::address(([0, 0, 0, 0, 0, 0, 0, 1], 80)));
/// assert_eq!(("127.0.0.1", 80).into_target()?, Target::address(([127, 0, 0, 1], 80)));
/// assert!("no port".into_target().is_err());
/// # Ok::<(), UsError>(())
/// ```
pub trait ConnectTarget {
    /// The address, or name and port.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`](UsError::InvalidAddress) for what is neither.
    fn into_target(self) -> Result<Target, UsError>;
}

/// An address, several, or a name to be looked up and a port.
///
/// ```
/// use usockets::Target;
///
/// // Text that is an address is one.
/// assert_eq!(Target::name("127.0.0.1", 80)?, Target::address(([127, 0, 0, 1], 80)));
/// assert!(Target::name("", 80).is_err());
/// # Ok::<(), usockets::UsError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target(pub(crate) Where);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Where {
    Address(SocketAddr),
    /// Never empty.
    Addresses(Vec<SocketAddr>),
    Name(CString, u16),
}

impl Target {
    /// An address.
    pub fn address(address: impl Into<SocketAddr>) -> Self {
        Self(Where::Address(address.into()))
    }

    /// Several addresses, the best one first, of which the first to answer is taken: for programs
    /// with a resolver of their own. They are raced as those of a name are; see
    /// [`connect`](crate::SocketContext::connect).
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`](UsError::InvalidAddress) if there is none.
    pub fn addresses(addresses: impl IntoIterator<Item = SocketAddr>) -> Result<Self, UsError> {
        let addresses: Vec<_> = addresses.into_iter().collect();
        match addresses[..] {
            [] => Err(UsError::address("", "there is no address")),
            [address] => Ok(Self::address(address)),
            _ => Ok(Self(Where::Addresses(addresses))),
        }
    }

    /// A host name, or an IP address as text, and a port.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`](UsError::InvalidAddress) if the name is empty or contains a NUL.
    pub fn name(host: &str, port: u16) -> Result<Self, UsError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Self::address((ip, port)));
        }
        if host.is_empty() {
            return Err(UsError::address(host, "the host is missing"));
        }
        let name = CString::new(host).map_err(|_| {
            UsError::address(host.escape_default().to_string(), "it contains a NUL")
        })?;
        Ok(Self(Where::Name(name, port)))
    }
}

impl ConnectTarget for Target {
    fn into_target(self) -> Result<Target, UsError> {
        Ok(self)
    }
}

impl ConnectTarget for &str {
    fn into_target(self) -> Result<Target, UsError> {
        if let Ok(address) = self.parse::<SocketAddr>() {
            return Ok(Target::address(address));
        }
        let Some((host, port)) = self.rsplit_once(':') else {
            return Err(UsError::address(self, "the port is missing"));
        };
        let Ok(port) = port.parse() else {
            return Err(UsError::address(self, "the port is not a number from 0 to 65535"));
        };
        if host.contains([':', '[', ']']) {
            return Err(UsError::address(
                self,
                "it is neither `host:port` nor `[IPv6 address]:port`",
            ));
        }
        Target::name(host, port)
    }
}

impl ConnectTarget for String {
    fn into_target(self) -> Result<Target, UsError> {
        self.as_str().into_target()
    }
}

impl ConnectTarget for &String {
    fn into_target(self) -> Result<Target, UsError> {
        self.as_str().into_target()
    }
}

impl ConnectTarget for (&str, u16) {
    fn into_target(self) -> Result<Target, UsError> {
        Target::name(self.0, self.1)
    }
}

impl ConnectTarget for (String, u16) {
    fn into_target(self) -> Result<Target, UsError> {
        Target::name(&self.0, self.1)
    }
}

impl ConnectTarget for &[SocketAddr] {
    fn into_target(self) -> Result<Target, UsError> {
        Target::addresses(self.iter().copied())
    }
}

impl ConnectTarget for Vec<SocketAddr> {
    fn into_target(self) -> Result<Target, UsError> {
        Target::addresses(self)
    }
}

/// Implements [`ConnectTarget`] for types that are addresses.
macro_rules! addresses {
    ($($type:ty),*) => {
        $(
            impl ConnectTarget for $type {
                fn into_target(self) -> Result<Target, UsError> {
                    Ok(Target::address(self))
                }
            }
        )*
    };
}
addresses!(SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16));

/// The address of a Unix socket. A path that begins with a NUL is an abstract name (Linux).
pub(crate) fn unix(path: &Path) -> Result<Address, UsError> {
    let length = path.as_os_str().len();
    if length == 0 {
        return Err(UsError::address("", "the path of a Unix socket is empty"));
    }
    if path.as_os_str().as_encoded_bytes()[1..].contains(&0) && !is_abstract(path) {
        return Err(UsError::address(path.display().to_string(), "it contains a NUL"));
    }
    Address::unix(path).map_err(|_| UsError::UnixPathTooLong { length })
}

/// Whether it is no path, but an abstract name.
pub(crate) fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().first() == Some(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(host: &str, port: u16) -> Target {
        Target(Where::Name(CString::new(host).expect("no NUL"), port))
    }

    #[test]
    fn addresses_and_names_are_told_apart() {
        let cases = [
            ("127.0.0.1:80", Target::address(([127, 0, 0, 1], 80))),
            ("[::1]:443", Target::address((Ipv6Addr::LOCALHOST, 443))),
            ("localhost:8080", name("localhost", 8080)),
            ("1.2.3:80", name("1.2.3", 80)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.into_target().expect(text), expected);
        }
        assert_eq!(
            ("::1", 1).into_target().expect("IPv6"),
            Target::address((Ipv6Addr::LOCALHOST, 1))
        );
    }

    #[test]
    fn several_addresses_are_a_target() {
        let one = SocketAddr::from(([127, 0, 0, 1], 80));
        let two = SocketAddr::from((Ipv6Addr::LOCALHOST, 80));
        assert_eq!([one].as_slice().into_target().expect("one"), Target::address(one));
        assert_eq!(
            vec![one, two].into_target().expect("two"),
            Target(Where::Addresses(vec![one, two]))
        );
        assert!(matches!(Target::addresses([]), Err(UsError::InvalidAddress { .. })));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "",
            "localhost",
            "host:",
            "host:65536",
            "host:-1",
            ":80",
            "::1:80",
            "[::1:80",
            "a\0b:80",
        ] {
            let error = text.into_target().expect_err(text);
            assert!(matches!(error, UsError::InvalidAddress { .. }), "{text:?}: {error}");
        }
    }

    #[test]
    fn paths_of_unix_sockets_are_checked() {
        assert!(unix(Path::new("/tmp/socket")).is_ok());
        assert!(unix(Path::new("\0abstract")).is_ok());
        assert!(matches!(unix(Path::new("")), Err(UsError::InvalidAddress { .. })));
        assert!(matches!(unix(Path::new("a\0b")), Err(UsError::InvalidAddress { .. })));
        let long = "x".repeat(200);
        assert!(matches!(unix(Path::new(&long)), Err(UsError::UnixPathTooLong { length: 200 })));
    }
}
