//! Where code of the program runs.

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
        pub(crate) const PLACES: &[Place] = &[$($(Place::$place,)*)*];

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
    }
}
