//! What can get in the way of a drain.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use medik8s_harness::{
    kwok::{ENDS, ENDS_AT_ONCE, ENDS_NEVER},
    wait,
};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    SOON,
    lab::{LIMIT, Lab, USER},
    webhook::Evictions,
};

/// How soon a pod has to go after its budget opened.
const PROMPT: Duration = Duration::from_secs(2);

/// A node of no scenario.
const ELSEWHERE: &str = "worker-24";

/// A budget that opens after a while (a minute in the slow suite).
pub(crate) async fn budget_that_opens(lab: &Lab, node: String) -> anyhow::Result<()> {
    behind_a_budget(lab, &node, "web", Duration::from_secs(20)).await
}

/// The pod goes within two seconds after the budget opened, with at most six requests per minute
/// before; the status says what blocks.
pub(crate) async fn behind_a_budget(
    lab: &Lab,
    node: &str,
    name: &str,
    closed_for: Duration,
) -> anyhow::Result<()> {
    lab.namespace(name).await?;
    lab.pod(name, name, node, json!({})).await?;
    lab.pod(
        name,
        "free",
        node,
        json!({"metadata": {"labels": {ENDS: ENDS_AT_ONCE}}}),
    )
    .await?;
    budget(lab, name, name).await?;
    lab.maintain(node).await?;
    let begin = Instant::now();
    let status = lab
        .status_with("to be blocked", node, LIMIT, |status| {
            status.drain_progress == Some(50)
                && status
                    .conditions
                    .iter()
                    .flatten()
                    .any(|one| one.reason == "Blocked")
        })
        .await?;
    let drained = status.conditions.unwrap_or_default();
    let says = &drained.first().context("no condition")?.message;
    let expected = format!("pod {name}/{name}: blocked by PodDisruptionBudget {name}, since ");
    ensure!(says.starts_with(&expected), "the condition says {says}");
    sleep(closed_for.saturating_sub(begin.elapsed())).await;
    if closed_for > Duration::from_secs(31) {
        let error = lab.status(node).await?.last_error.unwrap_or_default();
        let expected = format!(
            "{name}/{name}: blocked by PodDisruptionBudget {name} (0 disruptions allowed, 1 healthy, 1 \
             required) since "
        );
        ensure!(error.starts_with(&expected), "lastError is {error}");
    }
    let before = lab.evictions(name)?;
    ensure!(
        before.iter().all(|one| one.code == 429) && !before.is_empty(),
        "the pod went while its budget was closed: {before:?}"
    );
    let minutes = closed_for.as_secs().div_ceil(60);
    ensure!(
        u64::try_from(before.len())? <= 6 * minutes,
        "{} evictions in {closed_for:?}",
        before.len()
    );
    // Another healthy pod elsewhere: the budget allows one to go now.
    let second = json!({"metadata": {"labels": {"app": name}}});
    lab.pod(name, "second", ELSEWHERE, second).await?;
    lab.succeeds(node).await?;
    let went = lab.evictions(name)?;
    let went = went
        .iter()
        .find(|one| one.code == 201)
        .context("no eviction was accepted")?;
    let opened = lab
        .asked(|one| {
            one.resource == "poddisruptionbudgets/status"
                && one.name == name
                && one.user.ends_with("disruption-controller")
                && one.at < went.at
        })?
        .pop()
        .context("the budget never opened")?;
    let late = Duration::try_from(went.at.duration_since(opened.answered)).unwrap_or_default();
    ensure!(late < PROMPT, "evicted {late:?} after the budget opened");
    lab.end(node).await?;
    lab.ensure_bare(node).await
}

/// The administrator removes the budget that blocks.
pub(crate) async fn budget_that_is_deleted(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.namespace("basket").await?;
    lab.pod("basket", "basket", &node, json!({})).await?;
    budget(lab, "basket", "basket").await?;
    lab.maintain(&node).await?;
    wait::until("a refusal that waits long", LIMIT, async || {
        Ok((lab.evictions("basket")?.len() >= 2).then_some(()))
    })
    .await?;
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(lab.cluster.admin(), "basket");
    budgets.delete("basket", &DeleteParams::default()).await?;
    let removed = Timestamp::now();
    lab.succeeds(&node).await?;
    let went = lab.evictions("basket")?.pop().context("no eviction")?;
    let late = Duration::try_from(went.at.duration_since(removed)).unwrap_or_default();
    ensure!(
        went.code == 201 && late < PROMPT,
        "evicted {late:?} after the budget was deleted"
    );
    lab.end(&node).await
}

