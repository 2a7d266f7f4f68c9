//! `kubectl apply -k config/default`, twice, a remediated node, and `kubectl delete`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use medik8s_harness::{Cluster, installation, tools, wait};

use crate::{access, metrics};

const NAMESPACES: [&str; 3] = [
    "self-node-remediation",
    "node-healthcheck-operator-system",
    "node-maintenance-operator-system",
];

pub(crate) async fn test(cluster: &Cluster) -> anyhow::Result<()> {
    let (begin, since) = (Instant::now(), Timestamp::now());
    let root = tools::repository();
    let folder = root.join("config/default").display().to_string();
    let flat = root.join("deploy/medik8s.yaml").display().to_string();
    // The CRDs are there when the next object is sent, but not yet served: the client asks again.
    let apply = async |what: &[&str]| {
        wait::until("kubectl apply", Duration::from_secs(30), async || {
            cluster.kubectl(what).await.map(Some)
        })
        .await
    };
    apply(&["apply", "-k", &folder]).await?;
    for namespace in NAMESPACES {
        installation::available(cluster, namespace, 1).await?;
    }
    // Both forms are the same objects, and applying again changes nothing.
    for again in [["apply", "-k", &folder], ["apply", "-f", &flat]] {
        let said = cluster.kubectl(&again).await?;
        let changed: Vec<&str> = said
            .lines()
            .filter(|line| !line.ends_with(" unchanged"))
            .collect();
        ensure!(changed.is_empty(), "{again:?} changed {changed:?}");
    }
    for file in ["agent-admission-policy.yaml", "network-policies.yaml"] {
        let file = root.join("deploy").join(file).display().to_string();
        apply(&["apply", "-f", &file]).await?;
    }
    println!("kubectl: installed in {:.0?}", begin.elapsed());
    let samples = root.join("config/samples").display().to_string();
    cluster
        .kubectl(&[
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            &samples,
        ])
        .await
        .or_else(|error| only_unknown_kinds(&error))?;
    installation::armed(cluster).await?;
    let sample = std::fs::read_to_string(root.join("config/samples/nodehealthcheck.yaml"))?;
    cluster.apply_text(&sample).await?;
    maintain(cluster).await?;
    access::agents_write_to_their_own_node_only(cluster).await?;
    let took = installation::remediate(cluster, &sample, "worker-1").await?;
    println!("kubectl: a node was remediated in {took:.0?}");
    // Series of health checks are there only while one is.
    cluster.apply_text(&sample).await?;
    not_while_something_is_open(cluster).await?;
    cluster
        .kubectl(&["delete", "nhc", "--all", "--timeout=30s"])
        .await?;
    access::every_request_was_allowed(cluster, since)?;
    let files = [
        "deploy/agent-admission-policy.yaml",
        "deploy/network-policies.yaml",
        "deploy/medik8s.yaml",
    ];
    let before = installation::boots(cluster);
    agents_go_first(cluster).await?;
    delete_all(cluster, &files).await?;
    nothing_is_left(cluster).await?;
    installation::nobody_is_reset(cluster, &before).await?;
    println!("kubectl: uninstalled, nothing is left");
    Ok(())
}

/// The sample of a maintenance, until it has succeeded; and back.
async fn maintain(cluster: &Cluster) -> anyhow::Result<()> {
    let file = tools::repository().join("config/samples/nodemaintenance.yaml");
    let file = file.display().to_string();
    cluster.kubectl(&["apply", "-f", &file]).await?;
    cluster
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Succeeded",
            "--timeout=60s",
            "-f",
            &file,
        ])
        .await?;
    cluster
        .kubectl(&["delete", "--timeout=30s", "-f", &file])
        .await?;
    Ok(())
}

