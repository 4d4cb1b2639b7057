//! What is done, and to sockets in particular.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use usockets::{DeadlineKind, Socket, TcpKeepAlive, UsError};

use crate::SSL;
use crate::deeds::{self, Deed};
use crate::kept::Kept;
use crate::script;
use crate::table::list;
use crate::tls::{self, TlsDeed};
use crate::values::ContextState;
use crate::world::{Here, World, key_of};

list! {
    /// What is done to a socket.
    Verb {
        Close,
        CloseTwice,
        Reset,
        Shutdown,
        ShutdownRead,
        Pause,
        Resume,
        Write,
        Send,
        Clog,
        ClogAndClose,
        ClogAndShutdown,
        CloseAfterFlush,
        Cork,
        SendFile,
        PipeToOther,
        PipeFromOther,
        SetDeadlines,
        SetTimeouts,
        Adopt,
        AdoptAndClose,
        CloseAndAdopt,
        Ask,
    }
}

list! {
    /// Which socket it is done to.
    Which {
        This,
        Other,
        Gone,
        Moving,
    }
}

/// One thing that the program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    On(Which, Verb),
    Do(Deed),
    Tls(TlsDeed),
}

impl Action {
    pub(crate) fn all() -> Vec<Self> {
        let verbs = |which| Verb::ALL.iter().map(move |verb| Self::On(which, *verb));
        let on_sockets = Which::ALL.iter().copied().flat_map(verbs);
        let deeds = Deed::ALL.iter().copied().map(Self::Do);
        on_sockets.chain(deeds).chain(TlsDeed::ALL.iter().copied().map(Self::Tls)).collect()
    }
}

/// Does it.
pub(crate) fn perform(world: &Rc<World>, action: Action, here: &mut Here<'_>) {
    match action {
        Action::On(which, verb) => on_socket(world, which, verb, here),
        Action::Do(deed) => deeds::perform(world, deed, here),
        Action::Tls(deed) => tls::perform(world, deed, here),
    }
}

// -- Sockets ----------------------------------------------------------------------------------

/// A socket, whatever its state is.
pub(crate) trait Actor {
    fn key(&self) -> String;
    fn act(&self, world: &World, verb: Verb);
    fn act_by_tls(&self, world: &World, deed: TlsDeed);
    fn state(&self) -> Result<(), UsError>;
    fn keep(&self) -> Box<dyn Kept>;
}

impl<S: 'static> Actor for Socket<SSL, S> {
    fn key(&self) -> String {
        key_of(self)
    }

    fn act(&self, world: &World, verb: Verb) {
        act(world, self, verb);
    }

    fn act_by_tls(&self, world: &World, deed: TlsDeed) {
        tls::act(world, self, deed);
    }

    fn state(&self) -> Result<(), UsError> {
        self.with_state(|_| ())
    }

    fn keep(&self) -> Box<dyn Kept> {
        Box::new(self.clone())
    }
}

fn on_socket(world: &World, which: Which, verb: Verb, here: &mut Here<'_>) {
    match (which, here.socket) {
        (Which::This, Some(socket)) => socket.act(world, verb),
        (Which::This | Which::Other, _) => {
            if let Some(socket) = world.other.get() {
                socket.act(world, verb);
            }
        }
        (Which::Gone, _) => {
            if let Some(socket) = world.gone.get() {
                world.expect(socket.is_closed(), "a socket that is gone is not closed");
                socket.act(world, verb);
            }
        }
        (Which::Moving, _) => {
            let Some(socket) = world.spare.get() else { return };
            if adopt(world, &socket).is_ok() {
                world.expect(matches!(socket.state(), Err(UsError::Stale)), "moving but not stale");
            }
            socket.act(world, verb);
        }
    }
}

