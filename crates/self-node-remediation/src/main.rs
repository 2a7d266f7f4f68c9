//! Entry point of the image: the manager, or the agent in its place.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use anyhow::Context as _;
use medik8s_runtime::{cli, process, settings::Env, shutdown::Shutdown, telemetry};
use self_node_remediation::settings::{Args, PRODUCT, asks_for_manager};

/// The agent's binary, in the folder of this one.
const AGENT: &str = "self-node-remediation-agent";

fn main() -> anyhow::Result<()> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let texts = args.iter().filter_map(|arg| arg.to_str());
    let asks_about_us = ["--help", "-h", "--version", "-V"];
    if !asks_for_manager(texts.clone()) && !texts.clone().any(|arg| asks_about_us.contains(&arg)) {
        return become_agent(&args);
    }
    let args: Args = cli::parse_or_exit(&PRODUCT, |command| command);
    let _log = telemetry::init(&args.common.log, &PRODUCT).context("could not start logging")?;
    process::block_on(async {
        let shutdown = Shutdown::on_signals().context("could not listen for signals")?;
        self_node_remediation::run(args, Env::from_process(), shutdown).await
    })
}

/// Replaces this process, so that one image and the original's command line serve both.
fn become_agent(args: &[OsString]) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("could not find out where this program is")?;
    let agent = own.with_file_name(AGENT);
    let error = Command::new(&agent).args(args).exec();
    Err(error).with_context(|| format!("could not run the agent {}", agent.display()))
}
