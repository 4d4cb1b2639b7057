//! The other side of connections, outside the crate.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::SockRef;
use usockets::Loop;

use super::tls_peer::TlsPeer;
use super::{pump, settle};

/// A client or server, plain or TLS, on the same thread: turns the loop while it waits.
#[derive(Debug)]
pub(crate) struct Peer {
    wire: Wire,
}

#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(TlsPeer),
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect(address).expect("it listens"))
    }

    pub(crate) fn from_stream(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Self { wire: Wire::Plain(stream) }
    }

    /// A client, which speaks TLS if `ssl`. Its handshake is still to come.
    pub(crate) fn connect_over(ssl: bool, address: SocketAddr) -> Self {
        Self::client_of(ssl, TcpStream::connect(address).expect("it listens"))
    }

    /// A client at the other end of a stream of any family, which speaks TLS if `ssl`.
    pub(crate) fn client_of(ssl: bool, stream: impl Into<OwnedFd>) -> Self {
        let stream = non_blocking(stream.into());
        Self { wire: if ssl { Wire::Tls(TlsPeer::client(stream)) } else { Wire::Plain(stream) } }
    }

    /// The same with a server.
    pub(crate) fn server_of(ssl: bool, stream: impl Into<OwnedFd>) -> Self {
        let stream = non_blocking(stream.into());
        Self { wire: if ssl { Wire::Tls(TlsPeer::server(stream)) } else { Wire::Plain(stream) } }
    }

    /// What is beneath, in which there is ciphertext if this is TLS.
    pub(crate) fn stream(&self) -> &TcpStream {
        match &self.wire {
            Wire::Plain(stream) => stream,
            Wire::Tls(tls) => tls.tcp(),
        }
    }

    /// The stream of a plain one.
    pub(crate) fn into_stream(self) -> TcpStream {
        match self.wire {
            Wire::Plain(stream) => stream,
            Wire::Tls(_) => panic!("it speaks TLS"),
        }
    }

    /// For use on another thread: from now on [`Read`] and [`Write`] wait.
    pub(crate) fn into_blocking(self) -> Self {
        self.stream().set_nonblocking(false).expect("a socket");
        self
    }

    /// What only TLS has.
    pub(crate) fn tls(&mut self) -> &mut TlsPeer {
        match &mut self.wire {
            Wire::Plain(_) => panic!("it is plain"),
            Wire::Tls(tls) => tls,
        }
    }

    /// Comes to where data can flow: at once, or after the handshake. Then takes the tickets that have come
    /// meanwhile: what is closed with something unread resets the connection.
    #[track_caller]
    pub(crate) fn begin<T: 'static>(
        &mut self,
        event_loop: &Loop<T>,
        mut other_is_ready: impl FnMut() -> bool,
    ) {
        pump(event_loop, || {
            let ready = match &mut self.wire {
                Wire::Plain(_) => true,
                Wire::Tls(tls) => match tls.handshake() {
                    Ok(()) => true,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                    Err(error) => panic!("the handshake failed: {error}"),
                },
            };
            ready && other_is_ready()
        });
        if let Wire::Tls(tls) = &mut self.wire {
            settle(event_loop);
            tls.take_tickets();
        }
    }

    /// Goes on with a handshake, if there is one that is under way. How it ended is seen by reading.
    pub(crate) fn go_on(&mut self) {
        if let Wire::Tls(tls) = &mut self.wire {
            let _done = tls.handshake();
        }
    }

    /// Writes everything.
    #[track_caller]
    pub(crate) fn write<T: 'static>(&mut self, event_loop: &Loop<T>, data: &[u8]) {
        let mut rest = data;
        pump(event_loop, || {
            match Write::write(self, rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("write failed: {error}"),
            }
            rest.is_empty()
        });
    }

    /// Reads exactly so many bytes.
    #[track_caller]
    pub(crate) fn read<T: 'static>(&mut self, event_loop: &Loop<T>, length: usize) -> Vec<u8> {
        let mut data = Vec::new();
        let mut buffer = vec![0; length];
        pump(event_loop, || {
            while data.len() < length {
                let wanted = length - data.len();
                match Read::read(self, &mut buffer[..wanted]) {
                    Ok(0) => panic!("the end after {} of {length} bytes", data.len()),
                    Ok(count) => data.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                    Err(error) => panic!("read failed: {error}"),
                }
            }
            true
        });
        data
    }

    /// Reads until the end, which may be a reset.
    #[track_caller]
    pub(crate) fn read_to_end<T: 'static>(&mut self, event_loop: &Loop<T>) -> Vec<u8> {
        let mut data = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        pump(event_loop, || {
            loop {
                match Read::read(self, &mut buffer) {
                    Ok(0) => return true,
                    Ok(count) => data.extend_from_slice(&buffer[..count]),
                    Err(error) => match error.kind() {
                        ErrorKind::WouldBlock => return false,
                        ErrorKind::ConnectionReset => return true,
                        _ => panic!("read failed: {error}"),
                    },
                }
            }
        });
        data
    }

    /// Ends its direction in order, and goes on reading.
    #[track_caller]
    pub(crate) fn end_output(&mut self) {
        let ended = match &mut self.wire {
            Wire::Plain(stream) => stream.shutdown(Shutdown::Write),
            Wire::Tls(tls) => tls.end_output(),
        };
        ended.expect("it is connected");
    }

    /// Ends both directions with a reset.
    pub(crate) fn reset(mut self) {
        SockRef::from(self.stream()).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
        if let Wire::Tls(tls) = &mut self.wire {
            tls.cut();
        }
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.wire {
            Wire::Plain(stream) => stream.read(buffer),
            Wire::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.wire {
            Wire::Plain(stream) => stream.write(data),
            Wire::Tls(tls) => tls.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream of any family; the calls that are used are the same for all.
fn non_blocking(stream: OwnedFd) -> TcpStream {
    let stream = TcpStream::from(stream);
    stream.set_nonblocking(true).expect("a socket");
    // A Unix socket has no delay to switch off.
    let _tcp = stream.set_nodelay(true);
    stream
}
