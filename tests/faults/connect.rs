//! Connections that are made, or fail in one way.

use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::ptr;
use std::rc::Rc;

use usockets::{CloseReason, SocketContext, UsError};

use crate::util::{
    Descriptors, Event, Nobody, Record, Token, alone_for, localhost_listener, own_address,
};
use crate::{Case, SWEEP_MAX, sweep, test_loop};

/// Connects, and closes when open. Ends in exactly one way.
fn connect_once(
    case: &Case,
    begin: impl Fn(&SocketContext<false, (), Token>) -> Result<(), UsError>,
) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let ended = Rc::new(Cell::new(0));
    let (opened, closed, failed) = (Rc::new(Cell::new(0)), Rc::clone(&ended), Rc::clone(&ended));
    let (drops, open, was_open) = (case.drops.clone(), Rc::clone(&opened), Rc::clone(&opened));
    let (report_close, report_error) = (case.reporter(), case.reporter());
    let context = SocketContext::<false, (), Token>::builder_with(move || drops.token())
        .on_open(move |(), socket, _, _| {
            open.set(open.get() + 1);
            socket.close();
        })
        .on_close(move |(), _, _, reason| {
            assert_eq!(was_open.get(), 1, "closed, but never open");
            closed.set(closed.get() + 1);
            if *reason != CloseReason::Local {
                report_close(reason.to_string());
            }
        })
        .on_connect_error(move |(), _, _, error| {
            failed.set(failed.get() + 1);
            report_error(error.to_string());
        })
        .build(&event_loop, ())?;
    begin(&context)?;
    case.turn_until(&event_loop, || ended.get() > 0);
    assert_eq!(ended.get(), 1);
    assert!(opened.get() == 1 || case.is_reported(), "not open, and nobody was told");
    Ok(())
}

#[test]
fn connect_to_an_address() {
    let _guard = alone_for(SWEEP_MAX);
    let listener = TcpListener::bind(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("a listener");
    sweep("connect to an address", |case| {
        let result = connect_once(case, |context| context.connect(address).map(drop));
        // The other ends would count as descriptors of ours.
        while listener.accept().is_ok() {}
        result
    });
}

#[test]
fn connect_to_a_name() {
    let _guard = alone_for(SWEEP_MAX);
    let listener = localhost_listener();
    let port = listener.local_addr().expect("it is bound").port();
    listener.set_nonblocking(true).expect("a listener");
    sweep("connect to a name", |case| {
        let result = connect_once(case, |context| context.connect(("localhost", port)).map(drop));
        while listener.accept().is_ok() {}
        result
    });
}

/// A fault may spoil one attempt, so the address that works is there twice.
#[test]
fn connect_to_several_addresses() {
    let _guard = alone_for(SWEEP_MAX);
    let listener = TcpListener::bind(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("a listener");
    let nobody = Nobody::new();
    let addresses = [nobody.address(), address, address];
    sweep("connect to several addresses", |case| {
        let result = connect_once(case, |context| context.connect(addresses.as_slice()).map(drop));
        while listener.accept().is_ok() {}
        result
    });
}

#[test]
fn connect_to_a_path() {
    let _guard = alone_for(SWEEP_MAX);
    let path = std::env::temp_dir().join(format!("usockets-connect-{}", std::process::id()));
    let listener = UnixListener::bind(&path).expect("a listener");
    listener.set_nonblocking(true).expect("a listener");
    sweep("connect to a path", |case| {
        let result = connect_once(case, |context| context.connect_unix(&path).map(drop));
        while listener.accept().is_ok() {}
        result
    });
    std::fs::remove_file(&path).expect("the file");
}

#[test]
fn connect_to_nobody() {
    let _guard = alone_for(SWEEP_MAX);
    let nobody = Nobody::new();
    sweep("connect to nobody", |case| {
        let event_loop = test_loop()?;
        let record = Record::<()>::new();
        let context = record.builder().build(&event_loop, ())?;
        context.connect(nobody.address())?;
        case.turn_until(&event_loop, || record.ended());
        let events = record.take();
        let [Event::ConnectError(kind)] = events[..] else { panic!("{events:?}") };
        if kind != ErrorKind::ConnectionRefused {
            case.report(kind);
        }
        Ok(())
    });
}

unsafe extern "C" {
    /// Replaces `getaddrinfo` in the helper threads of all loops; NULL brings it back.
    fn us_internal_resolver_set_lookup(
        lookup: Option<
            unsafe extern "C" fn(
                *const c_char,
                *const c_char,
                *const libc::addrinfo,
                *mut *mut libc::addrinfo,
            ) -> c_int,
        >,
    );
}

/// Gives every name two addresses: first 127.0.0.2, where nobody listens, then 127.0.0.1.
unsafe extern "C" fn two_addresses(
    _host: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    result: *mut *mut libc::addrinfo,
) -> c_int {
    let mut list = ptr::null_mut();
    for host in [c"127.0.0.1", c"127.0.0.2"] {
        let mut one = ptr::null_mut();
        // SAFETY: the arguments are those of a caller of `getaddrinfo`, but for the host.
        let code = unsafe { libc::getaddrinfo(host.as_ptr(), service, hints, &raw mut one) };
        if code != 0 {
            return code;
        }
        // SAFETY: a list of one, which was just made. Lists are released node by node.
        unsafe { (*one).ai_next = list };
        list = one;
    }
    // SAFETY: the caller waits for the list here.
    unsafe { *result = list };
    0
}

#[test]
fn the_second_address_of_a_name_is_tried() {
    let _guard = alone_for(SWEEP_MAX);
    let listener = localhost_listener();
    let port = listener.local_addr().expect("it is bound").port();
    listener.set_nonblocking(true).expect("a listener");
    let before = Descriptors::now();
    // SAFETY: the function is one of `getaddrinfo`'s kind.
    unsafe { us_internal_resolver_set_lookup(Some(two_addresses)) };
    let connect = |case: &Case| {
        let result = connect_once(case, |context| context.connect(("any.name", port)).map(drop));
        while listener.accept().is_ok() {}
        result
    };
    let case = Case::default();
    connect(&case).expect("it begins");
    assert!(!case.is_reported(), "the second address was not tried: {:?}", case.reports);
    drop(case);
    before.assert_unchanged();
    sweep("connect to the second address", connect);
    // SAFETY: brings the real one back.
    unsafe { us_internal_resolver_set_lookup(None) };
}
