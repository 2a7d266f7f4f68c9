//! `make bench-nhc`: the figures of the node health check.

#![expect(clippy::print_stdout, reason = "the figures are the output")]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser as _;
use medik8s_harness::{
    child,
    healthcheck::bench::{self, Plan},
    tools,
};

/// Measures the node health check on a real control plane with simulated nodes
#[derive(clap::Parser)]
struct Args {
    /// Numbers of nodes, ascending
    #[arg(long, value_delimiter = ',', default_value = "50,1000,3000")]
    nodes: Vec<usize>,

    /// Runs of each reaction; the median counts
    #[arg(long, default_value_t = 3)]
    runs: usize,

    /// Seconds of the idle window
    #[arg(long, default_value_t = 60)]
    idle: u64,

    /// The manager; a release build unless something else is to be compared
    #[arg(long)]
    program: Option<PathBuf>,
}

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    let args = Args::parse();
    let release = "target/x86_64-unknown-linux-gnu/release/node-healthcheck-operator";
    let program = args
        .program
        .unwrap_or_else(|| tools::repository().join(release));
    let plan = Plan {
        sizes: args.nodes,
        runs: args.runs,
        idle: Duration::from_secs(args.idle),
    };
    medik8s_harness::run(async || {
        let table = bench::run(&program, &plan, &|line| println!("{line}")).await?;
        println!("\n{table}");
        Ok(())
    })
}
