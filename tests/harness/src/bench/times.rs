//! How long it takes from the order until the workload is freed: cut off, dead, sick with API, rebooted.

use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;

use super::{
    MANAGER, Row, agents_run, at_rest, follow, mib, processes, remediate, requests,
    workers_without_manager,
};
use crate::{
    Cluster, Options,
    images::Programs,
    machine::{Hardware, NodeSpec, What},
    network::Cut,
    story,
};

/// With which settings the agents run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// The Config that the manager makes, softdog.
    Fresh,
    /// Defaults with a hardware watchdog of 10 s.
    Hardware,
    /// The sample Config of the fast profile.
    Fast,
}

impl Profile {
    const fn config(self) -> Option<&'static str> {
        match self {
            Self::Fresh => None,
            Self::Hardware => Some("{watchdogFilePath: /dev/watchdog}"),
            Self::Fast => Some(
                "{apiCheckInterval: 3s, apiServerTimeout: 2s, maxApiErrorThreshold: 3, peerDialTimeout: 1s, \
                 peerRequestTimeout: 4s, watchdogTimeout: 10s}",
            ),
        }
    }

    const fn watchdog(self) -> Duration {
        match self {
            // softdog's own.
            Self::Fresh => Duration::from_mins(1),
            Self::Hardware | Self::Fast => Duration::from_secs(10),
        }
    }

    const fn figures(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Fresh => ("fresh install, softdog", "306-308 s", "at most 143 s"),
            Self::Hardware => ("hardware watchdog of 10 s", "256 s", "at most 133 s"),
            Self::Fast => ("fast profile, watchdog 10 s", "-", "at most 88 s"),
        }
    }
}

/// Time that a machine is away when it reboots.
const REBOOT: Duration = Duration::from_secs(40);
const NAMESPACES: usize = 7;
const PODS: usize = 51;

/// Starts a cluster of so many workers with agents on all of them.
async fn start(workers: u8, profile: Profile) -> anyhow::Result<Cluster> {
    let nodes = std::iter::once(NodeSpec::control_plane("control-plane-1"))
        .chain((1..=workers).map(|number| NodeSpec::worker(format!("worker-{number}"))))
        .collect();
    let cluster = Cluster::start(Options {
        nodes,
        programs: Some(Programs::find()?),
        hardware: Hardware {
            watchdog_timeout: profile.watchdog(),
            boot_time: REBOOT,
        },
        ..Options::default()
    })
    .await?;
    story::install_manager(&cluster, profile.config()).await?;
    agents_run(&cluster, usize::from(workers) + 1).await?;
    story::quorate(&cluster).await?;
    Ok(cluster)
}

/// Measures; the rows of the table.
pub async fn measure(workers: u8, profile: Profile) -> anyhow::Result<Vec<Row>> {
    let cluster = start(workers, profile).await?;
    let rows = rows(&cluster, workers, profile).await;
    cluster.stop().await;
    rows
}

async fn rows(cluster: &Cluster, workers: u8, profile: Profile) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    if profile == Profile::Fresh {
        rows.extend(rest(cluster, workers).await?);
    }
    let lost = workers_without_manager(cluster, workers, 4).await?;
    let nodes: Vec<&str> = lost.iter().map(String::as_str).collect();
    let &[cut_off, dead, sick, rebooting] = nodes.as_slice() else {
        anyhow::bail!("four nodes");
    };
    pods(cluster, cut_off, PODS).await?;
    for node in [dead, sick, rebooting] {
        pods(cluster, node, 5).await?;
    }
    let mut happenings = cluster.happenings();
    let begin = Timestamp::now();
    cluster.machine(cut_off)?.cut(Cut::Everything).await?;
    cluster.machine(dead)?.power_off().await?;
    cluster.machine(rebooting)?.power_off().await?;
    for &node in &nodes {
        remediate(cluster, node, "ResourceDeletion").await?;
    }
    let returns = async {
        tokio::time::sleep(REBOOT).await;
        cluster.machine(rebooting)?.power_on().await?;
        anyhow::Ok(Timestamp::now())
    };
    let (courses, returned) =
        tokio::join!(follow(cluster, &nodes, Duration::from_secs(260)), returns);
    let (courses, returned) = (courses?, returned?);
    let (name, original, goal) = profile.figures();
    let [cut, died, ill, rebooted] = courses.as_slice() else {
        anyhow::bail!("four courses");
    };
    for (course, what) in [(cut, "cut off"), (died, "dead")] {
        let seconds = course
            .seconds()
            .with_context(|| format!("{what}: {course:?}"))?;
        rows.push(Row::new(
            format!("order to workload freed, node {what}, {workers} workers, {name}"),
            original,
            goal,
            format!("{seconds:.1} s (by {})", course.by),
        ));
    }
    if let (Some(quorum), Some(ordered)) = (cut.quorum, cut.ordered) {
        let seconds = quorum.duration_since(ordered).as_secs_f64();
        rows.push(Row::new(
            "of it until the quorum",
            "-",
            "-",
            format!("{:.2} s", seconds.max(0.0)),
        ));
    }
    let resets = std::iter::from_fn(|| happenings.try_recv().ok());
    let needless: Vec<String> = resets
        .filter(|one| matches!(one.what, What::Reset { .. }))
        .map(|one| one.node)
        .filter(|node| !lost.contains(node))
        .collect();
    rows.push(Row::new(
        "other nodes reset meanwhile",
        "-",
        "0",
        format!("{}", needless.len()),
    ));
    let seconds = ill.seconds().with_context(|| format!("sick: {ill:?}"))?;
    rows.push(Row::new(
        "sick node that still has API access (evidence E2)",
        "256-306 s",
        "15 s",
        format!("{seconds:.1} s (by {})", ill.by),
    ));
    rows.push(gracefully(cluster, rebooting, returned, rebooted)?);
    rows.push(freeing(cluster, cut_off, begin, cut)?);
    Ok(rows)
}

