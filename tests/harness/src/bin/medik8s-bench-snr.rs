//! `make bench-snr`: the figures of self node remediation, as a table.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use medik8s_harness::{
    bench::{Row, large, storm, times},
    child,
};

#[derive(Debug, Parser)]
#[command(
    name = "medik8s-bench-snr",
    about = "Measures self node remediation on a real control plane"
)]
struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Part {
    /// From the order to the freed workload, with a real agent on every node; and agents at rest.
    Times {
        /// Workers.
        #[arg(long, default_value_t = 50)]
        workers: u8,
        /// Settings of the agents.
        #[arg(long, value_enum, default_value = "fresh")]
        profile: times::Profile,
    },
    /// A thousand workers, one of them with a real agent.
    Large {
        /// Workers.
        #[arg(long, default_value_t = 1000)]
        workers: u16,
    },
    /// The API server is gone for everybody; many remediations at once.
    Storm {
        /// Workers, each with a real agent.
        #[arg(long, default_value_t = 200)]
        workers: u8,
    },
}

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    let args = Args::parse();
    medik8s_harness::run(async || {
        let rows = match args.part {
            Part::Times { workers, profile } => times::measure(workers, profile).await?,
            Part::Large { workers } => large::measure(workers).await?,
            Part::Storm { workers } => storm::measure(workers).await?,
        };
        print(&rows);
        Ok(())
    })
}

fn print(rows: &[Row]) {
    println!("| | original | goal | ours |\n|---|---|---|---|");
    for row in rows {
        println!(
            "| {} | {} | {} | {} |",
            row.what, row.original, row.goal, row.ours
        );
    }
}
