//! TLS through a relay that splits the stream at places of chance, and cuts it; and peers that send and close.
#![cfg(usockets_tls)]

mod util;

use std::cell::{Cell, RefCell};
use std::env;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use usockets::{CloseReason, ConnectOptions, ContextBuilder, Loop, Socket, SocketContext};
use util::{
    Random, Secured, TlsPeer, assert_nothing_live, assert_same, drain, guard, guard_for, new_loop,
    own_address, pattern, pump, pump_for,
};

// -- The relay --------------------------------------------------------------------------------

/// Takes one connection to its address and passes it on, piece by piece.
struct Relay {
    address: SocketAddr,
    thread: JoinHandle<()>,
}

impl Relay {
    /// `cut`: what comes from the client ends after so many bytes.
    fn to(target: SocketAddr, seed: u64, cut: Option<usize>) -> Self {
        let listener = TcpListener::bind(own_address()).expect("a listener");
        let address = listener.local_addr().expect("it is bound");
        let thread = thread::spawn(move || {
            let (client, _) = listener.accept().expect("a connection");
            let server = TcpStream::connect(target).expect("it listens");
            let again = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
            let (from_server, to_client) = (again(&server), again(&client));
            let back =
                thread::spawn(move || copy(from_server, &to_client, seed ^ 0x5bd1_e995, None));
            copy(client, &server, seed, cut);
            back.join().expect("no panic");
        });
        Self { address, thread }
    }

    fn join(self) {
        self.thread.join().expect("no panic");
    }
}

/// Until `from` ends, in order or not.
fn copy(mut from: TcpStream, mut to: &TcpStream, seed: u64, cut: Option<usize>) {
    let mut random = Random::new(seed);
    let mut left = cut.unwrap_or(usize::MAX);
    let mut buffer = vec![0; 1 << 16];
    to.set_nodelay(true).expect("a TCP socket");
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let passed = count.min(left);
        // Who reads no more may still send: the other direction goes on.
        let written = pieces(&mut random, &buffer[..passed]).try_for_each(|one| to.write_all(one));
        left = if written.is_ok() { left - passed } else { 0 };
        if left == 0 {
            let _may_have_gone = to.shutdown(Shutdown::Write);
        }
    }
    let _may_have_gone = to.shutdown(Shutdown::Write);
}

/// Bytes alone, parts of headers, several records at once.
fn pieces<'a>(random: &'a mut Random, mut rest: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    std::iter::from_fn(move || {
        let most = [1, 6, 200, 5_000, 20_000, 1 << 16][random.below(6)];
        let length = (1 + random.below(most)).min(rest.len());
        let (piece, others) = rest.split_at(length);
        rest = others;
        (!piece.is_empty()).then_some(piece)
    })
}

// -- Both sides by the crate ------------------------------------------------------------------

/// What one side does, and what it was told.
#[derive(Default)]
struct Side {
    sends: Vec<u8>,
    /// What the other side sends.
    expects: Vec<u8>,
    then: Then,
    received: Cell<usize>,
    ended: Cell<bool>,
    reason: RefCell<Option<CloseReason>>,
}

/// What follows what it sends.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Then {
    /// It closes when the other side has ended.
    #[default]
    Wait,
    Close,
    CloseAfterFlush,
    ShutDown,
    /// A reset, once it has received so many bytes.
    ResetAt(usize),
}

impl Side {
    fn open(&self, socket: &Socket<true>) {
        for piece in self.sends.chunks(70_000) {
            socket.send(piece).expect("there is room");
        }
        match self.then {
            Then::Wait | Then::ResetAt(_) => {}
            Then::Close => socket.close(),
            Then::CloseAfterFlush => socket.close_after_flush(),
            Then::ShutDown => socket.shutdown(),
        }
    }

    fn take(&self, socket: &Socket<true>, data: &[u8]) {
        assert!(!self.ended.get(), "data after the end");
        let before = self.received.get();
        let received = before + data.len();
        assert!(received <= self.expects.len(), "{received} of {} bytes", self.expects.len());
        if data != &self.expects[before..received] {
            assert_same(data, &self.expects[before..received]);
        }
        self.received.set(received);
        if matches!(self.then, Then::ResetAt(bytes) if received >= bytes) {
            socket.reset();
        }
    }

    fn has_all(&self) -> bool {
        self.received.get() == self.expects.len()
    }

