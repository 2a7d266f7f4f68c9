//! Nodes and maintenances that come, go, and come again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use medik8s_harness::{
    kwok::{ENDS, ENDS_AT_ONCE, ENDS_NEVER},
    manifests, wait,
};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    SOON,
    lab::{LIMIT, Lab, NAMESPACE, USER, object},
};

/// A node is deleted while in maintenance and registers again (timeline 17.5).
pub(crate) async fn node_registers_again(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.maintain(&node).await?;
    lab.succeeds(&node).await?;
    let first = lab.nodes().get(&node).await?;
    lab.nodes().delete(&node, &DeleteParams::default()).await?;
    let missing = format!("nodes \"{node}\" not found");
    lab.status_with("the node to be missed", &node, LIMIT, |status| {
        status.phase.as_deref() == Some("Failed")
            && status.last_error.as_deref() == Some(missing.as_str())
    })
    .await?;
    lab.hears(&node, "FailedMaintenance").await?;

    let mut again = first.clone();
    again.metadata = kube::api::ObjectMeta {
        name: Some(node.clone()),
        labels: first.metadata.labels.clone().map(|mut labels| {
            labels.remove("remediation.medik8s.io/exclude-from-remediation");
            labels
        }),
        ..kube::api::ObjectMeta::default()
    };
    again.spec = None;
    let again = lab.nodes().create(&PostParams::default(), &again).await?;
    ensure!(again.uid() != first.uid());
    lab.phase(&node, "Succeeded", LIMIT).await?;
    lab.ensure_marked(&node).await?;
    // The lease belongs to the new node: the collector of the old one's objects must leave it.
    let lease = lab.leases().get(&format!("node-{node}")).await?;
    let owner = lease
        .owner_references()
        .first()
        .map(|owner| owner.uid.clone());
    ensure!(owner == again.uid(), "the lease belongs to {owner:?}");
    ensure!(lab.told(&node, "FailedMaintenance").await? == 1);
    lab.end(&node).await?;
    lab.ensure_bare(&node).await?;

    // And without a node there is nothing to restore.
    lab.maintain(&node).await?;
    lab.succeeds(&node).await?;
    lab.nodes().delete(&node, &DeleteParams::default()).await?;
    lab.phase(&node, "Failed", LIMIT).await?;
    lab.end(&node).await?;
    ensure!(
        lab.holder(&node).await?.is_none(),
        "the lease is still there"
    );
    Ok(())
}

/// Deleting the object stops the drain and gives the node back at once, although a pod is stuck and
/// somebody else keeps the object.
pub(crate) async fn deleted_in_the_middle(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.namespace("middle").await?;
    let never = json!({"metadata": {"labels": {ENDS: ENDS_NEVER}}});
    lab.pod("middle", "ending", &node, never).await?;
    lab.pod("middle", "refused", &node, json!({})).await?;
    lab.cluster
        .apply_text(
            "apiVersion: policy/v1\nkind: PodDisruptionBudget\n\
             metadata: {name: refused, namespace: middle}\n\
             spec:\n  minAvailable: 1\n  selector: {matchLabels: {app: refused}}\n",
        )
        .await?;
    let mut kept = object(&node, &node, json!({}))?;
    kept.metadata.finalizers = Some(vec!["example.com/keep".to_owned()]);
    lab.maintenances()
        .create(&PostParams::default(), &kept)
        .await?;
    wait::until("the drain", LIMIT, async || {
        Ok((!lab.evictions("ending")?.is_empty()).then_some(()))
    })
    .await?;
    lab.ensure_marked(&node).await?;
    lab.maintenances()
        .delete(&node, &DeleteParams::default())
        .await?;
    let begin = Instant::now();
    wait::until("the node to be given back", SOON, async || {
        Ok(lab.ensure_bare(&node).await.ok())
    })
    .await?;
    ensure!(begin.elapsed() < SOON);
    let back = lab
        .asked(|one| {
            one.user == USER && one.verb == "patch" && one.resource == "nodes" && one.name == node
        })?
        .pop()
        .context("the node was not patched")?;
    // Longer than the pause after a refusal.
    sleep(Duration::from_secs(9)).await;
    let after = lab.asked(|one| {
        one.user == USER
            && one.at > back.at
            && (one.resource == "pods/eviction"
                && ["ending", "refused"].contains(&one.name.as_str())
                || one.resource == "nodes" && one.verb == "patch" && one.name == node)
    })?;
    ensure!(after.is_empty(), "after the node was given back: {after:?}");
    let object = lab.maintenances().get(&node).await?;
    ensure!(
        object.finalizers() == ["example.com/keep"],
        "finalizers: {:?}",
        object.finalizers()
    );
    let free = json!({"metadata": {"finalizers": null}});
    lab.maintenances()
        .patch(&node, &PatchParams::default(), &Patch::Merge(free))
        .await?;
    lab.kubectl(&[
        "-n",
        "middle",
        "delete",
        "pod",
        "ending",
        "--force",
        "--grace-period=0",
    ])
    .await?;
    Ok(())
}

/// `kubectl uncordon` does not end a maintenance.
pub(crate) async fn uncordoned_by_hand(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.namespace("hand").await?;
    lab.maintain(&node).await?;
    lab.succeeds(&node).await?;
    lab.kubectl(&["uncordon", &node]).await?;
    wait::until("the node to be closed again", SOON, async || {
        Ok(lab.ensure_marked(&node).await.ok())
    })
    .await?;
    let label = "remediation.medik8s.io/exclude-from-remediation-";
    lab.kubectl(&["label", "node", &node, label]).await?;
    wait::until("the label to be back", SOON, async || {
        Ok(lab.ensure_marked(&node).await.ok())
    })
    .await?;
    // Whatever landed there while it was open has to go.
    lab.kubectl(&["uncordon", &node]).await?;
    let quick = json!({"metadata": {"labels": {ENDS: ENDS_AT_ONCE}}});
    lab.pod("hand", "landed", &node, quick).await?;
    wait::until("the node to be closed again", SOON, async || {
        Ok(lab.ensure_marked(&node).await.ok())
    })
    .await?;
    lab.succeeds(&node).await?;
    ensure!(lab.told(&node, "BeginMaintenance").await? == 1);
    lab.end(&node).await?;
    lab.ensure_bare(&node).await
}

