//! Round trip: from the call that hands over a job, to the moment when the caller sees that it was
//! done by a loop that was asleep.

use crate::Result;
use crate::child::figures;
use crate::measure::{Better, Metric, compare};
use crate::peers::MAILBOXES;
use crate::settings::Settings;

const METRICS: [Metric; 1] = [Metric { name: "us, median of a round", better: Better::Less }];

pub(super) fn run(settings: &Settings) -> Result<()> {
    let jobs = settings.pick(2000, 400).to_string();
    compare(settings, &MAILBOXES, &METRICS, &["loop asleep"], |_, peer| {
        figures(settings, &["defer", peer, "ping", &jobs])
    })
}
