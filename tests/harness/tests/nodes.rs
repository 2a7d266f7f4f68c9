//! The harness by itself: two clusters at once, nodes that die and come back, and the writers' judge.

#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]
use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use medik8s_harness::{
    Cluster, Options, child, cluster,
    machine::{Cause, NodeSpec},
    network::Cut,
    wait, writers,
};

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    medik8s_harness::run(async || {
        let nodes = ["n1", "n2", "n3"].map(NodeSpec::worker).to_vec();
        let options = Options {
            nodes,
            ..Options::default()
        };
        let first = Cluster::start(options.clone()).await?;
        let second = Cluster::start(options).await?;
        println!(
            "two clusters: {:.1?}, {:.1?}",
            first.started_in(),
            second.started_in()
        );
        let version = first.admin().apiserver_version().await?.git_version;
        ensure!(
            version == first.tools().version(),
            "the server says it is {version}"
        );
        judge_sees_an_overlap(&first).await?;
        second.stop().await;
        first.stop().await;
        Ok(())
    })
}

/// A pod deleted by force while its node is only cut off runs twice: the judge must see that, and the
/// first copy must end with the reset of its node and not before.
async fn judge_sees_an_overlap(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.apply_text(WRITER).await?;
    let pods: Api<Pod> = Api::default_namespaced(cluster.admin());
    let nodes: Api<Node> = Api::all(cluster.admin());
    let home = wait::until("the writer's pod", Duration::from_secs(20), async || {
        let pod = pods.get("writer-0").await?;
        let running = pod.status.and_then(|status| status.phase).as_deref() == Some("Running");
        Ok(pod.spec.and_then(|spec| spec.node_name).filter(|_| running))
    })
    .await?;
    let machine = cluster.machine(&home)?;
    let boot = boot_id(&nodes.get(&home).await?).context("no boot ID")?;
    ensure!(
        boot == machine.boot_id(),
        "the node reports another boot ID than its machine has"
    );
    let lives = async |count: usize| {
        wait::until(
            &format!("{count} writers"),
            Duration::from_secs(20),
            async || {
                let lives = writers::lives(&writers::read(&cluster.writers_log())?);
                Ok((lives.len() == count).then_some(lives))
            },
        )
        .await
    };
    lives(1).await?;

    machine.cut(Cut::Everything).await?;
    wait::until("Ready=Unknown", Duration::from_secs(28), async || {
        Ok((cluster::ready_status(&nodes.get(&home).await?) == Some("Unknown")).then_some(()))
    })
    .await?;
    cluster
        .kubectl(&["delete", "pod", "writer-0", "--force", "--grace-period=0"])
        .await?;
    lives(2).await?;
    wait::until("the overlap", Duration::from_secs(2), async || {
        let overlaps = writers::overlaps(&writers::read(&cluster.writers_log())?);
        Ok((overlaps.len() == 1).then_some(()))
    })
    .await?;

    machine.reset(Cause::Scenario).await?;
    let last = lives(2)
        .await?
        .iter()
        .find(|life| life.node == home)
        .map(|life| life.last);
    machine.mend().await?;
    wait::until(
        "the node back with a new boot ID",
        Duration::from_secs(20),
        async || {
            let node = nodes.get(&home).await?;
            Ok(
                (cluster::is_ready(&node) && boot_id(&node).is_some_and(|new| new != boot))
                    .then_some(()),
            )
        },
    )
    .await?;
    let still = lives(2)
        .await?
        .iter()
        .find(|life| life.node == home)
        .map(|life| life.last);
    ensure!(
        last == still,
        "the first writer outlived the reset of its node"
    );
    Ok(())
}

fn boot_id(node: &Node) -> Option<String> {
    Some(node.status.as_ref()?.node_info.as_ref()?.boot_id.clone())
}

const WRITER: &str = "\
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: writer, namespace: default}
spec:
  serviceName: writer
  replicas: 1
  selector: {matchLabels: {app: writer}}
  template:
    metadata: {labels: {app: writer, harness.medik8s.io/writer: ''}}
    spec:
      containers: [{name: writer, image: none}]
";
