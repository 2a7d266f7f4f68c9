//! What `make bench-snr` measures with: processes, requests, and the life of a remediation.

pub mod large;
pub mod storm;
pub mod times;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::snr;

use crate::{Cluster, audit, wait};

/// Account of the agents and of the manager.
pub const AGENT: &str = "system:serviceaccount:self-node-remediation:self-node-remediation-agent";
/// Account of the manager.
pub const MANAGER: &str =
    "system:serviceaccount:self-node-remediation:self-node-remediation-controller-manager";
/// The operator's namespace.
pub const NAMESPACE: &str = "self-node-remediation";

/// One figure, as it goes into the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The original's figure.
    pub original: &'static str,
    /// The goal.
    pub goal: &'static str,
    /// Ours.
    pub ours: String,
}

impl Row {
    /// A figure.
    pub fn new(
        what: impl Into<String>,
        original: &'static str,
        goal: &'static str,
        ours: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            original,
            goal,
            ours: ours.into(),
        }
    }
}

/// A process of the cluster.
#[derive(Debug, Clone)]
pub struct Found {
    pid: u32,
    /// The node, if it is an agent.
    pub node: Option<String>,
}

/// Memory and CPU of a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// In KiB.
    pub rss: u64,
    /// In KiB; pages shared with other processes of this machine count in part.
    pub pss: u64,
    /// In KiB.
    pub anonymous: u64,
    /// The largest resident size so far, in KiB.
    pub peak: u64,
    /// CPU time so far.
    pub cpu: Duration,
}

impl Found {
    /// What it uses now; `None` once it has ended.
    pub fn usage(&self) -> Option<Usage> {
        let folder = PathBuf::from(format!("/proc/{}", self.pid));
        let rollup = fs::read_to_string(folder.join("smaps_rollup")).ok()?;
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let mut cpu = Duration::ZERO;
        for task in fs::read_dir(folder.join("task")).ok()?.flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanos = text
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok());
            cpu += Duration::from_nanos(nanos.unwrap_or(0));
        }
        Some(Usage {
            rss: kib(&rollup, "Rss:"),
            pss: kib(&rollup, "Pss:"),
            anonymous: kib(&rollup, "Anonymous:"),
            peak: kib(&status, "VmHWM:"),
            cpu,
        })
    }
}

fn kib(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

/// The agents and managers of a cluster, by what is on their command lines.
pub fn processes(cluster: &Cluster) -> (Vec<Found>, Vec<Found>) {
    let folder = cluster.folder().display().to_string();
    let (mut agents, mut managers) = (Vec::new(), Vec::new());
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> = line
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        if !words.iter().any(|word| word.contains(&folder)) || !is_ours(&program) {
            continue;
        }
        let host = words
            .iter()
            .find_map(|word| word.strip_prefix("--host-root="));
        match host.map(Path::new).and_then(Path::file_name) {
            Some(node) => agents.push(Found {
                pid,
                node: Some(node.to_string_lossy().into_owned()),
            }),
            None => managers.push(Found { pid, node: None }),
        }
    }
    (agents, managers)
}

fn is_ours(program: &Path) -> bool {
    let name = program.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name == "manager" || name.starts_with("self-node-remediation"))
}

/// A number of requests of a user.
pub fn requests(
    cluster: &Cluster,
    user: &str,
    verb: Option<&str>,
    resource: Option<&str>,
    from: Timestamp,
    until: Timestamp,
) -> anyhow::Result<Vec<audit::Request>> {
    let filter = audit::Filter {
        user: Some(user),
        verb,
        resource,
        from,
        until,
    };
    let all = audit::read(&cluster.audit_log())?;
    Ok(all
        .into_iter()
        .filter(|request| filter.matches(request))
        .collect())
}

/// Creates a remediation.
pub async fn remediate(cluster: &Cluster, node: &str, strategy: &str) -> anyhow::Result<()> {
    cluster
        .apply_text(&format!(
            "apiVersion: self-node-remediation.medik8s.io/v1alpha1\nkind: SelfNodeRemediation\n\
             metadata: {{name: {node}, namespace: {NAMESPACE}}}\n\
             spec: {{remediationStrategy: {strategy}}}\n"
        ))
        .await
}

/// When a remediation went through its phases, looked at every 50 ms.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// The order was in place.
    pub ordered: Option<Timestamp>,
    /// The bound had passed, by what is recorded.
    pub due: Option<Timestamp>,
    /// The quorum was complete.
    pub quorum: Option<Timestamp>,
    /// Nothing of the workload was left.
    pub freed: Option<Timestamp>,
    /// On what evidence.
    pub by: String,
}

impl Course {
    /// From the order until the workload was freed.
    pub fn seconds(&self) -> Option<f64> {
        let (ordered, freed) = (self.ordered?, self.freed?);
        Some(freed.duration_since(ordered).as_secs_f64())
    }
}