/// People may change the reason at any time; `kubectl wait` minds the generation.
pub(crate) async fn reason_changes(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.maintain(&node).await?;
    lab.succeeds(&node).await?;
    let reason = "{\"spec\":{\"reason\":\"it takes longer\"}}";
    lab.kubectl(&["patch", "nm", &node, "--type=merge", "-p", reason])
        .await?;
    let object = format!("nm/{node}");
    lab.kubectl(&["wait", "--for=condition=Drained", "--timeout=5s", &object])
        .await?;
    ensure!(lab.told(&node, "SucceedMaintenance").await? == 1);
    lab.end(&node).await
}

/// The node that the operator runs on: its own pod goes last, and the next one finishes.
pub(crate) async fn own_node(lab: &Lab, _: String) -> anyhow::Result<()> {
    let pods = lab.pods(NAMESPACE);
    let own = pods.list(&ListParams::default()).await?.items.pop();
    let own = own.context("the operator has no pod")?;
    let spec = own.spec.as_ref().context("a pod without spec")?;
    let node = spec.node_name.clone().context("it is not bound")?;
    lab.namespace("own").await?;
    let quick = json!({"metadata": {"labels": {ENDS: ENDS_AT_ONCE}}});
    for name in ["own-a", "own-b"] {
        lab.pod("own", name, &node, quick.clone()).await?;
    }
    lab.maintain(&node).await?;
    lab.phase(&node, "Succeeded", Duration::from_mins(1))
        .await?;
    lab.ensure_marked(&node).await?;
    lab.gone(NAMESPACE, &own.name_any(), SOON).await?;
    let all = lab.asked(|one| one.user == USER && one.resource == "pods/eviction")?;
    let at = |name: &str| {
        let found = all.iter().find(|one| one.name == name);
        found.with_context(|| format!("{name} was not evicted"))
    };
    let last = at(&own.name_any())?;
    for name in ["own-a", "own-b"] {
        ensure!(
            at(name)?.answered <= last.at,
            "the operator went before {name}"
        );
    }
    ensure!(lab.told(&node, "BeginMaintenance").await? == 1);
    lab.end(&node).await?;
    lab.ensure_bare(&node).await
}

/// Two maintenances for one node, which only happens when nobody asks the webhook.
pub(crate) async fn two_for_one_node(lab: &Lab, node: String) -> anyhow::Result<()> {
    let webhook = "node-maintenance-operator-validating-webhook-configuration";
    lab.kubectl(&["delete", "validatingwebhookconfiguration", webhook])
        .await?;
    let create = async |name: &str| {
        let object = object(name, &node, json!({}))?;
        lab.maintenances()
            .create(&PostParams::default(), &object)
            .await?;
        anyhow::Ok(())
    };
    create("older").await?;
    // Whole seconds decide who is older.
    sleep(Duration::from_millis(1100)).await;
    create("newer").await?;
    lab.succeeds("older").await?;
    let status = lab
        .status_with("the newer to be refused", "newer", LIMIT, |status| {
            status.phase.as_deref() == Some("Failed")
        })
        .await?;
    ensure!(
        status.last_error.as_deref()
            == Some(
                format!("invalid nodeName, a NodeMaintenance for node {node} already exists")
                    .as_str()
            ),
        "{status:?}"
    );
    lab.hears("newer", "FailedMaintenance").await?;
    lab.end("older").await?;
    lab.ensure_marked(&node).await?;
    lab.succeeds("newer").await?;
    let opened = lab.asked(|one| {
        one.user == USER && one.verb == "patch" && one.resource == "nodes" && one.name == node
    })?;
    ensure!(
        opened.len() == 1,
        "the node was open for a moment: {opened:?}"
    );
    lab.end("newer").await?;
    lab.ensure_bare(&node).await?;
    ensure!(lab.holder(&node).await?.is_none());

    let manifest = manifests::operator("node-maintenance-operator")?;
    lab.cluster.apply_text(&manifest).await?;
    lab.at_work().await?;
    wait::until("the webhook to refuse again", LIMIT, async || {
        let refused = lab.refused(
            "apiVersion: nodemaintenance.medik8s.io/v1beta1\nkind: NodeMaintenance\n\
             metadata: {name: nowhere}\nspec: {nodeName: worker-99}\n",
        );
        Ok(refused.await.is_ok().then_some(()))
    })
    .await
}

/// A drained node costs nothing.
pub(crate) async fn quiet(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.maintain(&node).await?;
    lab.succeeds(&node).await?;
    sleep(Duration::from_secs(2)).await;
    stays_quiet(lab, Duration::from_secs(8)).await?;
    lab.end(&node).await
}

/// The operator asks for nothing but its leader lease, and for the watches that go on.
pub(crate) async fn stays_quiet(lab: &Lab, time: Duration) -> anyhow::Result<()> {
    let from = jiff::Timestamp::now();
    sleep(time).await;
    let asked = lab.asked(|one| {
        one.user == USER
            && one.at > from
            && one.verb != "watch"
            && one.name != medik8s_api::names::nmo::LEADER_ELECTION_ID
    })?;
    ensure!(asked.is_empty(), "in steady state: {asked:?}");
    Ok(())
}
