//! Peers outside the crate, whose calls never fail on purpose.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::set_tcp_quickack;
use socket2::{Domain, Socket, Type};
use usockets::Deadlines;

use crate::util::own_address;

/// Deadlines that come within the turns of a scenario, but late: TCP has a clock of its own, which the test's does
/// not move.
pub(crate) fn patient() -> Deadlines {
    let time = Duration::from_secs(20);
    Deadlines::default().drain(time).write_stall(time)
}

/// Two ends of a TCP connection with short segments and buffers, as they are outside of one machine: where a segment
/// is longer than a buffer, each waits for clocks of the system.
pub(crate) fn narrow_pair() -> (TcpStream, TcpStream) {
    let new = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let (listener, theirs) = (new(), new());
    for socket in [&listener, &theirs] {
        socket.set_tcp_mss(1448).expect("the size is legal");
        socket.set_tcp_nodelay(true).expect("a TCP socket");
        socket.set_send_buffer_size(16 * 1024).expect("the size is legal");
        socket.set_recv_buffer_size(32 * 1024).expect("the size is legal");
    }
    listener.bind(&own_address().into()).expect("a port");
    listener.listen(1).expect("it is bound");
    theirs.connect(&listener.local_addr().expect("it is bound")).expect("it listens");
    let (ours, _) = listener.accept().expect("a connection waits");
    (ours.into(), theirs.into())
}

/// How a peer sees its connection end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Reset,
}

/// Reads a bit at a time, sends what it has to, and ends when the other side has ended.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: TcpStream,
    at_a_time: usize,
    data: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// A write was told of a reset, which a read then is not.
    broken: bool,
    end: Option<End>,
}

impl Reader {
    pub(crate) fn new(stream: TcpStream, at_a_time: usize) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        Self {
            stream,
            at_a_time,
            data: Vec::new(),
            output: Vec::new(),
            sent: 0,
            broken: false,
            end: None,
        }
    }

    /// Sends this, and then ends its direction.
    pub(crate) fn sending(mut self, output: Vec<u8>) -> Self {
        self.output = output;
        self
    }

    /// A bit of each direction.
    pub(crate) fn step(&mut self) {
        if self.end.is_some() {
            return;
        }
        if self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) => self.broken |= error.kind() != ErrorKind::WouldBlock,
            }
            if self.sent == self.output.len() {
                let _shut_down = self.stream.shutdown(Shutdown::Write);
            }
        }
        let mut buffer = vec![0; self.at_a_time];
        match self.stream.read(&mut buffer) {
            Ok(0) => {
                self.end = Some(if self.broken { End::Reset } else { End::Finished });
                let _shut_down = self.stream.shutdown(Shutdown::Write);
            }
            Ok(count) => {
                self.data.extend_from_slice(&buffer[..count]);
                // The sender waits for nothing but room.
                let _acknowledged = set_tcp_quickack(&self.stream, true);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.end = Some(End::Reset),
        }
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }
}
