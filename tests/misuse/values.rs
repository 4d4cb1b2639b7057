//! States, sources and conversions that are places.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use usockets::{ConnectTarget, Target, UsError};

use crate::places::Place;
use crate::util::Token;
use crate::world::{Here, current, token, visit};

/// A value whose destructor is a place, and which must be dropped once.
pub(crate) struct Probe {
    /// Where the program is when this is dropped; another one if the loop is gone by then.
    pub(crate) place: Option<Place>,
    at_teardown: Option<Place>,
    _token: Token,
}

impl Probe {
    pub(crate) fn new(place: Place) -> Self {
        Self { place: Some(place), at_teardown: None, _token: token() }
    }

    pub(crate) fn with_teardown(place: Place, at_teardown: Place) -> Self {
        Self { place: Some(place), at_teardown: Some(at_teardown), _token: token() }
    }

    /// One that is only counted.
    pub(crate) fn silent() -> Self {
        Self { place: None, at_teardown: None, _token: token() }
    }

    /// Makes a closure own the probe that mentions it.
    pub(crate) fn hold(&self) {
        let _held = &self._token;
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let closed = current().is_none_or(|world| world.loop_ref.is_closed());
        let place = if closed { self.at_teardown.or(self.place) } else { self.place };
        if let Some(place) = place {
            let _entered = visit(place, &mut Here::default());
        }
    }
}

/// Bytes that a socket sends, as many as asked for.
pub(crate) struct Buffer {
    data: Vec<u8>,
    _probe: Probe,
}

impl Buffer {
    pub(crate) fn new(length: usize) -> Self {
        let probe = Probe::with_teardown(Place::DropBuffer, Place::DropBufferAtTeardown);
        Self { data: vec![7; length], _probe: probe }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// The state of the loop.
pub(crate) struct LoopState {
    _token: Token,
}

impl LoopState {
    pub(crate) fn new(token: Token) -> Self {
        Self { _token: token }
    }
}

impl Drop for LoopState {
    fn drop(&mut self) {
        let _entered = visit(Place::DropLoopStateAtTeardown, &mut Here::default());
    }
}

/// The state of a context.
pub(crate) struct ContextState {
    _probe: Probe,
    pub(crate) calls: usize,
}

impl ContextState {
    pub(crate) fn new() -> Self {
        let probe =
            Probe::with_teardown(Place::DropContextState, Place::DropContextStateAtTeardown);
        Self { _probe: probe, calls: 0 }
    }

    pub(crate) fn silent() -> Self {
        Self { _probe: Probe::silent(), calls: 0 }
    }
}

/// The state of a socket, a timer or a poll.
pub(crate) struct Session {
    pub(crate) probe: Probe,
    pub(crate) received: usize,
}

impl Session {
    pub(crate) fn silent() -> Self {
        Self { probe: Probe::silent(), received: 0 }
    }

    pub(crate) fn with_probe(probe: Probe) -> Self {
        Self { probe, received: 0 }
    }
}

/// What contexts make sockets with.
impl Default for Session {
    fn default() -> Self {
        // Before the place, where everything may end.
        let probe = Probe::with_teardown(Place::DropSession, Place::DropSessionAtTeardown);
        let connecting = current().is_some_and(|world| world.is_connecting());
        let place = if connecting { Place::FactoryForConnect } else { Place::FactoryForAccept };
        let _entered = visit(place, &mut Here::default());
        Self { probe, received: 0 }
    }
}

/// The state of a socket that was adopted: larger, so that the socket's memory moves.
pub(crate) struct Moved {
    _probe: Probe,
    pub(crate) padding: [u64; 64],
}

impl Moved {
    pub(crate) fn new() -> Self {
        Self { _probe: Probe::silent(), padding: [7; 64] }
    }
}

/// A source for a poll.
pub(crate) struct Source {
    pub(crate) stream: UnixStream,
    probe: Probe,
}

impl Source {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        Self { stream, probe: Probe::silent() }
    }

    /// Makes the end of this source a place.
    pub(crate) fn watched(stream: UnixStream) -> Self {
        let mut source = Self::new(stream);
        source.probe.place = Some(Place::DropPollSource);
        source
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Addresses whose conversion is a place.
pub(crate) struct Addresses(pub(crate) SocketAddr);

impl std::net::ToSocketAddrs for Addresses {
    type Iter = std::iter::Once<SocketAddr>;

    fn to_socket_addrs(&self) -> std::io::Result<Self::Iter> {
        let _entered = visit(Place::Addresses, &mut Here::default());
        Ok(std::iter::once(self.0))
    }
}

impl ConnectTarget for Addresses {
    fn into_target(self) -> Result<Target, UsError> {
        let _entered = visit(Place::Target, &mut Here::default());
        Ok(Target::address(self.0))
    }
}

/// A descriptor whose conversion is a place.
pub(crate) struct Descriptor(pub(crate) UnixStream);

impl From<Descriptor> for OwnedFd {
    fn from(descriptor: Descriptor) -> Self {
        let _entered = visit(Place::Descriptor, &mut Here::default());
        descriptor.0.into()
    }
}
