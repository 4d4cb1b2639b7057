#![forbid(unsafe_code)]
//! Listening sockets that the process was started with.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{SockAddr, SockRef};

use crate::error::UsError;
use crate::ffi;
use crate::listen::{not_inet, not_unix};

/// A listening socket that the process was started with: see [`inherited_listeners`].
///
/// It is given to [`SocketContext::listen_fd`](crate::SocketContext::listen_fd); dropped, it is closed.
pub struct InheritedListener {
    fd: OwnedFd,
    name: Option<String>,
}

/// The listening sockets that the service manager has opened for this process: socket activation, as
/// systemd and others do it.
///
/// Follows sd_listen_fds(3): `LISTEN_PID` must be the id of this process, `LISTEN_FDS` says how many
/// descriptors there are from number 3 on, and `LISTEN_FDNAMES`, if it is there, names them. The sockets
/// come in their order, which is that of the unit file. They are set to be closed on exec.
///
/// **They are handed out once**: further calls, and calls in processes that were not started like this,
/// give none. The variables stay, because no program can remove them while it has threads; children
/// ignore them, having another id. Call it before other libraries that take such descriptors, and not
/// in addition to them: the descriptors have one owner.
///
/// # Errors
///
/// [`InvalidOption`](UsError::InvalidOption) for variables that make no sense, named in it; [`UsError::Io`]
/// if a descriptor is not there, or is no stream socket that listens. Nothing is taken then.
///
/// ```no_run
/// use usockets::{Loop, SocketContext, inherited_listeners};
///
/// let event_loop = Loop::<()>::new()?;
/// let context = SocketContext::<false>::builder().build(&event_loop, ())?;
/// let mut listeners = Vec::new();
/// for inherited in inherited_listeners()? {
///     listeners.push(context.listen_fd(inherited)?);
/// }
/// if listeners.is_empty() {
///     // Started by hand.
///     listeners.push(context.listen("127.0.0.1:3000")?);
/// }
/// event_loop.run()?;
/// # Ok::<(), usockets::UsError>(())
/// ```
pub fn inherited_listeners() -> Result<Vec<InheritedListener>, UsError> {
    let variables = Variables {
        pid: env::var_os("LISTEN_PID"),
        count: env::var_os("LISTEN_FDS"),
        names: env::var_os("LISTEN_FDNAMES"),
    };
    let Some(given) = variables.read(std::process::id())? else { return Ok(Vec::new()) };
    let descriptors = ffi::take_inherited_listeners(given.count).map_err(|(fd, source)| {
        UsError::io("inherited_listeners", source).about(format!("descriptor {fd}"))
    })?;
    let mut names = given.names.map(Vec::into_iter);
    let mut next_name = || names.as_mut().and_then(Iterator::next);
    Ok(descriptors.into_iter().map(|fd| InheritedListener { fd, name: next_name() }).collect())
}

impl InheritedListener {
    /// The name from `LISTEN_FDNAMES`, for systemd the `FileDescriptorName=` of the unit; `None` if
    /// there are no names.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The IP address it listens on.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`](UsError::InvalidAddress) for a Unix socket.
    pub fn local_addr(&self) -> Result<SocketAddr, UsError> {
        self.address()?.as_socket().ok_or_else(not_inet)
    }

    /// The path or abstract name it listens on.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`](UsError::InvalidAddress) for an IP socket.
    pub fn local_unix_addr(&self) -> Result<std::os::unix::net::SocketAddr, UsError> {
        self.address()?.as_unix().ok_or_else(not_unix)
    }

    fn address(&self) -> Result<SockAddr, UsError> {
        let address = SockRef::from(&self.fd).local_addr();
        address.map_err(|source| UsError::io("local_addr", source))
    }
}

impl AsFd for InheritedListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<InheritedListener> for OwnedFd {
    fn from(listener: InheritedListener) -> Self {
        listener.fd
    }
}

impl fmt::Debug for InheritedListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InheritedListener")
            .field("name", &self.name)
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

