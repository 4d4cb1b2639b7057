#![forbid(unsafe_code)]
//! TLS: configurations, and what contexts and sockets with `SSL = true` have besides.

mod builder;
mod client;
mod connection;
mod context;
mod error;
mod events;
mod failure;
mod handshake;
mod identity;
mod names;
mod pem;
mod policy;
mod secret;
mod server;
mod session;
mod start;
mod tickets;
mod trust;

pub use client::{TlsClientConfig, TlsClientOptions};
pub use error::{TlsError, TlsErrorKind};
pub use events::{AlpnOffer, PeerCertificates, ServerNameAnswer};
pub use failure::{CertificateError, TlsAlert, TlsFailure, TlsProtocolError};
pub use handshake::Handshake;
pub use identity::TlsIdentity;
pub use policy::TlsVersion;
pub use server::{ClientCertificates, TlsServerConfig, TlsServerOptions};
pub use session::TlsSession;
pub use start::StartTls;
pub use tickets::TicketKeys;
pub use trust::TrustAnchors;

pub(crate) use context::{ContextTls, TlsSetup, prepare_client, require_server};
pub(crate) use events::TlsCallbacks;
pub(crate) use names::is_server_name;
pub(crate) use session::{checked_name, client_settings};

use std::io;

use crate::ffi;

/// The TLS library and its version, such as `"OpenSSL 3.0.19"`; `None` in a build without TLS. Beneath:
/// `usx_tls_library`.
///
/// ```
/// assert_eq!(usockets::tls_library().is_some(), cfg!(feature = "tls"));
/// ```
pub fn tls_library() -> Option<&'static str> {
    ffi::tls_library()
}

/// Whether connections could be encrypted by the kernel ([kTLS]): see
/// [`TlsServerOptions::kernel_tls`]. Beneath: `usx_tls_kernel_support`.
///
/// ```
/// match usockets::kernel_tls_support() {
///     Ok(()) => println!("kTLS can be used"),
///     Err(error) => println!("no kTLS: {error}"),
/// }
/// ```
///
/// # Errors
///
/// [`NotFound`](io::ErrorKind::NotFound): the kernel has no TLS;
/// [`Unsupported`](io::ErrorKind::Unsupported): the library, or this crate, does not use it.
///
/// [kTLS]: https://docs.kernel.org/networking/tls.html
pub fn kernel_tls_support() -> io::Result<()> {
    ffi::tls_kernel_support()
}