/// Virtual machines: a webhook answers 429 until the live migration has ended.
pub(crate) async fn live_migration(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.namespace("vms").await?;
    lab.pod("vms", "virt-launcher-a", &node, json!({})).await?;
    let webhook = Evictions::guard(lab, "vms").await?;
    lab.maintain(&node).await?;
    let status = lab
        .status_with("the webhook to be told of", &node, LIMIT, |status| {
            status
                .conditions
                .iter()
                .flatten()
                .any(|one| one.reason == "Blocked")
        })
        .await?;
    let says = status.conditions.unwrap_or_default();
    let says = &says.first().context("no condition")?.message;
    ensure!(
        says.contains("vms/virt-launcher-a: eviction refused for now:")
            && says.contains(crate::webhook::REFUSAL),
        "the condition says {says}"
    );
    sleep(Duration::from_secs(12)).await;
    let refused = lab.evictions("virt-launcher-a")?;
    ensure!(
        refused.iter().all(|one| one.code == 429) && refused.len() >= 2,
        "while the machine moves: {refused:?}"
    );
    ensure!(lab.status(&node).await?.phase.as_deref() == Some("Running"));
    // The machine has moved: its old pod has finished.
    webhook.allow();
    let ended = Timestamp::now();
    let finished = json!({"status": {"phase": "Succeeded"}});
    lab.pods("vms")
        .patch_status(
            "virt-launcher-a",
            &PatchParams::default(),
            &Patch::Merge(finished),
        )
        .await?;
    lab.succeeds(&node).await?;
    let went = lab
        .evictions("virt-launcher-a")?
        .pop()
        .context("no eviction")?;
    let late = Duration::try_from(went.at.duration_since(ended)).unwrap_or_default();
    ensure!(
        went.code == 201 && late < PROMPT,
        "evicted {late:?} after the migration"
    );
    lab.end(&node).await
}

/// A namespace that is being deleted takes its pods along; one of them cannot go yet.
pub(crate) async fn namespace_terminating(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.namespace("doomed").await?;
    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    lab.pod("doomed", "held", &node, held).await?;
    lab.pod("doomed", "free", &node, json!({})).await?;
    lab.kubectl(&["delete", "namespace", "doomed", "--wait=false"])
        .await?;
    lab.maintain(&node).await?;
    let status = lab
        .status_with("the other pod to be gone", &node, LIMIT, |status| {
            status.phase.is_some() && status.pending_pods == Some(vec!["held".to_owned()])
        })
        .await?;
    ensure!(status.phase.as_deref() == Some("Running"), "{status:?}");
    sleep(Duration::from_secs(2)).await;
    let asked = lab.evictions("held")?.len();
    ensure!(asked <= 1, "a terminating pod was evicted {asked} times");
    let free = json!({"metadata": {"finalizers": null}});
    lab.pods("doomed")
        .patch("held", &PatchParams::default(), &Patch::Merge(free))
        .await?;
    lab.phase(&node, "Succeeded", SOON).await?;
    lab.end(&node).await
}

/// Pods that come while the node is drained go; pods that come afterwards are administrators at work.
pub(crate) async fn late_pods(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.namespace("late").await?;
    lab.pod("late", "blocker", &node, json!({})).await?;
    budget(lab, "late", "blocker").await?;
    lab.maintain(&node).await?;
    wait::until("the drain", LIMIT, async || {
        Ok((!lab.evictions("blocker")?.is_empty()).then_some(()))
    })
    .await?;
    let late = json!({"metadata": {"labels": {ENDS: ENDS_AT_ONCE}}});
    lab.pod("late", "latecomer", &node, late).await?;
    lab.gone("late", "latecomer", SOON).await?;
    ensure!(
        lab.evictions("latecomer")?.len() == 1,
        "it did not go by eviction"
    );
    lab.kubectl(&["-n", "late", "delete", "pdb", "blocker"])
        .await?;
    lab.succeeds(&node).await?;

    let debugger = lab.pod("late", "node-debugger", &node, json!({})).await?;
    sleep(Duration::from_secs(6)).await;
    let still = lab.pods("late").get("node-debugger").await?;
    ensure!(
        still.uid() == debugger.uid() && still.metadata.deletion_timestamp.is_none(),
        "a pod that came after the drain was evicted"
    );
    ensure!(lab.evictions("node-debugger")?.is_empty());
    ensure!(lab.status(&node).await?.phase.as_deref() == Some("Succeeded"));
    lab.end(&node).await
}