    /// A context whose sockets do this.
    fn builder(self: &Rc<Self>) -> ContextBuilder<true> {
        let [opened, told, ended, closed] = [(); 4].map(|()| Rc::clone(self));
        SocketContext::<true>::builder()
            .secured()
            .on_open(move |(), socket, (), _| opened.open(socket))
            .on_data(move |(), socket, (), data| told.take(socket, data))
            .on_end(move |(), socket, ()| {
                ended.ended.set(true);
                socket.close();
            })
            .on_close(move |(), _, (), reason| {
                assert!(closed.reason.replace(Some(*reason)).is_none(), "closed twice");
            })
    }
}

/// How a connection comes to its end.
#[derive(Debug, Clone, Copy)]
enum Plan {
    ClientCloses,
    ServerCloses,
    BothShutDown,
    ClientResets,
    RelayCuts,
}

const PLANS: [Plan; 5] = [
    Plan::ClientCloses,
    Plan::ServerCloses,
    Plan::BothShutDown,
    Plan::ClientResets,
    Plan::RelayCuts,
];

/// The sides of a plan, and what the relay does.
fn cast(plan: Plan, random: &mut Random) -> (Rc<Side>, Rc<Side>, Option<usize>) {
    let close = [Then::Close, Then::CloseAfterFlush][random.below(2)];
    let (client, server) = match plan {
        Plan::ClientCloses => (close, Then::Wait),
        Plan::ServerCloses => (Then::Wait, close),
        Plan::BothShutDown => (Then::ShutDown, Then::ShutDown),
        Plan::ClientResets => (Then::ResetAt(1), Then::Wait),
        Plan::RelayCuts => (Then::Wait, Then::Wait),
    };
    let mut some = || {
        let most = [20, 5_000, 300_000][random.below(3)];
        pattern(1 + random.below(most))
    };
    let (mut up, mut down) = (some(), some());
    down.reverse();
    match plan {
        // Who closes receives no more.
        Plan::ClientCloses => down.clear(),
        Plan::ServerCloses => up.clear(),
        _ => {}
    }
    let client = match client {
        Then::ResetAt(_) => Then::ResetAt(1 + random.below(down.len())),
        then => then,
    };
    let cut = matches!(plan, Plan::RelayCuts).then(|| random.below(up.len()));
    let side = |sends: &[u8], expects: &[u8], then| {
        let (sends, expects) = (sends.to_vec(), expects.to_vec());
        Rc::new(Side { sends, expects, then, ..Side::default() })
    };
    (side(&up, &down, client), side(&down, &up, server), cut)
}

fn play(plan: Plan, random: &mut Random) {
    let event_loop = new_loop();
    let (client, server, cut) = cast(plan, random);
    let server_context = server.builder().build(&event_loop, ()).expect("a context");
    let client_context = client.builder().build(&event_loop, ()).expect("a context");
    let listener = server_context.listen(own_address()).expect("a listener");
    let relay = Relay::to(listener.local_addr().expect("it is bound"), random.next(), cut);
    let options = ConnectOptions::new().server_name("localhost");
    client_context.connect_with(relay.address, &options, ()).expect("it begins");
    pump(&event_loop, || client.reason.borrow().is_some() && server.reason.borrow().is_some());
    check(plan, &client, &server);
    drop(listener);
    drain(&event_loop);
    relay.join();
    drop((client_context, server_context));
    util::settle(&event_loop);
    assert_nothing_live(&event_loop);
}

fn check(plan: Plan, client: &Side, server: &Side) {
    let reasons = (*client.reason.borrow(), *server.reason.borrow());
    let told = format!("{plan:?}: {reasons:?}");
    match plan {
        Plan::ClientCloses => assert!(server.has_all() && server.ended.get(), "{told}"),
        Plan::ServerCloses => assert!(client.has_all() && client.ended.get(), "{told}"),
        Plan::BothShutDown => {
            assert!(server.has_all() && client.has_all(), "{told}");
        }
        Plan::ClientResets => {
            assert_eq!(reasons.0, Some(CloseReason::LocalReset));
            assert!(!server.ended.get() && reasons.1 != Some(CloseReason::End), "{told}");
        }
        Plan::RelayCuts => {
            assert_eq!(reasons.1, Some(CloseReason::Truncated), "{told}");
            assert!(!server.ended.get(), "{told}");
        }
    }
}

#[test]
fn nothing_is_lost_where_records_are_split() {
    let guard = guard();
    let mut random = Random::new(7_919);
    for round in 0..50 {
        guard.step(&format!("round {round}"));
        play(PLANS[round % PLANS.len()], &mut random);
    }
}

