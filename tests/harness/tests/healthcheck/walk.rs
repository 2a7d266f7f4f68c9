//! A newcomer's walk: whatever happens, and whatever does not, the status says why, and so does one
//! event.

use std::time::Duration;

use anyhow::ensure;
use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use medik8s_harness::healthcheck::{LEASES, Lab, REMEDIATIONS, escalating, kinds, names, single};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{SOON, Scenario};

const SKIPPED: &str = "RemediationSkipped";

pub(crate) fn scenarios(lab: &Lab) -> Vec<Scenario<'_>> {
    vec![
        (
            "a node breaks and recovers, step by step",
            breaks_and_recovers(lab).boxed_local(),
        ),
        ("held back by the threshold", threshold(lab).boxed_local()),
        ("held back by a pause", pause(lab).boxed_local()),
        ("held back by a storm", storm(lab).boxed_local()),
        (
            "held back by the exclude label",
            excluded(lab).boxed_local(),
        ),
        ("held back by maintenance", maintenance(lab).boxed_local()),
        (
            "held back by a missing template, which then comes",
            template(lab).boxed_local(),
        ),
        (
            "held by a healthy delay, which a person ends",
            healthy_delay(lab).boxed_local(),
        ),
    ]
}

fn reboot() -> Value {
    kinds::reference(&kinds::self_node_remediation(), REMEDIATIONS, "reboot")
}

/// What `kubectl get nhc` shows of one.
async fn row(lab: &Lab, name: &str) -> anyhow::Result<String> {
    lab.cluster
        .kubectl(&["get", "nhc", name, "-o", "wide", "--no-headers"])
        .await
}

