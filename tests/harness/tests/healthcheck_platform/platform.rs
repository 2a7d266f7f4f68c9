//! Upgrades and etcd.

use std::time::Duration;

use anyhow::ensure;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use medik8s_harness::{
    healthcheck::{Lab, REMEDIATIONS, kinds, names, single},
    wait,
};
use serde_json::json;

use crate::{SOON, progressing};

pub(crate) async fn upgrade(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("upgrade", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let reboot = kinds::reference(&kind, REMEDIATIONS, "reboot");
    lab.put_check(name, single(name, json!(0), reboot)).await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    progressing(lab, true).await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.says(
        name,
        "not remediating upgrade-1: the cluster is being upgraded",
        SOON,
    )
    .await?;
    lab.told_once(
        name,
        "RemediationSkipped",
        "ClusterVersion version is progressing",
    )
    .await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    progressing(lab, false).await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    // A hosted cluster knows only what its nodes say.
    lab.heal_nodes(&nodes[..1]).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    let config = |desired: &str| {
        json!({"metadata": {"annotations": {
            "machineconfiguration.openshift.io/currentConfig": "one",
            "machineconfiguration.openshift.io/desiredConfig": desired}}})
    };
    lab.patch_nodes(&nodes[1..2], &config("two")).await?;
    lab.break_nodes(&nodes[1..2], "Unknown", false).await?;
    lab.says(
        name,
        "node upgrade-2 is getting a new machine configuration",
        SOON,
    )
    .await?;
    lab.patch_nodes(&nodes[1..2], &config("one")).await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    lab.heal_nodes(&nodes[1..2]).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    Ok(())
}

/// The budget's numbers are the real disruption controller's.
pub(crate) async fn etcd(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("etcd", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "control-plane").await?;
    let mut documents = vec![
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "etcd-guard-pdb", "namespace": "openshift-etcd"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "guard"}}}}),
    ];
    documents.extend(nodes.iter().map(|node| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("guard-{node}"), "namespace": "openshift-etcd",
                "labels": {"app": "guard"}},
            "spec": {"nodeName": node, "containers": [{"name": "guard", "image": "guard"}]}})
    }));
    lab.cluster.apply_text(&kinds::manifest(&documents)).await?;
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(lab.cluster.admin(), "openshift-etcd");
    let allowed = async |wanted: i32| {
        let what = format!("{wanted} disruptions allowed of three healthy members");
        wait::until(&what, Duration::from_secs(30), async || {
            let status = budgets.get("etcd-guard-pdb").await?.status;
            let fits = status.is_some_and(|status| {
                status.current_healthy == 3 && status.disruptions_allowed == wanted
            });
            Ok(fits.then_some(()))
        })
        .await
    };
    allowed(0).await?;
    let reboot = kinds::reference(&kind, REMEDIATIONS, "reboot");
    let mut spec = single(name, json!(0), reboot);
    // A node whose etcd member is alive: it is picked for another condition.
    spec["unhealthyConditions"] = json!([{"type": "Frozen", "status": "True", "duration": "1s"}]);
    lab.put_check(name, spec).await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    lab.set_condition(&nodes[..1], "Frozen", "True").await?;
    lab.says(
        name,
        "the control plane cannot spare it: etcd guard: LiveMember",
        SOON,
    )
    .await?;
    lab.told_once(name, "RemediationSkipped", "trying again in a minute")
        .await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    ensure!(
        !lab.leases().await?.contains_key(&nodes[0]),
        "refused before the lease is taken"
    );
    let patch = json!({"spec": {"minAvailable": 2}});
    let params = PatchParams::default();
    budgets
        .patch("etcd-guard-pdb", &params, &Patch::Merge(&patch))
        .await?;
    allowed(1).await?;
    lab.remediated(&kind, &nodes, 1, Duration::from_secs(70))
        .await?;
    // One at a time, whatever etcd says.
    lab.set_condition(&nodes[1..2], "Frozen", "True").await?;
    lab.says(name, "control plane node etcd-1 is being remediated", SOON)
        .await?;
    for node in [&nodes[..1], &nodes[1..2]] {
        lab.set_condition(node, "Frozen", "False").await?;
    }
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    Ok(())
}
