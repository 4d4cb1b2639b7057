//! Timers: a million, spread over a minute. First armed and given up, on the real clock; then armed
//! and fired, on a clock that is moved by hand, in steps of some milliseconds.

use std::time::{Duration, Instant};

use crate::Result;
use crate::child::figures;
use crate::measure::{Better, Metric, compare, quantile};
use crate::peers::{Clock, TIMERS, timers};
use crate::settings::Settings;

/// Everything is due within this time.
const SPAN: Duration = Duration::from_secs(60);

/// How far the clock is moved for a turn.
pub(crate) const STEP: Duration = Duration::from_millis(4);

const METRICS: [Metric; 5] = [
    Metric { name: "ns to arm a timer", better: Better::Less },
    Metric { name: "ns to give up a timer", better: Better::Less },
    Metric { name: "ns to fire a timer", better: Better::Less },
    Metric { name: "us, 99.9 % of the turns are not longer", better: Better::Less },
    Metric { name: "us, longest turn", better: Better::Less },
];

pub(super) fn run(settings: &Settings) -> Result<()> {
    // A round takes seconds.
    let settings = &Settings { rounds: settings.rounds.min(3), ..settings.clone() };
    let count = settings.pick(1_000_000, 200_000);
    compare(settings, &TIMERS, &METRICS, &[format!("{count} timers")], |_, peer| {
        let count = count.to_string();
        let mut all = figures(settings, &["timers", peer, "give-up", &count])?;
        all.extend(figures(settings, &["timers", peer, "fire", &count])?);
        Ok(all)
    })
}

/// When the timer is due: the order has nothing to do with the order of arming.
pub(crate) fn due(index: u64) -> Duration {
    let scattered = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    SPAN.mul_f64(scattered as f64 / f64::from(u32::MAX))
}

/// A million timers of some kind, and the loop that they belong to.
pub(crate) trait Timers {
    /// Arms this many, each for its [`due`] time from now.
    fn arm(&mut self, count: u64) -> Result<()>;

    /// Gives up all that were armed.
    fn give_up(&mut self) -> Result<()>;

    /// Moves the clock on by [`STEP`], and fires what is due.
    fn turn(&mut self) -> Result<()>;

    /// How many have fired.
    fn fired(&self) -> u64;
}

/// In the child: prints the figures of one phase.
pub(crate) fn play(peer: &str, phase: &str, count: u64) -> Result<()> {
    match phase {
        "give-up" => give_up(&mut *timers(peer, Clock::Real)?, count),
        "fire" => fire(&mut *timers(peer, Clock::ByHand)?, count),
        _ => Err("give up or fire?".into()),
    }
}

fn give_up(timers: &mut dyn Timers, count: u64) -> Result<()> {
    let begin = Instant::now();
    timers.arm(count)?;
    let arm = begin.elapsed();
    let begin = Instant::now();
    timers.give_up()?;
    let give_up = begin.elapsed();
    println!("{} {}", nanoseconds(arm, count), nanoseconds(give_up, count));
    Ok(())
}

fn fire(timers: &mut dyn Timers, count: u64) -> Result<()> {
    timers.arm(count)?;
    let mut turns = Vec::new();
    let mut sum = Duration::ZERO;
    let mut time = Duration::ZERO;
    // A second more than the span, for who rounds up.
    while time < SPAN + Duration::from_secs(1) {
        let begin = Instant::now();
        timers.turn()?;
        let turn = begin.elapsed();
        sum += turn;
        turns.push(turn.as_secs_f64() * 1e6);
        time += STEP;
    }
    if timers.fired() != count {
        return Err(format!("{} of {count} timers fired", timers.fired()).into());
    }
    let [most, longest] = [0.999, 1.0].map(|part| quantile(&turns, part));
    println!("{} {most} {longest}", nanoseconds(sum, count));
    Ok(())
}

fn nanoseconds(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e9 / count as f64
}