/// With a remediation open the deletion of its operator is refused, and waits.
async fn not_while_something_is_open(cluster: &Cluster) -> anyhow::Result<()> {
    let remediation = "apiVersion: self-node-remediation.medik8s.io/v1alpha1\n\
                       kind: SelfNodeRemediation\n\
                       metadata: {name: worker-3, namespace: self-node-remediation}\n";
    let boot = cluster.machine("worker-3")?.boot_id();
    cluster.apply_text(remediation).await?;
    let configuration = [
        "get",
        "validatingwebhookconfiguration",
        "self-node-remediation-validating-webhook-configuration",
        "-o",
        "jsonpath={.metadata.finalizers}{.metadata.deletionTimestamp}",
    ];
    wait::until("the guard", Duration::from_secs(30), async || {
        let said = cluster.kubectl(&configuration).await?;
        Ok(said.contains("open-remediation").then_some(()))
    })
    .await?;
    // Some series are there only while a remediation is.
    metrics::all_queries_have_series(cluster).await?;
    let file = tools::repository().join("deploy/self-node-remediation.yaml");
    let file = file.display().to_string();
    let refused = cluster
        .kubectl(&["delete", "--wait=false", "-f", &file])
        .await;
    let refused = format!(
        "{:#}",
        refused.err().context("deleted with a remediation open")?
    );
    for kind in [
        "Namespace",
        "CustomResourceDefinition",
        "Deployment",
        "ServiceAccount",
        "ClusterRole",
    ] {
        ensure!(
            refused.contains(&format!("{kind} "))
                && refused.contains("needed by SelfNodeRemediation self-node-remediation/worker-3"),
            "{kind} is not refused: {refused}"
        );
    }
    let said = cluster.kubectl(&configuration).await?;
    ensure!(
        said.contains('T'),
        "the webhook configuration does not wait: {said:?}"
    );
    installation::available(cluster, "self-node-remediation", 1).await?;
    installation::armed(cluster).await?;
    cluster
        .kubectl(&[
            "delete",
            "snr",
            "worker-3",
            "-n",
            "self-node-remediation",
            "--timeout=120s",
        ])
        .await?;
    // Its agent has obeyed: that reset is not of the uninstallation.
    wait::until("worker-3 to reboot", Duration::from_mins(1), async || {
        let is_back = cluster.machine("worker-3")?.boot_id() != boot;
        Ok(is_back.then_some(()))
    })
    .await?;
    installation::armed(cluster).await?;
    println!("kubectl: uninstalling was refused while a remediation was open");
    Ok(())
}

/// What agents need is not deleted while they run; they are asked to go, and then it is.
pub(crate) async fn agents_go_first(cluster: &Cluster) -> anyhow::Result<()> {
    let agents = installation::agents(cluster).await?;
    let one = agents.first().context("no agents")?;
    let (namespace, _) = one.split_once('/').context("no namespace")?;
    let account = "serviceaccount/self-node-remediation-agent";
    let refused = cluster.kubectl(&["delete", "-n", namespace, account]).await;
    let refused = format!("{:#}", refused.err().context("deleted while agents run")?);
    ensure!(
        refused.contains("delete selfnoderemediationconfigs --all -A"),
        "{refused}"
    );
    cluster
        .kubectl(&["delete", "selfnoderemediationconfigs", "--all", "-A"])
        .await?;
    wait::until("the agents to go", Duration::from_mins(1), async || {
        let agents = installation::agents(cluster).await?;
        Ok(agents.is_empty().then_some(()))
    })
    .await
}

/// Samples of kinds whose operators are not part of this installation.
fn only_unknown_kinds(error: &anyhow::Error) -> anyhow::Result<String> {
    let text = format!("{error:#}");
    let others = text
        .lines()
        .filter(|line| !line.contains("no matches for kind") && !line.contains("ensure CRDs"))
        .filter(|line| line.to_lowercase().contains("error"))
        .filter(|line| !line.starts_with("kubectl "))
        .count();
    ensure!(others == 0, "{text}");
    Ok(text)
}

pub(crate) async fn delete_all(cluster: &Cluster, files: &[&str]) -> anyhow::Result<()> {
    for file in files {
        let file = tools::repository().join(file).display().to_string();
        cluster
            .kubectl(&["delete", "--ignore-not-found", "--timeout=60s", "-f", &file])
            .await?;
    }
    Ok(())
}

pub(crate) async fn nothing_is_left(cluster: &Cluster) -> anyhow::Result<()> {
    wait::until("nothing to be left", Duration::from_secs(30), async || {
        let mut left = installation::ours(cluster).await?;
        // Other operators of the family use it too.
        left.retain(|name| !name.contains("medik8s-leases"));
        ensure!(left.is_empty(), "left: {left:#?}");
        Ok(Some(()))
    })
    .await
}
