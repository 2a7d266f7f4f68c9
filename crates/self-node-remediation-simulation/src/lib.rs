//! Whole clusters on virtual time (fencing-safety section 8, obligation 3).
//!
//! # Purpose
//! The model searches through every order of a few events; this runs the programs themselves for hours in
//! clusters of 5 to 50 nodes, with a course of trouble that follows from a seed.
//!
//! ```text
//!  scenario (seed) ─► incidents ─► network, machines, API server
//!                                   │ virtual time, one thread
//!  production: manager replicas ◄───┤ election, quorum, release, certificates, DaemonSet
//!  production: one agent per node ◄─┘ loop, permit, feeder, TLS and gRPC both ways, /run
//!                                   └─► judge: looks twice a second
//! ```
//!
//! # Guarantees
//! * Production code decides everything that is under test; only what surrounds it is simulated.
//! * A seed gives the same course, to the byte of its trace (see [`random`]).
//!
//! # Caveats
//! The feeder and the opening of the device are production code but run as tasks on virtual time instead
//! of on threads of their own. The API server stores and answers like one, but is in memory. Webhooks,
//! templates and network policies of the manager are not part of it.

pub mod api;
pub mod cluster;
pub mod control;
mod incidents;
pub mod judge;
mod kubelet;
pub mod machine;
pub mod network;
pub mod port;
pub mod process;
pub mod random;
pub mod report;
mod rollout;
pub mod scenario;
pub mod trace;
pub mod watchdog;

use std::path::Path;

use anyhow::Context as _;

pub use cluster::Outcome;
pub use scenario::{Sabotage, Scenario};

/// Runs a scenario on a thread of its own, on which everything random follows from its seed.
pub fn run(scenario: Scenario) -> anyhow::Result<Outcome> {
    /// Futures of a debug build are large.
    const STACK: usize = 64 * 1024 * 1024;
    let thread = std::thread::Builder::new()
        .name("simulation".to_owned())
        .stack_size(STACK)
        .spawn(move || run_here(scenario))?;
    match thread.join() {
        Ok(outcome) => outcome,
        Err(_panic) => anyhow::bail!("the simulation panicked"),
    }
}

fn run_here(scenario: Scenario) -> anyhow::Result<Outcome> {
    random::seed_this_thread(scenario.seed);
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let folder = folder.context("no folder for the machines")?;
    let path = folder.path().to_path_buf();
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .context("no runtime")?
        .block_on(cluster::run(scenario, path))
}
