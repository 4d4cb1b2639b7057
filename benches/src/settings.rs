//! What the command line asks for.

use std::time::Duration;

use crate::child::Cpus;
use crate::{Result, cases};

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// A first look: less of everything.
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    /// The congestion control to set on both ends of connections; the system's default if `None`.
    pub(crate) congestion: Option<String>,
    /// Only rows whose label contains this.
    pub(crate) only: String,
    pub(crate) cpus: Cpus,
}

impl Settings {
    /// The settings and the names of the cases.
    pub(crate) fn parse(arguments: &[String]) -> Result<(Self, Vec<&str>)> {
        let mut names = Vec::new();
        let mut rounds = None;
        let mut settings = Self {
            quick: false,
            rounds: 0,
            congestion: None,
            only: String::new(),
            cpus: Cpus::choose()?,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--quick" => settings.quick = true,
                "--rounds" => rounds = Some(value()?.parse()?),
                "--congestion" => settings.congestion = Some(value()?.clone()),
                "--only" => settings.only.clone_from(value()?),
                name if !name.starts_with('-') => names.push(name),
                _ => return Err(Self::usage().into()),
            }
        }
        settings.rounds = rounds.unwrap_or_else(|| settings.pick(5, 2)).max(1);
        Ok((settings, names))
    }

    /// The value for a full run, or for a quick one.
    pub(crate) fn pick<V>(&self, full: V, quick: V) -> V {
        if self.quick { quick } else { full }
    }

    /// How long one measurement lasts.
    pub(crate) fn window(&self) -> Duration {
        self.pick(Duration::from_millis(200), Duration::from_millis(60))
    }

    /// How long a server is warmed up before.
    pub(crate) fn warm_up(&self) -> Duration {
        self.pick(Duration::from_millis(50), Duration::from_millis(20))
    }

    /// The name of the congestion control that was asked for; empty if none was.
    pub(crate) fn congestion(&self) -> &str {
        self.congestion.as_deref().unwrap_or_default()
    }

    fn usage() -> String {
        format!(
            "usockets-benches [--quick] [--rounds N] [--congestion NAME] [--only TEXT] [CASE..]\n\
             cases: {}",
            cases::names()
        )
    }
}
