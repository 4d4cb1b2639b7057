//! Listeners.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use usockets::{
    CloseReason, ListenOptions, Overload, Refusal, SocketContext, UnixListenOptions, UsError,
};

use crate::util::{Descriptors, Record, Token, alone_for, own_address};
use crate::{Case, FAULTS, SWEEP_MAX, calls, has_struck, set_fault, sweep, test_loop};

/// Three clients of a listener that takes one at a time are served one after the other. Whatever fails,
/// none is left waiting.
fn listen_with_options(case: &Case) -> Result<(), UsError> {
    let event_loop = test_loop()?;
    let (drops, report) = (case.drops.clone(), case.reporter());
    let context = SocketContext::<false, (), Token>::builder_with(move || drops.token())
        .on_open(|(), socket, _, _| {
            socket.send(b"hi").unwrap_or_else(|_| socket.reset());
            socket.close();
        })
        .on_close(move |(), _, _, reason| {
            if *reason != CloseReason::Local {
                report(reason.to_string());
            }
        })
        .build(&event_loop, ())?;
    let options = ListenOptions::new()
        .keepalive(Duration::from_secs(60))
        .max_connections(1, Overload::StopAccepting)
        .max_connections_per_address(5, Refusal::Reset);
    let listener = context.listen_with(own_address(), &options)?;
    let address = listener.local_addr()?;
    let mut peers: Vec<_> =
        (0..3).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    peers.iter().for_each(|peer| peer.set_nonblocking(true).expect("a socket"));
    listener.pause();
    listener.resume();
    let mut input = [0; 3];
    let mut has_ended = [false; 3];
    case.turn_until(&event_loop, || {
        for (i, peer) in peers.iter_mut().enumerate() {
            match peer.read(&mut [0; 8]) {
                Ok(count) if count > 0 => input[i] += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => has_ended[i] = true,
            }
        }
        !has_ended.contains(&false) && listener.connections() == Some(0)
    });
    assert!(has_struck() || input == [2; 3], "{input:?}");
    let path = std::env::temp_dir().join(format!("usockets-faults-{}", std::process::id()));
    let options = UnixListenOptions::new().mode(0o777).max_connections(1, Overload::StopAccepting);
    let result = context.listen_unix_with(&path, &options).map(drop);
    let _file_may_stay = std::fs::remove_file(&path);
    result
}

#[test]
fn listening() {
    let _guard = alone_for(SWEEP_MAX);
    sweep("listen with options", listen_with_options);
}

#[test]
fn listening_on_a_path_leaves_no_file_behind() {
    let _guard = alone_for(SWEEP_MAX);
    let path = std::env::temp_dir().join(format!("usockets-listen-{}", std::process::id()));
    let event_loop = test_loop().expect("a loop");
    let context = Record::<()>::new().builder().build(&event_loop, ()).expect("a context");
    let before = Descriptors::now();
    for fault in FAULTS {
        let mut at = 1;
        loop {
            set_fault(at, fault);
            let listener = context.listen_unix(&path);
            let (struck, made) = (has_struck(), calls());
            set_fault(0, fault);
            assert!(struck || listener.is_ok(), "without a fault: {listener:?}");
            assert_eq!(path.exists(), listener.is_ok(), "call {at} fails with {fault:?}");
            // Nothing fails any more: what it has made it removes.
            drop(listener);
            assert!(!path.exists(), "after call {at} failed with {fault:?}");
            if made < at {
                break;
            }
            at += 1;
        }
    }
    event_loop.turn(Some(Duration::ZERO)).expect("a turn");
    before.assert_unchanged();
}
