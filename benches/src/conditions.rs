//! Under what conditions a run was made.

use std::fs;

use openssl::version;
use rustix::system::uname;
use usockets::Loop;

use crate::settings::Settings;
use crate::tls::{GROUP, SUITE};
use crate::{Result, net};

/// With more than this, other programs take part in what is measured.
const QUIET_LOAD: f64 = 0.5;

pub(crate) fn print(settings: &Settings) -> Result<()> {
    let system = uname();
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    println!("system      Linux {}, {model}", system.release().to_string_lossy());
    println!("cpus        server on {}, client on {}", settings.cpus.server, settings.cpus.client);
    let congestion = net::congestion_in_force(settings.congestion.as_deref())?;
    let origin =
        settings.congestion.as_ref().map_or("the system's default", |_| "set on both ends");
    println!("congestion  {congestion}, {origin}");
    println!("back end    {:?}", Loop::<()>::new()?.backend());
    println!("rounds      {} of {} ms", settings.rounds, settings.window().as_millis());
    println!("tls         1.3, {SUITE}, {GROUP}, P-256; {}", version::version());
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let remark = match load.parse() {
        Ok(..QUIET_LOAD) => "",
        _ => ": NOT QUIET, expect noise",
    };
    println!("load        {load} in the last minute{remark}");
    Ok(())
}
