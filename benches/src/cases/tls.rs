//! Echo over TLS, in large and in small writes.

use std::fmt;

use super::echo::{self, METRICS};
use crate::child::Server;
use crate::load::{Client, Load};
use crate::measure::{Better, Metric, compare};
use crate::peers::{Echo, TLS_SERVERS};
use crate::settings::Settings;
use crate::tls::{self, Tls};
use crate::{Result, net};

struct Row {
    load: Load,
    /// Most bytes of one write.
    reply: usize,
}

impl Row {
    fn new(connections: usize, message: usize, reply: usize) -> Self {
        Self { load: Load { connections, message, depth: 1 }, reply }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { load, reply } = self;
        echo::Row(*load).fmt(f)?;
        match reply {
            &usize::MAX => Ok(()),
            reply => write!(f, ", {reply} B each"),
        }
    }
}

pub(super) fn run(settings: &Settings) -> Result<()> {
    let rows = [
        Row::new(64, 64, usize::MAX),
        Row::new(64, 16 * 1024, usize::MAX),
        Row::new(16, 256 * 1024, usize::MAX),
        Row::new(16, 4 * 1024, 64),
    ];
    let [rate, time] = METRICS;
    let records = Metric { name: "records/message", better: Better::Less };
    compare(settings, &TLS_SERVERS, &[rate, time, records], &rows, |row, peer| {
        measure(settings, peer, row)
    })
}

fn measure(settings: &Settings, peer: &str, row: &Row) -> Result<Vec<f64>> {
    let echo = Echo { reply: row.reply, ..Echo::default() };
    let server = Server::start_tls(settings, peer, echo, Tls::default())?;
    let shared = tls::Client::new()?;
    let congestion = settings.congestion.as_deref();
    let connect = || shared.connect(net::connect(server.address, congestion)?);
    let mut client = Client::connect(row.load, connect)?;
    client.run(settings.warm_up())?;
    let before = (server.cpu_time()?, shared.records());
    let (messages, time) = client.run(settings.window())?;
    let cpu_time = server.cpu_time()? - before.0;
    let records = (shared.records() - before.1) as f64;
    Ok(vec![messages / time.as_secs_f64(), cpu_time / messages, records / messages])
}
