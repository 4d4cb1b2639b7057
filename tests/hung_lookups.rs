//! Look-ups of names that hang: they hold up nobody.
//!
//! Needs an engine built with `USOCKETS_FAULT_INJECTION=1`, where `getaddrinfo` can be replaced.

#![cfg(usockets_fault_injection)]

mod util;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use usockets::{ConnectOptions, Deadlines, SocketContext, UsError};
use util::{Descriptors, Echo, Nobody, alone, new_loop, pump, settle, test_clock_loop, wait_until};

/// The gate at which look-ups hang: whether it is open, and how many have come to it.
static GATE: Mutex<(bool, usize)> = Mutex::new((false, 0));
static GATE_MOVES: Condvar = Condvar::new();

fn set_gate(open: bool) {
    *GATE.lock().expect("no panic") = (open, 0);
    GATE_MOVES.notify_all();
}

fn hanging() -> usize {
    GATE.lock().expect("no panic").1
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

/// The address of every name.
static ADDRESS: Mutex<IpAddr> = Mutex::new(IpAddr::V4(Ipv4Addr::LOCALHOST));

/// Every name has one address; those that begin with `hung` are not before the gate opens.
unsafe extern "C" fn slow_lookup(
    host: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    result: *mut *mut libc::addrinfo,
) -> c_int {
    // SAFETY: the caller is a caller of `getaddrinfo`.
    let name = unsafe { CStr::from_ptr(host) };
    if name.to_bytes().starts_with(b"hung") {
        let mut gate = GATE.lock().expect("no panic");
        gate.1 += 1;
        while !gate.0 {
            gate = GATE_MOVES.wait(gate).expect("no panic");
        }
    }
    let ip = *ADDRESS.lock().expect("no panic");
    let ip = CString::new(ip.to_string()).expect("no NUL");
    // SAFETY: as above; the host is another one.
    unsafe { libc::getaddrinfo(ip.as_ptr(), service, hints, result) }
}

/// Makes look-ups hang for as long as it lives. Waits at its end until the helper threads have given
/// back what they hold, so that the next test can count.
struct SlowNames(Descriptors);

impl SlowNames {
    fn new() -> Self {
        set_gate(false);
        // SAFETY: the function is one of `getaddrinfo`'s kind.
        unsafe { us_internal_resolver_set_lookup(Some(slow_lookup)) };
        Self(Descriptors::now())
    }

    /// Gives all names the address of a listener, and says its port.
    fn lead_to(&self, address: SocketAddr) -> u16 {
        *ADDRESS.lock().expect("no panic") = address.ip();
        address.port()
    }

    fn open(&self) {
        set_gate(true);
    }
}

impl Drop for SlowNames {
    fn drop(&mut self) {
        self.open();
        // SAFETY: brings the real one back.
        unsafe { us_internal_resolver_set_lookup(None) };
        if !std::thread::panicking() {
            self.0.assert_unchanged();
        }
    }
}

#[test]
fn eight_hung_look_ups_hold_up_nobody() -> Result<(), UsError> {
    let _guard = alone();
    let names = SlowNames::new();
    {
        let event_loop = new_loop();
        let echo = Echo::new(&event_loop);
        let port = names.lead_to(echo.address());
        let mut peer = echo.peer();
        let (opened, cancelled) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (open, cancel) = (Rc::clone(&opened), Rc::clone(&cancelled));
        let context = SocketContext::<false>::builder()
            .on_open(move |(), _, (), _| open.set(open.get() + 1))
            .on_connect_error(move |(), _, (), error| {
                assert!(matches!(error, UsError::Cancelled), "{error}");
                cancel.set(cancel.get() + 1);
            })
            .build(&event_loop, ())?;
        for number in 0..8 {
            // The second connection to a name shares its look-up.
            context.connect((format!("hung-{number}.test"), port))?;
            context.connect((format!("hung-{number}.test"), port))?;
        }
        pump(&event_loop, || hanging() == 8);

        // Another name, while all of them hang.
        context.connect(("quick.test", port))?;
        pump(&event_loop, || opened.get() == 1);
        // Others are served.
        for _ in 0..100 {
            peer.write(&event_loop, b"still here");
            assert_eq!(peer.read(&event_loop, 10), b"still here");
        }
        // One that is closed is told at once.
        context.connect(("hung-0.test", port))?.close();
        pump(&event_loop, || cancelled.get() == 1);
        assert_eq!((opened.get(), hanging()), (1, 8));

        // The end does not wait: the gate is still closed.
        drop(event_loop);
        assert_eq!((opened.get(), cancelled.get()), (1, 17));
        assert_eq!(hanging(), 8);
    }
    Ok(())
}

#[test]
fn the_connect_deadline_covers_the_look_up() -> Result<(), UsError> {
    let _guard = alone();
    let _names = SlowNames::new();
    let event_loop = test_clock_loop();
    let nobody = Nobody::new();
    let failed = Rc::new(Cell::new(0));
    let fail = Rc::clone(&failed);
    let context = SocketContext::<false>::builder()
        .on_connect_error(move |(), _, (), error| {
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            fail.set(fail.get() + 1);
        })
        .deadlines(Deadlines::new().connect(Duration::from_secs(3)))
        .build(&event_loop, ())?;
    let target = ("hung.test", nobody.address().port());
    context.connect(target)?;
    context.connect_with(target, &ConnectOptions::new().no_cache(), ())?;
    pump(&event_loop, || hanging() == 2);
    event_loop.advance_clock(Duration::from_millis(2999))?;
    settle(&event_loop);
    assert_eq!(failed.get(), 0);
    event_loop.advance_clock(Duration::from_millis(10))?;
    pump(&event_loop, || failed.get() == 2);
    Ok(())
}

#[test]
fn hung_look_ups_that_end_connect() -> Result<(), UsError> {
    let _guard = alone();
    let names = SlowNames::new();
    let event_loop = new_loop();
    let echo = Echo::new(&event_loop);
    let port = names.lead_to(echo.address());
    let opened = Rc::new(Cell::new(0));
    let open = Rc::clone(&opened);
    let context = SocketContext::<false>::builder()
        .on_open(move |(), _, (), _| open.set(open.get() + 1))
        .build(&event_loop, ())?;
    for number in 0..80 {
        context.connect((format!("hung-{number}.test"), port))?;
    }
    // As many as there may be helpers.
    wait_until(|| hanging() == 64);
    names.open();
    pump(&event_loop, || opened.get() == 80);
    Ok(())
}
