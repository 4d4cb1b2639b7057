#![forbid(unsafe_code)]
//! Contexts and loops that come to their end in order.

use std::time::Duration;

use usockets_sys as sys;

use crate::context::SocketContext;
use crate::error::UsError;
use crate::event_loop::{LoopRef, nanoseconds};
use crate::socket::Socket;
use crate::trampoline::{Drained, drain_context, drain_loop};

/// What became of the sockets of a context, or of all of a loop, that has drained: see
/// [`SocketContext::drain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DrainReport {
    /// Sockets that have ended by themselves since the drain began, in whatever way.
    pub finished: u64,
    /// Sockets that were ended because the deadline had passed, and closed ones of which accepted
    /// bytes were lost by that.
    pub forced: u64,
    /// How long it took, by the clock of the loop.
    pub elapsed: Duration,
}

impl DrainReport {
    pub(crate) fn from_raw(raw: sys::usx_drain_report) -> Self {
        Self {
            finished: raw.finished,
            forced: raw.forced,
            elapsed: Duration::from_nanos(raw.elapsed),
        }
    }
}

/// As the engine takes it.
fn deadline(time: Duration) -> Result<u64, UsError> {
    let nanoseconds = nanoseconds(time);
    if nanoseconds > sys::USX_DEADLINE_MAX.unsigned_abs() {
        return Err(UsError::invalid("deadline", "it is longer than 50 days"));
    }
    Ok(nanoseconds)
}

impl<const SSL: bool, T: 'static, S: 'static> SocketContext<SSL, T, S> {
    /// Lets the context come to its end within `time`, from zero to 50 days, and then calls
    /// `drained`, once. Beneath: `usx_context_drain`.
    ///
    /// * Its listeners are closed, at once. Connections that the system has completed and nobody
    ///   has accepted are reset by that.
    /// * Every open socket gets [`on_drain_requested`](crate::ContextBuilder::on_drain_requested),
    ///   and goes on as before: it is up to the program to end it.
    /// * What is left when the time is over is closed, with
    ///   [`CloseReason::Deadline`](crate::CloseReason::Deadline) of
    ///   [`DeadlineKind::Drain`](crate::DeadlineKind::Drain), or
    ///   [`TimedOut`](std::io::ErrorKind::TimedOut) in `on_connect_error`; bytes that were accepted
    ///   and have not been sent yet are discarded, and the peer sees a reset then. With a `time` of
    ///   zero this is all that happens.
    /// * When no socket is left, closed ones that still send included, `drained` is told in the
    ///   next turn. Then the context is as any other: it can listen again.
    ///
    /// Until then nobody can listen in it ([`UsError::Draining`]). It can still connect, take over
    /// descriptors and adopt, which what goes on may need, but not once the time is over. A socket that
    /// another context [adopts](Socket::adopt) belongs to that one, and is in no count.
    ///
    /// A context that drains already goes on until the earlier of both deadlines, and each
    /// `drained` is called, in order. If the loop is dropped before, `drained` is dropped.
    ///
    /// Nothing is called back from inside this call, which may be made anywhere.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`](UsError::InvalidOption) beyond 50 days; [`LoopClosed`](UsError::LoopClosed);
    /// [`UsError::Io`] without memory. Nothing has changed then.
    ///
    /// ```
    /// use std::time::Duration;
    /// use usockets::{Loop, SocketContext};
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let echo = SocketContext::<false>::builder()
    ///     .on_data(|_, socket, _, data| socket.send(data).unwrap_or_else(|_| socket.reset()))
    ///     .on_drain_requested(|_, socket, _| socket.close_after_flush())
    ///     .build(&event_loop, ())?;
    /// let listener = echo.listen("127.0.0.1:0")?;
    /// let client = std::net::TcpStream::connect(listener.local_addr()?)?;
    ///
    /// event_loop.turn(None)?; // accepts
    /// echo.drain(Duration::from_secs(5), |report| {
    ///     assert_eq!((report.finished, report.forced), (1, 0));
    /// })?;
    /// event_loop.run()?; // returns when nothing is left
    /// # drop(client);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain(
        &self,
        time: Duration,
        drained: impl FnOnce(DrainReport) + 'static,
    ) -> Result<(), UsError> {
        let nanoseconds = deadline(time)?;
        self.shell().open_engine()?;
        let drained: Drained = Box::new(|_, report| drained(report));
        drain_context(self.raw()?, nanoseconds, drained)
    }

    /// Whether the context drains, alone or with its loop. Beneath: `usx_context_is_draining`.
    pub fn is_draining(&self) -> bool {
        self.raw().is_ok_and(|context| context.is_draining())
    }
}

/// Draining.
impl<const SSL: bool, S: 'static> Socket<SSL, S> {
    /// Whether the socket's context [drains](SocketContext::drain), so that the socket should come
    /// to its end: a server does not offer to keep the connection, for example. Beneath:
    /// `usx_context_is_draining`.
    pub fn is_draining(&self) -> bool {
        self.live().is_ok_and(|socket| socket.context().is_draining())
    }
}

impl LoopRef {
    /// [Drains](SocketContext::drain) all contexts of the loop, and those that are made meanwhile.
    /// When no socket of any of them is left, calls `drained` with the sums, and then
    /// [stops](Self::stop) the loop, so that [`run`](crate::Loop::run) returns whatever else there
    /// is: timers, polls, signals. Beneath: `usx_loop_drain`.
    ///
    /// A loop that drains already goes on until the earlier of both deadlines, and each `drained`
    /// is called. If the loop is dropped before, `drained` is dropped.
    ///
    /// Another thread may `defer` a call of this by a [`LoopHandle`](crate::LoopHandle).
    ///
    /// # Errors
    ///
    /// Those of [`SocketContext::drain`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use usockets::Loop;
    ///
    /// let event_loop = Loop::<()>::new()?;
    /// let keep_alive = event_loop.keep_alive()?;
    /// event_loop.handle().defer(|event_loop| {
    ///     let drained = event_loop.drain(Duration::from_secs(10), |report| {
    ///         println!("{} finished, {} forced", report.finished, report.forced);
    ///     });
    ///     drained.expect("less than 50 days");
    /// })?;
    /// event_loop.run()?; // returns although something keeps the loop alive
    /// # Ok::<(), usockets::UsError>(())
    /// ```
    pub fn drain(
        &self,
        time: Duration,
        drained: impl FnOnce(DrainReport) + 'static,
    ) -> Result<(), UsError> {
        let nanoseconds = deadline(time)?;
        let drained: Drained = Box::new(|event_loop, report| {
            drained(report);
            event_loop.stop();
        });
        drain_loop(self.shell().open_engine()?, nanoseconds, drained)
    }
}
