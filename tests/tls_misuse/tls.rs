//! What the script comes through besides: handshakes, names, connections that begin in the clear.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::OnceLock;

use usockets::{
    CloseReason, ConnectOptions, ContextBuilder, Handshake, ServerNameAnswer, Socket,
    SocketContext, StartTls, TlsClientConfig, TlsClientOptions, TlsIdentity, TlsServerConfig,
    TlsServerOptions, TlsSession, UsError,
};

use crate::SSL;
pub(crate) use crate::deeds_of_tls::{TlsDeed, act, ask, perform};
use crate::places::Place;
use crate::script::{Step, adopt, event, with_moved, with_session};
use crate::util::{Peer, Secured, certificates, unix_pair};
use crate::values::{ContextState, Moved, Probe, Session};
use crate::world::{Here, Main, Shelf, World, current, key_of, visit};

/// A name whose handshakes wait for a job, and one for which nothing ever comes.
pub(crate) const WAITS: &str = "waits.example";
pub(crate) const FOR_EVER: &str = "for-ever.example";
/// Names that are refused, and that the certificate does not have.
pub(crate) const REFUSED: &str = "refused.example";
pub(crate) const ELSEWHERE: &str = "elsewhere.example";

pub(crate) const STEPS: &[Step] = &[
    connect_to_a_name,
    resume,
    wait_for_a_name,
    refuse_a_name,
    fail_to_verify,
    adopt_in_handshake,
    begin_in_the_clear,
    begin_in_the_clear_as_client,
    add_and_remove_a_name,
];

pub(crate) type Plain = SocketContext<false, ContextState, Session>;

/// What a world has besides.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) plain: Shelf<Plain>,
    /// An open connection in the clear.
    pub(crate) in_the_clear: Shelf<Socket<false, Session>>,
    pub(crate) session: Shelf<TlsSession>,
    /// Peers of what has no TLS yet.
    pub(crate) peers: RefCell<Vec<UnixStream>>,
    /// Sockets that have been told how their handshake ended.
    handshaken: RefCell<HashSet<String>>,
}

impl Extra {
    pub(crate) fn clear(&self) {
        drop(self.in_the_clear.take());
        drop(self.plain.take());
        drop(self.peers.take());
    }

    fn handshaken(&self, world: &World, key: &str) {
        let is_first = self.handshaken.borrow_mut().insert(key.to_owned());
        world.expect(is_first, "a second end of a handshake");
    }

    /// A socket is closed.
    pub(crate) fn closed(&self, world: &World, key: &str) {
        let is_told = self.handshaken.borrow().contains(key);
        world.expect(is_told, "closed, and the end of its handshake was not told");
    }
}

// -- Key material -----------------------------------------------------------------------------

pub(crate) struct Configs {
    pub(crate) server: TlsServerConfig,
    pub(crate) client: TlsClientConfig,
    pub(crate) identity: TlsIdentity,
    /// A certificate and the key of another one.
    pub(crate) mismatched: TlsIdentity,
}

pub(crate) fn configs() -> &'static Configs {
    static CONFIGS: OnceLock<Configs> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let authority = &certificates().authority;
        let names = ["localhost", WAITS, FOR_EVER, REFUSED, "named.example"];
        let (one, another) = (authority.issue(&names), authority.issue(&names));
        let server = TlsServerOptions::new(one.identity());
        let client = TlsClientOptions::new().trust(authority.trust()).alpn(["one", "two"]);
        Configs {
            server: server.build().expect("a configuration"),
            client: client.build().expect("a configuration"),
            identity: another.identity(),
            mismatched: TlsIdentity::from_pem(&one.certificate, &another.key),
        }
    })
}

pub(crate) fn make_shared() {
    let _made = configs();
    // What peers share.
    let (one, another) = unix_pair();
    drop((Peer::client_of(true, one), Peer::server_of(true, another)));
}

// -- Contexts ---------------------------------------------------------------------------------

