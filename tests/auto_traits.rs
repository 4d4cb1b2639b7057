//! Which types may leave the thread of their loop, and which may not (invariant I6). Nothing here runs:
//! if it compiles, it holds.

use std::cell::Cell;
use std::rc::Rc;

use usockets::{
    AttemptOutcome, Backend, CloseReason, ConnectAttempt, ConnectOptions, ContextBuilder,
    ContextId, DeferError, Incoming, Interest, KeepAlive, ListenOptions, ListenSocket, Loop,
    LoopBuilder, LoopHandle, LoopId, LoopRef, Metrics, OpenInfo, Origin, Poll, PollRef, Ready,
    SignalWatch, Socket, SocketContext, SocketId, Target, Timer, TimerRef, UsError, WorkerPool,
};

/// A state that is neither `Send` nor `Sync`: it must not matter for handles and identities.
type Local = Rc<Cell<u32>>;

/// Fails to compile if the type has one of the traits: then `some_item` is ambiguous.
macro_rules! assert_not {
    ($trait:ident: $($type:ty),* $(,)?) => {
        $(const _: () = {
            trait Ambiguous<A> {
                fn some_item() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            struct HasIt;
            impl<T: ?Sized + $trait> Ambiguous<HasIt> for T {}
            let _ = <$type as Ambiguous<_>>::some_item;
        };)*
    };
}

const fn send_and_sync<T: Send + Sync>() {}
const fn shared_across_threads<T: Send + Sync + Clone + 'static>() {}
const fn plain_data<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
const fn identity<T: Send + Sync + Copy + Eq + std::hash::Hash + std::fmt::Debug + 'static>() {}

// What touches an engine object stays on its thread, whatever the states are.
assert_not!(Send:
    Loop, LoopRef, KeepAlive, SignalWatch, Timer, TimerRef, Poll<std::fs::File>,
    PollRef<std::fs::File>, SocketContext<false>, ContextBuilder<false>, Socket<false>, ListenSocket,
    Incoming<'static>,
);
assert_not!(Sync:
    Loop, LoopRef, KeepAlive, SignalWatch, Timer, TimerRef, Poll<std::fs::File>,
    PollRef<std::fs::File>, SocketContext<false>, ContextBuilder<false>, Socket<false>, ListenSocket,
    Incoming<'static>,
);

// There is one owner.
assert_not!(Clone: Loop, Timer, TimerRef, Poll<std::fs::File>, PollRef<std::fs::File>, ListenSocket);

// What is made for other threads.
const _: () = shared_across_threads::<LoopHandle>();
const _: () = shared_across_threads::<LoopHandle<Local>>();
const _: () = send_and_sync::<WorkerPool>();
const _: () = identity::<LoopId>();
const _: () = identity::<SocketId<false>>();
const _: () = identity::<SocketId<false, Local>>();
const _: () = identity::<ContextId<false>>();
const _: () = identity::<ContextId<false, Local, Local>>();

// Plain data.
const _: () = plain_data::<AttemptOutcome>();
const _: () = plain_data::<Backend>();
const _: () = plain_data::<CloseReason>();
const _: () = plain_data::<ConnectAttempt>();
const _: () = plain_data::<ConnectOptions>();
const _: () = plain_data::<Interest>();
const _: () = plain_data::<ListenOptions>();
const _: () = plain_data::<LoopBuilder>();
const _: () = plain_data::<Metrics>();
const _: () = plain_data::<OpenInfo>();
const _: () = plain_data::<Origin>();
const _: () = plain_data::<Ready>();
const _: () = plain_data::<Target>();

// TLS: what is shared between loops, and plain data.
const _: () = shared_across_threads::<usockets::TicketKeys>();
const _: () = shared_across_threads::<usockets::TlsClientConfig>();
const _: () = shared_across_threads::<usockets::TlsServerConfig>();
const _: () = plain_data::<usockets::CertificateError>();
const _: () = plain_data::<usockets::Handshake>();
const _: () = plain_data::<usockets::PeerCertificates>();
const _: () = plain_data::<usockets::ServerNameAnswer>();
const _: () = plain_data::<usockets::StartTls>();
const _: () = plain_data::<usockets::TlsAlert>();
const _: () = plain_data::<usockets::TlsClientOptions>();
const _: () = plain_data::<usockets::TlsFailure>();
const _: () = plain_data::<usockets::TlsIdentity>();
const _: () = plain_data::<usockets::TlsServerOptions>();
const _: () = plain_data::<usockets::TlsSession>();
const _: () = plain_data::<usockets::TlsVersion>();
const _: () = plain_data::<usockets::TrustAnchors>();

#[cfg(feature = "proxy-protocol")]
const _: () = {
    plain_data::<usockets::IpPrefix>();
    plain_data::<usockets::ProxyHeader>();
    plain_data::<usockets::ProxyHeaderError>();
    plain_data::<usockets::ProxyProtocol>();
    plain_data::<usockets::ProxyVersion>();
};

// Errors travel.
const fn error<T: std::error::Error + Send + Sync + 'static>() {}
const _: () = error::<UsError>();
const _: () = error::<usockets::CertificateError>();
const _: () = error::<usockets::TlsError>();
const _: () = error::<DeferError<fn(&LoopRef)>>();
