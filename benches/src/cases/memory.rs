//! Memory of user space that an idle connection costs, after one echo.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::child::Server;
use crate::measure::{Better, Metric, compare};
use crate::pattern::Pattern;
use crate::peers::{Echo, SERVERS};
use crate::settings::Settings;
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
    let count = settings.pick(10_000, 2000);
    compare(settings, &SERVERS, &METRICS, &[format!("{count} connections")], |_, peer| {
        let server = Server::start(settings, peer, Echo { buffer: BUFFER, ..Echo::default() })?;
        let _first = echo(settings, &server, FIRST)?;
        let before = server.memory()?;
        let _all = echo(settings, &server, count)?;
        Ok(vec![(server.memory()? - before) / count as f64])
    })
}

/// Opens connections, and makes an echo on each.
fn echo(settings: &Settings, server: &Server, count: usize) -> Result<Vec<TcpStream>> {
    let pattern = Pattern::new();
    let congestion = settings.congestion.as_deref();
    let mut streams = Vec::with_capacity(count);
    for index in 0..count {
        let mut stream = net::connect(server.address, congestion)?;
        stream.write_all(pattern.slice(index, 0, MESSAGE))?;
        streams.push(stream);
    }
    let mut message = [0; MESSAGE];
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.read_exact(&mut message)?;
        if message != *pattern.slice(index, 0, MESSAGE) {
            return Err(format!("connection {index} got back something else").into());
        }
    }
    Ok(streams)
}
