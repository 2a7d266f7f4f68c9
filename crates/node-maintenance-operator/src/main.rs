//! The node maintenance operator.

use anyhow::Context as _;
use clap::Parser;
use medik8s_runtime::{
    cli::{CommonArgs, parse_or_exit},
    process::block_on,
    settings::Env,
    shutdown::Shutdown,
    telemetry,
};
use node_maintenance_operator::{PRODUCT, run};

/// Puts nodes into maintenance: cordons, taints and drains every node that a NodeMaintenance names,
/// and gives it back when that is deleted.
///
/// Environment: OPERATOR_NAMESPACE (own namespace; default: the service account's), POD_NAME (own
/// pod, evicted last), LEASE_NAMESPACE (namespace of the node leases; default: medik8s-leases).
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> anyhow::Result<()> {
    let args: Args = parse_or_exit(&PRODUCT, |command| command);
    let _log = telemetry::init(&args.common.log, &PRODUCT).context("could not set up logging")?;
    block_on(async {
        let shutdown = Shutdown::on_signals()?;
        run(args.common, Env::from_process(), shutdown).await
    })
}
