//! TLS: configurations, ticket keys, and what the engine knows of connections.

use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_ulong, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use usockets_sys as sys;

use super::context::function;
use super::{Adoption, RawContext, RawSocket, check};

/// Who one is in a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsRole {
    Server,
    Client,
}

impl TlsRole {
    fn to_raw(self) -> c_int {
        match self {
            Self::Server => sys::USX_TLS_SERVER,
            Self::Client => sys::USX_TLS_CLIENT,
        }
    }
}

/// What the library has to say of a failure. Texts are static.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct LibraryError {
    /// 0: none.
    pub(crate) code: c_ulong,
    pub(crate) library: Option<&'static str>,
    pub(crate) reason: Option<&'static str>,
}

/// Why there is no configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConfigError {
    /// One of `USX_TLS_ERROR_*`.
    pub(crate) kind: c_int,
    /// 0: none.
    pub(crate) errno: c_int,
    /// `USX_TLS_ERROR_TRUST`: which of the trusted; after the last: the system's.
    pub(crate) index: usize,
    pub(crate) said: LibraryError,
}

/// What went wrong with a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionFailure {
    /// One of `USX_TLS_FAILURE_*`.
    pub(crate) kind: c_int,
    pub(crate) alert: Option<u8>,
    pub(crate) verify_result: c_int,
    pub(crate) said: LibraryError,
}

/// A text of the library, which it never frees.
fn static_text(text: *const c_char) -> Option<&'static str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the header says that such texts are static.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

/// The name and version of the library.
pub(crate) fn tls_library() -> Option<&'static str> {
    // SAFETY: takes nothing.
    static_text(unsafe { sys::usx_tls_library() })
}

/// Whether the kernel could encrypt.
pub(crate) fn tls_kernel_support() -> io::Result<()> {
    // SAFETY: takes nothing.
    check(unsafe { sys::usx_tls_kernel_support() })
}

/// The name of an alert.
pub(crate) fn alert_name(alert: u8) -> Option<&'static str> {
    // SAFETY: takes any number.
    static_text(unsafe { sys::usx_tls_alert_name(c_int::from(alert)) })
}

/// What a result of verification means.
pub(crate) fn verify_text(result: c_int) -> Option<&'static str> {
    // SAFETY: takes any number.
    static_text(unsafe { sys::usx_tls_verify_text(result) })
}

// -- Ticket keys ------------------------------------------------------------------------------

/// A counted reference to ticket keys.
pub(crate) struct RawTicketKeys(NonNull<sys::usx_tls_ticket_keys_t>);

// SAFETY: the header says that they may be used from all threads.
unsafe impl Send for RawTicketKeys {}
// SAFETY: as above.
unsafe impl Sync for RawTicketKeys {}

/// The length of one key.
pub(crate) const TICKET_KEY_LENGTH: usize = sys::USX_TLS_TICKET_KEY_LENGTH as usize;
/// Most keys at a time.
pub(crate) const TICKET_KEYS_MAX: usize = sys::USX_TLS_TICKET_KEYS_MAX as usize;

impl RawTicketKeys {
    /// Of these keys, or random ones if there are none. `None`: too many, or out of memory.
    pub(crate) fn create(keys: &[[u8; TICKET_KEY_LENGTH]]) -> Option<Self> {
        let count = c_uint::try_from(keys.len()).ok()?;
        let bytes = if keys.is_empty() { ptr::null() } else { keys.as_ptr().cast() };
        // SAFETY: there are `count` keys in a row; they are copied.
        NonNull::new(unsafe { sys::usx_tls_ticket_keys_create(bytes, count) }).map(Self)
    }

    /// Takes the place of all keys.
    pub(crate) fn set(&self, keys: &[[u8; TICKET_KEY_LENGTH]]) -> io::Result<()> {
        let count = c_uint::try_from(keys.len()).unwrap_or(c_uint::MAX);
        // SAFETY: there are `count` keys in a row; they are copied.
        check(unsafe { sys::usx_tls_ticket_keys_set(self.0.as_ptr(), keys.as_ptr().cast(), count) })
    }
}

