//! Drains, headers of proxies, and descriptors on their way.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use usockets::{
    CloseReason, ConnectOptions, ListenOptions, ProxyHeader, ProxyProtocol, ProxyVersion,
    SocketContext, UsError,
};

use crate::peer::{Reader, narrow_pair, patient};
use crate::util::{Token, alone_for, own_address, pattern};
use crate::{Case, SWEEP_MAX, has_struck, sweep, test_loop};

/// One peer lets its connection end, one does not read what it is sent. The report counts both.
fn drain_with_a_stuck_peer(case: &Case) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let (drops, ended) = (case.drops.clone(), Rc::new(Cell::new(0)));
    let (closed, failed) = (Rc::clone(&ended), Rc::clone(&ended));
    let report = case.reporter();
    let context = SocketContext::<false, (), Token>::builder_with(move || drops.token())
        .deadlines(patient())
        .on_drain_requested(|(), socket, _| socket.close_after_flush())
        .on_close(move |(), _, _, _| closed.set(closed.get() + 1))
        .on_connect_error(move |(), _, _, error| {
            failed.set(failed.get() + 1);
            report(error.to_string());
        })
        .build(&event_loop, ())?;
    let (one, peer) = narrow_pair();
    let (two, _stuck) = narrow_pair();
    let mut peer = Reader::new(peer, 4096);
    let (one, two) = (context.accept_fd(one)?, context.accept_fd(two)?);
    case.turn_until(&event_loop, || {
        [&one, &two].iter().all(|socket| socket.is_established() || socket.is_closed())
    });
    let early: u64 = ended.get();
    for socket in [&one, &two] {
        if let Err(error) =
            socket.send(&pattern(if socket.id() == one.id() { 10 } else { 400_000 }))
        {
            case.report(error);
        }
    }
    let reports = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&reports);
    let begun =
        context.drain(Duration::from_millis(400), move |report| log.borrow_mut().push(report));
    let is_begun = begun.is_ok();
    if let Err(error) = begun {
        case.report(error);
        context.close();
    }
    case.turn_until(&event_loop, || {
        peer.step();
        peer.end().is_some() && ended.get() == 2 && reports.borrow().len() == usize::from(is_begun)
    });
    if let Some(report) = reports.borrow().first() {
        assert_eq!(report.finished + report.forced + early, 2, "{report:?}");
        assert!(has_struck() || (report.finished, report.forced) == (1, 1), "{report:?}");
    }
    Ok(())
}

#[test]
fn drain() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("drain with a stuck peer", drain_with_a_stuck_peer);
}

/// The server sees the header that the client sends, and what follows; or one of them is told.
fn header_both_ways(case: &Case, version: ProxyVersion) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let source: SocketAddr = "192.0.2.1:1111".parse().expect("an address");
    let (drops, seen) = (case.drops.clone(), Rc::new(RefCell::new(Vec::new())));
    let (data, done, report) = (Rc::clone(&seen), Rc::new(Cell::new(0)), case.reporter());
    let closed = Rc::clone(&done);
    let failed = case.reporter();
    let server = SocketContext::<false, (), Token>::builder_with(move || drops.token())
        .deadlines(patient())
        .on_open(move |(), _, _, info| {
            let header = info.proxy_header().expect("the listener asks for one");
            assert_eq!(header.source(), Some(source));
        })
        .on_data(move |(), _, _, bytes| data.borrow_mut().extend_from_slice(bytes))
        .on_close(move |(), _, _, reason| {
            if *reason != CloseReason::End {
                report(reason.to_string());
            }
        })
        .on_connect_error(move |(), _, _, error| failed(error.to_string()))
        .build(&event_loop, ())?;
    let options = ListenOptions::new().proxy_protocol(ProxyProtocol::from_everybody());
    let listener = server.listen_with(own_address(), &options)?;
    let (drops, report, failed) = (case.drops.clone(), case.reporter(), case.reporter());
    let failing = Rc::clone(&done);
    let client = SocketContext::<false, (), Token>::builder_with(move || drops.token())
        .deadlines(patient())
        .on_open(|(), socket, _, _| {
            socket.send(b"hello").unwrap_or_else(|_| socket.reset());
            socket.shutdown();
        })
        .on_close(move |(), _, _, reason| {
            closed.set(closed.get() + 1);
            if *reason != CloseReason::End {
                report(reason.to_string());
            }
        })
        .on_connect_error(move |(), _, _, error| {
            failing.set(failing.get() + 1);
            failed(error.to_string());
        })
        .build(&event_loop, ())?;
    let header = ProxyHeader::new(version, source, "192.0.2.2:80".parse().expect("an address"))?;
    let connecting = ConnectOptions::new().proxy_header(header);
    client.connect_with(listener.local_addr()?, &connecting, case.drops.token())?;
    case.turn_until(&event_loop, || done.get() == 1 && event_loop.metrics().live_sockets == 0);
    let metrics = event_loop.metrics();
    if metrics.accept_failures > 0 {
        case.report("a connection was not accepted");
    }
    let seen = seen.borrow();
    assert!(b"hello".starts_with(&seen), "{seen:?}");
    assert!(seen.len() == 5 || case.is_reported(), "{seen:?}, and nobody was told");
    Ok(())
}