async fn breaks_and_recovers(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("walk", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let mut spec = single(name, json!("51%"), reboot());
    for rule in 0..2 {
        spec["unhealthyConditions"][rule]["duration"] = json!("4s");
    }
    lab.put_check(name, spec).await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    ensure!(
        row(lab, name).await?.contains("Enabled"),
        "{}",
        row(lab, name).await?
    );
    lab.told_once(name, "Enabled", "No issues found").await?;

    let sick = &nodes[..1];
    lab.break_nodes(sick, "Unknown", false).await?;
    lab.says(
        name,
        "walk-1: has Ready=Unknown, which counts as unhealthy from",
        SOON,
    )
    .await?;
    let found = lab.remediated(&kind, sick, 1, SOON).await?;
    lab.says(
        name,
        "NHC is remediating 1 nodes; walk-1: is being remediated by",
        SOON,
    )
    .await?;
    ensure!(
        row(lab, name).await?.contains("Remediating"),
        "{}",
        row(lab, name).await?
    );
    lab.told_once(name, "DetectedUnhealthy", "condition type \"Ready\"")
        .await?;
    lab.told_once(name, "RemediationCreated", "walk-1").await?;
    ensure!(lab.leases().await?.get("walk-1").map(String::as_str) == Some("NodeHealthCheck-walk"));
    let metadata = json!(found[0].metadata);
    ensure!(metadata["annotations"]["remediation.medik8s.io/template-name"] == "reboot");
    ensure!(metadata["labels"]["app.kubernetes.io/part-of"] == "node-healthcheck-controller");
    let generated = metadata["name"].as_str().unwrap_or_default();
    ensure!(generated.starts_with("walk-1-") && generated.len() == "walk-1-".len() + 5);

    lab.heal_nodes(sick).await?;
    lab.remediated(&kind, sick, 0, SOON).await?;
    lab.reason(name, SOON, |status| {
        status.phase.as_deref() == Some("Enabled") && status.healthy_nodes == Some(3)
    })
    .await?;
    lab.told_once(name, "RemediationRemoved", "node walk-1 is healthy")
        .await?;
    lab.given_back("walk-1").await?;
    // All of it is there for `kubectl describe`.
    let described = lab.cluster.kubectl(&["describe", "nhc", name]).await?;
    for reason in [
        "DetectedUnhealthy",
        "RemediationCreated",
        "RemediationRemoved",
    ] {
        ensure!(described.contains(reason), "{described}");
    }
    Ok(())
}

async fn threshold(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("threshold", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    lab.put_check(name, single(name, json!("100%"), reboot()))
        .await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    lab.break_nodes(&nodes[..1], "False", false).await?;
    let said = "not remediating threshold-1: only 2 of 3 nodes are healthy, at least 3 must be";
    lab.says(name, said, SOON).await?;
    lab.told_once(name, SKIPPED, "is 2 and should equal or exceed 3")
        .await?;
    sleep(Duration::from_secs(3)).await;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    lab.told_once(name, SKIPPED, "is 2 and should equal or exceed 3")
        .await?;
    // The threshold stays editable, and takes effect at once.
    lab.patch_check(name, json!({"minHealthy": "51%"})).await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    Ok(())
}

async fn pause(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("pause", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let mut spec = single(name, json!("51%"), reboot());
    spec["pauseRequests"] = json!(["upgrade of the switches"]);
    lab.put_check(name, spec).await?;
    lab.says(name, "NHC is paused: upgrade of the switches", SOON)
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.says(name, "not remediating pause-1", SOON).await?;
    lab.told_once(name, SKIPPED, "pause requests: upgrade of the switches")
        .await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    lab.patch_check(name, json!({"pauseRequests": null}))
        .await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    Ok(())
}

async fn storm(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("storm", kinds::self_node_remediation());
    let nodes = names(name, 4);
    lab.add_nodes(name, &nodes, "worker").await?;
    let mut spec = single(name, json!(3), reboot());
    spec["stormCooldownDuration"] = json!("5s");
    lab.put_check(name, spec).await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(4))
        .await?;
    lab.break_nodes(&nodes[..2], "Unknown", false).await?;
    lab.says(
        name,
        "only 2 of 4 nodes are healthy, at least 3 must be",
        SOON,
    )
    .await?;
    lab.told_once(name, "StormRecoveryStarted", "2 nodes are healthy")
        .await?;
    lab.heal_nodes(&nodes[..1]).await?;
    lab.says(name, "not remediating storm-2: storm recovery until", SOON)
        .await?;
    lab.told_once(name, "StormRecoveryCooldownStarted", "until")
        .await?;
    lab.told_once(name, SKIPPED, "because of storm recovery until")
        .await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    lab.remediated(&kind, &nodes[1..2], 1, SOON).await?;
    lab.told_once(name, "StormRecoveryEnded", "new remediations are possible")
        .await?;
    Ok(())
}

async fn excluded(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("excluded", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let label = |value: Value| json!({"metadata": {"labels": {"remediation.medik8s.io/exclude-from-remediation": value}}});
    lab.patch_nodes(&nodes[..1], &label(json!("true"))).await?;
    lab.put_check(name, single(name, json!("51%"), reboot()))
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.says(
        name,
        "excluded-1: is unhealthy (Ready=Unknown) but not remediated: it is excluded",
        SOON,
    )
    .await?;
    lab.told_once(name, SKIPPED, "excluded by its label")
        .await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    lab.patch_nodes(&nodes[..1], &label(Value::Null)).await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    Ok(())
}

/// The lease as the original node maintenance operator holds it.
async fn maintenance(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("maintenance", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    lab.put_check(name, single(name, json!("51%"), reboot()))
        .await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEASES}});
    lab.cluster.apply_text(&namespace.to_string()).await?;
    let leases: Api<Lease> = Api::namespaced(lab.cluster.admin(), LEASES);
    let now = Timestamp::now();
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {"name": format!("node-{}", nodes[0])},
        "spec": {"holderIdentity": "node-maintenance", "leaseDurationSeconds": 3600,
            "acquireTime": format!("{now:.6}"), "renewTime": format!("{now:.6}"),
            "leaseTransitions": 0},
    }))?;
    leases.create(&PostParams::default(), &lease).await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.says(name, "its node lease is held by node-maintenance", SOON)
        .await?;
    lab.told_once(
        name,
        SKIPPED,
        "held by node-maintenance; trying again in a minute",
    )
    .await?;
    sleep(Duration::from_secs(2)).await;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    ensure!(
        lab.leases().await?.get(&nodes[0]).map(String::as_str) == Some("node-maintenance"),
        "the lease was taken"
    );
    // A node that recovers meanwhile is simply healthy; the lease is not ours to give back.
    lab.heal_nodes(&nodes[..1]).await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    ensure!(lab.leases().await?.contains_key(&nodes[0]));
    leases
        .delete(&format!("node-{}", nodes[0]), &DeleteParams::default())
        .await?;
    Ok(())
}