impl Clone for RawTicketKeys {
    fn clone(&self) -> Self {
        // SAFETY: this value has a reference.
        unsafe { sys::usx_tls_ticket_keys_retain(self.0.as_ptr()) };
        Self(self.0)
    }
}

impl Drop for RawTicketKeys {
    fn drop(&mut self) {
        // SAFETY: this value has a reference, which is given back here alone.
        unsafe { sys::usx_tls_ticket_keys_release(self.0.as_ptr()) };
    }
}

// -- Configurations ---------------------------------------------------------------------------

/// What a configuration is made of; empty slices are none.
pub(crate) struct ConfigSettings<'a> {
    pub(crate) role: TlsRole,
    pub(crate) certificate: &'a [u8],
    /// One of `USX_TLS_PEM`, `USX_TLS_DER`, `USX_TLS_PKCS12`.
    pub(crate) certificate_format: c_int,
    pub(crate) chain: Vec<&'a [u8]>,
    pub(crate) key: &'a [u8],
    pub(crate) key_format: c_int,
    pub(crate) passphrase: Option<&'a [u8]>,
    pub(crate) check_validity: bool,
    pub(crate) ocsp_response: &'a [u8],
    /// In PEM.
    pub(crate) trusted: Vec<&'a [u8]>,
    pub(crate) system_trust: bool,
    pub(crate) trust_file: Option<&'a CStr>,
    pub(crate) trust_directory: Option<&'a CStr>,
    /// One of `USX_TLS_VERIFY_*`.
    pub(crate) verify: c_int,
    pub(crate) check_name: bool,
    pub(crate) min_version: c_int,
    pub(crate) max_version: c_int,
    pub(crate) ciphers: Option<&'a CStr>,
    pub(crate) cipher_suites: Option<&'a CStr>,
    pub(crate) groups: Option<&'a CStr>,
    pub(crate) signature_algorithms: Option<&'a CStr>,
    pub(crate) protocols: &'a [u8],
    pub(crate) tickets: c_int,
    pub(crate) ticket_keys: Option<&'a RawTicketKeys>,
    pub(crate) key_log: Option<BorrowedFd<'a>>,
    pub(crate) release_buffers: bool,
    pub(crate) tolerate_truncation: bool,
    pub(crate) kernel: bool,
}

fn raw_bytes(bytes: &[u8]) -> sys::usx_tls_bytes {
    let data = if bytes.is_empty() { ptr::null() } else { bytes.as_ptr().cast() };
    sys::usx_tls_bytes { data, length: bytes.len() }
}

fn raw_text(text: Option<&CStr>) -> *const c_char {
    text.map_or(ptr::null(), CStr::as_ptr)
}

/// A counted reference to a configuration.
pub(crate) struct RawConfig(NonNull<sys::usx_tls_config_t>);

// SAFETY: the header says that a configuration does not change, is counted, and may be used from any
// thread.
unsafe impl Send for RawConfig {}
// SAFETY: as above.
unsafe impl Sync for RawConfig {}

