//! What a node maintenance costs, beside `kubectl drain` of the same version: `make bench-nmo`.
//!
//! # Method
//! A real control plane; simulated nodes that end pods at once; the release build of the operator as
//! its Deployment runs it, with its webhook, ServiceAccount and leader election. Requests come from
//! the API server's audit log, by user, without the leader lease; CPU time from
//! `/proc/PID/task/*/schedstat`; memory from `/proc/PID/smaps_rollup`. A maintenance takes from the
//! answer to its creation to the answer to the last write of its status, `kubectl drain` from its
//! start to its end.

#![expect(
    clippy::disallowed_methods,
    reason = "plays the user and the cluster: its clock and its writes are not the product's"
)]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Parser;
use medik8s_harness::{Cluster, Options, child, kubelet::Images, machine::NodeSpec};

mod bench;
mod load;
mod measure;
mod report;

use bench::Bench;
use report::{Drains, Scale};

/// Measures the maintenance operator beside kubectl drain and prints the tables of the README.
#[derive(Debug, Parser)]
#[command(name = "medik8s-bench-nmo")]
struct Args {
    /// Folder of the operator's release build.
    #[arg(long)]
    programs: PathBuf,
    /// Runs of each drain; the tables show medians.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Numbers of pods.
    #[arg(long, value_delimiter = ',', default_values_t = [30, 100, 250])]
    pods: Vec<usize>,
    /// Leave out the part with many nodes.
    #[arg(long)]
    no_scale: bool,
    /// Leave out the drains on the small cluster.
    #[arg(long)]
    no_drains: bool,
    /// Nodes of the large cluster.
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
}

/// Nodes of the small cluster.
const FEW: usize = 50;
/// Nodes that are drained at the same time, and their pods.
const TOGETHER: (usize, usize) = (10, 100);
/// How long the operator is left alone before it counts as idle.
const SETTLE: Duration = Duration::from_secs(20);
/// How long an idle operator is watched.
const WINDOW: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    let mut args = Args::parse();
    // The programs are looked for from the folder of the cluster.
    match args.programs.canonicalize() {
        Ok(folder) => args.programs = folder,
        Err(error) => {
            let error = anyhow::Error::from(error).context("--programs");
            return medik8s_harness::finish(Err(error));
        }
    }
    medik8s_harness::run(async || {
        let image = tempfile::tempdir()?;
        lay_out(&args.programs, image.path())?;
        let mut cluster = Cluster::start(Options {
            nodes: vec![NodeSpec::control_plane("control-plane-1")],
            images: Images::default().with("node-maintenance-operator", image.path()),
            fast_controllers: true,
            ..Options::default()
        })
        .await?;
        let done = run(&cluster, &args).await;
        if done.is_err() {
            report::say(&format!("logs: {}/logs", cluster.keep_files().display()));
        }
        cluster.stop().await;
        done
    })
}

fn lay_out(programs: &Path, image: &Path) -> anyhow::Result<()> {
    let program = programs.join("node-maintenance-operator");
    ensure!(
        program.is_file(),
        "{} is missing: `make release` makes it",
        program.display()
    );
    let size = program.metadata()?.len();
    report::say(&format!("node-maintenance-operator: {size} bytes"));
    std::os::unix::fs::symlink(program, image.join("manager")).context("lay out the image")
}

async fn run(cluster: &Cluster, args: &Args) -> anyhow::Result<()> {
    let bench = Bench::install(cluster).await?;
    load::nodes(cluster, 0..FEW).await?;
    load::daemon_set(cluster, FEW).await?;
    if !args.no_drains {
        tokio::time::sleep(SETTLE).await;
        let idle = bench.idle(WINDOW).await?;
        report::idle(&format!("{FEW} nodes, before any maintenance"), &idle);
        let mut drains = Drains::default();
        for &pods in &args.pods {
            for _ in 0..args.runs {
                drains.ours.push(bench.maintain(pods).await?);
                drains.kubectl.push(bench.kubectl_drain(pods).await?);
            }
        }
        drains.print();
        bench.together(TOGETHER.0, TOGETHER.1).await?.print();
        report::idle("after these maintenances", &bench.idle(WINDOW).await?);
    }
    if !args.no_scale {
        load::nodes(cluster, FEW..args.nodes).await?;
        bench.restart().await?;
        tokio::time::sleep(SETTLE).await;
        let before = bench.idle(WINDOW).await?;
        let first = bench.begin(100).await?;
        tokio::time::sleep(SETTLE).await;
        let after = bench.idle(WINDOW).await?;
        bench.end().await?;
        Scale {
            nodes: args.nodes,
            before,
            first,
            after,
        }
        .print();
    }
    Ok(())
}