/// From the kubelet's first report of the new boot to the first graceful deletion.
fn gracefully(
    cluster: &Cluster,
    node: &str,
    returned: Timestamp,
    course: &super::Course,
) -> anyhow::Result<Row> {
    let deletes = requests(
        cluster,
        MANAGER,
        Some("delete"),
        Some("pods"),
        returned.checked_sub(Duration::from_secs(2))?,
        Timestamp::now(),
    )?;
    let first = deletes
        .iter()
        .filter(|request| request.name.starts_with(&format!("{node}-")))
        .map(|request| request.at)
        .min()
        .with_context(|| format!("no pod of {node} was deleted: {course:?}"))?;
    Ok(Row::new(
        "node that reboots and is back after 40 s (evidence E1): its kubelet's report to the graceful deletion",
        "256-306 s",
        "3 s",
        format!("{:.1} s", first.duration_since(returned).as_secs_f64()),
    ))
}

/// How long the deletion of 51 pods took once the time had passed.
fn freeing(
    cluster: &Cluster,
    node: &str,
    begin: Timestamp,
    course: &super::Course,
) -> anyhow::Result<Row> {
    let until = Timestamp::now();
    let deletes = requests(cluster, MANAGER, Some("delete"), Some("pods"), begin, until)?;
    let ours: Vec<Timestamp> = deletes
        .iter()
        .filter(|request| request.name.starts_with(&format!("{node}-")))
        .map(|request| request.at)
        .collect();
    let last = ours.iter().max().context("nothing was deleted")?;
    let due = course.due.context("no time")?;
    Ok(Row::new(
        format!("freeing {PODS} pods in {NAMESPACES} namespaces after the time has passed"),
        "1.4-1.6 s",
        "0.5 s",
        format!("{:.2} s", last.duration_since(due).as_secs_f64().max(0.0)),
    ))
}

/// Agents and manager when nothing happens.
async fn rest(cluster: &Cluster, workers: u8) -> anyhow::Result<Vec<Row>> {
    tokio::time::sleep(Duration::from_secs(20)).await;
    let known = [("54 MiB", "8 MiB"), ("15 MiB", "3 MiB")];
    let mut rows = at_rest(cluster, u16::from(workers), known).await?;
    let (_, managers) = processes(cluster);
    let manager = managers.first().and_then(super::Found::usage);
    rows.push(Row::new(
        format!("manager, {workers} nodes: RSS"),
        "51.8 MiB",
        "-",
        format!("{} MiB", mib(manager.context("no manager")?.rss)),
    ));
    Ok(rows)
}

/// So many pretended pods on a node, in seven namespaces.
async fn pods(cluster: &Cluster, node: &str, count: usize) -> anyhow::Result<()> {
    let namespaces: Vec<String> = (0..NAMESPACES)
        .map(|number| {
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: load-{number}}}\n")
        })
        .collect();
    cluster.apply_text(&namespaces.join("---\n")).await?;
    let pods: Vec<String> = (0..count)
        .map(|number| {
            let namespace = number % NAMESPACES;
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {node}-{number}, namespace: load-{namespace}}}\n\
                 spec:\n  nodeName: {node}\n  tolerations: [{{operator: Exists}}]\n  \
                 containers: [{{name: main, image: load}}]\n"
            )
        })
        .collect();
    cluster.apply_text(&pods.join("---\n")).await
}
