//! Remediators of several families, played as the originals behave, driven by our health checker.

use std::time::Duration;

use anyhow::ensure;
use futures::FutureExt as _;
use kube::{ResourceExt as _, api::DynamicObject};
use medik8s_harness::healthcheck::{
    Lab, REMEDIATIONS, escalating, kinds, names,
    remediators::{Course, Manners, Remediator},
};
use serde_json::json;

use crate::{SOON, Scenario};

const TIMED_OUT: &str = "remediation.medik8s.io/nhc-timed-out";

pub(crate) fn scenarios(lab: &Lab) -> Vec<Scenario<'_>> {
    vec![
        (
            "three families, one after the other, the last replaces the node",
            escalates(lab).boxed_local(),
        ),
        (
            "a success is never told to stop, and the next step comes",
            succeeds(lab).boxed_local(),
        ),
        ("two templates of one kind", one_kind(lab).boxed_local()),
        (
            "a node that comes back under its name",
            comes_back(lab).boxed_local(),
        ),
    ]
}

fn is_timed_out(remediation: &DynamicObject) -> bool {
    remediation.annotations().contains_key(TIMED_OUT)
}

/// Self node remediation does not come to an end, fence agents fail, the machine is replaced.
async fn escalates(lab: &Lab) -> anyhow::Result<()> {
    let (snr, far, mdr) = (
        kinds::self_node_remediation(),
        kinds::fence_agents_remediation(),
        kinds::machine_deletion_remediation(),
    );
    let (name, nodes) = ("families", names("families", 3));
    let sick = &nodes[..1];
    lab.add_nodes(name, &nodes, "worker").await?;
    let client = || lab.cluster.admin();
    let hangs = Remediator::start(
        client(),
        snr.clone(),
        sick,
        Manners::SelfNode,
        Course::Hangs,
    );
    let fails = Course::Fails(Duration::from_secs(1));
    let fails = Remediator::start(client(), far.clone(), sick, Manners::FenceAgents, fails);
    let manners = Manners::MachineDeletion { for_good: true };
    let replaces = Course::Succeeds(Duration::from_secs(4));
    let replaces = Remediator::start(client(), mdr.clone(), sick, manners, replaces);
    let step = |kind, template| kinds::reference(kind, REMEDIATIONS, template);
    lab.put_check(
        name,
        escalating(
            name,
            &[
                (step(&snr, "reboot"), "5s"),
                (step(&far, "fence"), "5m"),
                (step(&mdr, "replace"), "5m"),
            ],
        ),
    )
    .await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    lab.break_nodes(sick, "Unknown", false).await?;
    let first = lab.remediated(&snr, sick, 1, SOON).await?.remove(0);
    ensure!(!is_timed_out(&first));
    let second = lab.remediated(&far, sick, 1, SOON).await?.remove(0);
    let apart = second
        .creation_timestamp()
        .map(|at| at.0)
        .zip(first.creation_timestamp());
    let apart = apart.map(|(second, first)| second.duration_since(first.0).as_secs());
    ensure!(
        apart.is_some_and(|apart| (5..=8).contains(&apart)),
        "{apart:?} s apart"
    );
    ensure!(is_timed_out(&lab.remediated(&snr, sick, 1, SOON).await?[0]));
    // A failure brings the next step at once.
    let third = lab.remediated(&mdr, sick, 1, SOON).await?.remove(0);
    ensure!(
        third.name_any() == sick[0],
        "this kind allows one object per node"
    );
    ensure!(hangs.did("stopped") == 1, "{:?}", hangs.deeds());
    ensure!(fails.did("failed") == 1, "{:?}", fails.deeds());
    // The node vanishes. The stopped ones clean up; the one that expected this goes on.
    for kind in [&snr, &far] {
        lab.remediated(kind, sick, 0, SOON).await?;
    }
    lab.remediated(&mdr, sick, 1, SOON).await?;
    lab.remediated(&mdr, sick, 0, SOON).await?;
    ensure!(
        replaces.did("succeeded") == 1,
        "it was deleted before it had succeeded"
    );
    for one in [&hangs, &fails] {
        ensure!(
            one.did("cleaned up") == 1 && one.did("started") == 1,
            "{:?}",
            one.deeds()
        );
    }
    lab.reason(name, SOON, |status| {
        status.phase.as_deref() == Some("Enabled") && status.unhealthy_nodes.is_none()
    })
    .await?;
    lab.given_back(&sick[0]).await
}

