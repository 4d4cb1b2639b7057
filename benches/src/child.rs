//! Processes of their own: this program, started anew for one part.
//!
//! Every measurement gets fresh ones, so that no peer lives on with what an earlier measurement
//! left behind in its memory, and the luck of where things lie is drawn anew.

use std::env;
use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity, set_name};

use crate::cases::{defer, timers, tls_memory};
use crate::peers::{self, Echo};
use crate::settings::Settings;
use crate::tls::Tls;
use crate::{Result, net};

/// The first argument of a child.
pub(crate) const MARK: &str = "@";

/// Where each side runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    pub(crate) client: usize,
    pub(crate) server: usize,
}

impl Cpus {
    /// The first and the last one that this process may use.
    pub(crate) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        match (cpus.next(), cpus.next_back()) {
            (Some(client), Some(server)) => Ok(Self { client, server }),
            _ => Err("two cpus are needed, one for each side".into()),
        }
    }
}

/// Keeps this thread, and those that it starts from now on, on one cpu.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Pins this process, and lets it have as many descriptors as it may.
pub(crate) fn prepare(cpu: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    pin(cpu)
}

fn start(settings: &Settings, part: &[&str]) -> Result<Child> {
    let Cpus { client, server } = settings.cpus;
    Ok(Command::new(env::current_exe()?)
        .args([MARK, &server.to_string(), &client.to_string()])
        .args(part)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?)
}

/// Starts a child that measures by itself, and returns the figures that it prints.
pub(crate) fn figures(settings: &Settings, part: &[&str]) -> Result<Vec<f64>> {
    let output = start(settings, part)?.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("the measuring process ended with {}", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
}

/// A child that serves for ever; ended when this is dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start(settings: &Settings, peer: &str, echo: Echo) -> Result<Self> {
        let reply = echo.reply.to_string();
        let buffer = echo.buffer.to_string();
        Self::wait(start(settings, &["serve", peer, &reply, &buffer, settings.congestion()])?)
    }

    /// The same over TLS.
    pub(crate) fn start_tls(settings: &Settings, peer: &str, echo: Echo, tls: Tls) -> Result<Self> {
        let reply = echo.reply.to_string();
        let buffer = echo.buffer.to_string();
        let [tickets, release] = tls.arguments();
        let part = ["serve-tls", peer, &reply, &buffer, &tickets, &release, settings.congestion()];
        Self::wait(start(settings, &part)?)
    }

    /// Until it listens.
    fn wait(mut process: Child) -> Result<Self> {
        let stdout = process.stdout.take().ok_or("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address =
            line.trim().strip_prefix("listening on ").ok_or("the server says otherwise")?;
        Ok(Self { process, address: address.parse()? })
    }

    /// Nanoseconds that its threads have run until now.
    pub(crate) fn cpu_time(&self) -> Result<f64> {
        let mut time = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            time += text.split(' ').next().unwrap_or_default().parse::<f64>()?;
        }
        Ok(time)
    }

    /// Bytes of memory that it has to itself, without files. Counted page by page: the sums that
    /// `status` shows are late by some pages per cpu.
    pub(crate) fn memory(&self) -> Result<f64> {
        memory(&self.process.id().to_string())
    }
}

/// The same of any process; `self`: this one.
pub(crate) fn memory(process: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let kilobytes = line.ok_or("no such line")?.trim().trim_end_matches(" kB");
    Ok(kilobytes.parse::<f64>()? * 1024.0)
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, after an error that it has told.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The life of a child.
pub(crate) fn play(arguments: &[String]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [server_cpu, client_cpu, part, rest @ ..] = &arguments[..] else {
        return Err("a child needs a part".into());
    };
    prepare(server_cpu.parse()?)?;
    if let Some(peer) = rest.first() {
        // By this name `perf` and `top` tell them apart.
        set_name(&CString::new(*peer)?)?;
    }
    match (*part, rest) {
        ("serve", [peer, reply, buffer, congestion]) => {
            let echo = Echo { reply: reply.parse()?, buffer: buffer.parse()? };
            let listener = net::listen(congestion)?;
            println!("listening on {}", listener.local_addr()?);
            peers::echo(peer, listener, echo)
        }
        ("serve-tls", [peer, reply, buffer, tickets, release, congestion]) => {
            let echo = Echo { reply: reply.parse()?, buffer: buffer.parse()? };
            let listener = net::listen(congestion)?;
            println!("listening on {}", listener.local_addr()?);
            peers::tls_echo(peer, listener, echo, Tls::parse(tickets, release)?)
        }
        ("tls-objects", [count]) => tls_memory::play(count.parse()?),
        ("defer", [peer, rest @ ..]) => defer::play(peer, client_cpu.parse()?, rest),
        ("timers", [peer, phase, count]) => timers::play(peer, phase, count.parse()?),
        _ => Err(format!("no part {part} with {} arguments", rest.len()).into()),
    }
}
