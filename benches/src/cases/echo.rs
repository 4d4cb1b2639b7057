//! Plain echo: every connection has one message on its way.

use std::fmt;

use crate::child::Server;
use crate::load::{Client, Load};
use crate::measure::{Better, Metric, compare};
use crate::peers::{Echo, SERVERS};
use crate::settings::Settings;
use crate::{Result, net};

pub(super) const METRICS: [Metric; 2] = [
    Metric { name: "messages/s", better: Better::More },
    Metric { name: "server ns/message", better: Better::Less },
];

pub(super) struct Row(pub(super) Load);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.message {
            bytes @ ..1024 => write!(f, "{} x {bytes} B", self.0.connections),
            bytes => write!(f, "{} x {} KiB", self.0.connections, bytes / 1024),
        }
    }
}

pub(super) fn run(settings: &Settings) -> Result<()> {
    let rows: Vec<Row> = [1, 16, 64, 512]
        .into_iter()
        .flat_map(|connections| [64, 1024, 16 * 1024].map(|message| (connections, message)))
        .map(|(connections, message)| Row(Load { connections, message, depth: 1 }))
        .collect();
    compare(settings, &SERVERS, &METRICS, &rows, |row, peer| {
        measure(settings, peer, row.0, Echo::default())
    })
}

/// One measurement of one server.
pub(super) fn measure(settings: &Settings, peer: &str, load: Load, echo: Echo) -> Result<Vec<f64>> {
    let server = Server::start(settings, peer, echo)?;
    let congestion = settings.congestion.as_deref();
    let mut client = Client::connect(load, || net::connect(server.address, congestion))?;
    client.run(settings.warm_up())?;
    let before = server.cpu_time()?;
    let (messages, time) = client.run(settings.window())?;
    let cpu_time = server.cpu_time()? - before;
    Ok(vec![messages / time.as_secs_f64(), cpu_time / messages])
}