pub(crate) fn main_builder() -> ContextBuilder<SSL, ContextState, Session> {
    SocketContext::builder()
        .tls_server(&configs().server)
        .tls_client(&configs().client)
        .on_handshake(handshaken)
        .on_verify(|state, socket, session, certificates| {
            let place = event(socket, Place::Verify);
            let _entered = visit(place, &mut with_session(socket, session, state));
            certificates.verified()
        })
        .on_alpn(|state, socket, session, offer| {
            let place = event(socket, Place::Alpn);
            let _entered = visit(place, &mut with_session(socket, session, state));
            offer.select(["two"])
        })
        .on_server_name(named)
        .on_session(|state, socket, session, new| {
            if let Some(world) = current() {
                world.extra.session.put(new);
            }
            let place = event(socket, Place::NewSession);
            let _entered = visit(place, &mut with_session(socket, session, state));
        })
        .on_adopt(|state, socket, session| {
            if let Some(world) = current() {
                world.ledger.arrived(&key_of(socket));
            }
            let place = event(socket, Place::Started);
            let _entered = visit(place, &mut with_session(socket, session, state));
        })
}

fn handshaken(
    state: &mut ContextState,
    socket: &Socket<SSL, Session>,
    session: &mut Session,
    result: Result<&Handshake, &CloseReason>,
) {
    if let Some(world) = current() {
        world.extra.handshaken(&world, &key_of(socket));
    }
    let place = match result {
        // Peers of servers show no certificates.
        Ok(_) if socket.peer_certificates().is_ok_and(|chain| chain.is_empty()) => {
            event(socket, Place::HandshakeAccepted)
        }
        Ok(_) => event(socket, Place::HandshakeConnected),
        // Closed by now.
        Err(_) => Place::HandshakeFailed,
    };
    let _entered = visit(place, &mut with_session(socket, session, state));
}

fn named(
    state: &mut ContextState,
    socket: &Socket<SSL, Session>,
    session: &mut Session,
    name: &str,
) -> ServerNameAnswer {
    let (place, answer) = match name {
        WAITS | FOR_EVER => (Place::ServerNameWaits, ServerNameAnswer::Wait),
        REFUSED => (Place::ServerNameRefused, ServerNameAnswer::Refuse),
        _ => (Place::ServerName, ServerNameAnswer::LookUp),
    };
    if name == WAITS {
        let waiting = socket.clone();
        let _given = socket.event_loop().defer(move |_| {
            let mut here = Here { socket: Some(&waiting), ..Here::default() };
            let _entered = visit(Place::ContinueJob, &mut here);
            let _continued = waiting.continue_handshake();
        });
    }
    let _entered = visit(event(socket, place), &mut with_session(socket, session, state));
    answer
}

pub(crate) fn target_builder(
    builder: ContextBuilder<SSL, ContextState, Moved>,
) -> ContextBuilder<SSL, ContextState, Moved> {
    builder.secured().on_handshake(|state, socket, _, _| {
        let _entered = visit(Place::HandshakeMoved, &mut with_moved(socket, state));
    })
}

fn plain_context(world: &World) -> Result<Plain, UsError> {
    SocketContext::<false, ContextState, Session>::builder_with(Session::silent)
        .on_open(|_, socket, _, _| {
            if let Some(world) = current() {
                world.ledger.opened(&key_of(socket));
            }
        })
        .on_data(|state, socket, session, data| {
            let Some(world) = current() else { return };
            world.ledger.event(&key_of(socket));
            let begun = world.main.get().map(|main| {
                let role = match &*data {
                    b"server" => StartTls::server(),
                    _ => StartTls::client("localhost"),
                };
                start_tls(socket, &main, role)
            });
            let stale = matches!(socket.with_state(|_| ()), Err(UsError::Stale));
            world.expect(stale || !matches!(begun, Some(Ok(()))), "started but not stale");
            state.calls += 1;
            let mut here = Here { session: Some(session), ..Here::default() };
            let _entered = visit(Place::PlainData, &mut here);
        })
        .on_close(|_, socket, _, _| {
            if let Some(world) = current() {
                world.ledger.closed(&key_of(socket));
            }
        })
        .on_connect_error(|_, socket, _, _| {
            if let Some(world) = current() {
                world.ledger.failed(&key_of(socket));
            }
        })
        .build(&world.loop_ref, ContextState::silent())
}

/// As `script::adopt`, from a plain context into that of TLS.
pub(crate) fn start_tls(
    socket: &Socket<false, Session>,
    main: &Main,
    role: StartTls,
) -> Result<(), UsError> {
    let key = key_of(socket);
    let probe = Probe::new(Place::DropConvertToTls);
    socket.start_tls(main, role, 0, move |old| {
        let mut here = Here { session: Some(old), ..Here::default() };
        drop(visit(Place::ConvertToTls, &mut here));
        let new = Session::silent();
        drop(probe);
        if let Some(world) = current() {
            world.ledger.left(&key);
        }
        new
    })
}

