use std::io::{ErrorKind, Read};
use std::iter;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use usockets::{ContextBuilder, ListenSocket, Loop, SocketContext};

use super::Peer;
use super::kind::Secured;

/// How many addresses a process listens on, in turn.
const OWN_ADDRESSES: u32 = 64;

/// Port 0 of an address of this machine that no test has listened on lately.
///
/// Ended connections keep the port of their listener in TIME_WAIT for a minute. Tests that listen ten
/// thousand times would leave no port free on 127.0.0.1, neither for themselves nor for anybody else.
pub(crate) fn own_address() -> SocketAddr {
    static LISTENERS: AtomicU32 = AtomicU32::new(0);
    let listener = LISTENERS.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from((own_address_number(listener % OWN_ADDRESSES), 0))
}

/// All addresses that [`own_address`] gives in this process.
pub(crate) fn own_addresses() -> impl Iterator<Item = Ipv4Addr> {
    (0..OWN_ADDRESSES).map(own_address_number)
}

/// From 127.64.0.0 to 127.127.255.255, the processes apart. One that comes to those of another one loses
/// nothing: the system still chooses a port that is free.
fn own_address_number(number: u32) -> Ipv4Addr {
    let first = process::id().wrapping_mul(OWN_ADDRESSES);
    Ipv4Addr::from(0x7f40_0000 | (first.wrapping_add(number) & 0x3f_ffff))
}

/// Listens on 127.0.0.1, as tests need that connect to a name.
pub(crate) fn localhost_listener() -> TcpListener {
    // If nothing is left of the ports that the system gives to those who ask for any, take another one.
    let ports = iter::once(0).chain(20_000..20_100);
    let addresses: Vec<_> =
        ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).collect();
    TcpListener::bind(&addresses[..]).expect("a port")
}

/// Two ends of a TCP connection that no loop knows of.
pub(crate) fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(own_address()).expect("a listener");
    let address = listener.local_addr().expect("it is bound");
    let client = TcpStream::connect(address).expect("it listens");
    let (server, _) = listener.accept().expect("a connection waits");
    (client, server)
}

/// Two ends of a Unix connection that no loop knows of.
pub(crate) fn unix_pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("a pair")
}

/// What can be read now; `None` at the end.
pub(crate) fn read_some(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    match stream.read(&mut buffer) {
        Ok(0) => None,
        Ok(length) => {
            buffer.truncate(length);
            Some(buffer)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(Vec::new()),
        Err(error) => panic!("read failed: {error}"),
    }
}

/// An echo server, and clients for it.
#[derive(Debug)]
pub(crate) struct Echo<const SSL: bool = false> {
    pub(crate) context: SocketContext<SSL, (), Vec<u8>>,
    pub(crate) listener: ListenSocket,
}

impl Echo {
    pub(crate) fn new<T: 'static>(event_loop: &Loop<T>) -> Self {
        Self::over(event_loop)
    }
}

impl<const SSL: bool> Echo<SSL>
where
    ContextBuilder<SSL, (), Vec<u8>>: Secured,
{
    /// Over plain TCP or TLS.
    pub(crate) fn over<T: 'static>(event_loop: &Loop<T>) -> Self {
        let context = SocketContext::<SSL, (), Vec<u8>>::builder()
            .on_data(|(), socket, rest, data| {
                let taken = if rest.is_empty() { socket.write(data) } else { 0 };
                rest.extend_from_slice(&data[taken..]);
            })
            .on_writable(|(), socket, rest| {
                let taken = socket.write(rest);
                rest.drain(..taken);
            })
            .secured()
            .build(event_loop, ())
            .expect("a context");
        let listener = context.listen(own_address()).expect("a listener");
        Self { context, listener }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer::connect_over(SSL, self.address())
    }

    /// Panics unless the loop still echoes.
    #[track_caller]
    pub(crate) fn assert_echoes<T: 'static>(&self, event_loop: &Loop<T>) {
        let mut peer = self.peer();
        peer.write(event_loop, b"still there");
        assert_eq!(peer.read(event_loop, 11), b"still there");
    }
}

/// An address on which nobody listens, and nobody else can for as long as this lives: a port that was
/// merely found to be free may be somebody's a moment later.
#[derive(Debug)]
pub(crate) struct Nobody(socket2::Socket);

impl Nobody {
    pub(crate) fn new() -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&own_address().into()).expect("a port");
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let address = self.0.local_addr().expect("it is bound");
        address.as_socket().expect("an IP address")
    }
}
