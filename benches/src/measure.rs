//! Rounds, medians, ratios.
//!
//! Every round measures each row with each peer, the rows shuffled, and within a row the peers:
//! what is compared is measured within a second or two, and nobody always comes first. A ratio is
//! taken within each round; what is printed is the median of these, and their quartiles.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Result;
use crate::settings::Settings;

/// What a measurement yields a figure of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) better: Better,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Better {
    More,
    Less,
}

/// Figures by row, peer, round and metric.
type Samples = Vec<Vec<Vec<Vec<f64>>>>;

/// Measures and prints. The first of `peers` is the one that the others are compared with; `run`
/// answers with a figure for each metric.
pub(crate) fn compare<R: Display>(
    settings: &Settings,
    peers: &[&'static str],
    metrics: &[Metric],
    rows: &[R],
    mut run: impl FnMut(&R, &'static str) -> Result<Vec<f64>>,
) -> Result<()> {
    let rows: Vec<(String, &R)> = rows
        .iter()
        .map(|row| (row.to_string(), row))
        .filter(|(label, _)| label.contains(&settings.only))
        .collect();
    let mut samples: Samples = vec![vec![Vec::new(); peers.len()]; rows.len()];
    let mut shuffle = Shuffle::new();
    for _ in 0..settings.rounds {
        for row in shuffle.order(rows.len()) {
            for peer in shuffle.order(peers.len()) {
                let (label, work) = &rows[row];
                let figures = run(work, peers[peer])
                    .map_err(|error| format!("{label}, {}: {error}", peers[peer]))?;
                assert_eq!(figures.len(), metrics.len());
                samples[row][peer].push(figures);
            }
        }
    }
    let labels: Vec<&str> = rows.iter().map(|(label, _)| label.as_str()).collect();
    for (index, metric) in metrics.iter().enumerate() {
        print(peers, *metric, &labels, |row, peer| {
            samples[row][peer].iter().map(|figures| figures[index]).collect()
        })?;
    }
    Ok(())
}

/// One table: our figures, and the ratios of ours to each peer's.
fn print(
    peers: &[&str],
    metric: Metric,
    labels: &[&str],
    figures: impl Fn(usize, usize) -> Vec<f64>,
) -> Result<()> {
    let mut out = io::stdout().lock();
    let (ours, others) = peers.split_first().ok_or("nobody to compare")?;
    let goal = match metric.better {
        Better::More => "above 1 is better",
        Better::Less => "below 1 is better",
    };
    writeln!(out, "{}; {ours} / peer: {goal}", metric.name)?;
    write!(out, "{:24}{ours:>15}", "")?;
    for peer in others {
        write!(out, "{peer:>22}")?;
    }
    writeln!(out)?;

    let mut logarithms = vec![0.0; others.len()];
    for (row, label) in labels.iter().enumerate() {
        let our_figures = figures(row, 0);
        let [lower, median, upper] = quartiles(&our_figures);
        let spread = 50.0 * (upper - lower) / median;
        write!(out, "{label:24}{:>10} ±{spread:>3.0}%", short(median))?;
        for (peer, sum) in logarithms.iter_mut().enumerate() {
            let ratios: Vec<f64> =
                our_figures.iter().zip(figures(row, peer + 1)).map(|(a, b)| a / b).collect();
            let [lower, median, upper] = quartiles(&ratios);
            write!(out, "{:>22}", format!("{median:.2} ({lower:.2}-{upper:.2})"))?;
            *sum += median.ln();
        }
        writeln!(out)?;
    }
    if labels.len() > 1 {
        write!(out, "{:31}", "geometric mean")?;
        for sum in logarithms {
            write!(out, "{:>22.2}", (sum / labels.len() as f64).exp())?;
        }
        writeln!(out)?;
    }
    Ok(writeln!(out)?)
}

/// Lower quartile, median, upper quartile, interpolated.
pub(crate) fn quartiles(figures: &[f64]) -> [f64; 3] {
    [0.25, 0.5, 0.75].map(|part| quantile(figures, part))
}

/// The figure that `part` of them are not above, interpolated; NaN if there is none.
#[allow(clippy::cast_possible_truncation, reason = "an index")]
pub(crate) fn quantile(figures: &[f64], part: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = part * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

/// Four characters or so.
fn short(figure: f64) -> String {
    match figure {
        10_000_000.0.. => format!("{:.1}M", figure / 1e6),
        1_000_000.0.. => format!("{:.2}M", figure / 1e6),
        10_000.0.. => format!("{:.1}k", figure / 1e3),
        100.0.. => format!("{figure:.0}"),
        _ => format!("{figure:.1}"),
    }
}

/// Random orders (xorshift64).
struct Shuffle(u64);

impl Shuffle {
    fn new() -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::from(time.subsec_nanos()) | 1)
    }

    fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    #[allow(clippy::cast_possible_truncation, reason = "smaller than `limit`")]
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
