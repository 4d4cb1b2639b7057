//! The client: keeps a number of connections busy from one thread, and compares every byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::Result;
use crate::pattern::{Pattern, SLICE_MAX};

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

/// What a connection runs over.
pub(crate) trait Stream {
    fn tcp(&self) -> &TcpStream;

    /// Returns how much was taken: nothing if there is no room now.
    fn send(&mut self, data: &[u8]) -> io::Result<usize>;

    /// Returns 0 at the end, `None` if there is nothing now.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>>;

    /// Whether something that was taken could not be sent yet.
    fn is_blocked(&self) -> bool {
        false
    }

    /// Whether there is something to receive that the poller does not know of.
    fn has_more(&self) -> bool {
        false
    }
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn send(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.write(data) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.read(buffer).map(Some)
    }
}

pub(crate) struct Client<S> {
    load: Load,
    poller: Poller,
    connections: Vec<Connection<S>>,
    pattern: Pattern,
    buffer: Vec<u8>,
    /// Bytes, of all connections.
    received: usize,
}

struct Connection<S> {
    stream: S,
    sent: usize,
    received: usize,
    /// Where the messages end that are on their way.
    end: usize,
}

impl<S: Stream> Client<S> {
    /// Opens connections, which block until they are all there, and sends the first messages.
    pub(crate) fn connect(load: Load, mut open: impl FnMut() -> Result<S>) -> Result<Self> {
        let mut client = Self {
            load,
            poller: Poller::new()?,
            connections: Vec::new(),
            pattern: Pattern::new(),
            buffer: vec![0; SLICE_MAX],
            received: 0,
        };
        for index in 0..load.connections {
            let stream = open()?;
            stream.tcp().set_nonblocking(true)?;
            client.poller.add(stream.tcp(), index)?;
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
        let Connection { stream, sent, end, .. } = &mut self.connections[index];
        if *sent == *end && !stream.is_blocked() {
            return self.poller.set(stream.tcp(), index, EventFlags::IN);
        }
        loop {
            let piece = (*end - *sent).min(SLICE_MAX);
            let taken = stream.send(self.pattern.slice(index, *sent, piece))?;
            *sent += taken;
            if taken < piece || stream.is_blocked() {
                return self.poller.set(stream.tcp(), index, EventFlags::IN | EventFlags::OUT);
            }
            if *sent == *end {
                return Ok(());
            }
        }
    }

    fn receive(&mut self, index: usize) -> Result<()> {
        loop {
            let connection = &mut self.connections[index];
            let Some(length) = connection.stream.receive(&mut self.buffer)? else { return Ok(()) };
            if length == 0 {
                return Err("the server closed a connection".into());
            }
            if self.buffer[..length] != *self.pattern.slice(index, connection.received, length) {
                return Err(format!("connection {index} got back something else").into());
            }
            connection.received += length;
            self.received += length;
            let has_more = connection.stream.has_more();
            if connection.received == connection.end {
                self.send_next(index)?;
            }
            if !has_more {
                return Ok(());
            }
        }
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
