//! The agent's process.

use anyhow::Result;
use medik8s_runtime::cli::{self, Product};
use medik8s_runtime::settings::Env;
use medik8s_runtime::{process, telemetry};
use medik8s_watchdog::Host;
use self_node_remediation_agent::settings::Args;

#[cfg(medik8s_test_watchdog)]
mod test_watchdog;

const PRODUCT: Product = Product::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

fn main() -> Result<()> {
    let args: Args = cli::parse_or_exit(&PRODUCT, |command| command);
    let _log = telemetry::init(&args.log, &PRODUCT)?;
    let host = host(&args);
    process::block_on(self_node_remediation_agent::run(
        args,
        Env::from_process(),
        PRODUCT,
        host,
    ))
}

#[cfg(not(medik8s_test_watchdog))]
fn host(args: &Args) -> Host {
    Host::new(&args.host_root)
}

/// Only in a separate build: the watchdog is a socket of the test harness.
#[cfg(medik8s_test_watchdog)]
fn host(args: &Args) -> Host {
    let watchdogs = test_watchdog::SocketWatchdogs::new(&args.host_root);
    Host::with_watchdogs(&args.host_root, Box::new(watchdogs))
}
