//! What can be said where to connect to, and errors as errors of I/O.

mod util;

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use usockets::{ConnectTarget, Target, UsError};
use util::guard;

/// The service behind a name of the program's own.
struct Service(&'static str);

impl ConnectTarget for Service {
    fn into_target(self) -> Result<Target, UsError> {
        Target::name(self.0, 80)
    }
}

#[test]
fn addresses_in_all_their_forms_are_the_same() -> Result<(), UsError> {
    let _guard = guard();
    let v4 = Target::address(([127, 0, 0, 1], 80));
    assert_eq!("127.0.0.1:80".into_target()?, v4);
    assert_eq!(String::from("127.0.0.1:80").into_target()?, v4);
    assert_eq!((&String::from("127.0.0.1:80")).into_target()?, v4);
    assert_eq!(("127.0.0.1", 80).into_target()?, v4);
    assert_eq!((String::from("127.0.0.1"), 80).into_target()?, v4);
    assert_eq!((Ipv4Addr::LOCALHOST, 80).into_target()?, v4);
    assert_eq!((IpAddr::V4(Ipv4Addr::LOCALHOST), 80).into_target()?, v4);
    assert_eq!(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80).into_target()?, v4);
    assert_eq!(SocketAddr::from(([127, 0, 0, 1], 80)).into_target()?, v4);
    assert_eq!(v4.clone().into_target()?, v4);
    assert_eq!(Service("127.0.0.1").into_target()?, v4);

    let v6 = Target::address((Ipv6Addr::LOCALHOST, 80));
    assert_eq!("[::1]:80".into_target()?, v6);
    assert_eq!(("::1", 80).into_target()?, v6);
    assert_eq!((Ipv6Addr::LOCALHOST, 80).into_target()?, v6);
    assert_eq!(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 0, 0).into_target()?, v6);
    assert_ne!(v4, v6);
    Ok(())
}

#[test]
fn names_are_not_looked_up_here() -> Result<(), UsError> {
    let _guard = guard();
    let name = Target::name("name.invalid", 80)?;
    assert_eq!("name.invalid:80".into_target()?, name);
    assert_eq!(("name.invalid", 80).into_target()?, name);
    assert_eq!(Service("name.invalid").into_target()?, name);
    assert_ne!(Target::name("name.invalid", 81)?, name);
    assert!(format!("{name:?}").contains("name.invalid"));
    Ok(())
}

#[test]
fn the_error_shows_the_address() {
    let _guard = guard();
    for text in ["", "host", "host:", ":80", "host:x", "host:65536", "host:-1", "::1:80", "[::1]"] {
        let error = text.into_target().expect_err(text);
        let UsError::InvalidAddress { address, reason, .. } = &error else { panic!("{error}") };
        assert!(text.contains(address.as_str()), "{text:?}: {address:?}");
        assert!(!reason.is_empty());
        assert!(error.to_string().contains(reason));
    }
    let error = Target::name("a\0b", 80).expect_err("a NUL");
    assert!(!error.to_string().contains('\0'), "it can be printed");
}

#[test]
fn errors_are_errors_of_io_where_those_are_wanted() {
    let _guard = guard();
    fn listen() -> io::Result<()> {
        let event_loop = util::new_loop();
        let context = usockets::SocketContext::<false>::builder().build(&event_loop, ())?;
        let taken = context.listen(util::own_address())?;
        drop(context.listen(taken.local_addr()?)?);
        Ok(())
    }
    let error = listen().expect_err("the port is taken");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE), "the system's own");
    let error = io::Error::from(UsError::TlsUnavailable);
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<UsError>());
    assert!(matches!(inner, Some(UsError::TlsUnavailable)));
}

#[test]
fn every_error_has_a_kind_and_a_text() {
    let _guard = guard();
    use io::ErrorKind;
    let errors = [
        (UsError::Cancelled, ErrorKind::Interrupted),
        (UsError::TlsUnavailable, ErrorKind::Unsupported),
        (UsError::WrongThread, ErrorKind::Other),
        (UsError::WrongLoop, ErrorKind::Other),
        (UsError::WrongType, ErrorKind::Other),
        (UsError::StateInUse, ErrorKind::Other),
        (UsError::LoopAlreadyRunning, ErrorKind::Other),
        (UsError::LoopClosed, ErrorKind::NotConnected),
        (UsError::PoolClosed, ErrorKind::NotConnected),
        (UsError::Closed, ErrorKind::NotConnected),
        (UsError::Stale, ErrorKind::NotConnected),
        (UsError::QueueFull, ErrorKind::WouldBlock),
        (UsError::JobPanicked, ErrorKind::Other),
    ];
    for (error, kind) in errors {
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!error.to_string().is_empty());
        assert!(error.source().is_none());
        assert_eq!(io::Error::from(error).kind(), kind);
    }
}

#[test]
fn errors_of_the_system_have_a_source() {
    let _guard = guard();
    let event_loop = util::new_loop();
    let context =
        usockets::SocketContext::<false>::builder().build(&event_loop, ()).expect("a context");
    let error = context.listen("203.0.113.7:0").expect_err("not our address");
    let source = error.source().expect("the system's error");
    assert!(source.downcast_ref::<io::Error>().is_some());
    assert!(error.to_string().contains("listen"), "{error}");
    assert!(error.to_string().contains(&source.to_string()), "{error}");
}
