//! Metal3 as the foreign remediator that it is: no conditions, no mercy, and the Machine as an owner.

use std::time::Duration;

use anyhow::ensure;
use kube::{Resource as _, ResourceExt as _};
use medik8s_harness::{
    healthcheck::{
        Lab, REMEDIATIONS, escalating, kinds, names,
        remediators::{Course, Manners, Remediator},
        single,
    },
    wait,
};
use serde_json::json;

use crate::{SOON, machine};

async fn template(lab: &Lab) -> anyhow::Result<serde_json::Value> {
    let strategy = json!({"strategy": {"type": "Reboot", "retryLimit": 1, "timeout": "5m0s"}});
    let name = "metal3-remediation";
    let new = kinds::template(&kinds::metal3(), kinds::MACHINES, name, false, &strategy);
    lab.cluster.apply_text(&new.to_string()).await?;
    Ok(kinds::reference(&kinds::metal3(), kinds::MACHINES, name))
}

/// The node vanishes in the middle and comes back; until the object is gone nobody else gets it.
pub(crate) async fn power_cycles(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("metal3", kinds::metal3());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    machine(lab, "machine-1", Some(&nodes[0])).await?;
    let reference = template(lab).await?;
    let client = lab.cluster.admin();
    let metal3 = Remediator::start(client, kind.clone(), &nodes, Manners::Metal3, Course::Hangs);
    lab.put_check(name, single(name, json!(0), reference))
        .await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    let found = lab.remediated(&kind, &nodes, 1, SOON).await?.remove(0);
    ensure!(found.name_any() == nodes[0]);
    let owners = found.owner_references();
    let owners: Vec<&str> = owners.iter().map(|owner| owner.kind.as_str()).collect();
    ensure!(owners == ["NodeHealthCheck", "Machine"], "{owners:?}");
    // The node is deleted; so is the object, but its finalizer holds it.
    wait::until("the object to be deleted", SOON, async || {
        let found = lab.remediations(&kind, &nodes).await?;
        Ok(found
            .first()
            .and_then(|one| one.meta().deletion_timestamp.clone()))
    })
    .await?;
    ensure!(metal3.did("started") == 1);
    lab.reason(name, SOON, |status| status.observed_nodes == Some(2))
        .await?;
    lab.add_nodes(name, &nodes[..1], "worker").await?;
    machine(lab, "machine-1", Some(&nodes[0])).await?;
    lab.says(name, "is being deleted since", SOON).await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(2))
        .await?;
    wait::until("the lease to be asked for again", SOON, async || {
        let held = lab.leases().await?;
        let ours = held
            .get(&nodes[0])
            .is_some_and(|holder| holder == "NodeHealthCheck-metal3");
        Ok(ours.then_some(()))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let same = lab.remediated(&kind, &nodes, 1, SOON).await?;
    ensure!(same[0].uid() == found.uid(), "no second one");
    ensure!(
        same[0].finalizers().len() == 1,
        "nobody took its finalizer away"
    );
    metal3.release();
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    wait::until("the lease to be given back", SOON, async || {
        Ok((!lab.leases().await?.contains_key(&nodes[0])).then_some(()))
    })
    .await
}

pub(crate) async fn needs_a_machine(lab: &Lab) -> anyhow::Result<()> {
    let (kind, snr) = (kinds::metal3(), kinds::self_node_remediation());
    let (name, nodes) = ("no-machine", names("no-machine", 3));
    lab.add_nodes(name, &nodes, "worker").await?;
    let reference = template(lab).await?;
    let reboot = kinds::reference(&snr, REMEDIATIONS, "reboot");
    lab.put_check(
        name,
        escalating(name, &[(reference.clone(), "5m"), (reboot, "5m")]),
    )
    .await?;
    lab.put_check("only-metal3", single(name, json!(0), reference))
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.remediated(&snr, &nodes, 1, SOON).await?;
    lab.told_once(name, "RemediationSkipped", "Passed over Metal3Remediation")
        .await?;
    lab.says(
        "only-metal3",
        "it has no Machine, which Metal3Remediation needs",
        SOON,
    )
    .await?;
    lab.told_once(
        "only-metal3",
        "RemediationSkipped",
        "which Metal3Remediation needs",
    )
    .await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    lab.heal_nodes(&nodes[..1]).await?;
    lab.remediated(&snr, &nodes, 0, SOON).await?;
    Ok(())
}
