//! Entry point of the node health check operator.

use anyhow::Context as _;
use medik8s_runtime::{cli, process, settings::Env, shutdown::Shutdown, telemetry};
use node_healthcheck_operator::settings::{Args, PRODUCT};

fn main() -> anyhow::Result<()> {
    let args: Args = cli::parse_or_exit(&PRODUCT, cli::leader_elect_by_default);
    let _log = telemetry::init(&args.common.log, &PRODUCT).context("could not start logging")?;
    process::block_on(async {
        let shutdown = Shutdown::on_signals().context("could not listen for signals")?;
        node_healthcheck_operator::run(args, Env::from_process(), shutdown).await
    })
}
