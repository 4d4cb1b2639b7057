//! What is measured, a file for each.

use crate::Result;
use crate::settings::Settings;

pub(crate) mod churn;
pub(crate) mod defer;
pub(crate) mod echo;
pub(crate) mod memory;
pub(crate) mod pipeline;
pub(crate) mod round_trip;
pub(crate) mod timers;
pub(crate) mod tls;
pub(crate) mod tls_churn;
pub(crate) mod tls_memory;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) run: fn(&Settings) -> Result<()>,
}

const CASES: [Case; 10] = [
    Case { name: "echo", what: "TCP connections x size of a message", run: echo::run },
    Case {
        name: "pipeline",
        what: "16 connections, many messages of 64 bytes at once",
        run: pipeline::run,
    },
    Case { name: "churn", what: "connect, echo 64 bytes, close", run: churn::run },
    Case { name: "defer", what: "jobs handed to a loop by other threads", run: defer::run },
    Case { name: "round-trip", what: "a job handed to a loop that sleeps", run: round_trip::run },
    Case { name: "timers", what: "many timers spread over a minute", run: timers::run },
    Case { name: "memory", what: "idle connections", run: memory::run },
    Case { name: "tls", what: "connections x size of a message, over TLS", run: tls::run },
    Case { name: "tls-churn", what: "handshake, echo 64 bytes, close", run: tls_churn::run },
    Case { name: "tls-memory", what: "idle connections over TLS", run: tls_memory::run },
];

/// Those that are named; all if none is.
pub(crate) fn choose(names: &[&str]) -> Result<Vec<&'static Case>> {
    if names.is_empty() {
        return Ok(CASES.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            let case = CASES.iter().find(|case| case.name == *name);
            case.ok_or_else(|| format!("no case `{name}`; there are: {}", self::names()).into())
        })
        .collect()
}

pub(crate) fn names() -> String {
    CASES.map(|case| case.name).join(", ")
}
