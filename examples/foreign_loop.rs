//! The loop, driven by a loop of somebody else's: here a plain `poll(2)`.
//!
//! ```text
//! cargo run --example foreign_loop -- 127.0.0.1:3000
//! nc 127.0.0.1 3000       # TCP, by the crate: closed when it is idle for 3 seconds
//! nc -u 127.0.0.1 3000    # UDP, by the foreign loop
//! ```
//!
//! Both echo. So a toolkit, an interpreter or another runtime can have `usockets` beside its own
//! sources of events: it waits until [`Loop::as_fd`] is readable or [`Loop::next_timeout`] has
//! passed, and then calls [`Loop::turn`], which does what there is to do and does not wait. Ctrl-C
//! or SIGTERM prints the totals.

mod common;

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use usockets::{Loop, LoopRef, SocketContext, UsError};

/// How long a TCP connection may be silent.
const IDLE_MAX: Duration = Duration::from_secs(3);

/// Most datagrams in a row, so that the others get their turn.
const DATAGRAMS_MAX: u64 = 64;

#[derive(Default)]
struct Totals {
    connections: u64,
    bytes: u64,
}

fn main() -> ExitCode {
    common::run("127.0.0.1:3000", serve)
}

fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let event_loop = Loop::<()>::new()?;
    let echo = echo_context(&event_loop)?;
    let listener = echo.listen(address)?;
    let udp = UdpSocket::bind(listener.local_addr()?)?;
    udp.set_nonblocking(true)?;
    println!("listening on {}", listener.local_addr()?);

    let stopped = Rc::new(Cell::new(false));
    let stop = {
        let stopped = Rc::clone(&stopped);
        move |_event_loop: &LoopRef, _signal: i32| stopped.set(true)
    };
    let _interrupt = event_loop.on_signal(libc::SIGINT, stop.clone())?;
    let _terminate = event_loop.on_signal(libc::SIGTERM, stop)?;

    let mut datagrams = 0;
    while !stopped.get() {
        let ready = wait(&event_loop, &udp)?;
        if ready.udp {
            datagrams += echo_datagrams(&udp)?;
        }
        if ready.event_loop {
            event_loop.turn(Some(Duration::ZERO))?;
        }
    }

    echo.with_state(|totals| {
        println!(
            "served {} connections, {} bytes, {datagrams} datagrams",
            totals.connections, totals.bytes
        );
    })?;
    Ok(())
}

/// Whose turn it is.
struct ReadyParts {
    event_loop: bool,
    udp: bool,
}

/// The foreign loop's way of waiting.
fn wait(event_loop: &Loop, udp: &UdpSocket) -> Result<ReadyParts, Box<dyn Error>> {
    let descriptor = event_loop.as_fd().ok_or("this back end has no descriptor to wait for")?;
    let timeout = event_loop.next_timeout().map(Timespec::try_from).transpose()?;
    let mut sources = [PollFd::new(&descriptor, PollFlags::IN), PollFd::new(udp, PollFlags::IN)];
    match rustix::event::poll(&mut sources, timeout.as_ref()) {
        Ok(count) => Ok(ReadyParts {
            event_loop: count == 0 || !sources[0].revents().is_empty(),
            udp: !sources[1].revents().is_empty(),
        }),
        // A signal, of which the loop learns by its descriptor.
        Err(Errno::INTR) => Ok(ReadyParts { event_loop: false, udp: false }),
        Err(error) => Err(error.into()),
    }
}

/// Sends back what has come, and says how many datagrams that were.
fn echo_datagrams(udp: &UdpSocket) -> io::Result<u64> {
    let mut datagram = [0; 65536];
    for count in 0..DATAGRAMS_MAX {
        let (length, peer) = match udp.recv_from(&mut datagram) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
            Err(error) => return Err(error),
        };
        // A datagram may get lost on the way back as on any other.
        let _lost = udp.send_to(&datagram[..length], peer);
    }
    Ok(DATAGRAMS_MAX)
}

fn echo_context(event_loop: &LoopRef) -> Result<SocketContext<false, Totals>, UsError> {
    SocketContext::builder()
        .on_open(|totals: &mut Totals, socket, (), _info| {
            totals.connections += 1;
            socket.set_timeout(IDLE_MAX).expect("the socket is open");
        })
        .on_data(|totals, socket, (), data| {
            totals.bytes += data.len() as u64;
            socket.set_timeout(IDLE_MAX).expect("the socket is open");
            if socket.send(data).is_err() {
                socket.reset();
            } else if socket.needs_drain() {
                socket.pause();
            }
        })
        .on_drain(|_totals, socket, ()| socket.resume())
        .on_timeout(|_totals, socket, ()| socket.close())
        .on_end(|_totals, socket, ()| socket.shutdown())
        .build(event_loop, Totals::default())
}
