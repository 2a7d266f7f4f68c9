//! Objects that come, go and change while they are needed.

use anyhow::ensure;
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject},
};
use medik8s_harness::healthcheck::{Lab, REMEDIATIONS, escalating, kinds, names, single};
use serde_json::json;

use crate::{SOON, Scenario};

pub(crate) fn scenarios(lab: &Lab) -> Vec<Scenario<'_>> {
    vec![
        (
            "two health checks over the same nodes",
            two_checks(lab).boxed_local(),
        ),
        (
            "a template is deleted and restored",
            template(lab).boxed_local(),
        ),
        (
            "a remediation is deleted by hand",
            remediation(lab).boxed_local(),
        ),
        (
            "a node is deleted while it is remediated",
            node(lab).boxed_local(),
        ),
        (
            "a node leaves the selector while it is remediated",
            selector(lab).boxed_local(),
        ),
        ("a health check is deleted", check(lab).boxed_local()),
    ]
}

/// Whoever has the node's lease remediates it; the other says who that is.
async fn two_checks(lab: &Lab) -> anyhow::Result<()> {
    let (snr, far) = (
        kinds::self_node_remediation(),
        kinds::fence_agents_remediation(),
    );
    let (name, nodes) = ("both", names("both", 6));
    lab.add_nodes(name, &nodes, "worker").await?;
    let reboot = kinds::reference(&snr, REMEDIATIONS, "reboot");
    let fence = kinds::reference(&far, REMEDIATIONS, "fence");
    lab.put_check("both-a", single(name, json!(0), reboot))
        .await?;
    lab.put_check("both-b", single(name, json!(0), fence))
        .await?;
    for check in ["both-a", "both-b"] {
        lab.reason(check, SOON, |status| status.healthy_nodes == Some(6))
            .await?;
    }
    let sick = &nodes[..4];
    lab.break_nodes(sick, "Unknown", false).await?;
    let all = async || -> anyhow::Result<Vec<DynamicObject>> {
        let mut all = lab.remediations(&snr, &nodes).await?;
        all.extend(lab.remediations(&far, &nodes).await?);
        Ok(all)
    };
    medik8s_harness::wait::until("one remediation per node", SOON, async || {
        Ok((all().await?.len() >= 4).then_some(()))
    })
    .await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let remediated = all().await?;
    let mut of: Vec<String> = remediated
        .iter()
        .map(medik8s_harness::healthcheck::node_of)
        .collect();
    of.sort();
    ensure!(of == sick, "{of:?}");
    for (node, holder) in lab
        .leases()
        .await?
        .iter()
        .filter(|(node, _)| sick.contains(node))
    {
        let (owner, loser) = if holder == "NodeHealthCheck-both-a" {
            ("both-a", "both-b")
        } else {
            ("both-b", "both-a")
        };
        let its = remediated
            .iter()
            .find(|one| medik8s_harness::healthcheck::node_of(one) == *node);
        let owners = its
            .map(|one| one.owner_references().to_vec())
            .unwrap_or_default();
        ensure!(
            owners.len() == 1 && owners[0].name == owner,
            "{node}: {owners:?}"
        );
        lab.told_once(loser, "RemediationSkipped", &format!("node {node} because"))
            .await?;
    }
    lab.heal_nodes(sick).await?;
    lab.remediated(&snr, &nodes, 0, SOON).await?;
    lab.remediated(&far, &nodes, 0, SOON).await?;
    for check in ["both-a", "both-b"] {
        lab.reason(check, SOON, |status| status.healthy_nodes == Some(6))
            .await?;
    }
    for node in sick {
        lab.given_back(node).await?;
    }
    Ok(())
}

async fn template(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("restored", kinds::fence_agents_remediation());
    let nodes = names(name, 4);
    lab.add_nodes(name, &nodes, "worker").await?;
    let spec = json!({"agent": "fence_ipmilan", "sharedparameters": {"--action": "reboot"}});
    let own = kinds::template(&kind, REMEDIATIONS, name, true, &spec);
    lab.cluster.apply_text(&own.to_string()).await?;
    let reference = kinds::reference(&kind, REMEDIATIONS, name);
    lab.put_check(name, single(name, json!(0), reference))
        .await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(4))
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    let templates = lab.dynamic(&kinds::template_of(&kind), REMEDIATIONS);
    templates.delete(name, &DeleteParams::default()).await?;
    lab.says(name, "NHC is disabled: RemediationTemplateNotFound", SOON)
        .await?;
    // Nothing new, but what has recovered is let go.
    lab.break_nodes(&nodes[1..2], "Unknown", false).await?;
    lab.says(name, "restored-1, restored-2", SOON).await?;
    lab.heal_nodes(&nodes[..1]).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    lab.cluster.apply_text(&own.to_string()).await?;
    lab.remediated(&kind, &nodes[1..2], 1, SOON).await?;
    lab.heal_nodes(&nodes[1..2]).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    Ok(())
}

