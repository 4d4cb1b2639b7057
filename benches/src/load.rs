//! The client: keeps a number of connections busy from one thread, and compares every byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::pattern::{Pattern, SLICE_MAX};
use crate::{Result, net};

/// A server that says nothing for so long is broken.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Events fetched by one wait.
const EVENTS: usize = 1024;

/// What every connection does, over and over: send `depth` messages at once, await all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// Bytes of a message.
    pub(crate) message: usize,
    pub(crate) depth: usize,
}

pub(crate) struct Client {
    load: Load,
    poller: Poller,
    connections: Vec<Connection>,
    pattern: Pattern,
    buffer: Vec<u8>,
    /// Bytes, of all connections.
    received: usize,
}

struct Connection {
    stream: TcpStream,
    sent: usize,
    received: usize,
    /// Where the messages end that are on their way.
    end: usize,
}

impl Client {
    /// Connects, and sends the first messages.
    pub(crate) fn connect(
        address: SocketAddr,
        congestion: Option<&str>,
        load: Load,
    ) -> Result<Self> {
        assert!(load.message * load.depth <= SLICE_MAX);
        let mut client = Self {
            load,
            poller: Poller::new()?,
            connections: Vec::new(),
            pattern: Pattern::new(),
            buffer: vec![0; SLICE_MAX],
            received: 0,
        };
        for index in 0..load.connections {
            let stream = net::connect(address, congestion)?;
            stream.set_nonblocking(true)?;
            client.poller.add(&stream, index)?;
            client.connections.push(Connection { stream, sent: 0, received: 0, end: 0 });
        }
        for index in 0..load.connections {
            client.send_next(index)?;
        }
        Ok(client)
    }

    /// Goes on for this time. Returns the messages that came back, and the time that it was.
    pub(crate) fn run(&mut self, duration: Duration) -> Result<(f64, Duration)> {
        let before = self.received;
        let begin = Instant::now();
        while begin.elapsed() < duration {
            for (index, flags) in self.poller.wait()? {
                if flags.contains(EventFlags::OUT) {
                    self.send(index)?;
                }
                if flags.contains(EventFlags::IN) {
                    self.receive(index)?;
                }
            }
        }
        Ok(((self.received - before) as f64 / self.load.message as f64, begin.elapsed()))
    }

    fn send_next(&mut self, index: usize) -> Result<()> {
        self.connections[index].end += self.load.message * self.load.depth;
        self.send(index)
    }

    /// Sends up to the end of what is to be sent now, or as much as the system takes.
    fn send(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let left = connection.end - connection.sent;
        if left == 0 {
            return self.poller.set(&connection.stream, index, EventFlags::IN);
        }
        let data = self.pattern.slice(index, connection.sent, left);
        let taken = match connection.stream.write(data) {
            Ok(taken) => taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        connection.sent += taken;
        if taken < left {
            self.poller.set(&connection.stream, index, EventFlags::IN | EventFlags::OUT)?;
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let length = connection.stream.read(&mut self.buffer)?;
        if length == 0 {
            return Err("the server closed a connection".into());
        }
        if self.buffer[..length] != *self.pattern.slice(index, connection.received, length) {
            return Err(format!("connection {index} got back something else").into());
        }
        connection.received += length;
        self.received += length;
        if connection.received == connection.end {
            self.send_next(index)?;
        }
        Ok(())
    }
}

/// epoll, with an index for each stream.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS) })
    }

    /// Watches it for something to read.
    pub(crate) fn add(&self, stream: &TcpStream, index: usize) -> Result<()> {
        Ok(epoll::add(&self.epoll, stream, EventData::new_u64(index as u64), EventFlags::IN)?)
    }

    fn set(&self, stream: &TcpStream, index: usize, flags: EventFlags) -> Result<()> {
        Ok(epoll::modify(&self.epoll, stream, EventData::new_u64(index as u64), flags)?)
    }

    /// At least one event.
    #[allow(clippy::cast_possible_truncation, reason = "it was an index")]
    pub(crate) fn wait(&mut self) -> Result<Vec<(usize, EventFlags)>> {
        self.events.clear();
        epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&PATIENCE))?;
        if self.events.is_empty() {
            return Err("the server does not answer".into());
        }
        Ok(self.events.iter().map(|event| (event.data.u64() as usize, event.flags)).collect())
    }
}
