//! mio, as one would use it by hand; and with crossbeam's channel for jobs.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use super::Echo;
use crate::Result;
use crate::cases::defer::{self, Producers};

const EVENTS: usize = 1024;
const RECEIVE_LENGTH: usize = 128 * 1024;
const LISTENER: Token = Token(usize::MAX);

struct Connection {
    stream: TcpStream,
    /// Nothing is received while there is something left to send.
    rest: Box<[u8]>,
}

pub(super) fn echo(listener: net::TcpListener, echo: Echo) -> Result<()> {
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut server = Server {
        connections: Vec::new(),
        free: Vec::new(),
        buffer: vec![0; RECEIVE_LENGTH].into(),
        reply: echo.reply,
    };
    let mut events = Events::with_capacity(EVENTS);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            match event.token() {
                LISTENER => server.accept(&listener, poll.registry())?,
                Token(index) => server.serve(index),
            }
        }
    }
}

struct Server {
    connections: Vec<Option<Connection>>,
    /// Places without a connection.
    free: Vec<usize>,
    buffer: Box<[u8]>,
    reply: usize,
}

impl Server {
    fn accept(&mut self, listener: &TcpListener, registry: &Registry) -> Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut stream, Token(index), interest)?;
            self.connections[index] = Some(Connection { stream, rest: Box::default() });
        }
    }

    /// A stale event of the same batch finds nobody.
    fn serve(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        if !matches!(connection.work(&mut self.buffer, self.reply), Ok(true)) {
            self.connections[index] = None;
            self.free.push(index);
        }
    }
}

impl Connection {
    /// Goes on until the system has nothing more to give or to take, which mio tells only once.
    /// Returns whether the connection goes on.
    fn work(&mut self, buffer: &mut [u8], reply: usize) -> io::Result<bool> {
        let rest = mem::take(&mut self.rest);
        self.send(&rest, reply)?;
        while self.rest.is_empty() {
            let length = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            self.send(&buffer[..length], reply)?;
            if length < buffer.len() {
                break;
            }
        }
        Ok(true)
    }

    fn send(&mut self, mut data: &[u8], reply: usize) -> io::Result<()> {
        while !data.is_empty() {
            let piece = &data[..data.len().min(reply)];
            match self.stream.write(piece) {
                Ok(taken) => data = &data[taken..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.rest = data.into();
        Ok(())
    }
}

pub(super) fn mailbox(producers: Producers) -> Result<()> {
    let mut poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);
    let (sender, receiver) = crossbeam_channel::unbounded::<Box<dyn FnOnce() + Send>>();
    // Whether the loop has been woken and has not looked yet.
    let woken = Arc::new(AtomicBool::new(false));
    let wake = Arc::clone(&woken);
    producers.start(move |producer, number| {
        let sent = sender.send(Box::new(move || defer::job(producer, number)));
        assert!(sent.is_ok(), "the receiver is gone");
        if !wake.swap(true, Ordering::SeqCst) {
            waker.wake().expect("the loop is there");
        }
    });
    let mut events = Events::with_capacity(EVENTS);
    loop {
        poll.poll(&mut events, None)?;
        woken.store(false, Ordering::SeqCst);
        for job in receiver.try_iter() {
            job();
        }
    }
}
