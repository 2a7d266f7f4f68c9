//! Nodes and pods to work on.

use std::{ops::Range, time::Duration};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use medik8s_harness::{
    Cluster, cluster,
    kwok::{ALIVE, ENDS, ENDS_AT_ONCE, SIMULATED},
    wait,
};
use serde_json::json;
use tokio::time::sleep;

/// Label of the nodes that are not the operator's home.
const LABEL: &str = "bench";
/// Requests of this program at the same time.
const PARALLEL: usize = 16;
const LIMIT: Duration = Duration::from_mins(2);
/// A thousand nodes take a while on a busy machine, and so does every look at them.
const NODES_LIMIT: Duration = Duration::from_mins(5);
const NODES_PAUSE: Duration = Duration::from_secs(3);

/// Name of a node by number.
pub(crate) fn node(number: usize) -> String {
    format!("node-{number}")
}

/// Makes nodes and waits until they are Ready.
pub(crate) async fn nodes(cluster: &Cluster, numbers: Range<usize>) -> anyhow::Result<()> {
    let wanted = numbers.end;
    let api: Api<Node> = Api::all(cluster.admin());
    stream::iter(numbers.map(|number| {
        let api = api.clone();
        async move {
            let room = json!({"cpu": "64", "memory": "256Gi", "pods": "500"});
            let object: Node = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": node(number), "labels": {
                    SIMULATED: ALIVE, LABEL: "", "kubernetes.io/hostname": node(number)}},
                "status": {"capacity": room, "allocatable": room},
            }))?;
            api.create(&PostParams::default(), &object).await?;
            anyhow::Ok(())
        }
    }))
    .buffer_unordered(PARALLEL)
    .try_collect::<Vec<()>>()
    .await?;
    wait::until("all nodes to be Ready", NODES_LIMIT, async || {
        sleep(NODES_PAUSE).await;
        let found = api.list(&ListParams::default().labels(LABEL)).await?;
        let ready = found.iter().filter(|node| cluster::is_ready(node)).count();
        Ok((ready == wanted).then_some(()))
    })
    .await
}

/// A DaemonSet with a pod on each node, as every cluster has some.
pub(crate) async fn daemon_set(cluster: &Cluster, pods: usize) -> anyhow::Result<()> {
    cluster
        .apply_text(&format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: agent}}}}\n  template:\n    \
             metadata: {{labels: {{app: agent}}}}\n    spec:\n      nodeSelector: {{{LABEL}: ''}}\n      \
             tolerations: [{{operator: Exists}}]\n      \
             containers: [{{name: agent, image: agent}}]\n"
        ))
        .await?;
    running(cluster, "agent", pods).await
}

/// Puts pods of a Deployment on a node and waits until they run.
pub(crate) async fn fill(cluster: &Cluster, node: &str, pods: usize) -> anyhow::Result<()> {
    cluster
        .apply_text(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: load-{node}, namespace: default}}\n\
             spec:\n  replicas: {pods}\n  selector: {{matchLabels: {{app: load-{node}}}}}\n  template:\n    \
             metadata: {{labels: {{app: load-{node}, {ENDS}: {ENDS_AT_ONCE}}}}}\n    spec:\n      \
             nodeSelector: {{kubernetes.io/hostname: {node}}}\n      \
             containers: [{{name: load, image: load}}]\n"
        ))
        .await?;
    running(cluster, &format!("load-{node}"), pods).await
}

/// Removes them, also those that wait for a place after a drain.
pub(crate) async fn clear(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let name = format!("load-{node}");
    cluster
        .kubectl(&["delete", "deployment", &name, "--timeout=60s"])
        .await?;
    running(cluster, &name, 0).await
}

/// Pods of a node that are not of the DaemonSet and still there.
pub(crate) async fn left(cluster: &Cluster, node: &str) -> anyhow::Result<usize> {
    let pods: Api<Pod> = Api::all(cluster.admin());
    let params = ListParams::default()
        .fields(&format!("spec.nodeName={node}"))
        .labels("app!=agent");
    Ok(pods.list(&params).await.context("list pods")?.items.len())
}

async fn running(cluster: &Cluster, app: &str, wanted: usize) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(cluster.admin());
    let params = ListParams::default().labels(&format!("app={app}"));
    let what = format!("{wanted} pods of {app}");
    wait::until(&what, LIMIT, async || {
        let found = pods.list(&params).await?.items;
        let running = found.iter().filter(|pod| is_running(pod)).count();
        Ok((running == wanted && found.len() == wanted).then_some(()))
    })
    .await
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}