/// A pod whose kubelet does not end it: waited for, named, and let go only on order.
pub(crate) async fn stuck_in_termination(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.namespace("stuck").await?;
    let never = json!({"metadata": {"labels": {ENDS: ENDS_NEVER}},
        "spec": {"terminationGracePeriodSeconds": 2}});
    lab.pod("stuck", "stuck", &node, never).await?;
    lab.maintain(&node).await?;
    sleep(Duration::from_secs(9)).await;
    let status = lab.status(&node).await?;
    ensure!(
        status.phase.as_deref() == Some("Running")
            && status.pending_pods == Some(vec!["stuck".to_owned()]),
        "success while a pod is there: {status:?}"
    );
    let order = "{\"spec\":{\"drain\":{\"skipWaitForDeleteTimeoutSeconds\":10}}}";
    let patched = Instant::now();
    lab.kubectl(&["patch", "nm", &node, "--type=merge", "-p", order])
        .await?;
    lab.succeeds(&node).await?;
    ensure!(
        patched.elapsed() > Duration::from_secs(1),
        "let go before the ordered time"
    );
    let there = lab.pods("stuck").get("stuck").await?;
    ensure!(
        there.metadata.deletion_grace_period_seconds == Some(2),
        "somebody shortened the grace period"
    );
    lab.end(&node).await?;
    lab.kubectl(&[
        "-n",
        "stuck",
        "delete",
        "pod",
        "stuck",
        "--force",
        "--grace-period=0",
    ])
    .await?;
    Ok(())
}

/// A StatefulSet's pod that was created anew elsewhere under the same name is not the one that was
/// listed.
pub(crate) async fn another_incarnation(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.namespace("database").await?;
    lab.pod("database", "db-0", &node, json!({})).await?;
    budget(lab, "database", "db-0").await?;
    lab.maintain(&node).await?;
    wait::until("a refusal", LIMIT, async || {
        Ok((!lab.evictions("db-0")?.is_empty()).then_some(()))
    })
    .await?;
    lab.kubectl(&[
        "-n",
        "database",
        "delete",
        "pod",
        "db-0",
        "--force",
        "--grace-period=0",
    ])
    .await?;
    let elsewhere = lab.pod("database", "db-0", ELSEWHERE, json!({})).await?;
    lab.succeeds(&node).await?;
    let still = lab.pods("database").get("db-0").await?;
    ensure!(
        still.uid() == elsewhere.uid() && still.metadata.deletion_timestamp.is_none(),
        "the pod of another node was evicted"
    );
    lab.kubectl(&["-n", "database", "delete", "pdb", "db-0"])
        .await?;

    // What the operator sends is only safe if the server minds the UID.
    let wrong = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "db-0"},
        "deleteOptions": {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}});
    let file = lab.cluster.folder().join("eviction.json");
    std::fs::write(&file, serde_json::to_vec(&wrong)?)?;
    let path = "/api/v1/namespaces/database/pods/db-0/eviction";
    let said = lab
        .kubectl(&["create", "--raw", path, "-f", &file.display().to_string()])
        .await
        .err()
        .context("the server does not mind the UID of an eviction")?;
    let said = format!("{said:#}");
    ensure!(said.contains("UID"), "{said}");
    lab.end(&node).await
}

/// A pod that is bound while the node is still open goes, also if it comes after the operator has
/// listed the pods.
pub(crate) async fn bound_just_before(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.namespace("bound").await?;
    let mut close = 0;
    for round in 0..10_u64 {
        let name = format!("pod-{round}");
        lab.maintain(&node).await?;
        sleep(Duration::from_millis(3 + round * 5)).await;
        let quick = json!({"metadata": {"labels": {ENDS: ENDS_AT_ONCE}}});
        lab.pod("bound", &name, &node, quick).await?;
        lab.succeeds(&node).await?;
        let created = lab
            .asked(|one| {
                one.verb == "create" && one.resource == "pods" && one.name == name && one.code < 300
            })?
            .pop()
            .context("the pod was not created")?;
        let closed = lab
            .asked(|one| one.user == USER && one.verb == "patch" && one.resource == "nodes")?
            .into_iter()
            .rfind(|one| one.name == node)
            .context("the node was not cordoned")?;
        let is_there = lab.pods("bound").get_opt(&name).await?.is_some();
        if created.answered < closed.at {
            close += 1;
            ensure!(
                !is_there,
                "round {round}: the pod was bound {} before the node was closed and is still there",
                closed.at.duration_since(created.answered)
            );
        }
        lab.end(&node).await?;
        if is_there {
            lab.kubectl(&["-n", "bound", "delete", "pod", &name, "--wait=true"])
                .await?;
        }
    }
    ensure!(close > 0, "no pod came before the node was closed");
    Ok(())
}

async fn budget(lab: &Lab, namespace: &str, app: &str) -> anyhow::Result<()> {
    lab.cluster
        .apply_text(&format!(
            "apiVersion: policy/v1\nkind: PodDisruptionBudget\n\
             metadata: {{name: {app}, namespace: {namespace}}}\n\
             spec:\n  minAvailable: 1\n  selector: {{matchLabels: {{app: {app}}}}}\n"
        ))
        .await?;
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(lab.cluster.admin(), namespace);
    wait::until("the budget to know its pods", LIMIT, async || {
        let status = budgets.get(app).await?.status.unwrap_or_default();
        Ok((status.expected_pods == 1 && status.current_healthy == 1).then_some(()))
    })
    .await
}