impl RawConfig {
    pub(crate) fn create(settings: &ConfigSettings<'_>) -> Result<Self, ConfigError> {
        let chain: Vec<_> = settings.chain.iter().map(|bytes| raw_bytes(bytes)).collect();
        let trusted: Vec<_> = settings.trusted.iter().map(|bytes| raw_bytes(bytes)).collect();
        let options = sys::usx_tls_options {
            role: settings.role.to_raw(),
            certificate: raw_bytes(settings.certificate),
            certificate_format: settings.certificate_format,
            chain: chain.as_ptr(),
            chain_count: chain.len(),
            key: raw_bytes(settings.key),
            key_format: settings.key_format,
            // An empty one is not none.
            passphrase: settings.passphrase.map_or(ptr::null(), |bytes| bytes.as_ptr().cast()),
            passphrase_length: settings.passphrase.map_or(0, <[u8]>::len),
            check_validity: c_int::from(settings.check_validity),
            ocsp_response: raw_bytes(settings.ocsp_response),
            trusted: trusted.as_ptr(),
            trusted_count: trusted.len(),
            trusted_format: sys::USX_TLS_PEM,
            system_trust: c_int::from(settings.system_trust),
            trust_file: raw_text(settings.trust_file),
            trust_directory: raw_text(settings.trust_directory),
            verify: settings.verify,
            check_name: c_int::from(settings.check_name),
            min_version: settings.min_version,
            max_version: settings.max_version,
            ciphers: raw_text(settings.ciphers),
            cipher_suites: raw_text(settings.cipher_suites),
            groups: raw_text(settings.groups),
            signature_algorithms: raw_text(settings.signature_algorithms),
            strict: 1,
            protocols: raw_bytes(settings.protocols),
            dh_parameters: raw_bytes(&[]),
            tickets: settings.tickets,
            ticket_keys: settings.ticket_keys.map_or(ptr::null_mut(), |keys| keys.0.as_ptr()),
            key_log: settings.key_log.map_or(-1, |fd| fd.as_raw_fd()),
            release_buffers: c_int::from(settings.release_buffers),
            tolerate_truncation: c_int::from(settings.tolerate_truncation),
            kernel: c_int::from(settings.kernel),
        };
        // SAFETY: everything that the options lead to is valid for the call, and copied.
        Self::made(|error| unsafe { sys::usx_tls_config_create(&raw const options, error) })
    }

    /// Of an `SSL_CTX` that the program has set up.
    #[cfg(feature = "openssl")]
    pub(crate) fn from_ssl_context(
        ssl_ctx: &openssl::ssl::SslContextRef,
        role: TlsRole,
    ) -> Result<Self, ConfigError> {
        use foreign_types_shared::ForeignTypeRef;
        // SAFETY: it is alive, and the engine retains it.
        Self::made(|error| unsafe {
            sys::usx_tls_config_from_native(ssl_ctx.as_ptr().cast(), role.to_raw(), error)
        })
    }

    fn made(
        make: impl FnOnce(*mut sys::usx_tls_error) -> *mut sys::usx_tls_config_t,
    ) -> Result<Self, ConfigError> {
        let mut error = sys::usx_tls_error {
            kind: sys::USX_TLS_ERROR_UNAVAILABLE, // that is what a build without TLS leaves here
            error: 0,
            index: 0,
            code: 0,
            library: ptr::null(),
            reason: ptr::null(),
        };
        let made = make(&raw mut error);
        NonNull::new(made).map(Self).ok_or_else(|| ConfigError {
            kind: error.kind,
            errno: error.error,
            index: error.index,
            said: LibraryError {
                code: error.code,
                library: static_text(error.library),
                reason: static_text(error.reason),
            },
        })
    }
}

impl Drop for RawConfig {
    fn drop(&mut self) {
        // SAFETY: this value has a reference, which is given back here alone.
        unsafe { sys::usx_tls_config_release(self.0.as_ptr()) };
    }
}

// -- Contexts ---------------------------------------------------------------------------------

/// Defines a setter of one callback.
macro_rules! setter {
    ($name:ident, $function:ident, $c:ident) => {
        pub(crate) fn $name(self, function: function::$function) {
            // SAFETY: the context is alive (see `live`).
            unsafe { sys::$c(self.as_ptr(), Some(function)) };
        }
    };
}

fn raw_config(config: Option<&RawConfig>) -> *mut sys::usx_tls_config_t {
    config.map_or(ptr::null_mut(), |config| config.0.as_ptr())
}

