//! A double of the original health checker and the lease of a node.

use std::time::{Duration, Instant};

use anyhow::ensure;
use kube::api::DeleteParams;
use medik8s_harness::kwok::{ENDS, ENDS_NEVER};
use serde_json::json;
use tokio::time::sleep;

use crate::lab::{LIMIT, Lab, USER};

const CHECKER: &str = "NodeHealthCheck-workers";

/// The health checker remediates: the node is left alone until it is done.
pub(crate) async fn waits_for_a_health_checker(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.hand_lease_to(&node, CHECKER).await?;
    lab.maintain(&node).await?;
    let waits = |status: &medik8s_api::node_maintenance::NodeMaintenanceStatus| {
        status
            .last_error
            .as_deref()
            .is_some_and(|error| error.contains("failed to obtain a lease that is not owned by us"))
    };
    let status = lab.status_with("to wait", &node, LIMIT, waits).await?;
    ensure!(status.phase.as_deref() == Some("Running"), "{status:?}");
    ensure!(status.error_on_lease_count.is_none(), "{status:?}");
    ensure!(
        status
            .last_error
            .as_deref()
            .is_some_and(|error| error.contains(CHECKER)),
        "{status:?}"
    );
    sleep(Duration::from_secs(2)).await;
    lab.ensure_bare(&node).await?;
    // Somebody who gives up leaves node and lease as they are.
    lab.end(&node).await?;
    lab.ensure_bare(&node).await?;
    ensure!(lab.holder(&node).await?.as_deref() == Some(CHECKER));
    let touched = lab.asked(|one| {
        one.user == USER && one.verb == "patch" && one.resource == "nodes" && one.name == node
    })?;
    ensure!(touched.is_empty(), "touched without the lease: {touched:?}");

    lab.maintain(&node).await?;
    lab.status_with("to wait", &node, LIMIT, waits).await?;
    lab.leases()
        .delete(&format!("node-{node}"), &DeleteParams::default())
        .await?;
    let released = Instant::now();
    lab.succeeds(&node).await?;
    let took = released.elapsed();
    ensure!(
        took < Duration::from_secs(12),
        "took {took:?} after the release"
    );
    ensure!(lab.holder(&node).await?.as_deref() == Some("node-maintenance"));
    lab.end(&node).await?;
    ensure!(lab.holder(&node).await?.is_none());
    lab.ensure_bare(&node).await
}

/// Somebody overwrites the lease of a node that is being drained (timeline 17.4).
pub(crate) async fn stolen(lab: &Lab, node: String) -> anyhow::Result<()> {
    draining(lab, &node, "robbed").await?;
    lab.hand_lease_to(&node, CHECKER).await?;
    let error = "failed to extend a lease that used to be owned by us";
    lab.status_with("to notice", &node, Duration::from_secs(40), |status| {
        status.error_on_lease_count == Some(1)
            && status
                .last_error
                .as_deref()
                .is_some_and(|text| text.contains(error))
    })
    .await?;
    let noticed = Instant::now();
    let late = json!({"metadata": {"labels": {"app": "late"}}});
    lab.pod("robbed", "late", &node, late).await?;
    lab.phase(&node, "Failed", Duration::from_mins(1)).await?;
    ensure!(
        noticed.elapsed() > Duration::from_secs(29),
        "gave up after {:?}",
        noticed.elapsed()
    );
    let status = lab.status(&node).await?;
    ensure!(
        status.last_error.as_deref()
            == Some("maintenance failed: lease could not be extended after 4 attempts"),
        "{status:?}"
    );
    ensure!(
        lab.evictions("late")?.is_empty(),
        "evicted without the lease"
    );
    lab.ensure_bare(&node).await?;
    lab.hears(&node, "FailedMaintenance").await?;
    ensure!(lab.told(&node, "FailedMaintenance").await? == 1);
    ensure!(lab.holder(&node).await?.as_deref() == Some(CHECKER));
    // The new holder may have cordoned the node: ending this object must not undo that.
    lab.kubectl(&["cordon", &node]).await?;
    lab.end(&node).await?;
    let marks = lab.marks(&node).await?;
    ensure!(
        marks.first() == Some(&true),
        "undid the cordon of somebody else"
    );
    ensure!(lab.holder(&node).await?.as_deref() == Some(CHECKER));
    lab.kubectl(&["uncordon", &node]).await?;
    Ok(())
}

/// The lease comes back before the fifth look: nothing is lost.
pub(crate) async fn comes_back(lab: &Lab, node: String) -> anyhow::Result<()> {
    draining(lab, &node, "lent").await?;
    lab.hand_lease_to(&node, CHECKER).await?;
    lab.status_with("the second look", &node, Duration::from_mins(1), |status| {
        status.error_on_lease_count == Some(2)
    })
    .await?;
    lab.leases()
        .delete(&format!("node-{node}"), &DeleteParams::default())
        .await?;
    lab.status_with("to go on", &node, Duration::from_secs(15), |status| {
        status.error_on_lease_count.is_none() && status.phase.as_deref() == Some("Running")
    })
    .await?;
    lab.ensure_marked(&node).await?;
    ensure!(lab.told(&node, "FailedMaintenance").await? == 0);
    lab.kubectl(&[
        "-n",
        "lent",
        "delete",
        "pod",
        "--all",
        "--force",
        "--grace-period=0",
    ])
    .await?;
    lab.succeeds(&node).await?;
    lab.end(&node).await
}

/// A node that is half drained and stays so.
async fn draining(lab: &Lab, node: &str, namespace: &str) -> anyhow::Result<()> {
    lab.namespace(namespace).await?;
    let never = json!({"metadata": {"labels": {ENDS: ENDS_NEVER}}});
    lab.pod(namespace, &format!("{namespace}-1"), node, never)
        .await?;
    lab.pod(namespace, &format!("{namespace}-2"), node, json!({}))
        .await?;
    lab.maintain(node).await?;
    lab.status_with("half of it", node, LIMIT, |status| {
        status.drain_progress == Some(50)
    })
    .await?;
    ensure!(lab.holder(node).await?.as_deref() == Some("node-maintenance"));
    Ok(())
}