#[test]
fn proxy_header() {
    let _guard = alone_for(SWEEP_MAX);
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        sweep(&format!("PROXY header {version:?}"), |case| header_both_ways(case, version));
    }
}

/// A descriptor arrives with the byte that it was sent with, and works; or somebody is told.
fn descriptor_through(case: &Case) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let (drops, bytes) = (case.drops.clone(), Rc::new(RefCell::new(Vec::new())));
    let (data, received, ended) =
        (Rc::clone(&bytes), Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(0)));
    let (fds, closed, failed) = (Rc::clone(&received), Rc::clone(&ended), Rc::clone(&ended));
    let (report, report_error, lost) = (case.reporter(), case.reporter(), case.reporter());
    let context = SocketContext::<false, (), Token>::builder_with(move || drops.token())
        .on_descriptors(move |(), _, _, mut received| {
            if received.is_truncated {
                lost("descriptors were lost".to_owned());
            }
            fds.borrow_mut().append(&mut received.fds);
        })
        .on_data(move |(), _, _, input| data.borrow_mut().extend_from_slice(input))
        .on_close(move |(), _, _, reason| {
            closed.set(closed.get() + 1);
            if !matches!(reason, CloseReason::Local | CloseReason::End | CloseReason::HangUp) {
                report(reason.to_string());
            }
        })
        .on_connect_error(move |(), _, _, error| {
            failed.set(failed.get() + 1);
            report_error(error.to_string());
        })
        .build(&event_loop, ())?;
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let (sender, receiver) = (context.accept_fd(ours)?, context.accept_fd(theirs)?);
    case.turn_until(&event_loop, || {
        [&sender, &receiver].iter().all(|one| one.is_established() || one.is_closed())
    });
    let (mut kept, sent) = UnixStream::pair().expect("a pair");
    let result = sender
        .send(b"before ")
        .and_then(|()| sender.send_with_descriptors(b"with", &[sent.as_fd()], true))
        .and_then(|()| sender.send(b" after"));
    drop(sent);
    let is_sent = result.is_ok();
    if let Err(error) = result {
        case.report(error);
    }
    // Not earlier: a Unix socket has no reset by which its peer could tell a close with output lost.
    case.turn_until(&event_loop, || bytes.borrow().len() == 17 || case.is_reported());
    sender.close();
    case.turn_until(&event_loop, || ended.get() == 2);
    let bytes = bytes.borrow();
    assert!(b"before with after".starts_with(&bytes), "{bytes:?}");
    if bytes.len() >= 11 {
        assert!(received.borrow().len() == 1 || case.is_reported(), "it was lost");
    } else {
        assert!(!is_sent || case.is_reported(), "{bytes:?}, and nobody was told");
    }
    // Copies of it are closed, those that were on their way, too.
    received.borrow_mut().clear();
    kept.set_nonblocking(true).expect("a socket");
    assert_eq!(kept.read(&mut [0; 1]).ok(), Some(0), "a copy is open");
    Ok(())
}

#[test]
fn descriptors() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("descriptors", descriptor_through);
}