impl RawContext<'_> {
    /// Makes it a context of TLS, or changes what new handshakes get.
    pub(crate) fn set_tls(
        self,
        server: Option<&RawConfig>,
        client: Option<&RawConfig>,
    ) -> io::Result<()> {
        // SAFETY: the context is alive (see `live`); the engine retains the configurations.
        check(unsafe {
            sys::usx_context_set_tls(self.as_ptr(), raw_config(server), raw_config(client))
        })
    }

    /// Adds an entry. On success `release` is called with `user` once, and perhaps before that.
    ///
    /// # Safety
    ///
    /// The function may be called with `user`, and does not call the engine.
    pub(crate) unsafe fn add_server_name(
        self,
        pattern: &CStr,
        config: &RawConfig,
        user: *mut c_void,
        release: Option<function::ReleaseUser>,
        replace: bool,
    ) -> io::Result<()> {
        // SAFETY: the context is alive (see `live`), and so is the configuration, which the engine
        // retains; the caller vouches for the rest.
        check(unsafe {
            sys::usx_context_add_server_name(
                self.as_ptr(),
                pattern.as_ptr(),
                config.0.as_ptr(),
                user,
                release,
                c_int::from(replace),
            )
        })
    }

    /// Removes an entry. Whether there was one.
    pub(crate) fn remove_server_name(self, pattern: &CStr) -> bool {
        // SAFETY: the context is alive (see `live`).
        unsafe { sys::usx_context_remove_server_name(self.as_ptr(), pattern.as_ptr()) != 0 }
    }

    pub(crate) fn refuse_unknown_names(self, refuse: bool) {
        // SAFETY: the context is alive (see `live`).
        unsafe { sys::usx_context_refuse_unknown_names(self.as_ptr(), c_int::from(refuse)) };
    }

    setter!(on_server_name, ServerName, usx_context_on_server_name);
    setter!(on_handshake, Plain, usx_context_on_handshake);
    setter!(on_verify, Verify, usx_context_on_verify);
    setter!(on_protocol, Protocol, usx_context_on_protocol);
    setter!(on_session, Session, usx_context_on_session);
}

// -- Connections ------------------------------------------------------------------------------

/// What a client adds to a connect.
#[derive(Clone, Copy, Default)]
pub(crate) struct ClientSettings<'a> {
    pub(crate) server_name: Option<&'a CStr>,
    pub(crate) session: Option<&'a [u8]>,
}

impl ClientSettings<'_> {
    fn to_raw(self) -> sys::usx_tls_connect {
        sys::usx_tls_connect {
            server_name: raw_text(self.server_name),
            session: self.session.map_or(ptr::null(), |session| session.as_ptr().cast()),
            session_length: self.session.map_or(0, <[u8]>::len),
        }
    }
}

/// What was agreed upon.
pub(crate) struct RawHandshake {
    pub(crate) version: c_int,
    pub(crate) resumed: bool,
    pub(crate) cipher: String,
    pub(crate) group: Option<String>,
    pub(crate) server_name: Option<String>,
    pub(crate) protocol: Option<Vec<u8>>,
    pub(crate) verify_result: c_int,
    pub(crate) has_peer_certificate: bool,
    pub(crate) kernel_send: bool,
    pub(crate) kernel_receive: bool,
}

/// Copies a text.
///
/// # Safety
///
/// It is NULL, or a string that nobody changes during the call.
unsafe fn text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller vouches for it.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

