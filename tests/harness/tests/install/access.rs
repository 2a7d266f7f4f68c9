//! What the accounts may do: enough, not more, and agents only to their own Node.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use medik8s_api::names::snr;
use medik8s_harness::{Cluster, audit};
use serde_json::{Value, json};

/// An agent's own token: its announcement is taken, everything else is refused by the policy.
pub(crate) async fn agents_write_to_their_own_node_only(cluster: &Cluster) -> anyhow::Result<()> {
    let (client, own) = as_an_agent(cluster).await?;
    let nodes: Api<Node> = Api::all(client);
    let annotate = |key: &str| json!({"metadata": {"annotations": {key: "x"}}});
    let other = cluster
        .machines()
        .map(|machine| machine.name().to_owned())
        .find(|name| *name != own)
        .context("there is one node only")?;
    let patch = async |node: &str, patch: Value| {
        nodes
            .patch(node, &PatchParams::default(), &Patch::Merge(patch))
            .await
    };
    patch(&own, annotate(snr::WATCHDOG_TIMEOUT_ANNOTATION)).await?;
    for (node, change, why) in [
        (
            &other,
            annotate(snr::ANNOUNCED_ANNOTATION),
            "may not write to node",
        ),
        (&own, annotate("somebody/elses"), "its own annotations only"),
        (
            &own,
            json!({"metadata": {"labels": {"a": "b"}}}),
            "nothing of its Node but",
        ),
        (
            &own,
            json!({"spec": {"unschedulable": true}}),
            "nothing of its Node but",
        ),
    ] {
        let refused = patch(node, change.clone())
            .await
            .err()
            .with_context(|| format!("{change} was taken by {node}"))?;
        ensure!(refused.to_string().contains(why), "{change}: {refused}");
    }
    Ok(())
}

/// A client with the token of the agent on worker-2, and that node.
async fn as_an_agent(cluster: &Cluster) -> anyhow::Result<(Client, String)> {
    let pods: Api<Pod> = Api::all(cluster.admin());
    let agents = pods
        .list(&ListParams::default().labels(snr::AGENT_SELECTOR))
        .await?;
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let pod = agents
        .iter()
        .find(|pod| node(pod).as_deref() == Some("worker-2"))
        .context("worker-2 has no agent")?;
    let uid = pod.metadata.uid.clone().context("no UID")?;
    let file = cluster.folder().join("pods").join(uid).join("kubeconfig");
    let kubeconfig: Kubeconfig = serde_json::from_slice(&fs::read(file)?)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok((Client::try_from(config)?, "worker-2".to_owned()))
}

/// No operator and no agent was refused anything for want of a right since it was installed: those of an
/// earlier installation end without their rights.
pub(crate) fn every_request_was_allowed(cluster: &Cluster, since: Timestamp) -> anyhow::Result<()> {
    let refused: BTreeSet<String> = audit::read(&cluster.audit_log())?
        .into_iter()
        .filter(|request| request.at >= since)
        .filter(|request| request.code == 403 && request.user.starts_with("system:serviceaccount:"))
        // The test itself tries what the policy forbids.
        .filter(|request| request.resource != "nodes" || !request.user.ends_with("-agent"))
        .filter(|request| {
            ["remediation", "node-healthcheck", "node-maintenance"]
                .iter()
                .any(|word| request.user.contains(word))
        })
        .map(|request| format!("{}: {} {} {}", request.user, request.verb, request.resource, request.name))
        .collect();
    ensure!(refused.is_empty(), "refused: {refused:#?}");
    Ok(())
}
