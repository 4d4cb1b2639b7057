//! Where code of the program runs.

use crate::SSL;

/// How the library comes to run a piece of the program's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The loop calls it: never inside anything else, and not while a panic waits.
    Callback,
    /// Called by a call of the program's own, which may be anywhere.
    Closure,
    /// As `Closure`, but not in a frame, so that the loop may be run there.
    Trait,
    /// A destructor: may be anywhere, also while a panic waits.
    Destructor,
}

macro_rules! places {
    ($($kind:ident { $($place:ident,)* })*) => {
        /// A place where code of the program runs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum Place {
            $($($place,)*)*
        }

        /// All of them.
        const PLACES: &[Place] = &[$($(Place::$place,)*)*];

        impl Place {
            pub(crate) fn kind(self) -> Kind {
                match self {
                    $($(Self::$place => Kind::$kind,)*)*
                }
            }
        }
    };
}

places! {
    Callback {
        OpenAccepted,
        OpenConnected,
        OpenHandedOver,
        Data,
        Descriptors,
        Writable,
        OnDrain,
        End,
        Close,
        CloseAtTeardown,
        Timeout,
        LongTimeout,
        DrainRequested,
        Drained,
        PipeEnd,
        ConnectError,
        Adopt,
        AdoptedData,
        AcceptFilter,
        Pre,
        Post,
        Wakeup,
        Signal,
        Timer,
        Poll,
        LocalJob,
        RemoteJob,
        PoolDone,
        Convert,
        FactoryForAccept,
        HandshakeAccepted,
        HandshakeConnected,
        HandshakeFailed,
        HandshakeMoved,
        Verify,
        Alpn,
        ServerName,
        ServerNameWaits,
        ServerNameRefused,
        ContinueJob,
        NewSession,
        PlainData,
        ConvertToTls,
        Started,
    }
    Closure {
        FactoryForConnect,
        FactoryClosure,
        SocketState,
        ContextState,
        LoopState,
        TimerState,
        PollState,
        SocketDescriptor,
        ListenerDescriptor,
        RunOnLoop,
        StateInsideCallback,
        Cork,
    }
    Trait {
        Addresses,
        Target,
        Descriptor,
    }
    Destructor {
        DropSession,
        DropMovedSession,
        DropContextState,
        DropCallback,
        DropFactory,
        DropHook,
        DropTimerClosure,
        DropTimerState,
        DropPollHandler,
        DropPollState,
        DropPollSource,
        DropJobThatRan,
        DropConvert,
        DropConvertRefused,
        DropSignalHandler,
        DropDrained,
        DropBuffer,
        DropLocalJobAtTeardown,
        DropRemoteJobAtTeardown,
        DropHookAtTeardown,
        DropSessionAtTeardown,
        DropTimerStateAtTeardown,
        DropPollStateAtTeardown,
        DropContextStateAtTeardown,
        DropCallbackAtTeardown,
        DropConvertAtTeardown,
        DropDrainedAtTeardown,
        DropBufferAtTeardown,
        DropLoopStateAtTeardown,
        DropNameData,
        DropNameDataAtTeardown,
        DropConvertToTls,
    }
}

impl Place {
    /// Those that there are with contexts of this kind.
    pub(crate) fn all() -> Vec<Self> {
        let is_there = |place: &Self| match place {
            Self::Descriptors => !SSL,
            _ => SSL || !place.is_of_tls(),
        };
        PLACES.iter().copied().filter(is_there).collect()
    }

    /// What there is only with TLS.
    pub(crate) fn is_of_tls(self) -> bool {
        matches!(
            self,
            Self::HandshakeAccepted
                | Self::HandshakeConnected
                | Self::HandshakeFailed
                | Self::HandshakeMoved
                | Self::Verify
                | Self::Alpn
                | Self::ServerName
                | Self::ServerNameWaits
                | Self::ServerNameRefused
                | Self::ContinueJob
                | Self::NewSession
                | Self::PlainData
                | Self::ConvertToTls
                | Self::Started
                | Self::DropNameData
                | Self::DropNameDataAtTeardown
                | Self::DropConvertToTls
        )
    }
}
