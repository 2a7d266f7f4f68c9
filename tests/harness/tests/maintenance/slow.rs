//! What takes minutes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use medik8s_harness::{
    kwok::{ENDS, ENDS_AFTER_GRACE, ENDS_AT_ONCE},
    wait,
};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    drains,
    lab::{LIMIT, Lab, NAMESPACE, USER},
    life,
};

/// Timeline 17.1 to the second: one of three pods has a grace period of 80 s.
pub(crate) async fn timeline_of_a_worker(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.namespace("timeline").await?;
    for name in ["timeline-a", "timeline-b"] {
        lab.pod("timeline", name, &node, json!({})).await?;
    }
    let slow = json!({"metadata": {"labels": {ENDS: ENDS_AFTER_GRACE}},
        "spec": {"terminationGracePeriodSeconds": 80}});
    lab.pod("timeline", "timeline-slow", &node, slow).await?;
    lab.maintain(&node).await?;
    let begin = Instant::now();
    lab.status_with("66 percent", &node, LIMIT, |status| {
        status.drain_progress == Some(66)
    })
    .await?;
    sleep(Duration::from_secs(29).saturating_sub(begin.elapsed())).await;
    ensure!(
        lab.status(&node).await?.last_error.is_none(),
        "the round is not over"
    );
    let status = lab
        .status_with(
            "the end of the round",
            &node,
            Duration::from_secs(4),
            |status| status.last_error.is_some(),
        )
        .await?;
    let error = status.last_error.unwrap_or_default();
    ensure!(
        error.starts_with("timeline/timeline-slow: terminating since "),
        "lastError is {error}"
    );
    lab.phase(&node, "Succeeded", Duration::from_mins(1))
        .await?;
    let took = begin.elapsed().as_secs();
    ensure!((79..=85).contains(&took), "succeeded after {took} s");
    let evictions = lab.evictions("timeline-slow")?.len();
    ensure!(
        evictions == 1,
        "{evictions} evictions of a pod that was terminating"
    );
    ensure!(lab.status(&node).await?.last_error.is_none());
    lab.end(&node).await
}

/// A budget that opens after a minute (timeline 17.2).
pub(crate) async fn budget_of_a_minute(lab: &Lab, node: String) -> anyhow::Result<()> {
    drains::behind_a_budget(lab, &node, "minute", Duration::from_mins(1)).await
}

/// Ten nodes of a hundred pods: none waits for another.
pub(crate) async fn ten_nodes_at_once(lab: &Lab, _: String) -> anyhow::Result<()> {
    let nodes: Vec<String> = (11..=20).map(|number| format!("worker-{number}")).collect();
    lab.namespace("many").await?;
    for node in &nodes {
        lab.cluster
            .apply_text(&format!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {node}, namespace: many}}\n\
                 spec:\n  replicas: 100\n  selector: {{matchLabels: {{app: {node}}}}}\n  template:\n    \
                 metadata: {{labels: {{app: {node}, {ENDS}: {ENDS_AT_ONCE}}}}}\n    spec:\n      \
                 nodeSelector: {{kubernetes.io/hostname: {node}}}\n      \
                 containers: [{{name: main, image: none}}]\n"
            ))
            .await?;
    }
    let running = kube::api::ListParams::default().fields("status.phase=Running");
    wait::until("1000 pods", Duration::from_mins(2), async || {
        let found = lab.pods("many").list_metadata(&running).await?.items;
        Ok((found.len() == 1000).then_some(()))
    })
    .await?;
    try_join_all(nodes.iter().map(|node| lab.maintain(node))).await?;
    try_join_all(nodes.iter().map(|node| lab.succeeds(node))).await?;
    let mut spans = Vec::new();
    for node in &nodes {
        let prefix = format!("{node}-");
        let mine = lab.asked(|one| {
            one.user == USER && one.resource == "pods/eviction" && one.name.starts_with(&prefix)
        })?;
        let (first, last) = mine.first().zip(mine.last()).context("no evictions")?;
        ensure!(mine.len() >= 100, "{} evictions on {node}", mine.len());
        spans.push((first.at, last.at));
    }
    let latest_start = spans
        .iter()
        .map(|(first, _)| *first)
        .max()
        .context("nothing")?;
    let earliest_end = spans
        .iter()
        .map(|(_, last)| *last)
        .min()
        .context("nothing")?;
    ensure!(
        latest_start < earliest_end,
        "a node was done at {earliest_end} before another began at {latest_start}"
    );
    for node in &nodes {
        lab.kubectl(&["-n", "many", "delete", "deployment", node])
            .await?;
        lab.end(node).await?;
    }
    Ok(())
}

/// `kill -9` of the operator after every other write of a maintenance: the next process goes on. (After
/// every single one, before and after it is stored, on the operator's fake API server.)
pub(crate) async fn killed_at_every_write(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.namespace("killed").await?;
    let mut killed = 0;
    // A maintenance writes about eleven times; the leader lease of the dead one runs for 15 s.
    for write in (1..=11).step_by(2) {
        let name = format!("killed-{write}");
        let quick = json!({"metadata": {"labels": {ENDS: ENDS_AT_ONCE}}});
        lab.pod("killed", &name, &node, quick).await?;
        let from = jiff::Timestamp::now();
        lab.maintain(&node).await?;
        killed += usize::from(kill_after(lab, from, write).await?);
        lab.phase(&node, "Succeeded", Duration::from_mins(1))
            .await?;
        lab.gone("killed", &name, LIMIT).await?;
        lab.ensure_marked(&node).await?;
        let begun = lab.maintenances().get(&node).await?;
        ensure!(
            begun.status.unwrap_or_default().eviction_pods == Some(1),
            "counted again"
        );
        lab.kubectl(&["delete", "nm", &node, "--timeout=60s"])
            .await?;
        lab.ensure_bare(&node).await?;
        ensure!(lab.holder(&node).await?.is_none());
    }
    ensure!(killed >= 4, "the operator was killed only {killed} times");
    let (begun, removed) = (
        lab.told(&node, "BeginMaintenance").await?,
        lab.told(&node, "RemovedMaintenance").await?,
    );
    ensure!(
        begun <= 12 && removed <= 12,
        "told {begun} and {removed} times"
    );
    Ok(())
}

/// Kills the operator when it has written that often since `from`; false if it never did.
async fn kill_after(lab: &Lab, from: jiff::Timestamp, writes: usize) -> anyhow::Result<bool> {
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let written = lab.asked(|one| {
            one.user == USER
                && one.at > from
                && !matches!(one.verb.as_str(), "get" | "list" | "watch")
                && one.name != medik8s_api::names::nmo::LEADER_ELECTION_ID
        })?;
        if written.len() >= writes {
            let count = lab
                .cluster
                .containers()
                .kill(|pod| pod.starts_with(NAMESPACE));
            return Ok(count == 1);
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(false)
}

/// Two minutes with a node in maintenance.
pub(crate) async fn quiet_for_two_minutes(lab: &Lab, node: String) -> anyhow::Result<()> {
    lab.maintain(&node).await?;
    lab.succeeds(&node).await?;
    sleep(Duration::from_secs(2)).await;
    life::stays_quiet(lab, Duration::from_mins(2)).await?;
    lab.end(&node).await
}