/// Follows remediations to their end.
pub async fn follow(
    cluster: &Cluster,
    nodes: &[&str],
    limit: Duration,
) -> anyhow::Result<Vec<Course>> {
    let api = Api::<SelfNodeRemediation>::namespaced(cluster.admin(), NAMESPACE);
    let mut courses = vec![Course::default(); nodes.len()];
    let end = Timestamp::now().checked_add(limit)?;
    while Timestamp::now() < end && courses.iter().any(|course| course.freed.is_none()) {
        for (course, node) in courses.iter_mut().zip(nodes) {
            if course.freed.is_some() {
                continue;
            }
            let Some(remediation) = api.get_opt(node).await? else {
                continue;
            };
            let now = Timestamp::now();
            let status = remediation.status.unwrap_or_default();
            let annotations = remediation.metadata.annotations.unwrap_or_default();
            let times = annotations.get("self-node-remediation.medik8s.io/order-times");
            let field = |name: &str| {
                let words = times.map(|times| times.split(' ')).into_iter().flatten();
                words
                    .filter_map(|word| word.split_once('='))
                    .find_map(|(key, value)| (key == name).then(|| value.to_owned()))
            };
            // What the manager recorded when it knew that the order was in place.
            let seen = field("seen").and_then(|text| text.parse().ok());
            course.ordered = course.ordered.or(seen);
            course.quorum = field("quorum").and_then(|text| text.parse().ok());
            course.by = field("by").unwrap_or_default();
            course.due = status
                .time_assumed_rebooted
                .map(|time| time.0)
                .max(field("released").and_then(|text| text.parse().ok()));
            if status.phase.as_deref() == Some("Fencing-Completed") {
                course.freed = Some(now);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(courses)
}

/// Waits until so many agent pods run.
pub async fn agents_run(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    let pods = Api::<Pod>::namespaced(cluster.admin(), NAMESPACE);
    let agents = ListParams::default().labels(snr::AGENT_SELECTOR);
    wait::until("the agents to run", Duration::from_mins(3), async || {
        let running = pods.list(&agents).await?;
        let ready = running
            .iter()
            .filter(|pod| {
                pod.status
                    .as_ref()
                    .is_some_and(|status| status.phase.as_deref() == Some("Running"))
            })
            .count();
        Ok((ready >= count).then_some(()))
    })
    .await
}

/// So many workers on which no manager runs: who is lost with its managers waits until others run elsewhere.
pub async fn workers_without_manager(
    cluster: &Cluster,
    workers: u8,
    count: usize,
) -> anyhow::Result<Vec<String>> {
    let pods = Api::<Pod>::namespaced(cluster.admin(), NAMESPACE);
    let managers = ListParams::default().labels("control-plane=controller-manager");
    let managers = pods.list(&managers).await?;
    let busy: Vec<&str> = managers
        .iter()
        .filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref())
        .collect();
    ensure!(!busy.is_empty(), "no manager runs");
    let free: Vec<String> = (1..=workers)
        .map(|number| format!("worker-{number}"))
        .filter(|node| !busy.contains(&node.as_str()))
        .take(count)
        .collect();
    ensure!(free.len() == count, "too few workers: {free:?}");
    Ok(free)
}

/// The original's figure and the goal, for memory and for the anonymous part of it.
pub type Known = [(&'static str, &'static str); 2];

/// All agents over a minute without events. Memory is that of the median agent at the end, and of the largest; CPU and
/// requests are the mean.
pub async fn at_rest(cluster: &Cluster, nodes: u16, known: Known) -> anyhow::Result<Vec<Row>> {
    let (agents, _) = processes(cluster);
    let usages = || -> anyhow::Result<Vec<Usage>> {
        let all = agents.iter().map(Found::usage);
        all.collect::<Option<_>>().context("an agent has ended")
    };
    let (before, from) = (usages()?, Timestamp::now());
    tokio::time::sleep(Duration::from_mins(1)).await;
    let (mut after, until) = (usages()?, Timestamp::now());
    let cpu = |usages: &[Usage]| -> Duration { usages.iter().map(|usage| usage.cpu).sum() };
    let cpu = cpu(&after).saturating_sub(cpu(&before)).as_secs_f64();
    let requests = requests(cluster, AGENT, None, None, from, until)?.len();
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let (count, requests) = (agents.len() as f64, requests as f64);
    let mut memory = |what: String, (original, goal), value: fn(&Usage) -> u64| {
        after.sort_by_key(value);
        let middle = after.get(after.len() / 2).context("no agents")?;
        let largest = after.last().map_or(0, value);
        let ours = format!("{} MiB (largest {})", mib(value(middle)), mib(largest));
        anyhow::Ok(Row::new(what, original, goal, ours))
    };
    let [resident, anonymous] = known;
    let what = format!("agent idle, {nodes} nodes: RSS (PSS on a node of its own)");
    Ok(vec![
        memory(what, resident, |usage| usage.rss)?,
        memory("of it anonymous".to_owned(), anonymous, |usage| {
            usage.anonymous
        })?,
        memory("the most it ever was".to_owned(), ("", ""), |usage| {
            usage.peak
        })?,
        Row::new(
            "agent CPU s per minute",
            "0.014",
            "0.014",
            format!("{:.3}", cpu / count),
        ),
        Row::new(
            "agent API requests per minute",
            "4.0",
            "4.5",
            format!("{:.1}", requests / count),
        ),
    ])
}

/// MiB with one digit.
pub fn mib(kib: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "sizes of processes")]
    let mib = kib as f64 / 1024.0;
    format!("{mib:.1}")
}
