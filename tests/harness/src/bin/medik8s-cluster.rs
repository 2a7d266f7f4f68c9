//! A control plane with simulated nodes that stays until it is told to go.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use medik8s_harness::{child, standing, tools::Tools};

/// A real Kubernetes control plane with simulated nodes on this machine.
#[derive(Debug, Parser)]
#[command(name = "medik8s-cluster")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds the control plane into the cache if it is not there yet.
    BuildTools,
    /// Starts a cluster and leaves it running.
    Up {
        /// Number of simulated worker nodes.
        #[arg(long, default_value_t = 4)]
        workers: u8,
    },
    /// Ends the cluster that `up` started.
    Down,
    /// The body of `up`: runs in the foreground until it is interrupted.
    #[command(hide = true)]
    Run {
        /// Where its files go.
        #[arg(long)]
        folder: PathBuf,
        /// Number of simulated worker nodes.
        #[arg(long)]
        workers: u8,
    },
}

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    let done = match Args::parse().command {
        Command::BuildTools => Tools::ready().map(drop),
        Command::Up { workers } => standing::up(workers).map(say),
        Command::Down => standing::down().map(say),
        Command::Run { folder, workers } => return standing::stay(&folder, workers),
    };
    medik8s_harness::finish(done)
}

#[expect(
    clippy::print_stdout,
    reason = "a command line tool reports on standard output"
)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the end of a chain of results"
)]
fn say(text: String) {
    println!("{text}");
}
