//! The API server is gone for many real agents at once; and many remediations at once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;

use super::{Row, agents_run, follow, mib, processes, remediate, workers_without_manager};
use crate::{
    Cluster, Options,
    images::Programs,
    machine::{Hardware, NodeSpec, What},
    network::Cut,
    story,
};

/// Longer than the span of the defaults and a watchdog timeout of 20 s.
const OUTAGE: Duration = Duration::from_secs(130);
/// All must be quiet again after this time.
const QUIET: Duration = Duration::from_secs(30);
/// Remediations at once.
const REMEDIATIONS: usize = 20;

/// Measures with so many agents.
pub async fn measure(workers: u8) -> anyhow::Result<Vec<Row>> {
    let nodes = std::iter::once(NodeSpec::control_plane("control-plane-1"))
        .chain((1..=workers).map(|number| NodeSpec::worker(format!("worker-{number}"))))
        .collect();
    let cluster = Cluster::start(Options {
        nodes,
        programs: Some(Programs::find()?),
        hardware: Hardware::default(),
        ..Options::default()
    })
    .await?;
    let rows = rows(&cluster, workers).await;
    cluster.stop().await;
    rows
}

async fn rows(cluster: &Cluster, workers: u8) -> anyhow::Result<Vec<Row>> {
    story::install_manager(cluster, None).await?;
    agents_run(cluster, usize::from(workers) + 1).await?;
    story::quorate(cluster).await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mut rows = Vec::new();
    let mut happenings = cluster.happenings();
    let calm = cpu(cluster, Duration::from_secs(15)).await;

    try_join_all(cluster.machines().map(|machine| machine.cut(Cut::Api))).await?;
    tokio::time::sleep(OUTAGE).await;
    let (agents, _) = processes(cluster);
    let peak = agents
        .iter()
        .filter_map(super::Found::usage)
        .map(|usage| usage.peak)
        .max()
        .context("no agents")?;
    try_join_all(cluster.machines().map(|machine| machine.mend())).await?;
    let back = Instant::now();
    tokio::time::sleep(QUIET).await;
    let after = cpu(cluster, Duration::from_secs(15)).await;
    let mut reset = 0;
    while let Ok(happening) = happenings.try_recv() {
        reset += usize::from(matches!(happening.what, What::Reset { .. }));
    }
    rows.push(Row::new(
        format!(
            "API server gone for {} agents at once for {} s: nodes reset",
            agents.len(),
            OUTAGE.as_secs()
        ),
        "-",
        "0",
        format!("{reset}"),
    ));
    rows.push(Row::new(
        "largest agent then (peak RSS)",
        "-",
        "15 MiB",
        format!("{} MiB", mib(peak)),
    ));
    rows.push(Row::new(
        format!(
            "CPU of all agents, from {} s after the return on, against before",
            QUIET.as_secs()
        ),
        "-",
        "quiet",
        format!("{after:.2} of one CPU, before {calm:.2}"),
    ));
    ensure!(back.elapsed() >= QUIET, "time went backwards");

    if usize::from(workers) >= 3 * REMEDIATIONS {
        let nodes = workers_without_manager(cluster, workers, REMEDIATIONS).await?;
        for node in &nodes {
            cluster.machine(node)?.power_off().await?;
        }
        for node in &nodes {
            remediate(cluster, node, "ResourceDeletion").await?;
        }
        let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
        let courses = follow(cluster, &names, Duration::from_secs(200)).await?;
        let slowest = courses
            .iter()
            .map(|course| course.seconds().with_context(|| format!("{course:?}")))
            .collect::<anyhow::Result<Vec<f64>>>()?
            .into_iter()
            .fold(0.0, f64::max);
        rows.push(Row::new(
            format!("{REMEDIATIONS} remediations at once: the slowest, order to workload freed"),
            "-",
            "at most 143 s",
            format!("{slowest:.1} s"),
        ));
    }
    Ok(rows)
}

/// CPU of all agents together, as a share of one CPU.
async fn cpu(cluster: &Cluster, time: Duration) -> f64 {
    let (agents, _) = processes(cluster);
    let sum = || -> Duration {
        agents
            .iter()
            .filter_map(super::Found::usage)
            .map(|usage| usage.cpu)
            .sum()
    };
    let before = sum();
    tokio::time::sleep(time).await;
    sum().saturating_sub(before).as_secs_f64() / time.as_secs_f64()
}
