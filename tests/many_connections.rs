//! Ten thousand connections at once, the clients in a process of their own.

#![cfg(target_os = "linux")]

mod util;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use usockets::{CloseReason, SocketContext, UsError};
use util::{
    Drops, Token, assert_nothing_live, child_role, drain, guard_for, new_loop, own_address,
    pump_for, raise_descriptor_limit, run_child,
};

const CONNECTIONS: usize = 10_000;

/// Descriptors that a process needs besides.
const OTHER_DESCRIPTORS: usize = 200;

/// How long all of it may take.
const TIME_MAX: Duration = Duration::from_secs(25);

/// What a connection sends, which is not what its neighbours send.
fn message(number: usize) -> [u8; 16] {
    let mut message = [0x2d; 16];
    message[..8].copy_from_slice(&(number as u64).to_le_bytes());
    message
}

#[test]
fn ten_thousand_connections_are_served_at_once() -> Result<(), UsError> {
    if let Some(role) = child_role() {
        let (address, count) = role.split_once(' ').expect("an address and a number");
        be_many_clients(address, count.parse().expect("a number"));
        return Ok(());
    }
    let _guard = guard_for(TIME_MAX);
    let count = CONNECTIONS.min(raise_descriptor_limit() - OTHER_DESCRIPTORS);
    if count < CONNECTIONS {
        println!("{count} connections only: the system allows no more descriptors");
    }
    let event_loop = new_loop();
    let drops = Drops::new();
    let tokens = drops.clone();
    let server =
        SocketContext::<false, (usize, usize), Token>::builder_with(move || tokens.token())
            .on_open(|(open, most), _, _, _| {
                *open += 1;
                *most = (*most).max(*open);
            })
            .on_data(|_, socket, token, data| {
                token.hold();
                assert_eq!(socket.write(data), data.len());
            })
            .on_close(|(open, _), _, _, reason| {
                assert_eq!(*reason, CloseReason::End);
                *open -= 1;
            })
            .build(&event_loop, (0, 0))?;
    // An address of its own: tests of other programs may try ports that they have given back.
    let listener = server.listen(own_address())?;

    let role = format!("{} {count}", listener.local_addr()?);
    let mut child = run_child("ten_thousand_connections_are_served_at_once", &role);
    let (said, hears) = mpsc::channel();
    let output = child.stdout.take().expect("stdout is piped");
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            said.send(line.expect("text")).expect("somebody listens");
        }
    });
    let start = Instant::now();
    let wait_for = |what: &str| {
        pump_for(&event_loop, TIME_MAX, || hears.try_iter().any(|line| line.contains(what)));
        println!("{what} after {:?}", start.elapsed());
    };
    wait_for("all are connected");
    wait_for("all have their echo");
    let (open, most) = server.with_state(|counts| *counts).expect("not lent");
    assert_eq!((open, most), (count, count));
    let metrics = event_loop.metrics();
    assert_eq!(metrics.live_sockets, count as u64);
    assert_eq!(metrics.accepted, count as u64);
    assert_eq!(metrics.bytes_received, 16 * count as u64);

    // They go all at once.
    drop(child.stdin.take());
    pump_for(&event_loop, TIME_MAX, || {
        server.with_state(|(open, _)| *open == 0).expect("not lent")
    });
    drops.assert_all_dropped();
    assert_eq!(drops.made(), count);
    assert!(child.wait().expect("the child ends").success());
    reader.join().expect("no panic");
    drop((listener, server));
    drain(&event_loop);
    assert_nothing_live(&event_loop);
    Ok(())
}

/// All the clients, in a process of their own.
fn be_many_clients(address: &str, count: usize) {
    let mut streams: Vec<_> = (0..count)
        .map(|number| {
            TcpStream::connect(address).unwrap_or_else(|error| panic!("{number}: {error}"))
        })
        .collect();
    println!("all are connected");
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&message(number)).expect("it is connected");
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut echo = [0; 16];
        stream.read_exact(&mut echo).expect("an echo");
        assert_eq!(echo, message(number), "the echo of another connection");
    }
    println!("all have their echo");
    // Until the other process has counted.
    let _end = std::io::stdin().read(&mut [0]);
}
