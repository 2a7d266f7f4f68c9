//! MachineHealthChecks: left alone, in the way, or ours.

use std::time::Duration;

use anyhow::ensure;
use kube::{Api, ResourceExt as _, api::DeleteParams};
use medik8s_harness::healthcheck::{Lab, REMEDIATIONS, kinds, names, single};
use serde_json::{Value, json};

use crate::{SOON, gates, machine, patch};

async fn put(lab: &Lab, name: &str, conditions: Value) -> anyhow::Result<()> {
    let kind = kinds::self_node_remediation();
    // As users write it: without a namespace.
    let template = json!({"apiVersion": kind.api_version, "kind": "SelfNodeRemediationTemplate",
        "name": "reboot"});
    let check = json!({
        "apiVersion": "machine.openshift.io/v1beta1", "kind": "MachineHealthCheck",
        "metadata": {"name": name, "namespace": kinds::MACHINES},
        "spec": {"selector": {"matchLabels": {"role": "worker"}}, "unhealthyConditions": conditions,
            "maxUnhealthy": "60%", "nodeStartupTimeout": "10m", "remediationTemplate": template},
    });
    lab.cluster.apply_text(&check.to_string()).await
}

async fn delete(lab: &Lab, name: &str) -> anyhow::Result<()> {
    lab.dynamic(&kinds::machine_health_check(), kinds::MACHINES)
        .delete(name, &DeleteParams::default())
        .await?;
    Ok(())
}

fn ready(status: &str, timeout: &str) -> Value {
    json!([{"type": "Ready", "status": status, "timeout": timeout}])
}

/// Spot instances that are about to be taken away are its business.
pub(crate) async fn termination(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("spot", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let reboot = kinds::reference(&kind, REMEDIATIONS, "reboot");
    lab.put_check(name, single(name, json!(0), reboot)).await?;
    let conditions = json!([{"type": "Terminating", "status": "True", "timeout": "0s"}]);
    put(lab, "machine-api-termination-handler", conditions).await?;
    lab.reason(name, SOON, |status| {
        status.healthy_nodes == Some(3) && status.phase.as_deref() == Some("Enabled")
    })
    .await?;
    lab.set_condition(&nodes[..1], "Terminating", "True")
        .await?;
    lab.break_nodes(&nodes[..2], "Unknown", false).await?;
    lab.remediated(&kind, &nodes[1..2], 1, SOON).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    lab.remediated(&kind, &nodes[..1], 0, SOON).await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(2))
        .await?;
    lab.heal_nodes(&nodes[..2]).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    delete(lab, "machine-api-termination-handler").await
}

pub(crate) async fn conflict(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("conflict", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let reboot = kinds::reference(&kind, REMEDIATIONS, "reboot");
    lab.put_check(name, single(name, json!(0), reboot)).await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    put(lab, "custom", ready("Unknown", "300s")).await?;
    let said = "NHC is disabled: ConflictingMachineHealthCheckDetected";
    lab.says(name, said, SOON).await?;
    lab.told_once(name, "Disabled", "ConflictingMachineHealthCheckDetected")
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.says(name, "not remediating conflict-1", SOON).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    delete(lab, "custom").await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    lab.heal_nodes(&nodes[..1]).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    Ok(())
}

/// The gate goes on, off and on; machines are remediated by name, also one without a node.
pub(crate) async fn ours(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("machines", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let own = kinds::template(&kind, kinds::MACHINES, "reboot", true, &json!({}));
    lab.cluster.apply_text(&own.to_string()).await?;
    // Only the machines of this scenario count.
    let all: Api<kube::api::DynamicObject> = lab.dynamic(&kinds::machine(), kinds::MACHINES);
    for old in all.list(&kube::api::ListParams::default()).await? {
        all.delete(&old.name_any(), &DeleteParams::default())
            .await?;
    }
    for (number, node) in (1..).zip(&nodes) {
        machine(lab, &format!("m-{number}"), Some(node)).await?;
    }
    put(lab, "mhc", ready("Unknown", "2s")).await?;
    let checks = lab.dynamic(&kinds::machine_health_check(), kinds::MACHINES);
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    gates(lab, true).await?;
    let found = lab.remediated(&kind, &nodes, 1, SOON).await?.remove(0);
    ensure!(
        found.name_any() == "m-1",
        "named after the machine: {}",
        found.name_any()
    );
    ensure!(found.namespace().as_deref() == Some(kinds::MACHINES));
    let owners = found.owner_references();
    let owners: Vec<&str> = owners.iter().map(|owner| owner.kind.as_str()).collect();
    ensure!(owners == ["MachineHealthCheck", "Machine"], "{owners:?}");
    let holder = lab.leases().await?.get(&nodes[0]).cloned();
    ensure!(
        holder.as_deref() == Some("MachineHealthCheck-mhc"),
        "{holder:?}"
    );
    lab.told_once(
        "mhc",
        "RemediationCreated",
        "machine m-1 and node machines-1",
    )
    .await?;
    let status = checks.get("mhc").await?.data["status"].clone();
    ensure!(
        status["expectedMachines"] == 3 && status["currentHealthy"] == 2,
        "{status}"
    );
    gates(lab, false).await?;
    lab.heal_nodes(&nodes[..1]).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    gates(lab, true).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    // Self node remediation can do nothing for a machine without a node.
    machine(lab, "m-4", None).await?;
    let failed = json!({"phase": "Failed"});
    let machines = "machines.machine.openshift.io";
    crate::set_status(lab, machines, "m-4", Some(kinds::MACHINES), &failed).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let all: Api<kube::api::DynamicObject> = lab.dynamic(&kind, kinds::MACHINES);
    ensure!(
        all.list(&kube::api::ListParams::default())
            .await?
            .items
            .is_empty()
    );
    // A paused one is left alone.
    let paused = json!({"metadata": {"annotations": {"cluster.x-k8s.io/paused": ""}}});
    patch(
        lab,
        &kinds::machine_health_check(),
        kinds::MACHINES,
        "mhc",
        &paused,
    )
    .await?;
    lab.break_nodes(&nodes[1..2], "Unknown", false).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    gates(lab, false).await?;
    delete(lab, "mhc").await
}
