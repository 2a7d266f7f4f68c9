//! What every way of installing has to end in: operators that are up, a node that is remediated, and
//! nothing left when they are gone.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use medik8s_api::{NodeHealthCheck, SelfNodeRemediation, names::snr};
use serde_json::json;

use crate::{Cluster, kwok, wait};

/// Runs a program beside kubectl, as the administrator; returns what it said.
pub async fn run(cluster: &Cluster, program: &Path, args: &[&str]) -> anyhow::Result<String> {
    let done = tokio::process::Command::new(program)
        .args(args)
        .env("KUBECONFIG", cluster.kubeconfig()?)
        .env("HOME", cluster.folder())
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("run {}", program.display()))?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        bail!(
            "{} {}: {}\n{said}",
            program.display(),
            args.join(" "),
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(said)
}

/// Waits until every Deployment of a namespace has all its replicas ready.
pub async fn available(cluster: &Cluster, namespace: &str, count: usize) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.admin(), namespace);
    let logs = cluster.folder().join("logs/pods");
    let what = format!("the Deployments of {namespace} (logs: {})", logs.display());
    wait::until(&what, Duration::from_mins(1), async || {
        let found = deployments.list(&ListParams::default()).await?;
        let ready = found.iter().all(|deployment| {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            let status = deployment.status.as_ref();
            let current = deployment.metadata.generation
                == status.and_then(|status| status.observed_generation);
            current && wanted.is_some() && status.and_then(|status| status.ready_replicas) == wanted
        });
        Ok((ready && found.items.len() >= count).then_some(()))
    })
    .await
}

/// Pods of agents that are there, as `namespace/name`.
pub async fn agents(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let labels = [
        (snr::AGENT_NAME_LABEL, snr::AGENT_NAME_VALUE),
        (snr::AGENT_COMPONENT_LABEL, snr::AGENT_COMPONENT_VALUE),
    ]
    .map(|(key, value)| format!("{key}={value}"))
    .join(",");
    let pods: Api<Pod> = Api::all(cluster.admin());
    let found = pods.list(&ListParams::default().labels(&labels)).await?;
    let name = |pod: &Pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    Ok(found.iter().map(name).collect())
}

/// Waits until every node's agent has announced itself armed in this boot.
pub async fn armed(cluster: &Cluster) -> anyhow::Result<()> {
    armed_but(cluster, &[]).await
}

/// As [`armed`], without these nodes. A node in maintenance gets no new agent: its taint is not
/// tolerated, as in the original.
pub async fn armed_but(cluster: &Cluster, out: &[&str]) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(cluster.admin());
    wait::until(
        "all agents to be armed",
        Duration::from_mins(2),
        async || {
            for node in nodes.list(&ListParams::default()).await? {
                let name = node.name_any();
                if out.contains(&name.as_str()) {
                    continue;
                }
                let said = node
                    .annotations()
                    .get(snr::ANNOUNCED_ANNOTATION)
                    .with_context(|| format!("{name} has announced nothing"))?;
                let boot = cluster.machine(&name)?.boot_id();
                ensure!(
                    said.contains(&format!("boot={boot}")) && said.contains("armed=true"),
                    "{name}: {said}"
                );
            }
            Ok(Some(()))
        },
    )
    .await
}

/// Applies a NodeHealthCheck (its durations shortened), lets `node` fall silent, and waits until the
/// node was rebooted, is healthy, and nothing of the remediation is left. Returns how long it took.
///
/// The machine is sound and its agent reaches everybody: it reboots the node because it is ordered to.
pub async fn remediate(cluster: &Cluster, check: &str, node: &str) -> anyhow::Result<Duration> {
    let check = check.replace("300s", "2s");
    // The webhook may have been reached a moment ago and not be any more: endpoints settle.
    wait::until(
        "the health check to be admitted",
        Duration::from_secs(30),
        async || cluster.apply_text(&check).await.map(Some),
    )
    .await?;
    let begin = Instant::now();
    let boot = cluster.machine(node)?.boot_id();
    let nodes: Api<Node> = Api::all(cluster.admin());
    let dead = json!({"metadata": {"labels": {kwok::SIMULATED: kwok::DEAD}}});
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(dead))
        .await?;
    remediated(cluster, node, &boot).await?;
    let checks: Api<NodeHealthCheck> = Api::all(cluster.admin());
    for check in checks.list(&ListParams::default()).await? {
        wait::until(
            "the health check to be removed",
            Duration::from_secs(20),
            async || {
                checks
                    .delete(&check.name_any(), &kube::api::DeleteParams::default())
                    .await?;
                Ok(Some(()))
            },
        )
        .await?;
    }
    Ok(begin.elapsed())
}

/// Waits until a node that had this boot was remediated: rebooted, and nothing of it is left.
pub async fn remediated(cluster: &Cluster, node: &str, boot: &str) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(cluster.admin());
    let remediations: Api<SelfNodeRemediation> = Api::all(cluster.admin());
    wait::until("a remediation", Duration::from_mins(1), async || {
        let found = remediations.list(&ListParams::default()).await?;
        Ok((!found.items.is_empty()).then_some(()))
    })
    .await?;
    wait::until("the reboot", Duration::from_mins(1), async || {
        Ok((cluster.machine(node)?.boot_id() != boot).then_some(()))
    })
    .await?;
    wait::until(
        "the end of the remediation",
        Duration::from_secs(90),
        async || {
            let found = remediations.list(&ListParams::default()).await?;
            let home = nodes.get(node).await?;
            let taints = home.spec.and_then(|spec| spec.taints).unwrap_or_default();
            ensure!(
                taints.iter().all(|taint| !taint.key.contains("medik8s")),
                "{taints:?}"
            );
            Ok(found.items.is_empty().then_some(()))
        },
    )
    .await
}

/// The boot of every machine.
pub fn boots(cluster: &Cluster) -> Vec<String> {
    cluster
        .machines()
        .map(|machine| machine.boot_id())
        .collect()
}

/// Waits for longer than any watchdog that an agent has left armed when it was uninstalled.
pub async fn nobody_is_reset(cluster: &Cluster, before: &[String]) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_secs(30)).await;
    ensure!(boots(cluster) == before, "a node was reset by uninstalling");
    Ok(())
}

/// Everything of ours that is in the cluster, as `resource/name`, by what carries our name.
pub async fn ours(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for kinds in [
        "crd,clusterroles,clusterrolebindings,namespaces",
        "validatingwebhookconfigurations,mutatingwebhookconfigurations",
        "validatingadmissionpolicies,validatingadmissionpolicybindings",
    ] {
        found.push(cluster.kubectl(&["get", kinds, "-o", "name"]).await?);
    }
    for kinds in [
        "deployments,daemonsets,pods,services,serviceaccounts,secrets,roles,rolebindings",
        "configmaps,networkpolicies",
    ] {
        let namespaced = cluster
            .kubectl(&[
                "get",
                kinds,
                "-A",
                "-o",
                "jsonpath={range .items[*]}{.metadata.namespace}/{.kind}/{.metadata.name}{\"\\n\"}{end}",
            ])
            .await?;
        found.push(namespaced);
    }
    let words = [
        "medik8s",
        "node-healthcheck",
        "self-node-remediation",
        "node-maintenance",
    ];
    Ok(found
        .concat()
        .lines()
        .filter(|line| words.iter().any(|word| line.contains(word)))
        .map(str::to_owned)
        .collect())
}
