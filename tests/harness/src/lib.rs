//! A real control plane with simulated nodes on one machine, for the demo and the integration tests.
//!
//! # Purpose
//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler run for real (built from their Go
//! modules, no containers); kwok sends the heartbeats of simulated nodes; the operators and one agent
//! per node run as real processes with the arguments, the environment, the ServiceAccount and the
//! address of their pods, as the shipped manifests say. A node can be cut off, switched off and
//! reset; a watchdog that nobody feeds resets it.
//!
//! # Guarantees
//! * Everything lives in a network namespace of its own (plus a user namespace without root): nothing
//!   of the machine is touched, several clusters and several test runs do not meet.
//! * All processes die with the harness, also when it panics or is killed.
//! * Nothing here can reset the real machine: the agents are built with a fake watchdog, see a
//!   directory as their host, and their sysrq-trigger is a regular file.
//!
//! # Caveats
//! Programs start with [`child::dispatch`] and [`network::enter`], before any thread exists, and run on
//! a current-thread runtime (the parent-death signal follows the thread that started the child);
//! [`run`] does all of that.
#![expect(
    clippy::disallowed_methods,
    reason = "the harness plays the user, the kubelet and the hardware: its clock, its environment \
              and its writes are not the product's"
)]

pub mod audit;
pub mod bench;
pub mod child;
pub mod cluster;
pub mod csi;
pub mod dns;
pub mod elf;
pub mod go_tools;
pub mod healthcheck;
pub mod images;
pub mod installation;
pub mod interop;
pub mod kubelet;
pub mod kwok;
pub mod machine;
pub mod manifests;
pub mod network;
pub mod process;
pub mod real_node;
pub mod relay;
pub mod scratch;
pub mod standing;
pub mod story;
pub mod target;
pub mod tools;
pub mod vm;
pub mod wait;
pub mod watchdog;
pub mod writers;

mod control_plane;
mod leftovers;
mod pki;
mod rights;

use std::process::ExitCode;

pub use cluster::{Cluster, Options};
pub use control_plane::{DNS_NAME, NODE_MONITOR_GRACE, NODE_MONITOR_PERIOD};

/// The body of a program or test of the harness: own network, one thread, readable errors.
pub fn run<F>(scenario: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    run_with(&[], scenario)
}

/// [`run`], with tools that are built before: from the own network nothing can be downloaded.
pub fn run_with<F>(tools: &[go_tools::Module], scenario: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let built = tools.iter().try_for_each(|module| module.ready().map(drop));
    let done = built.and_then(|()| network::enter()).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(scenario())
    });
    finish(done)
}

/// The exit code of a program, with its error said.
pub fn finish(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a program")]
fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