async fn succeeds(lab: &Lab) -> anyhow::Result<()> {
    let (snr, far) = (
        kinds::self_node_remediation(),
        kinds::fence_agents_remediation(),
    );
    let (name, nodes) = ("success", names("success", 3));
    let sick = &nodes[..1];
    lab.add_nodes(name, &nodes, "worker").await?;
    let done = Course::Succeeds(Duration::from_secs(1));
    let client = lab.cluster.admin();
    let succeeds = Remediator::start(client, snr.clone(), sick, Manners::SelfNode, done);
    let step = |kind, template| kinds::reference(kind, REMEDIATIONS, template);
    let steps = [(step(&snr, "reboot"), "5s"), (step(&far, "fence"), "5m")];
    lab.put_check(name, escalating(name, &steps)).await?;
    lab.break_nodes(sick, "Unknown", false).await?;
    lab.remediated(&far, sick, 1, Duration::from_secs(15))
        .await?;
    let first = lab.remediated(&snr, sick, 1, SOON).await?.remove(0);
    ensure!(!is_timed_out(&first), "it has succeeded");
    ensure!(succeeds.did("succeeded") == 1 && succeeds.did("stopped") == 0);
    lab.heal_nodes(sick).await?;
    lab.remediated(&far, sick, 0, SOON).await?;
    lab.remediated(&snr, sick, 0, SOON).await?;
    Ok(())
}

async fn one_kind(lab: &Lab) -> anyhow::Result<()> {
    let snr = kinds::self_node_remediation();
    let (name, nodes) = ("one-kind", names("one-kind", 3));
    let sick = &nodes[..1];
    lab.add_nodes(name, &nodes, "worker").await?;
    let client = lab.cluster.admin();
    let hangs = Remediator::start(client, snr.clone(), sick, Manners::SelfNode, Course::Hangs);
    let step = |template| kinds::reference(&snr, REMEDIATIONS, template);
    let steps = [(step("reboot"), "4s"), (step("again"), "4s")];
    lab.put_check(name, escalating(name, &steps)).await?;
    lab.break_nodes(sick, "Unknown", false).await?;
    lab.remediated(&snr, sick, 2, Duration::from_secs(15))
        .await?;
    lab.says(
        name,
        "one-kind-1: is unhealthy and no template is left",
        SOON,
    )
    .await?;
    lab.told_once(name, "NoTemplateLeft", "one-kind-1").await?;
    let both = lab.remediated(&snr, sick, 2, SOON).await?;
    ensure!(both.iter().all(is_timed_out));
    ensure!(
        hangs.did("stopped") == 2 && hangs.did("started") == 2,
        "{:?}",
        hangs.deeds()
    );
    let entries = lab.status(name).await?.unhealthy_nodes.unwrap_or_default();
    let list = entries
        .first()
        .and_then(|entry| entry.remediations.clone())
        .unwrap_or_default();
    ensure!(
        list.len() == 2 && list.iter().all(|one| one.timed_out.is_some()),
        "{list:?}"
    );
    lab.heal_nodes(sick).await?;
    lab.remediated(&snr, sick, 0, SOON).await?;
    Ok(())
}

/// Deletion of a machine on bare metal: the node object goes and comes back, nobody expected that to
/// be for good.
async fn comes_back(lab: &Lab) -> anyhow::Result<()> {
    let mdr = kinds::machine_deletion_remediation();
    let (name, nodes) = ("comes-back", names("comes-back", 3));
    let sick = &nodes[..1];
    lab.add_nodes(name, &nodes, "worker").await?;
    let manners = Manners::MachineDeletion { for_good: false };
    let client = lab.cluster.admin();
    let replaces = Remediator::start(client, mdr.clone(), sick, manners, Course::Hangs);
    let step = kinds::reference(&mdr, REMEDIATIONS, "replace");
    let spec = medik8s_harness::healthcheck::single(name, json!(0), step);
    lab.put_check(name, spec).await?;
    lab.break_nodes(sick, "Unknown", false).await?;
    medik8s_harness::wait::until("the machine to be deleted", SOON, async || {
        Ok((replaces.did("started") == 1).then_some(()))
    })
    .await?;
    lab.remediated(&mdr, sick, 0, SOON).await?;
    lab.reason(name, SOON, |status| status.observed_nodes == Some(2))
        .await?;
    lab.add_nodes(name, sick, "worker").await?;
    lab.reason(name, SOON, |status| {
        status.healthy_nodes == Some(3) && status.phase.as_deref() == Some("Enabled")
    })
    .await?;
    Ok(())
}
