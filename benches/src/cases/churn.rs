//! Churn: every connection makes one echo and ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::child::Server;
use crate::load::Poller;
use crate::measure::{Better, Metric, compare};
use crate::pattern::Pattern;
use crate::peers::{Echo, SERVERS};
use crate::settings::Settings;
use crate::{Result, net};

const METRICS: [Metric; 2] = [
    Metric { name: "server us/connection", better: Better::Less },
    Metric { name: "connections/s (the client's limit, mostly)", better: Better::More },
];

/// Connections at a time.
const PARALLEL: usize = 16;
const MESSAGE: usize = 64;

pub(super) fn run(settings: &Settings) -> Result<()> {
    compare(settings, &SERVERS, &METRICS, &["16 at a time"], |_, peer| measure(settings, peer))
}

fn measure(settings: &Settings, peer: &str) -> Result<Vec<f64>> {
    let server = Server::start(settings, peer, Echo::default())?;
    let mut client = Client::new(server.address, settings.congestion.as_deref())?;
    client.run(settings.warm_up())?;
    let before = server.cpu_time()?;
    let (connections, time) = client.run(settings.window())?;
    let cpu_time = server.cpu_time()? - before;
    Ok(vec![cpu_time / connections / 1e3, connections / time.as_secs_f64()])
}

struct Client<'a> {
    address: SocketAddr,
    congestion: Option<&'a str>,
    poller: Poller,
    pattern: Pattern,
    /// Each with the place in the pattern of what it sent.
    streams: Vec<(TcpStream, usize)>,
    /// Connections that have ended.
    done: usize,
}

impl<'a> Client<'a> {
    fn new(address: SocketAddr, congestion: Option<&'a str>) -> Result<Self> {
        let pattern = Pattern::new();
        let mut client = Self {
            address,
            congestion,
            poller: Poller::new()?,
            pattern,
            streams: Vec::new(),
            done: 0,
        };
        for index in 0..PARALLEL {
            let opened = client.open(index)?;
            client.streams.push(opened);
        }
        Ok(client)
    }

    /// Connects and sends; on loopback neither takes a wait.
    fn open(&self, index: usize) -> Result<(TcpStream, usize)> {
        let mut stream = net::connect(self.address, self.congestion)?;
        stream.write_all(self.pattern.slice(index, self.done, MESSAGE))?;
        self.poller.add(&stream, index)?;
        Ok((stream, self.done))
    }

    fn run(&mut self, duration: Duration) -> Result<(f64, Duration)> {
        let before = self.done;
        let begin = Instant::now();
        let mut message = [0; MESSAGE];
        while begin.elapsed() < duration {
            for (index, _) in self.poller.wait()? {
                let (stream, place) = &mut self.streams[index];
                stream.read_exact(&mut message)?;
                if message != *self.pattern.slice(index, *place, MESSAGE) {
                    return Err(format!("connection {index} got back something else").into());
                }
                self.done += 1;
                // Ends the old one.
                self.streams[index] = self.open(index)?;
            }
        }
        Ok(((self.done - before) as f64, begin.elapsed()))
    }
}
