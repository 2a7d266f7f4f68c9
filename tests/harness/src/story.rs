//! The main story: a node is lost and fenced, its workload comes back elsewhere, a control plane outage
//! fences nobody, a node is drained and given back.
//!
//! # Purpose
//! One scenario, told by `medik8s-demo` and checked by `tests/story.rs`: the same code, the same
//! asserts. Every step that does not come, or comes in the wrong order, ends it with an error that says
//! which one.
//!
//! # Guarantees
//! Nothing of the product is shortened for it: the operators run from the shipped manifests, the agents
//! from the DaemonSet that the manager renders, with the fast profile of `manifests/config.yaml`.

mod chaos;
mod failover;
mod install;
mod maintenance;
mod observe;
mod outage;
mod report;
mod tamper;

use std::time::Duration;

use crate::{Cluster, Options, audit, images::Programs, machine::NodeSpec};

pub use report::{Narrator, Phases};

/// How the story is told.
#[derive(Debug, Clone, Default)]
pub struct Telling {
    /// Give the manager a safe time that is too short: the story must end in a failure.
    pub broken: bool,
    /// `kill -9` each manager at a random moment.
    pub chaos: bool,
    /// Only these parts, after the installation; all when empty.
    pub only: Vec<Chapter>,
}

/// A part of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Chapter {
    /// A node is drained and given back.
    Maintenance,
    /// A node is lost and fenced.
    Failover,
    /// The API server is away for everybody.
    Outage,
}

/// Workers of the story's cluster.
const WORKERS: u8 = 5;
/// Control-plane nodes of the story's cluster.
const CONTROL_PLANE: u8 = 3;
/// Members of a peer table must be this old before its node's quorum counts them.
const MEMBER_AGE: Duration = Duration::from_mins(1);

/// The cluster that the story needs.
pub async fn cluster(folder: Option<std::path::PathBuf>) -> anyhow::Result<Cluster> {
    let nodes = (1..=CONTROL_PLANE)
        .map(|number| NodeSpec::control_plane(format!("control-plane-{number}")))
        .chain((1..=WORKERS).map(|number| NodeSpec::worker(format!("worker-{number}"))))
        .collect();
    Cluster::start(Options {
        nodes,
        programs: Some(Programs::find()?),
        folder,
        ..Options::default()
    })
    .await
}

/// Installs self node remediation alone on a cluster of as many workers as the story's, with the fast profile; returns
/// when every node can be remediated.
pub async fn install_remediation(cluster: &Cluster) -> anyhow::Result<()> {
    install::install_remediation(cluster).await
}

/// Installs self node remediation alone. `spec`: of the Config; the manager makes that of a fresh install without.
pub async fn install_manager(cluster: &Cluster, spec: Option<&str>) -> anyhow::Result<()> {
    let config = spec.map(|spec| {
        format!(
            "apiVersion: self-node-remediation.medik8s.io/v1alpha1\nkind: SelfNodeRemediationConfig\n\
             metadata: {{name: self-node-remediation-config, namespace: self-node-remediation}}\nspec: {spec}\n"
        )
    });
    install::install_manager(cluster, config.as_deref()).await
}

/// Waits until every node's agent is armed, and its table old enough for a quorum.
pub async fn quorate(cluster: &Cluster) -> anyhow::Result<()> {
    install::quorate(cluster).await
}

/// Tells the story on a fresh cluster; the durations of its phases.
pub async fn tell(
    cluster: &Cluster,
    telling: &Telling,
    narrator: &Narrator,
) -> anyhow::Result<Phases> {
    let mut phases = Phases::default();
    narrator.chapter("A Kubernetes control plane with simulated nodes and real operators");
    let installed = install::install(cluster, telling, narrator).await?;
    phases.add("cluster started", cluster.started_in());
    phases.add("operators installed and all agents armed", installed);
    let chaos = telling
        .chaos
        .then(|| chaos::Chaos::start(cluster, narrator));

    let told = |chapter| telling.only.is_empty() || telling.only.contains(&chapter);
    if told(Chapter::Maintenance) {
        narrator.chapter("Maintenance: a node with 20 pods is drained and given back");
        maintenance::maintain(cluster, narrator, &mut phases).await?;
    }
    if told(Chapter::Failover) {
        narrator.chapter("Failover: the node that runs the ledger is cut off from everything");
        failover::fail_over(cluster, telling, narrator, &mut phases).await?;
    }
    if told(Chapter::Outage) {
        narrator.chapter("Outage: the API server is cut away from all nodes");
        outage::lose_the_api(cluster, narrator, &mut phases).await?;
    }
    if let Some(chaos) = chaos {
        chaos.finish(narrator).await?;
    }
    audit::nothing_was_forbidden(&cluster.audit_log(), &install::OPERATORS)?;
    Ok(phases)
}