impl RawSocket<'_> {
    /// To be called right after the socket was made by a call that connects.
    pub(crate) fn set_tls_connect(self, settings: ClientSettings<'_>) -> io::Result<()> {
        let options = settings.to_raw();
        // SAFETY: the socket is alive (see `live`); the options are copied.
        check(unsafe { sys::usx_socket_set_tls_connect(self.as_ptr(), &raw const options) })
    }

    /// Moves it to a context with TLS as a pending effect, as a client if there are settings.
    ///
    /// # Safety
    ///
    /// The functions may be called with `argument` as `usx_adoption` says, after this returns `Ok`.
    pub(crate) unsafe fn start_tls_later(
        self,
        target: RawContext<'_>,
        ext_size: c_uint,
        unread: usize,
        functions: &Adoption,
        argument: *mut c_void,
        client: Option<ClientSettings<'_>>,
    ) -> io::Result<()> {
        let client = client.map(ClientSettings::to_raw);
        let client = client.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: both objects are alive (see `live`); the options are copied; the caller vouches for
        // the rest.
        check(unsafe {
            sys::usx_socket_start_tls_later(
                self.as_ptr(),
                target.as_ptr(),
                ext_size,
                unread,
                functions,
                argument,
                client,
            )
        })
    }

    /// Lets a handshake go on that waits for the program.
    pub(crate) fn continue_handshake(self, refuse: bool) -> io::Result<()> {
        // SAFETY: the socket is alive (see `live`).
        check(unsafe { sys::usx_socket_tls_continue(self.as_ptr(), c_int::from(refuse)) })
    }

    /// Whether it shakes hands, waiting for the program or not.
    pub(crate) fn is_handshaking(self) -> bool {
        // SAFETY: the socket is alive (see `live`).
        let state = unsafe { sys::usx_socket_tls_state(self.as_ptr()) };
        state == sys::USX_TLS_STATE_HANDSHAKE || state == sys::USX_TLS_STATE_WAITING
    }

    /// What was agreed upon, if anything was.
    pub(crate) fn handshake(self) -> Option<RawHandshake> {
        let mut info = MaybeUninit::uninit();
        // SAFETY: the socket is alive (see `live`).
        let result = unsafe { sys::usx_socket_tls_info(self.as_ptr(), info.as_mut_ptr()) };
        if result != 0 {
            return None;
        }
        // SAFETY: the call has filled it in.
        let info: sys::usx_tls_info = unsafe { info.assume_init() };
        let protocol = (!info.protocol.is_null()).then(|| {
            // SAFETY: the connection has so many bytes there.
            unsafe { super::bytes(info.protocol, info.protocol_length) }.to_vec()
        });
        Some(RawHandshake {
            version: info.version,
            resumed: info.resumed != 0,
            // SAFETY: it belongs to the connection.
            cipher: unsafe { text(info.cipher) }.unwrap_or_default(),
            // SAFETY: as above.
            group: unsafe { text(info.group) },
            // SAFETY: as above.
            server_name: unsafe { text(info.server_name) },
            protocol,
            verify_result: info.verify_result,
            has_peer_certificate: info.has_peer_certificate != 0,
            kernel_send: info.kernel_send != 0,
            kernel_receive: info.kernel_receive != 0,
        })
    }

    /// The certificates of the peer in DER, leaf first.
    pub(crate) fn peer_chain(self) -> io::Result<Vec<Vec<u8>>> {
        unsafe extern "C" fn each(argument: *mut c_void, der: *const c_uchar, length: usize) {
            // SAFETY: it is the vector below, which nobody else uses meanwhile.
            let chain = unsafe { &mut *argument.cast::<Vec<Vec<u8>>>() };
            // SAFETY: C lends so many bytes.
            chain.push(unsafe { super::bytes(der.cast(), length) }.to_vec());
        }
        let mut chain: Vec<Vec<u8>> = Vec::new();
        let argument = (&raw mut chain).cast();
        // SAFETY: the socket is alive (see `live`); the function takes the argument for what it is.
        check(unsafe { sys::usx_socket_tls_peer_chain(self.as_ptr(), Some(each), argument) })?;
        Ok(chain)
    }

    /// What was given with the server name that was selected.
    pub(crate) fn server_name_user(self) -> Option<NonNull<c_void>> {
        // SAFETY: the socket is alive (see `live`).
        NonNull::new(unsafe { sys::us_socket_server_name_userdata(1, self.as_ptr()) })
    }

    /// What went wrong with TLS, if anything did.
    pub(crate) fn tls_failure(self) -> Option<ConnectionFailure> {
        let mut failure = MaybeUninit::uninit();
        // SAFETY: the socket is alive (see `live`).
        let result = unsafe { sys::usx_socket_tls_failure(self.as_ptr(), failure.as_mut_ptr()) };
        if result != 0 {
            return None;
        }
        // SAFETY: the call has filled it in.
        let failure: sys::usx_tls_failure = unsafe { failure.assume_init() };
        Some(ConnectionFailure {
            kind: failure.kind,
            alert: u8::try_from(failure.alert).ok(),
            verify_result: failure.verify_result,
            said: LibraryError {
                code: failure.code,
                library: static_text(failure.library),
                reason: static_text(failure.reason),
            },
        })
    }
}
