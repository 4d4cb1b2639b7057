use std::cell::RefCell;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use usockets::{CloseReason, ContextBuilder, Deadlines, ListenSocket, Loop, Socket, SocketContext};

use super::kind::{Ready, Secured};
use super::{Peer, own_address, pump};

/// What a socket is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Open,
    /// Chunks that follow one another are one.
    Data(Vec<u8>),
    Writable,
    End,
    Timeout,
    LongTimeout,
    Adopt,
    Close(CloseReason),
    ConnectError(ErrorKind),
}

/// Makes contexts whose callbacks write down what happens. Callbacks that a test sets afterwards
/// replace these. Clones write into the same record.
#[derive(Debug)]
pub struct Record<S: 'static = (), const SSL: bool = false>(Rc<Recorded<S, SSL>>);

#[derive(Debug)]
struct Recorded<S: 'static, const SSL: bool> {
    events: RefCell<Vec<Event>>,
    /// Sockets that have opened, or came by adoption.
    sockets: RefCell<Vec<Socket<SSL, S>>>,
}

impl<S: 'static, const SSL: bool> Record<S, SSL> {
    pub fn new() -> Self {
        Self(Rc::new(Recorded { events: RefCell::default(), sockets: RefCell::default() }))
    }

    /// A builder that records every callback. The end of the peer leaves the socket half open.
    pub fn builder_with(&self, factory: impl Fn() -> S + 'static) -> ContextBuilder<SSL, (), S>
    where
        ContextBuilder<SSL, (), S>: Secured,
    {
        let record = || self.clone();
        let (open, data, writable, end) = (record(), record(), record(), record());
        let (timeout, long, adopt, close, error) =
            (record(), record(), record(), record(), record());
        SocketContext::<SSL, (), S>::builder_with(factory)
            .secured()
            .on_open(move |(), socket, _, _| open.add_socket(socket, Event::Open))
            .on_data(move |(), _, _, bytes| data.push_data(bytes))
            .on_writable(move |(), _, _| writable.push(Event::Writable))
            .on_end(move |(), _, _| end.push(Event::End))
            .on_timeout(move |(), _, _| timeout.push(Event::Timeout))
            .on_long_timeout(move |(), _, _| long.push(Event::LongTimeout))
            .on_adopt(move |(), socket, _| adopt.add_socket(socket, Event::Adopt))
            .on_close(move |(), _, _, reason| close.push(Event::Close(*reason)))
            .on_connect_error(move |(), _, _, cause| error.push(Event::ConnectError(cause.kind())))
    }

    pub fn push(&self, event: Event) {
        self.0.events.borrow_mut().push(event);
    }

    pub fn push_data(&self, bytes: &[u8]) {
        let mut events = self.0.events.borrow_mut();
        match events.last_mut() {
            Some(Event::Data(data)) => data.extend_from_slice(bytes),
            _ => events.push(Event::Data(bytes.to_vec())),
        }
    }

    pub fn add_socket(&self, socket: &Socket<SSL, S>, event: Event) {
        self.0.sockets.borrow_mut().push(socket.clone());
        self.push(event);
    }

    /// All that happened so far.
    pub fn events(&self) -> Vec<Event> {
        self.0.events.borrow().clone()
    }

    /// What happened since the last call.
    pub fn take(&self) -> Vec<Event> {
        self.0.events.take()
    }

    pub fn has(&self, event: &Event) -> bool {
        self.0.events.borrow().contains(event)
    }

    pub fn count(&self, event: &Event) -> usize {
        self.0.events.borrow().iter().filter(|one| *one == event).count()
    }

    /// The bytes of all chunks.
    pub fn data(&self) -> Vec<u8> {
        let events = self.0.events.borrow();
        let chunks = events.iter().filter_map(|event| match event {
            Event::Data(data) => Some(data.as_slice()),
            _ => None,
        });
        chunks.flatten().copied().collect()
    }

    /// The number of bytes of all chunks.
    pub fn data_length(&self) -> usize {
        let events = self.0.events.borrow();
        let lengths = events.iter().map(|event| match event {
            Event::Data(data) => data.len(),
            _ => 0,
        });
        lengths.sum()
    }

    /// Why the first socket was closed, once it is.
    pub fn closed(&self) -> Option<CloseReason> {
        self.0.events.borrow().iter().find_map(|event| match event {
            Event::Close(reason) => Some(*reason),
            _ => None,
        })
    }

    /// Whether a socket is gone: closed, or never connected.
    pub fn ended(&self) -> bool {
        let events = self.0.events.borrow();
        events.iter().any(|event| matches!(event, Event::Close(_) | Event::ConnectError(_)))
    }

    /// The socket that opened last.
    #[track_caller]
    pub fn socket(&self) -> Socket<SSL, S> {
        self.0.sockets.borrow().last().cloned().expect("a socket has opened")
    }

    /// The number of sockets that have opened.
    pub fn opened(&self) -> usize {
        self.0.sockets.borrow().len()
    }
}

impl<S: Default + 'static, const SSL: bool> Record<S, SSL>
where
    ContextBuilder<SSL, (), S>: Secured,
{
    /// As [`Record::builder_with`], for states with a default.
    pub fn builder(&self) -> ContextBuilder<SSL, (), S> {
        self.builder_with(S::default)
    }
}

impl<S: 'static, const SSL: bool> Clone for Record<S, SSL> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

/// A context of the recorded callbacks, as they are.
#[track_caller]
pub fn recorded<const SSL: bool, T: 'static, S: Default + 'static>(
    event_loop: &Loop<T>,
    record: &Record<S, SSL>,
) -> SocketContext<SSL, (), S>
where
    ContextBuilder<SSL, (), S>: Secured,
{
    // Tests move the clock by hours.
    record.builder().deadlines(Deadlines::none()).build(event_loop, ()).expect("a context")
}

/// Listens on an [`own_address`], on a port of the system's choice.
#[track_caller]
pub fn listen<const SSL: bool, T: 'static, S: 'static>(
    context: &SocketContext<SSL, T, S>,
) -> ListenSocket {
    context.listen(own_address()).expect("a listener")
}

/// Accepts one connection into a context that writes into `record`, and completes its handshake, if any. The
/// listener is closed again.
#[track_caller]
pub fn accept_one<const SSL: bool, T: 'static, S: 'static>(
    event_loop: &Loop<T>,
    context: &SocketContext<SSL, (), S>,
    record: &Record<S, SSL>,
) -> (Socket<SSL, S>, Peer)
where
    Socket<SSL, S>: Ready,
{
    let listener = listen(context);
    let before = record.opened();
    let mut peer = Peer::connect_over(SSL, listener.local_addr().expect("it is bound"));
    pump(event_loop, || record.opened() > before);
    let socket = record.socket();
    peer.begin(event_loop, || socket.is_ready());
    (socket, peer)
}

/// Hands one end of a connection over to a context, and completes its handshake, if any. The other end is the
/// peer's.
#[track_caller]
pub fn hand_over<const SSL: bool, T: 'static, T2: 'static, S: 'static>(
    event_loop: &Loop<T>,
    context: &SocketContext<SSL, T2, S>,
    (ours, theirs): (impl Into<OwnedFd>, impl Into<OwnedFd>),
) -> (Socket<SSL, S>, Peer)
where
    Socket<SSL, S>: Ready,
{
    let socket = context.accept_fd(ours.into()).expect("a socket");
    let mut peer = Peer::client_of(SSL, theirs);
    pump(event_loop, || socket.is_established());
    peer.begin(event_loop, || socket.is_ready());
    (socket, peer)
}
