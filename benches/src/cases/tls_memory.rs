//! Memory of user space that an idle connection over TLS costs, after one echo.

use crate::child::{self, Server};
use crate::load::Stream as _;
use crate::measure::{Better, Metric, compare};
use crate::pattern::Pattern;
use crate::peers::{self, Echo, KEPT, OBJECTS, TLS_MEMORY};
use crate::settings::Settings;
use crate::tls::{self, Stream, Tls};
use crate::{Result, net};

const METRICS: [Metric; 1] = [Metric { name: "bytes/connection", better: Better::Less }];

/// What a server needs for any connection at all is there after these.
const FIRST: usize = 16;

const MESSAGE: usize = 64;

/// For those servers that have a buffer for each connection.
const BUFFER: usize = 4096;

pub(super) fn run(settings: &Settings) -> Result<()> {
    // Not a matter of time, so hardly of noise.
    let settings = &Settings { rounds: settings.rounds.min(2), ..settings.clone() };
    let count = settings.pick(2000, 500);
    compare(settings, &TLS_MEMORY, &METRICS, &[format!("{count} connections")], |_, peer| {
        if peer == OBJECTS {
            return child::figures(settings, &["tls-objects", &count.to_string()]);
        }
        let tls = Tls { tickets: Some(1), release: peer != KEPT };
        let echo = Echo { buffer: BUFFER, ..Echo::default() };
        let server = Server::start_tls(settings, peer, echo, tls)?;
        let client = tls::Client::new()?;
        let _first = connect(settings, &server, &client, FIRST)?;
        let before = server.memory()?;
        let _all = connect(settings, &server, &client, count)?;
        Ok(vec![(server.memory()? - before) / count as f64])
    })
}

/// Opens connections, with an echo on each.
fn connect(
    settings: &Settings,
    server: &Server,
    client: &tls::Client,
    count: usize,
) -> Result<Vec<Stream>> {
    let pattern = Pattern::new();
    let congestion = settings.congestion.as_deref();
    let mut streams = Vec::with_capacity(count);
    let mut answer = [0; MESSAGE];
    for index in 0..count {
        let mut stream = client.connect(net::connect(server.address, congestion)?)?;
        let message = pattern.slice(index, 0, MESSAGE);
        stream.send(message)?;
        if stream.receive(&mut answer)? != Some(MESSAGE) || answer != message {
            return Err(format!("connection {index} got back something else").into());
        }
        streams.push(stream);
    }
    Ok(streams)
}

/// A child that prints what the library alone needs for a connection.
pub(crate) fn play(count: usize) -> Result<()> {
    let server = tls::server_context(Tls { tickets: Some(1), release: true })?;
    let client = tls::client_builder()?.build();
    peers::tls_objects(&server, &client, FIRST, MESSAGE)?;
    let before = child::memory("self")?;
    peers::tls_objects(&server, &client, count, MESSAGE)?;
    println!("{}", (child::memory("self")? - before) / count as f64);
    Ok(())
}
