//! A node is drained for maintenance and given back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt as _, api::ListParams};
use medik8s_api::{NodeMaintenance, names::kubernetes};

use super::{Narrator, Phases};
use crate::{Cluster, wait};

const SHOP: &str = include_str!("../../manifests/shop.yaml");
const NAME: &str = "replace-a-disk";
/// Long enough for a drain with a budget in its way, and for a manager that is killed meanwhile.
const LIMIT: Duration = Duration::from_mins(2);

pub(super) async fn maintain(
    cluster: &Cluster,
    narrator: &Narrator,
    phases: &mut Phases,
) -> anyhow::Result<()> {
    let node = quiet_worker(cluster).await?;
    let others = cluster
        .machines()
        .map(|machine| machine.name())
        .filter(|name| *name != node);
    let others: Vec<&str> = others.collect();
    cluster
        .kubectl(&[&["cordon"], others.as_slice()].concat())
        .await?;
    cluster.apply_text(SHOP).await?;
    let shop: Api<Pod> = Api::namespaced(cluster.admin(), "shop");
    let on_node =
        ListParams::default().fields(&format!("spec.nodeName={node},status.phase=Running"));
    wait::until("20 pods on the node", Duration::from_secs(30), async || {
        Ok((shop.list(&on_node).await?.items.len() == 20).then_some(()))
    })
    .await?;
    cluster
        .kubectl(&[&["uncordon"], others.as_slice()].concat())
        .await?;
    narrator.event(&format!(
        "20 pods of the shop run on {node}, one of them behind a PodDisruptionBudget"
    ));
    refused(cluster, narrator).await?;

    let begin = Instant::now();
    let narrator = narrator.since(begin);
    let request = maintenance(&node);
    wait::until(
        "the NodeMaintenance to be admitted",
        Duration::from_secs(30),
        async || cluster.apply_text(&request).await.map(Some),
    )
    .await?;
    narrator.event(&format!("NodeMaintenance {NAME} created for {node}"));
    let objects: Api<NodeMaintenance> = Api::all(cluster.admin());
    let mut shown = String::new();
    let mut held = false;
    wait::until("the drain", LIMIT, async || {
        let status = objects.get(NAME).await?.status.unwrap_or_default();
        let table = cluster.kubectl(&["get", "nm"]).await?;
        let row = without_age(&table);
        if row != shown {
            narrator.event("kubectl get nm");
            table.lines().for_each(|line| narrator.say(line));
            shown = row;
        }
        let error = status.last_error.unwrap_or_default();
        if !held && status.drain_progress == Some(95) && error.contains("basket") {
            held = true;
            narrator.event(&format!("held by its budget: {error}"));
            cluster.kubectl(&["-n", "shop", "scale", "deployment", "basket", "--replicas=2"]).await?;
            narrator.say("$ kubectl -n shop scale deployment basket --replicas=2     # now the budget allows it");
        }
        Ok((status.phase.as_deref() == Some("Succeeded")).then_some(()))
    })
    .await?;
    ensure!(
        held,
        "the drain ended without being held by the PodDisruptionBudget"
    );
    let left = shop.list(&on_node).await?.items.len();
    ensure!(
        left == 0,
        "the drain reported success with {left} pods of the shop on {node}"
    );
    narrator.event("drained: 100 %");
    phases.drain = Some(begin.elapsed());
    phases.add(
        "drain of 20 pods, one held by its budget for a while",
        begin.elapsed(),
    );

    let end = Instant::now();
    cluster
        .kubectl(&["delete", "nm", NAME, "--timeout=60s"])
        .await?;
    let nodes: Api<Node> = Api::all(cluster.admin());
    wait::until(
        "the node to be schedulable",
        Duration::from_secs(30),
        async || {
            let node = nodes.get(&node).await?;
            let spec = node.spec.unwrap_or_default();
            let marks = spec.taints.unwrap_or_default().into_iter().any(|taint| {
                taint.key == kubernetes::UNSCHEDULABLE_TAINT || taint.key == "medik8s.io/drain"
            });
            Ok((spec.unschedulable != Some(true) && !marks).then_some(()))
        },
    )
    .await?;
    narrator.event(&format!("maintenance ended: {node} is schedulable again"));
    phases.add("maintenance ended, node given back", end.elapsed());
    // Its pods would be in the way of the next chapter's tables.
    cluster
        .kubectl(&["delete", "namespace", "shop", "--wait=false"])
        .await?;
    Ok(())
}

fn maintenance(node: &str) -> String {
    format!(
        "apiVersion: nodemaintenance.medik8s.io/v1beta1\nkind: NodeMaintenance\nmetadata:\n  name: {NAME}\n\
         spec:\n  nodeName: {node}\n  reason: replace a disk\n"
    )
}

/// The operator's webhook is asked: a node that does not exist cannot be maintained.
async fn refused(cluster: &Cluster, narrator: &Narrator) -> anyhow::Result<()> {
    let answer = wait::until(
        "the webhook's answer",
        Duration::from_secs(30),
        async || {
            let error = cluster.apply_text(&maintenance("worker-99")).await.err();
            let text = error
                .context("a NodeMaintenance for a missing node was admitted")?
                .to_string();
            Ok(text
                .contains("no node with name worker-99 found")
                .then_some(text))
        },
    )
    .await?;
    let said = answer
        .split_once("denied the request: ")
        .map_or(answer.as_str(), |(_, why)| why);
    narrator.say(&format!(
        "a NodeMaintenance for a node that does not exist is refused: {said}"
    ));
    Ok(())
}

/// A worker that runs neither the ledger nor an operator.
async fn quiet_worker(cluster: &Cluster) -> anyhow::Result<String> {
    let pods: Api<Pod> = Api::all(cluster.admin());
    let pods = pods.list(&ListParams::default()).await?;
    let busy = |node: &str| {
        pods.iter().any(|pod| {
            let here = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
            let agent = pod
                .labels()
                .get("app.kubernetes.io/component")
                .is_some_and(|part| part == "agent");
            here && !agent
        })
    };
    cluster
        .machines()
        .map(|machine| machine.name().to_owned())
        .find(|node| node.starts_with("worker") && !busy(node))
        .context("every worker runs the ledger or an operator")
}

/// The age changes with every look.
fn without_age(table: &str) -> String {
    table
        .lines()
        .map(|line| {
            line.rsplit_once(' ')
                .map_or(line, |(rest, _)| rest.trim_end())
        })
        .collect::<Vec<_>>()
        .join("\n")
}