/// The environment variables of the protocol.
#[derive(Debug, Default)]
struct Variables {
    pid: Option<OsString>,
    count: Option<OsString>,
    names: Option<OsString>,
}

/// What the variables say.
#[derive(Debug, PartialEq)]
struct Given {
    count: u16,
    /// As many, if there are names.
    names: Option<Vec<String>>,
}

impl Variables {
    /// What is meant for the process with this id.
    fn read(self, own_pid: u32) -> Result<Option<Given>, UsError> {
        let (Some(pid), Some(count)) = (self.pid, self.count) else { return Ok(None) };
        match pid.to_str().map(str::parse::<u32>) {
            Some(Ok(pid)) if pid == own_pid => {}
            Some(Ok(1..)) => return Ok(None),
            _ => return Err(UsError::invalid("LISTEN_PID", "it is no process id")),
        }
        // More than any process is given is no number either.
        let count: u16 = count
            .to_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| UsError::invalid("LISTEN_FDS", "it is no number of descriptors"))?;
        let Some(names) = self.names else { return Ok(Some(Given { count, names: None })) };
        let names = names
            .into_string()
            .map_err(|_| UsError::invalid("LISTEN_FDNAMES", "it is not UTF-8"))?;
        // Without descriptors there are no names, and no text to be split.
        let names: Vec<_> = match count {
            0 if names.is_empty() => Vec::new(),
            _ => names.split(':').map(str::to_owned).collect(),
        };
        if names.len() != usize::from(count) {
            return Err(UsError::invalid("LISTEN_FDNAMES", "there are not as many as LISTEN_FDS"));
        }
        Ok(Some(Given { count, names: Some(names) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pid: &str, count: &str, names: Option<&str>) -> Result<Option<Given>, UsError> {
        let variables = Variables {
            pid: Some(pid.into()),
            count: Some(count.into()),
            names: names.map(Into::into),
        };
        variables.read(100)
    }

    #[test]
    fn other_processes_are_given_nothing() {
        assert!(Variables::default().read(100).expect("not activated").is_none());
        let half = Variables { pid: Some("100".into()), ..Variables::default() };
        assert!(half.read(100).expect("not activated").is_none());
        assert!(read("101", "2", None).expect("of the parent").is_none());
        // Whatever else they say.
        assert!(read("101", "many", Some("a:b")).expect("of the parent").is_none());
    }

    #[test]
    fn each_descriptor_has_its_name() {
        let given = |count, names: Option<&[&str]>| {
            let names = names.map(|names| names.iter().map(|&name| name.to_owned()).collect());
            Some(Given { count, names })
        };
        let cases: [(_, _, _, Option<&[&str]>); 5] = [
            ("0", None, 0, None),
            ("0", Some(""), 0, Some(&[])),
            ("1", Some(""), 1, Some(&[""])),
            ("2", None, 2, None),
            ("2", Some("web:admin"), 2, Some(&["web", "admin"])),
        ];
        for (text, names, count, expected) in cases {
            assert_eq!(read("100", text, names).expect("valid"), given(count, expected));
        }
    }

    #[test]
    fn nonsense_is_named() {
        let cases = [
            ("", "1", None, "LISTEN_PID"),
            ("0", "1", None, "LISTEN_PID"),
            ("-1", "1", None, "LISTEN_PID"),
            ("me", "1", None, "LISTEN_PID"),
            ("100", "", None, "LISTEN_FDS"),
            ("100", "-1", None, "LISTEN_FDS"),
            ("100", "two", None, "LISTEN_FDS"),
            ("100", "65536", None, "LISTEN_FDS"),
            ("100", "2", Some("web"), "LISTEN_FDNAMES"),
            ("100", "1", Some("web:admin"), "LISTEN_FDNAMES"),
            ("100", "0", Some("web"), "LISTEN_FDNAMES"),
        ];
        for (pid, count, names, bad) in cases {
            let error = read(pid, count, names).expect_err("nonsense");
            let UsError::InvalidOption { option, .. } = error else { panic!("{error}") };
            assert_eq!(option, bad, "{pid} {count} {names:?}");
        }
    }
}