// -- Somebody else's TLS on one side ----------------------------------------------------------

/// Who sends and closes at once; the other one reads to the end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sender {
    Crate,
    Peer,
}

/// Sends or reads, on a thread of its own, where waiting is allowed.
fn spawn_peer(
    peer: impl FnOnce() -> TlsPeer + Send + 'static,
    sender: Sender,
    data: &Arc<Vec<u8>>,
) -> JoinHandle<()> {
    let data = Arc::clone(data);
    thread::spawn(move || {
        let mut peer = peer();
        if sender == Sender::Peer {
            peer.write_all(&data).expect("it is open");
            if !peer.ssl().is_server() {
                // A session ticket that comes to a descriptor that is closed would reset the connection.
                peer.end_output().expect("it is open");
                assert_eq!(peer.read(&mut [0]).expect("a close_notify"), 0);
            }
            return; // with a close_notify, and then the descriptor is closed
        }
        let mut received = Vec::with_capacity(data.len());
        peer.read_to_end(&mut received).expect("a close_notify");
        assert!(received == **data, "{} of {} bytes, or others", received.len(), data.len());
    })
}

/// One connection, on which the peer is the client or the server.
fn exchange(
    event_loop: &Loop,
    sender: Sender,
    peer_is_client: bool,
    data: &Arc<Vec<u8>>,
    seed: Option<u64>,
) {
    let mut side = Side::default();
    if sender == Sender::Crate {
        side.sends = data.to_vec();
        side.then = Then::Close;
    } else {
        side.expects = data.to_vec();
    }
    let side = Rc::new(side);
    let context = side.builder().build(event_loop, ()).expect("a context");
    let relayed = |target| match seed.map(|seed| Relay::to(target, seed, None)) {
        Some(relay) => (relay.address, Some(relay)),
        None => (target, None),
    };
    let mut listener = None;
    let (relay, peer) = if peer_is_client {
        let listening = listener.insert(context.listen(own_address()).expect("a listener"));
        let (address, relay) = relayed(listening.local_addr().expect("it is bound"));
        let connect = move || TlsPeer::client(TcpStream::connect(address).expect("it listens"));
        (relay, spawn_peer(connect, sender, data))
    } else {
        let listening = TcpListener::bind(own_address()).expect("a listener");
        let (address, relay) = relayed(listening.local_addr().expect("it is bound"));
        let accept = move || TlsPeer::server(listening.accept().expect("a connection").0);
        let peer = spawn_peer(accept, sender, data);
        let options = ConnectOptions::new().server_name("localhost");
        context.connect_with(address, &options, ()).expect("it begins");
        (relay, peer)
    };
    pump_for(event_loop, Duration::from_secs(60), || {
        side.reason.borrow().is_some() && peer.is_finished()
    });
    drop(listener);
    drain(event_loop);
    peer.join().expect("it has received everything");
    let reason = side.reason.borrow();
    assert!(side.has_all(), "{} of {} bytes: {reason:?}", side.received.get(), side.expects.len());
    assert_eq!(side.ended.get(), sender == Sender::Peer);
    relay.into_iter().for_each(Relay::join);
}

#[test]
fn nothing_is_lost_between_the_crate_and_others() {
    let guard = guard();
    let mut random = Random::new(104_729);
    let event_loop = new_loop();
    for round in 0..24 {
        guard.step(&format!("round {round}"));
        let data = Arc::new(pattern(1 + random.below([20, 5_000, 300_000][round % 3])));
        let sender = [Sender::Crate, Sender::Peer][random.below(2)];
        exchange(&event_loop, sender, random.below(2) == 0, &data, Some(random.next()));
    }
}

/// 16 MiB and a short last message, and then a close at once: in both directions, by clients and by servers.
fn send_and_close(times: usize) {
    let guard = guard_for(Duration::from_secs(120));
    let mut data = pattern(16 << 20);
    data.extend_from_slice(b"the last message");
    let data = Arc::new(data);
    let event_loop = new_loop();
    for time in 0..times {
        guard.step(&format!("time {time}"));
        let sender = if time % 2 == 0 { Sender::Crate } else { Sender::Peer };
        exchange(&event_loop, sender, time % 4 < 2, &data, None);
    }
}

/// A few times; `make tls-send-and-close` asks for a thousand.
#[test]
fn peers_that_send_and_close_lose_nothing() {
    let times = env::var("USOCKETS_TEST_TIMES").map_or(4, |text| text.parse().expect("a number"));
    send_and_close(times);
}
