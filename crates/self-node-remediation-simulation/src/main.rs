//! Runs seeds: many, each in a process of its own, or one with its story.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a report for people, with the time it took"
)]

use std::num::ParseIntError;
use std::ops::RangeInclusive;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use self_node_remediation_simulation::report::{Run, Sums};
use self_node_remediation_simulation::{Scenario, run};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Whole clusters on virtual time, with trouble that follows from a seed.
#[derive(Parser)]
struct Arguments {
    /// Runs one seed and tells its story
    #[arg(long)]
    seed: Option<u64>,
    /// Runs so many seeds, or these: `7,12`, `100-199`
    #[arg(long, default_value = "200", value_parser = Seeds::parse)]
    seeds: Seeds,
    /// Begins no new one after so many seconds
    #[arg(long = "for", value_name = "SECONDS")]
    limit: Option<u64>,
    /// With so many nodes
    #[arg(long)]
    nodes: Option<usize>,
    /// Runs at once
    #[arg(long)]
    jobs: Option<usize>,
    /// One line of JSON instead of the story of one seed
    #[arg(long)]
    quiet: bool,
    /// Logs of the programs on standard error, for one seed
    #[arg(long)]
    log: bool,
}

/// Which seeds are run.
#[derive(Clone)]
struct Seeds(Vec<RangeInclusive<u64>>);

impl Seeds {
    fn parse(text: &str) -> Result<Self, ParseIntError> {
        if let Ok(count) = text.parse() {
            return Ok(Self(std::iter::once(1..=count).collect()));
        }
        let parts = text.split(',').map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Ok(first.parse()?..=last.parse()?)
        });
        parts.collect::<Result<_, _>>().map(Self)
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.log {
        let quiet: Targets = "debug,hyper=info,h2=info,tower=info,rustls=info,kube=info".parse()?;
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::DEBUG)
            .with_writer(std::io::stderr)
            .without_time()
            .finish()
            .with(quiet)
            .init();
    }
    let good = match arguments.seed {
        Some(seed) => one(seed, &arguments)?,
        None => many(&arguments),
    };
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn one(seed: u64, arguments: &Arguments) -> Result<bool> {
    let outcome = run(Scenario::of(seed, arguments.nodes))?;
    let run = Run::of(seed, &outcome);
    if arguments.quiet {
        println!("{}", run.to_line());
    } else {
        for line in &outcome.lines {
            println!("{line}");
        }
        let mut sums = Sums::default();
        sums.add(&run);
        println!("\n{sums}trace hash {}", run.hash);
        println!("{} passed, {} failed", sums.passed, sums.failed.len());
    }
    Ok(run.violations.is_empty())
}

fn many(arguments: &Arguments) -> bool {
    let begin = Instant::now();
    let limit = arguments.limit.map(Duration::from_secs);
    let over = || limit.is_some_and(|limit| begin.elapsed() >= limit);
    let seeds = Mutex::new(arguments.seeds.0.iter().cloned().flatten());
    let next = || seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
    let sums = Mutex::new(Sums::default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.unwrap_or(cores) {
            scope.spawn(|| {
                while !over()
                    && let Some(seed) = next()
                {
                    let run = child(seed, arguments.nodes)
                        .unwrap_or_else(|error| Run::failed(seed, format!("{error:#}")));
                    for violation in &run.violations {
                        println!("seed {seed}: {violation}");
                    }
                    sums.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(&run);
                }
            });
        }
    });
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    print!("{sums}");
    println!(
        "  {:>10.1}  seconds of real time",
        begin.elapsed().as_secs_f64()
    );
    println!("{} passed, {} failed", sums.passed, sums.failed.len());
    sums.failed.is_empty() && sums.passed > 0
}

/// One seed in a process that runs nothing else.
fn child(seed: u64, nodes: Option<usize>) -> Result<Run> {
    let program = std::env::current_exe().context("this program cannot be found")?;
    let mut command = Command::new(program);
    command.args(["--quiet", "--seed", &seed.to_string()]);
    if let Some(nodes) = nodes {
        command.args(["--nodes", &nodes.to_string()]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    Run::parse(line).with_context(|| format!("it ended with {}", output.status))
}
