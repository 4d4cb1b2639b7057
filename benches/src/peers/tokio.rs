//! tokio, on one thread.

use std::cell::Cell;
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;

use openssl::ssl::{Ssl, SslContext};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};
use tokio::time::{self, Instant};
use tokio_openssl::SslStream;

use super::{Clock, Echo};
use crate::Result;
use crate::cases::defer::{self, Producers};
use crate::cases::timers::{self, STEP, due};

pub(super) fn echo(listener: TcpListener, echo: Echo) -> Result<()> {
    Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            tokio::spawn(async move { serve(&mut stream, echo).await });
        }
    })
}

/// Each task makes its handshake first.
pub(super) fn tls_echo(listener: TcpListener, echo: Echo, context: SslContext) -> Result<()> {
    Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let mut stream = SslStream::new(Ssl::new(&context)?, stream)?;
            tokio::spawn(async move {
                if Pin::new(&mut stream).accept().await.is_ok() {
                    serve(&mut stream, echo).await;
                    // The client may have gone.
                    let _ = stream.shutdown().await;
                }
            });
        }
    })
}

async fn serve(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), echo: Echo) {
    let mut buffer = vec![0; echo.buffer];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        for piece in buffer[..length].chunks(echo.reply) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
        }
    }
}

pub(super) fn mailbox(producers: Producers) -> Result<()> {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Box<dyn FnOnce() + Send>>();
    producers.start(move |producer, number| {
        let sent = sender.send(Box::new(move || defer::job(producer, number)));
        assert!(sent.is_ok(), "the receiver is gone");
    });
    Builder::new_current_thread().enable_io().build()?.block_on(async {
        while let Some(job) = receiver.recv().await {
            job();
        }
    });
    Ok(())
}

/// A task for each.
pub(super) struct Timers {
    tasks: Vec<JoinHandle<()>>,
    local: LocalSet,
    runtime: Runtime,
    armed: Rc<Cell<u64>>,
    fired: Rc<Cell<u64>>,
}

impl Timers {
    pub(super) fn new(clock: Clock) -> Result<Self> {
        let by_hand = clock == Clock::ByHand;
        Ok(Self {
            tasks: Vec::new(),
            local: LocalSet::new(),
            runtime: Builder::new_current_thread().enable_all().start_paused(by_hand).build()?,
            armed: Rc::default(),
            fired: Rc::default(),
        })
    }
}

impl timers::Timers for Timers {
    fn arm(&mut self, count: u64) -> Result<()> {
        let Self { tasks, local, runtime, armed, fired } = self;
        local.block_on(runtime, async {
            let begin = Instant::now();
            for index in 0..count {
                let (armed, fired) = (Rc::clone(armed), Rc::clone(fired));
                tasks.push(spawn_local(async move {
                    let sleep = time::sleep_until(begin + due(index));
                    armed.set(armed.get() + 1);
                    sleep.await;
                    fired.set(fired.get() + 1);
                }));
            }
            // They are armed when they have run for the first time.
            while armed.get() < count {
                yield_now().await;
            }
        });
        Ok(())
    }

    fn give_up(&mut self) -> Result<()> {
        let Self { tasks, local, runtime, .. } = self;
        local.block_on(runtime, async {
            for task in &*tasks {
                task.abort();
            }
            // They are gone when they have been run once more. An early one may have fired already.
            for task in tasks.drain(..) {
                let _ = task.await;
            }
        });
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        self.local.block_on(&self.runtime, async {
            time::advance(STEP).await;
            // What was woken runs now.
            yield_now().await;
        });
        Ok(())
    }

    fn fired(&self) -> u64 {
        self.fired.get()
    }
}
