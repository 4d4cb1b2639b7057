//! Event loops for single-threaded, callback-driven network programs.
//!
//! One [`Loop`] per thread; [contexts](SocketContext) that hold callbacks and state;
//! [sockets](Socket) that carry a state of their own inside the engine's memory. The engine beneath
//! is written in C and speaks the uSockets C API (package `usockets-sys`); what is here lets safe
//! Rust use all of it without a way to corrupt anything.
//!
//! ```
//! use usockets::{Loop, SocketContext};
//!
//! #[derive(Default)]
//! struct Session {
//!     received: usize,
//! }
//!
//! let event_loop = Loop::<()>::new()?;
//!
//! // A server that answers every byte ...
//! let echo = SocketContext::<false, (), Session>::builder()
//!     .on_data(|_, socket, session, data| {
//!         session.received += data.len();
//!         if socket.send(data).is_err() {
//!             socket.reset(); // more waits for the peer than may
//!         }
//!     })
//!     .build(&event_loop, ())?;
//! let listener = echo.listen("127.0.0.1:0")?; // closes when dropped
//!
//! // ... and a client, on the same loop.
//! let client = SocketContext::<false>::builder()
//!     .on_open(|_, socket, _, _| assert_eq!(socket.write(b"hello"), 5))
//!     .on_data(|_, socket, _, data| {
//!         assert_eq!(data, b"hello");
//!         socket.event_loop().stop();
//!     })
//!     .build(&event_loop, ())?;
//! client.connect(listener.local_addr()?)?;
//!
//! event_loop.run()?;
//! # Ok::<(), usockets::UsError>(())
//! ```
//!
//! # What holds everywhere
//!
//! - **Callbacks never nest.** They run from [`run`](Loop::run), [`turn`](Loop::turn) and the drop
//!   of the loop only, never inside another call. What a call sets in motion, a close for instance,
//!   is true at once for every observer; its callback follows from the loop. That is why callbacks
//!   are `FnMut` and are lent `&mut` state.
//! - **Handles, not pointers.** [`Socket`], [`SocketContext`] and [`LoopRef`] are small, can be
//!   cloned and kept for ever, and are checked at every use. A call on something that is gone is
//!   harmless and says so.
//! - **State has one owner.** Each loop, context, socket, timer and poll has a state of the
//!   program, which its callbacks are lent; `with_state` reaches it from elsewhere, and is
//!   [`StateInUse`](UsError::StateInUse) while it is lent.
//! - **A panic** in a callback stops the loop and comes out of `run`, which can be called again.
//! - **Threads.** All of this stays on the loop's thread, but for [`LoopHandle`], the
//!   [ids](SocketId) and the [`WorkerPool`].
//! - **Nothing blocks**, but for `run`, host names given to [`listen`](SocketContext::listen), and
//!   [`run_on_loop`](LoopHandle::run_on_loop).
//!
//! # TLS
//!
//! Contexts and sockets with `SSL = true` speak TLS, by OpenSSL, and are used like those without. A
//! server gets a [`TlsServerConfig`] with its certificate; a client verifies by the trusted
//! certificates of the system unless a [`TlsClientConfig`] says otherwise. Everything that makes it
//! less safe has a name that begins with `danger_`. In a build without TLS (without the feature `tls`)
//! the types are there, and building such a context is [`UsError::TlsUnavailable`].
//!
//! # Where to look
//!
//! [`Loop`] says what an iteration does, [`ContextBuilder`] lists the callbacks, those of TLS at its
//! end, [`Socket`] shows how to write under back-pressure, [`LoopHandle`] and [`WorkerPool`] lead to
//! other threads and back.

#![warn(unreachable_pub)]

// In the order of the layers: each uses those above it in this list.
mod sync;

mod defer;
mod job;
mod panics;

mod address;
mod attempt;
mod deadline;
mod descriptors;
mod error;
mod ffi;
mod ids;
#[cfg(feature = "proxy-protocol")]
mod proxy;

mod incoming;
mod reason;

mod ext;
mod registry;
mod remote;
mod shell;
mod trampoline;

mod activation;
mod context;
mod drain;
mod event_loop;
mod listen;
mod listen_options;
mod output;
mod poll;
mod pool;
mod socket;
mod socket_options;
#[cfg(target_os = "linux")]
mod tcp_info;
mod timer;
mod tls;
mod transfer;

pub use activation::{InheritedListener, inherited_listeners};
pub use address::{ConnectTarget, Target};
pub use attempt::{AttemptOutcome, ConnectAttempt};
pub use context::{ConnectOptions, ContextBuilder, SocketContext};
pub use deadline::{DeadlineKind, Deadlines};
pub use descriptors::{PeerCredentials, ReceivedDescriptors};
pub use drain::DrainReport;
pub use error::UsError;
pub use event_loop::{
    Backend, DeferError, KeepAlive, Loop, LoopBuilder, LoopHandle, LoopRef, Metrics, SignalWatch,
};
pub use ids::{ContextId, LoopId, SocketId};
pub use incoming::{Incoming, OpenInfo, Origin};
pub use listen::ListenSocket;
pub use listen_options::{ListenOptions, Overload, Refusal, UnixListenOptions};
pub use poll::{Interest, Poll, PollRef, Ready};
pub use pool::{JobError, JobPanic, JobResult, PoolBuilder, RunError, WorkerPool};
#[cfg(feature = "proxy-protocol")]
pub use proxy::{IpPrefix, ProxyHeader, ProxyHeaderError, ProxyProtocol, ProxyTlvs, ProxyVersion};
pub use reason::CloseReason;
pub use socket::Socket;
pub use socket_options::TcpKeepAlive;
#[cfg(target_os = "linux")]
pub use tcp_info::{TcpInfo, TcpState};
pub use timer::{Timer, TimerRef};
pub use tls::{
    AlpnOffer, CertificateError, ClientCertificates, Handshake, PeerCertificates, ServerNameAnswer,
    StartTls, TicketKeys, TlsAlert, TlsClientConfig, TlsClientOptions, TlsError, TlsErrorKind,
    TlsFailure, TlsIdentity, TlsProtocolError, TlsServerConfig, TlsServerOptions, TlsSession,
    TlsVersion, TrustAnchors, kernel_tls_support, tls_library,
};
pub use transfer::PipeEnd;

/// Its examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