fn act<S: 'static>(world: &World, socket: &Socket<SSL, S>, verb: Verb) {
    match verb {
        Verb::Close => {
            socket.close();
            expect_closed(world, socket);
        }
        Verb::CloseTwice => {
            socket.close();
            socket.reset();
            socket.close();
            expect_closed(world, socket);
        }
        Verb::Reset => {
            socket.reset();
            expect_closed(world, socket);
        }
        Verb::Shutdown => {
            socket.shutdown();
            let _asked = socket.is_shut_down();
        }
        Verb::ShutdownRead => socket.shutdown_read(),
        Verb::Pause => socket.pause(),
        Verb::Resume => {
            socket.pause();
            socket.resume();
            world.expect(!socket.is_paused(), "resumed but paused");
        }
        Verb::Write => {
            let open = !socket.is_closed();
            let taken = socket.write(b"some bytes");
            world.expect(open || taken == 0, "a closed socket takes bytes");
            let slices = [b"some".as_slice(), b"more"].map(IoSlice::new);
            let _taken = socket.write_vectored(&slices);
            let sent = socket.send_with_descriptors(b"one", &[io::stdin().as_fd()], false);
            world.expect(open || sent.is_err(), "a closed socket sends descriptors");
        }
        Verb::Send => {
            let open = !socket.is_closed();
            let sent = socket.send(b"some bytes");
            world.expect(open || sent.is_err(), "a closed socket takes bytes");
            let _sent = socket.send_vectored(&[IoSlice::new(b"more")]);
            let _sent = socket.send_bytes(Bytes::from_static(b"and more"));
            socket.flush();
        }
        Verb::Clog => clog(socket),
        Verb::ClogAndClose => {
            clog(socket);
            socket.close();
            expect_closed(world, socket);
        }
        Verb::ClogAndShutdown => {
            clog(socket);
            socket.shutdown();
            world.expect(socket.send(b"late").is_err(), "shut down but takes bytes");
        }
        Verb::CloseAfterFlush => {
            let _sent = socket.send(b"the last words");
            socket.close_after_flush();
            world.expect(socket.send(b"late").is_err(), "to be closed but takes bytes");
        }
        Verb::Cork => socket.cork(|socket| {
            let _taken = socket.write(b"corked");
            socket.cork(|socket| drop(socket.send(b"twice")));
        }),
        Verb::SendFile => {
            let open = !socket.is_closed();
            let sent = File::open("Cargo.toml").map(|file| socket.send_file(file, 1..100));
            world.expect(
                open || sent.is_ok_and(|sent| sent.is_err()),
                "a closed socket takes files",
            );
        }
        Verb::PipeToOther | Verb::PipeFromOther => {
            let Some(other) = world.other.get() else { return };
            let open = !socket.is_closed() && !other.is_closed();
            let to = verb == Verb::PipeToOther;
            let piped = if to { socket.pipe_to(&other) } else { other.pipe_to_and_keep(socket) };
            world.expect(open || piped.is_err(), "a closed socket is piped");
            let (is_piped, source) = if to {
                (socket.is_piped(), socket.key())
            } else {
                (other.is_piped(), other.key())
            };
            // A pipe from one that has ended is over at once.
            let is_over = world.ledger.is_read_to_the_end(&source);
            world.expect(piped.is_err() || is_piped != is_over, "piped, but it does not say so");
        }
        Verb::SetDeadlines => {
            for kind in [
                DeadlineKind::Connect,
                DeadlineKind::Handshake,
                DeadlineKind::FirstByte,
                DeadlineKind::Idle,
                DeadlineKind::WriteStall,
                DeadlineKind::Drain,
            ] {
                let _set = socket.set_deadline(kind, Duration::from_secs(1000));
                let _set = socket.set_deadline(kind, Duration::MAX);
            }
        }
        Verb::SetTimeouts => {
            let _set = socket.set_timeout(Duration::from_nanos(1));
            let _set = socket.set_long_timeout(Duration::from_secs(1));
            let _set = socket.set_timeout(Duration::from_secs(10_000_000));
        }
        Verb::Adopt => {
            if adopt(world, socket).is_ok() {
                expect_closed(world, socket);
                let again = adopt(world, socket);
                world.expect(matches!(again, Err(UsError::Stale)), "adopted twice");
            }
        }
        Verb::AdoptAndClose => {
            let _begun = adopt(world, socket);
            socket.close();
            expect_closed(world, socket);
        }
        Verb::CloseAndAdopt => {
            socket.close();
            world.expect(adopt(world, socket).is_err(), "a closed socket is adopted");
        }
        Verb::Ask => ask(socket),
    }
}

/// Has more waiting than the system takes.
fn clog<S: 'static>(socket: &Socket<SSL, S>) {
    let _set = socket.with_fd(|fd| SockRef::from(&fd).set_send_buffer_size(4096));
    let block = Bytes::from_static(&[7; 1 << 18]);
    for _ in 0..2 {
        let _sent = socket.send_bytes(block.clone());
    }
}

/// Begins the move of any socket to the target context.
fn adopt<S: 'static>(world: &World, socket: &Socket<SSL, S>) -> Result<(), UsError> {
    let target = world.target.get().ok_or(UsError::Stale)?;
    script::adopt(socket, &target, 0, |_, _| ())
}

fn expect_closed<S>(world: &World, socket: &Socket<SSL, S>) {
    world.expect(socket.is_closed(), "closed but not for its handle");
    world.expect(socket.write(b"late") == 0, "closed but takes bytes");
    world.expect(socket.set_timeout(Duration::ZERO).is_err(), "closed but has timeouts");
}

/// Every question that one can ask a socket.
pub(crate) fn ask<S: 'static>(socket: &Socket<SSL, S>) {
    let _asked = (
        socket.is_closed(),
        socket.is_established(),
        socket.is_paused(),
        socket.is_shut_down(),
        socket.is_write_pending(),
        socket.close_reason(),
        (socket.buffered(), socket.needs_drain()),
    );
    let _asked = (socket.local_addr(), socket.peer_addr(), socket.peer_unix_addr());
    let _asked = (socket.as_raw_fd(), socket.try_clone_fd(), socket.with_fd(|_| ()));
    let keepalive = TcpKeepAlive::after(Duration::from_secs(1));
    let _asked = (socket.set_nodelay(true), socket.set_keepalive(Some(keepalive)));
    let _asked = (socket.set_send_buffer_size(1 << 16), socket.receive_buffer_size());
    let _asked = (socket.set_traffic_class(8), socket.linger(), socket.keepalive());
    #[cfg(target_os = "linux")]
    let _asked = (socket.tcp_info(), socket.set_quickack(true), socket.user_timeout());
    let _asked = (socket.state(), socket.context::<ContextState>(), socket.context::<u8>());
    let _asked = (socket.id().resolve(&socket.event_loop()), format!("{socket:?}"));
    tls::ask(socket);
    assert!(socket.clone() == *socket, "a clone is equal");
}
