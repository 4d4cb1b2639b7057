//! What the examples share: how such a program starts and stops.
#![allow(dead_code, reason = "no example uses all of it")]

#[cfg(feature = "tls")]
pub(crate) mod certificates;
pub(crate) mod stdin;

use std::env;
use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use usockets::{LoopRef, SignalWatch, UsError};

/// The whole of `main`: calls `program` with the first argument, or `default` if there is none, and
/// prints its error.
pub(crate) fn run<E: Display>(
    default: &str,
    program: impl FnOnce(&str) -> Result<(), E>,
) -> ExitCode {
    let argument = argument(1, default);
    match program(&argument) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{argument}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The argument with this number, from 1, or `default` if there is none.
pub(crate) fn argument(number: usize, default: &str) -> String {
    env::args().nth(number).unwrap_or_else(|| default.to_owned())
}

/// What follows the first argument: options, each with a value.
pub(crate) struct Options(Vec<[String; 2]>);

impl Options {
    /// Takes them from the command line, if all are among `known`.
    pub(crate) fn parse(known: &[&str]) -> Result<Self, String> {
        let arguments: Vec<String> = env::args().skip(1).collect();
        if arguments.first().is_some_and(|first| first.starts_with("--")) {
            return Err("the address comes first, then options".to_owned());
        }
        let mut options = Vec::new();
        for pair in arguments.get(1..).unwrap_or_default().chunks(2) {
            match pair {
                [name, value] if known.contains(&name.as_str()) => {
                    options.push([name.clone(), value.clone()]);
                }
                _ => {
                    return Err(format!(
                        "{}: each option is one of {}, and a value",
                        pair[0],
                        known.join(" ")
                    ));
                }
            }
        }
        Ok(Self(options))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|[known, _]| known == name).map(|[_, value]| value.as_str())
    }
}

/// How long connections may take to come to their end when the program is asked to.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Lets the connections come to their end, and then ends `run`.
pub(crate) fn drain(event_loop: &LoopRef, time: Duration) {
    let drained = event_loop.drain(time, |report| {
        if report.forced > 0 {
            println!("{} connections did not finish in time", report.forced);
        }
    });
    if let Err(error) = drained {
        eprintln!("{error}");
        event_loop.stop();
    }
}

/// Lets Ctrl-C and SIGTERM drain the loop and so end `run`, as long as the result is kept. The same
/// signal once more ends what is left at once.
pub(crate) fn drain_on_signals(event_loop: &LoopRef) -> Result<[SignalWatch; 2], UsError> {
    let watch = |signal| {
        let mut time = DRAIN_TIME;
        event_loop.on_signal(signal, move |event_loop, _signal| {
            drain(event_loop, time);
            time = Duration::ZERO;
        })
    };
    Ok([watch(libc::SIGINT)?, watch(libc::SIGTERM)?])
}