/// A new object starts afresh; a step that was given up is not repeated.
async fn remediation(lab: &Lab) -> anyhow::Result<()> {
    let (snr, far) = (
        kinds::self_node_remediation(),
        kinds::fence_agents_remediation(),
    );
    let (name, nodes) = ("by-hand", names("by-hand", 3));
    lab.add_nodes(name, &nodes, "worker").await?;
    let reboot = kinds::reference(&snr, REMEDIATIONS, "reboot");
    let fence = kinds::reference(&far, REMEDIATIONS, "fence");
    lab.put_check(name, escalating(name, &[(reboot, "4s"), (fence, "5m")]))
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    let api = lab.dynamic(&snr, REMEDIATIONS);
    let first = lab.remediated(&snr, &nodes, 1, SOON).await?.remove(0);
    api.delete(&first.name_any(), &DeleteParams::default())
        .await?;
    medik8s_harness::wait::until("another one of that name", SOON, async || {
        let found = lab.remediations(&snr, &nodes).await?;
        Ok((found.len() == 1 && found[0].uid() != first.uid()).then_some(()))
    })
    .await?;
    lab.remediated(&far, &nodes, 1, SOON).await?;
    let second = lab.remediated(&snr, &nodes, 1, SOON).await?.remove(0);
    ensure!(
        second.name_any() == first.name_any(),
        "the name is the same each time"
    );
    ensure!(
        second
            .annotations()
            .contains_key("remediation.medik8s.io/nhc-timed-out")
    );
    let status = lab.status(name).await?;
    let entries = status.unhealthy_nodes.unwrap_or_default();
    ensure!(entries.len() == 1);
    let list = entries[0].remediations.clone().unwrap_or_default();
    ensure!(list.len() == 2 && list[0].timed_out.is_some(), "{list:?}");
    ensure!(
        list[0].resource.uid == second.uid(),
        "the entry is the new object's"
    );
    api.delete(&second.name_any(), &DeleteParams::default())
        .await?;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    lab.remediated(&snr, &nodes, 0, SOON).await?;
    lab.heal_nodes(&nodes[..1]).await?;
    lab.remediated(&far, &nodes, 0, SOON).await?;
    Ok(())
}

async fn node(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("vanishes", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let reboot = kinds::reference(&kind, REMEDIATIONS, "reboot");
    lab.put_check(name, single(name, json!(0), reboot)).await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    let api: Api<Node> = Api::all(lab.cluster.admin());
    api.delete(&nodes[0], &DeleteParams::default()).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    lab.told_once(name, "RemediationRemoved", "does not exist any more")
        .await?;
    lab.reason(name, SOON, |status| {
        status.observed_nodes == Some(2)
            && status.unhealthy_nodes.is_none()
            && status.phase.as_deref() == Some("Enabled")
    })
    .await?;
    lab.given_back(&nodes[0]).await?;
    // A node of that name is judged as any other.
    lab.add_nodes(name, &nodes[..1], "worker").await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(3))
        .await?;
    Ok(())
}

async fn selector(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("leaves", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let reboot = kinds::reference(&kind, REMEDIATIONS, "reboot");
    lab.put_check(name, single(name, json!(0), reboot)).await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    lab.patch_nodes(
        &nodes[..1],
        &json!({"metadata": {"labels": {"pool": "elsewhere"}}}),
    )
    .await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    lab.told_once(
        name,
        "RemediationRemoved",
        "is not selected by this health check any more",
    )
    .await?;
    lab.reason(name, SOON, |status| status.observed_nodes == Some(2))
        .await?;
    lab.given_back(&nodes[0]).await
}

/// Garbage collection takes its remediations; its leases are given back.
async fn check(lab: &Lab) -> anyhow::Result<()> {
    let (name, kind) = ("deleted", kinds::self_node_remediation());
    let nodes = names(name, 3);
    lab.add_nodes(name, &nodes, "worker").await?;
    let reboot = kinds::reference(&kind, REMEDIATIONS, "reboot");
    lab.put_check(name, single(name, json!(0), reboot)).await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    lab.remediated(&kind, &nodes, 1, SOON).await?;
    let api: Api<medik8s_api::NodeHealthCheck> = Api::all(lab.cluster.admin());
    api.delete(name, &DeleteParams::default()).await?;
    // Kubernetes collects what the health check owned; it learns of new kinds every 30 s.
    let limit = std::time::Duration::from_mins(1);
    lab.remediated(&kind, &nodes, 0, limit).await?;
    lab.given_back(&nodes[0]).await
}
