//! Installing as a user would: CRDs, the Config, the shipped manifests, the NodeHealthCheck.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::{Api, ResourceExt, api::ListParams};
use medik8s_api::names::snr;
use self_node_remediation_core::announcement::Announcement;

use super::{MEMBER_AGE, Narrator, Telling, WORKERS};
use crate::{Cluster, manifests, wait};

const CONFIG: &str = include_str!("../../manifests/config.yaml");
const HEALTH_CHECK: &str = include_str!("../../manifests/health-check.yaml");
const WRITER: &str = include_str!("../../manifests/writer.yaml");

/// Namespaces of the operators.
pub(super) const OPERATORS: [&str; 3] = [
    "node-healthcheck-operator-system",
    "node-maintenance-operator-system",
    "self-node-remediation",
];

/// Returns how long it took until every agent was armed.
pub(super) async fn install(
    cluster: &Cluster,
    telling: &Telling,
    narrator: &Narrator,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    narrator.event(&format!(
        "Kubernetes {} with {} nodes is up",
        cluster.tools().version(),
        cluster.machines().count()
    ));
    cluster
        .apply_text(&manifests::definitions()?)
        .await
        .context("apply the CRDs")?;
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "crd",
            "--all",
        ])
        .await?;
    cluster
        .apply_text(&config(telling))
        .await
        .context("apply the Config")?;
    narrator.say("$ kubectl apply --server-side -f deploy/medik8s.yaml");
    cluster
        .apply_text(&manifests::all()?)
        .await
        .context("apply deploy/medik8s.yaml")?;
    for namespace in OPERATORS {
        available(cluster, namespace).await?;
        narrator.event(&format!("{namespace}: available"));
    }
    // The webhook of each operator is reached through its Service.
    wait::until(
        "the NodeHealthCheck to be admitted",
        Duration::from_secs(30),
        async || cluster.apply_text(HEALTH_CHECK).await.map(Some),
    )
    .await?;
    cluster.apply_text(WRITER).await?;
    home_of_the_ledger(cluster).await?;
    armed(cluster, Duration::ZERO).await?;
    narrator.event("one agent per node is running, each has armed the watchdog of its node");
    Ok(begin.elapsed())
}

/// Self node remediation alone; without a Config the manager makes that of a fresh install.
pub(super) async fn install_manager(cluster: &Cluster, config: Option<&str>) -> anyhow::Result<()> {
    cluster.apply_text(&manifests::definitions()?).await?;
    let wait = [
        "wait",
        "--for=condition=Established",
        "--timeout=30s",
        "crd",
        "--all",
    ];
    cluster.kubectl(&wait).await?;
    if let Some(config) = config {
        cluster.apply_text(config).await?;
    }
    let manifest = crate::tools::repository().join("deploy/self-node-remediation.yaml");
    cluster.apply(&manifest).await?;
    available(cluster, "self-node-remediation").await
}

/// As [`install_manager`], with the fast profile; returns when every agent is armed and old enough to be counted.
pub(super) async fn install_remediation(cluster: &Cluster) -> anyhow::Result<()> {
    install_manager(cluster, Some(CONFIG)).await?;
    quorate(cluster).await
}

/// In the control run the agents are far more patient than the manager will be made to believe.
fn config(telling: &Telling) -> String {
    if telling.broken {
        CONFIG.replace("maxApiErrorThreshold: 3", "maxApiErrorThreshold: 20")
    } else {
        CONFIG.to_owned()
    }
}

async fn available(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.admin(), namespace);
    let what = format!(
        "the Deployment of {namespace} (logs: {})",
        cluster.folder().join("logs/pods").display()
    );
    wait::until(&what, Duration::from_mins(1), async || {
        let deployments = deployments.list(&ListParams::default()).await?;
        let ready = deployments.iter().all(|deployment| {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            let status = deployment.status.as_ref();
            wanted.is_some() && status.and_then(|status| status.ready_replicas) == wanted
        });
        Ok((ready && deployments.iter().next().is_some()).then_some(()))
    })
    .await
}

/// Waits until every node's agent has announced that it is armed, with a table whose members were all
/// `age` old when it was made.
pub(super) async fn armed(cluster: &Cluster, age: Duration) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(cluster.admin());
    let others = u32::from(WORKERS) - 1;
    wait::until(
        "all agents to be armed",
        // The table of a node with young neighbours is read again after two minutes.
        Duration::from_mins(4),
        async || {
            let nodes = nodes.list(&ListParams::default()).await?;
            let youngest = nodes
                .iter()
                .filter_map(ResourceExt::creation_timestamp)
                .map(|at| at.0)
                .max();
            let due = youngest.context("no nodes")?.checked_add(age)?;
            for node in &nodes {
                let name = node.name_any();
                let said = node
                    .annotations()
                    .get(snr::ANNOUNCED_ANNOTATION)
                    .with_context(|| format!("{name} has announced nothing"))?;
                let said: Announcement = said.parse().with_context(|| format!("{name}: {said}"))?;
                let boot = cluster.machine(&name)?.boot_id();
                ensure!(
                    said.boot.as_str() == boot,
                    "{name} has announced nothing in this boot"
                );
                ensure!(said.armed, "{name} is not armed");
                ensure!(said.bound.is_some(), "{name} has no bound");
                ensure!(
                    said.workers >= others,
                    "{name} knows only {} workers",
                    said.workers
                );
                ensure!(said.stamp >= due, "the table of {name} is too young");
            }
            Ok(Some(()))
        },
    )
    .await
}

/// As [`armed`], with every member old enough to count for a quorum.
pub(super) async fn quorate(cluster: &Cluster) -> anyhow::Result<()> {
    armed(cluster, MEMBER_AGE).await
}

/// Node and UID of the ledger's pod.
pub(super) async fn home_of_the_ledger(cluster: &Cluster) -> anyhow::Result<(String, String)> {
    let pods: Api<Pod> = Api::namespaced(cluster.admin(), "ledger");
    wait::until("the ledger to run", Duration::from_secs(20), async || {
        let pod = pods.get("ledger-0").await?;
        let running = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            == Some("Running");
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        Ok(node.zip(pod.uid()).filter(|_| running))
    })
    .await
}