/// Two health checks, two kinds, one control plane: one node at a time.
pub(crate) async fn control_plane(lab: &Lab) -> anyhow::Result<()> {
    let (snr, far) = (
        kinds::self_node_remediation(),
        kinds::fence_agents_remediation(),
    );
    let (one, other) = (names("cp-one", 1), names("cp-other", 1));
    for (pool, nodes) in [("cp-one", &one), ("cp-other", &other)] {
        lab.add_nodes(pool, nodes, "control-plane").await?;
    }
    lab.put_check("cp-one", single("cp-one", json!(0), reboot()))
        .await?;
    let fence = kinds::reference(&far, REMEDIATIONS, "fence");
    lab.put_check("cp-other", single("cp-other", json!(0), fence))
        .await?;
    lab.break_nodes(&one, "Unknown", false).await?;
    let found = lab.remediated(&snr, &one, 1, SOON).await?;
    let labels = found[0].metadata.labels.clone().unwrap_or_default();
    ensure!(labels.contains_key("remediation.medik8s.io/isControlPlaneNode"));
    lab.break_nodes(&other, "Unknown", false).await?;
    lab.says(
        "cp-other",
        "control plane node cp-one-1 is being remediated",
        SOON,
    )
    .await?;
    lab.told_once(
        "cp-other",
        SKIPPED,
        "control plane node cp-one-1 is being remediated",
    )
    .await?;
    lab.remediated(&far, &other, 0, SOON).await?;
    // The other's turn comes at once when the first is gone.
    lab.heal_nodes(&one).await?;
    lab.remediated(&far, &other, 1, SOON).await?;
    lab.remediated(&snr, &one, 0, SOON).await?;
    lab.heal_nodes(&other).await?;
    lab.remediated(&far, &other, 0, SOON).await?;
    Ok(())
}

async fn template(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("template", kinds::fence_agents_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let reference = kinds::reference(&kind, REMEDIATIONS, "comes-later");
    lab.put_check(name, single(name, json!("51%"), reference))
        .await?;
    let said = "RemediationTemplateNotFound: failed to get remediation template";
    lab.says(name, said, SOON).await?;
    lab.told_once(name, "Disabled", "RemediationTemplateNotFound")
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.says(name, "not remediating template-1", SOON).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    let spec = json!({"agent": "fence_ipmilan", "sharedparameters": {"--action": "reboot"}});
    let new = kinds::template(&kind, REMEDIATIONS, "comes-later", true, &spec);
    lab.cluster.apply_text(&new.to_string()).await?;
    let found = lab.remediated(&kind, &nodes, 1, SOON).await?;
    ensure!(
        found[0].data["spec"]["agent"] == "fence_ipmilan",
        "{:?}",
        found[0].data
    );
    lab.told_once(name, "Enabled", "No issues found").await?;
    Ok(())
}

async fn healthy_delay(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("delay", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let mut spec = escalating(name, &[(reboot(), "10m")]);
    spec["healthyDelay"] = json!("-1s");
    lab.put_check(name, spec).await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    lab.heal_nodes(&nodes[..1]).await?;
    lab.says(
        name,
        "delay-1: is healthy again, its remediation is kept until the node is annotated",
        SOON,
    )
    .await?;
    sleep(Duration::from_secs(2)).await;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    let key = "remediation.medik8s.io/manually-confirmed-healthy";
    lab.patch_nodes(
        &nodes[..1],
        &json!({"metadata": {"annotations": {key: ""}}}),
    )
    .await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    // The right to take the confirmation off the node is in the shipped role.
    let nodes_api: Api<k8s_openapi::api::core::v1::Node> = Api::all(lab.cluster.admin());
    medik8s_harness::wait::until("the confirmation to be taken off", SOON, async || {
        let node = nodes_api.get(&nodes[0]).await?;
        let annotations = node.metadata.annotations.unwrap_or_default();
        Ok((!annotations.contains_key(key)).then_some(()))
    })
    .await
}
