//! Deferred jobs: producers on one cpu hand closures to a loop on the other.

use std::fmt;
use std::hint;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::child::{self, figures};
use crate::measure::{Better, Metric, compare, quantile};
use crate::peers::{MAILBOXES, mailbox};
use crate::settings::Settings;

const METRICS: [Metric; 1] = [Metric { name: "jobs/s", better: Better::More }];

/// Most jobs of one producer that wait: bounds the memory, and lets no queue win by never emptying.
const WAITING_MAX: u64 = 16 * 1024;

/// How often a producer looks whether it has to wait.
const STRIDE: u64 = 1024;

/// Long enough for a loop without work to fall asleep.
const PAUSE: Duration = Duration::from_micros(60);

/// Jobs done, per producer, each on cache lines of its own.
static DONE: [Count; 2] = [Count(AtomicU64::new(0)), Count(AtomicU64::new(0))];

#[repr(align(128))]
struct Count(AtomicU64);

struct Row {
    producers: usize,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} producer{}", self.producers, if self.producers > 1 { "s" } else { "" })
    }
}

pub(super) fn run(settings: &Settings) -> Result<()> {
    let rows = [Row { producers: 1 }, Row { producers: 2 }];
    let jobs = settings.pick(2_000_000, 400_000).to_string();
    compare(settings, &MAILBOXES, &METRICS, &rows, |row, peer| {
        figures(settings, &["defer", peer, "flood", &row.producers.to_string(), &jobs])
    })
}

/// What every job does: proves that it comes in order and once, and counts.
pub(crate) fn job(producer: usize, number: u64) {
    let done = &DONE[producer].0;
    if done.load(Ordering::Relaxed) != number {
        eprintln!("a job of producer {producer} was lost or came twice");
        process::abort();
    }
    done.store(number + 1, Ordering::Release);
}

fn done(producer: usize) -> u64 {
    DONE[producer].0.load(Ordering::Acquire)
}

/// In the child: this thread becomes the loop; the producers print the figures, and end the
/// process.
pub(crate) fn play(peer: &str, client_cpu: usize, arguments: &[&str]) -> Result<()> {
    let producers = match arguments {
        ["flood", producers, jobs] => {
            Producers::Flood { cpu: client_cpu, threads: producers.parse()?, jobs: jobs.parse()? }
        }
        ["ping", jobs] => Producers::Ping { cpu: client_cpu, jobs: jobs.parse()? },
        _ => return Err("flood or ping?".into()),
    };
    mailbox(peer, producers)
}

/// The other threads.
pub(crate) enum Producers {
    /// They post as fast as they can.
    Flood { cpu: usize, threads: usize, jobs: u64 },
    /// There is one, which awaits each job, and lets the loop fall asleep before the next.
    Ping { cpu: usize, jobs: u64 },
}

impl Producers {
    /// Starts them. `post` hands a job to the loop, which may begin later.
    pub(crate) fn start(self, post: impl Fn(usize, u64) + Clone + Send + 'static) {
        thread::spawn(move || {
            match self {
                Self::Flood { cpu, threads, jobs } => flood(cpu, threads, jobs, &post),
                Self::Ping { cpu, jobs } => ping(cpu, jobs, &post),
            }
            process::exit(0);
        });
    }
}

fn flood(cpu: usize, threads: usize, jobs: u64, post: &(impl Fn(usize, u64) + Clone + Send)) {
    child::pin(cpu).expect("the parent has pinned itself to it");
    let each = jobs / threads as u64;
    let begin = Instant::now();
    thread::scope(|scope| {
        for producer in 0..threads {
            let post = post.clone();
            scope.spawn(move || {
                for number in 0..each {
                    if number % STRIDE == 0 {
                        wait_until(|| number - done(producer) < WAITING_MAX);
                    }
                    post(producer, number);
                }
                wait_until(|| done(producer) == each);
            });
        }
    });
    println!("{}", (each * threads as u64) as f64 / begin.elapsed().as_secs_f64());
}

/// Prints the median in microseconds. Waits without sleeping, so that the only sleeper is the loop.
fn ping(cpu: usize, jobs: u64, post: &impl Fn(usize, u64)) {
    child::pin(cpu).expect("the parent has pinned itself to it");
    let mut times = Vec::new();
    for number in 0..jobs {
        let pause = Instant::now();
        while pause.elapsed() < PAUSE {
            hint::spin_loop();
        }
        let begin = Instant::now();
        post(0, number);
        while done(0) == number {
            hint::spin_loop();
        }
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    println!("{}", quantile(&times, 0.5));
}

/// Gives the cpu to the other producer meanwhile.
fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}
