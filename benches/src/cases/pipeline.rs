//! Pipelining: many small messages arrive at once, and are answered in one piece or each by itself.

use std::fmt;

use super::echo::{METRICS, measure};
use crate::Result;
use crate::load::Load;
use crate::measure::compare;
use crate::peers::{Echo, WRITERS};
use crate::settings::Settings;

const MESSAGE: usize = 64;

struct Row {
    depth: usize,
    /// A write for each message, not one for all that have arrived.
    each: bool,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} deep, {}", self.depth, if self.each { "a write each" } else { "one write" })
    }
}

pub(super) fn run(settings: &Settings) -> Result<()> {
    let rows = [
        Row { depth: 64, each: false },
        Row { depth: 64, each: true },
        Row { depth: 8, each: true },
    ];
    compare(settings, &WRITERS, &METRICS, &rows, |row, peer| {
        let load = Load { connections: 16, message: MESSAGE, depth: row.depth };
        let mut echo = Echo::default();
        if row.each {
            echo.reply = MESSAGE;
        }
        measure(settings, peer, load, echo)
    })
}
