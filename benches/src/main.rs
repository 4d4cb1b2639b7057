//! Measures `usockets` and its peers side by side, same work in one run, and prints ratios.
//!
//! ```text
//! cargo run --release -p usockets-benches -- \
//!     [--quick] [--rounds N] [--congestion NAME] [--only TEXT] [CASE..]
//! ```
//!
//! How to read what it prints is in `benches/README.md`.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, process, thread};

use settings::Settings;

mod cases;
mod child;
mod conditions;
mod load;
mod measure;
mod net;
mod pattern;
mod peers;
mod settings;
mod tls;

/// What went wrong ends the run, so it only has to be told.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A run that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(360);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((first, rest)) if first == child::MARK => child::play(rest),
        _ => run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("usockets-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let (settings, names) = Settings::parse(arguments)?;
    let chosen = cases::choose(&names)?;
    thread::spawn(|| {
        thread::sleep(LIMIT);
        eprintln!("usockets-benches: not finished after {} s", LIMIT.as_secs());
        process::exit(2);
    });
    child::prepare(settings.cpus.client)?;
    conditions::print(&settings)?;
    for case in chosen {
        println!("\n== {}: {}\n", case.name, case.what);
        (case.run)(&settings)?;
    }
    Ok(())
}
