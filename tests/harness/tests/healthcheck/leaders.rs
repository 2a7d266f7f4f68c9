//! Two managers: the second stands by, and goes on when the first is killed.

use std::{path::Path, time::Duration};

use anyhow::ensure;
use kube::ResourceExt as _;
use medik8s_harness::healthcheck::{Lab, Manager, REMEDIATIONS, Start, kinds, names, single};
use serde_json::json;

use crate::SOON;

/// The original's lease: a standby waits 15 s after the last renewal.
const TAKEOVER: Duration = Duration::from_secs(25);

pub(crate) async fn the_next_leader_goes_on_where_the_last_one_was_killed(
    lab: &Lab,
    program: &Path,
    first: Manager,
) -> anyhow::Result<()> {
    let (name, kind) = ("leaders", kinds::self_node_remediation());
    let nodes = names(name, 5);
    lab.add_nodes(name, &nodes, "worker").await?;
    let second = lab.manager(program, 2, &Start::default()).await?;
    let reboot = kinds::reference(&kind, REMEDIATIONS, "reboot");
    lab.put_check(name, single(name, json!(0), reboot)).await?;
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(5))
        .await?;
    lab.break_nodes(&nodes[..1], "Unknown", false).await?;
    let before = lab.remediated(&kind, &nodes, 1, SOON).await?.remove(0);
    lab.says(name, "NHC is remediating 1 nodes", SOON).await?;
    ensure!(second.process.is_running() && second.leads(Duration::ZERO).await.is_err());

    first.process.kill().await;
    // While nobody leads: one recovers, another one breaks.
    lab.heal_nodes(&nodes[..1]).await?;
    lab.break_nodes(&nodes[1..2], "Unknown", false).await?;
    let found = lab.remediated(&kind, &nodes[1..2], 1, TAKEOVER).await?;
    second.leads(SOON).await?;
    lab.remediated(&kind, &nodes[..1], 0, SOON).await?;
    ensure!(found.len() == 1 && found[0].uid() != before.uid());
    lab.given_back(&nodes[0]).await?;
    ensure!(lab.leases().await?.contains_key(&nodes[1]));
    lab.reason(name, SOON, |status| status.healthy_nodes == Some(4))
        .await?;

    // A clean end gives the leader lease back: the next one starts at once.
    second.process.stop(SOON).await;
    let third = lab.manager(program, 3, &Start::default()).await?;
    third.leads(Duration::from_secs(5)).await?;
    lab.heal_nodes(&nodes[1..2]).await?;
    lab.remediated(&kind, &nodes, 0, SOON).await?;
    third.process.stop(SOON).await;
    Ok(())
}
