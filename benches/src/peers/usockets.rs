//! This crate.

use std::cell::Cell;
use std::mem;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use usockets::{
    ContextBuilder, Loop, Socket, SocketContext, Timer, TlsIdentity, TlsServerOptions, TlsVersion,
};

use super::{Clock, Echo};
use crate::Result;
use crate::cases::defer::{self, Producers};
use crate::cases::timers::{self, STEP, due};
use crate::tls::{GROUP, Identity, SUITE, Tls};

/// What a connection still has to send. While there is something, its socket is paused.
#[derive(Default)]
struct Session {
    rest: Box<[u8]>,
}

pub(super) fn echo(listener: TcpListener, echo: Echo, gather: bool) -> Result<()> {
    let context = SocketContext::<false, (), Session>::builder().gather(gather);
    serve(context, listener, echo)
}

pub(super) fn tls_echo(listener: TcpListener, echo: Echo, tls: Tls) -> Result<()> {
    let Identity { certificate, key } = Identity::make()?;
    let identity = TlsIdentity::from_der([certificate.to_der()?], key.private_key_to_pkcs8()?);
    let mut options = TlsServerOptions::new(identity)
        .versions(TlsVersion::V1_3..)
        .cipher_suites(SUITE)
        .groups(GROUP)
        .release_buffers(tls.release);
    if let Some(tickets) = tls.tickets {
        options = options.tickets(tickets);
    }
    let context = SocketContext::<true, (), Session>::builder().tls_server(&options.build()?);
    serve(context, listener, echo)
}

fn serve<const SSL: bool>(
    context: ContextBuilder<SSL, (), Session>,
    listener: TcpListener,
    echo: Echo,
) -> Result<()> {
    let event_loop = Loop::<()>::new()?;
    let context = context
        .on_data(move |(), socket, session, data| send(socket, session, data, echo.reply))
        .on_writable(move |(), socket, session| {
            let rest = mem::take(&mut session.rest);
            send(socket, session, &rest, echo.reply);
            if session.rest.is_empty() {
                socket.resume();
            }
        })
        .build(&event_loop, ())?;
    let _listener = context.listen_fd(listener)?;
    let _stop = event_loop.on_signal(Signal::TERM.as_raw(), |event_loop, _| event_loop.stop())?;
    Ok(event_loop.run()?)
}

fn send<const SSL: bool>(
    socket: &Socket<SSL, Session>,
    session: &mut Session,
    data: &[u8],
    reply: usize,
) {
    let mut left = data;
    while !left.is_empty() {
        let piece = &left[..left.len().min(reply)];
        let taken = socket.write(piece);
        left = &left[taken..];
        if taken < piece.len() {
            session.rest = left.into();
            socket.pause();
            return;
        }
    }
}

pub(super) fn mailbox(producers: Producers) -> Result<()> {
    let event_loop = Loop::<()>::new()?;
    let _keep_alive = event_loop.keep_alive()?;
    let handle = event_loop.typed_handle();
    producers.start(move |producer, number| {
        handle.defer(move |_| defer::job(producer, number)).expect("the loop takes all jobs");
    });
    Ok(event_loop.run()?)
}

pub(super) struct Timers {
    timers: Vec<Timer>,
    event_loop: Loop,
    fired: Rc<Cell<u64>>,
}

impl Timers {
    pub(super) fn new(clock: Clock) -> Result<Self> {
        let builder = match clock {
            Clock::Real => Loop::builder(),
            Clock::ByHand => Loop::builder().test_clock(),
        };
        Ok(Self { timers: Vec::new(), event_loop: builder.build(())?, fired: Rc::default() })
    }
}

impl timers::Timers for Timers {
    fn arm(&mut self, count: u64) -> Result<()> {
        for index in 0..count {
            let timer = Timer::new(&self.event_loop, ())?;
            let fired = Rc::clone(&self.fired);
            timer.set(due(index), None, move |_, ()| fired.set(fired.get() + 1))?;
            self.timers.push(timer);
        }
        Ok(())
    }

    fn give_up(&mut self) -> Result<()> {
        self.timers.clear();
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        self.event_loop.advance_clock(STEP)?;
        self.event_loop.turn(Some(Duration::ZERO))?;
        Ok(())
    }

    fn fired(&self) -> u64 {
        self.fired.get()
    }
}