// -- Setting up, and leaving something --------------------------------------------------------

pub(crate) fn set_up(world: &Rc<World>) {
    world.extra.plain.put(plain_context(world).expect("a context"));
    world.extra.in_the_clear.put(new_plain(world).expect("a socket"));
    if let Some(main) = world.main.get() {
        let kept = name_data();
        main.add_server_name_with("kept.example", &configs().server, kept).expect("a name");
    }
}

/// A socket without TLS, whose peer is the last of its kind.
pub(crate) fn new_plain(world: &World) -> Option<Socket<false, Session>> {
    let (ours, theirs) = unix_pair();
    world.extra.peers.borrow_mut().push(theirs);
    world.connect(|| Some(world.extra.plain.get()?.accept_fd(ours)))
}

/// What belongs to a name.
pub(crate) fn name_data() -> Rc<Probe> {
    Rc::new(Probe::with_teardown(Place::DropNameData, Place::DropNameDataAtTeardown))
}

/// Connections in all parts of their handshakes.
pub(crate) fn leave_something(world: &Rc<World>) {
    for name in ["localhost", FOR_EVER, REFUSED] {
        connect(world, &ConnectOptions::new().server_name(name));
        world.turn();
    }
    if let (Some(socket), Some(main)) = (new_plain(world), world.main.get()) {
        world.turn();
        let _begun = start_tls(&socket, &main, StartTls::client("localhost"));
    }
}

// -- Steps ------------------------------------------------------------------------------------

/// Of the main context to its own listener.
pub(crate) fn connect(world: &World, options: &ConnectOptions) -> Option<Socket<SSL, Session>> {
    let address = world.listener.get()?.local_addr().ok()?;
    world.connect(|| Some(world.main.get()?.connect_with(address, options, Session::silent())))
}

fn connect_to_a_name(world: &Rc<World>) {
    let socket = connect(world, &ConnectOptions::new().server_name("localhost"));
    // The session comes behind the handshake.
    world.drive(2);
    if let Some(socket) = socket {
        socket.close();
    }
}

fn resume(world: &Rc<World>) {
    let Some(session) = world.extra.session.get() else { return };
    let options = ConnectOptions::new().server_name("localhost").tls_session(&session);
    connect(world, &options);
}

fn wait_for_a_name(world: &Rc<World>) {
    connect(world, &ConnectOptions::new().server_name(WAITS));
}

fn refuse_a_name(world: &Rc<World>) {
    connect(world, &ConnectOptions::new().server_name(REFUSED));
}

fn fail_to_verify(world: &Rc<World>) {
    connect(world, &ConnectOptions::new().server_name(ELSEWHERE));
}

fn adopt_in_handshake(world: &Rc<World>) {
    let Some(socket) = world.new_socket() else { return };
    world.turn();
    world.turn();
    let Some(target) = world.target.get() else { return };
    let _begun = adopt(&socket, &target, 0, |_, _| ());
}

fn begin_in_the_clear(world: &Rc<World>) {
    begin_as(world, b"server", |stream| Peer::client_of(true, stream));
}

fn begin_in_the_clear_as_client(world: &Rc<World>) {
    begin_as(world, b"client", |stream| Peer::server_of(true, stream));
}

fn begin_as(world: &Rc<World>, word: &[u8], peer: impl FnOnce(UnixStream) -> Peer) {
    if new_plain(world).is_none() {
        return;
    }
    world.drive(1);
    let Some(stream) = world.extra.peers.borrow_mut().pop() else { return };
    let _written = std::io::Write::write(&mut &stream, word);
    world.turn();
    world.peers.borrow_mut().push(peer(stream));
}

fn add_and_remove_a_name(world: &Rc<World>) {
    let Some(main) = world.main.get() else { return };
    let _added = main.add_server_name_with("named.example", &configs().server, name_data());
    let _removed = main.remove_server_name("named.example");
}

/// Something that is no TLS, at the listener.
pub(crate) fn send_garbage(world: &World) {
    let address = world.listener.get().and_then(|listener| listener.local_addr().ok());
    if let Some(Ok(mut stream)) = address.map(TcpStream::connect) {
        let _written = std::io::Write::write(&mut stream, b"GET / HTTP/1.1\r\n\r\n");
        world.tcp_peers.borrow_mut().push(Peer::client_of(false, stream));
    }
}
