//! Churn over TLS: every connection makes a handshake and one echo, and ends.

use std::time::{Duration, Instant};
use std::{fmt, mem};

use crate::child::Server;
use crate::load::{Poller, Stream as _};
use crate::measure::{Better, Metric, compare};
use crate::pattern::Pattern;
use crate::peers::{Echo, TLS_SERVERS};
use crate::settings::Settings;
use crate::tls::{self, Stream, Tls};
use crate::{Result, net};

const METRICS: [Metric; 2] = [
    Metric { name: "server us/connection", better: Better::Less },
    Metric { name: "connections/s (the client's limit, mostly)", better: Better::More },
];

/// Connections at a time.
const PARALLEL: usize = 16;
const MESSAGE: usize = 64;

struct Row {
    /// The library's own number if `None`: one of ours, two of OpenSSL.
    tickets: Option<u8>,
    resumed: bool,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.resumed { "resumed, " } else { "full, " })?;
        match self.tickets {
            None => f.write_str("own tickets"),
            Some(0) => f.write_str("no ticket"),
            Some(1) => f.write_str("1 ticket"),
            Some(count) => write!(f, "{count} tickets"),
        }
    }
}

pub(super) fn run(settings: &Settings) -> Result<()> {
    let rows = [
        Row { tickets: None, resumed: false },
        Row { tickets: Some(2), resumed: false },
        Row { tickets: Some(1), resumed: false },
        Row { tickets: Some(0), resumed: false },
        Row { tickets: Some(1), resumed: true },
    ];
    compare(settings, &TLS_SERVERS, &METRICS, &rows, |row, peer| measure(settings, peer, row))
}

fn measure(settings: &Settings, peer: &str, row: &Row) -> Result<Vec<f64>> {
    let tls = Tls { tickets: row.tickets, ..Tls::default() };
    let server = Server::start_tls(settings, peer, Echo::default(), tls)?;
    let mut client = Client::new(settings, &server, row.resumed)?;
    client.run(settings.warm_up())?;
    let before = server.cpu_time()?;
    let (connections, time) = client.run(settings.window())?;
    let cpu_time = server.cpu_time()? - before;
    Ok(vec![cpu_time / connections / 1e3, connections / time.as_secs_f64()])
}

struct Connection {
    stream: Stream,
    /// In the pattern, of what it sends.
    place: usize,
    is_open: bool,
}

struct Client<'a> {
    settings: &'a Settings,
    server: &'a Server,
    shared: tls::Client,
    poller: Poller,
    pattern: Pattern,
    connections: Vec<Connection>,
    resumed: bool,
    /// Connections that have ended.
    done: usize,
}

impl<'a> Client<'a> {
    fn new(settings: &'a Settings, server: &'a Server, resumed: bool) -> Result<Self> {
        let mut client = Self {
            settings,
            server,
            shared: tls::Client::new()?,
            poller: Poller::new()?,
            pattern: Pattern::new(),
            connections: Vec::new(),
            resumed,
            done: 0,
        };
        for index in 0..PARALLEL {
            let connection = client.open(index)?;
            client.connections.push(connection);
        }
        Ok(client)
    }

    /// Connects, which takes no wait on loopback, and begins the handshake.
    fn open(&self, index: usize) -> Result<Connection> {
        let tcp = net::connect(self.server.address, self.settings.congestion.as_deref())?;
        tcp.set_nonblocking(true)?;
        self.poller.add(&tcp, index)?;
        let mut stream = self.shared.open(tcp, self.resumed)?;
        stream.shake_hands()?;
        Ok(Connection { stream, place: self.done, is_open: false })
    }

    fn run(&mut self, duration: Duration) -> Result<(f64, Duration)> {
        let before = self.done;
        let begin = Instant::now();
        while begin.elapsed() < duration {
            for (index, _) in self.poller.wait()? {
                self.advance(index)?;
            }
        }
        Ok(((self.done - before) as f64, begin.elapsed()))
    }

    fn advance(&mut self, index: usize) -> Result<()> {
        let Connection { stream, place, is_open } = &mut self.connections[index];
        let message = self.pattern.slice(index, *place, MESSAGE);
        if !*is_open {
            *is_open = stream.shake_hands()?;
            if *is_open {
                stream.send(message)?;
            }
        }
        let mut answer = [0; MESSAGE];
        // The answer is one record.
        match if *is_open { stream.receive(&mut answer)? } else { None } {
            None => return Ok(()),
            Some(MESSAGE) if answer == message => {}
            Some(_) => return Err(format!("connection {index} got back something else").into()),
        }
        self.end(index)
    }

    /// Ends the connection, and begins the next one in its place.
    fn end(&mut self, index: usize) -> Result<()> {
        let next = self.open(index)?;
        let Connection { stream, place, .. } = mem::replace(&mut self.connections[index], next);
        // The first ones have no session to resume.
        if self.resumed && place > 0 && !stream.was_resumed() {
            return Err("the server resumed no session".into());
        }
        self.done += 1;
        stream.close()
    }
}
