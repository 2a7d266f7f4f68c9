//! The harness by itself: nodes live, die and come back, pods run, webhooks are reached through their
//! Services, cuts cut and nothing is left behind.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use medik8s_harness::{
    Cluster, Options, child, cluster,
    machine::{Cause, NodeSpec},
    network::Cut,
    writers,
};
use serde_json::json;
use tokio::time::sleep;

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    medik8s_harness::run(|| async {
        two_clusters_at_once().await?;
        Ok(())
    })
}

async fn two_clusters_at_once() -> anyhow::Result<()> {
    let nodes = ["n1", "n2", "n3"].map(NodeSpec::worker).to_vec();
    let options = Options {
        nodes,
        ..Options::default()
    };
    let first = Cluster::start(options.clone()).await?;
    say(&format!(
        "first cluster started in {:.1} s",
        first.started_in().as_secs_f64()
    ));
    let second = Cluster::start(options).await?;
    say(&format!(
        "second cluster started in {:.1} s",
        second.started_in().as_secs_f64()
    ));
    let version = first.admin().apiserver_version().await?;
    ensure!(
        version.git_version == first.tools().version(),
        "stamped version {}",
        version.git_version
    );

    writer_moves_only_by_reset(&first).await?;
    second.stop().await;
    first.stop().await;
    Ok(())
}

async fn writer_moves_only_by_reset(cluster: &Cluster) -> anyhow::Result<()> {
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "writer", "namespace": "default"},
        "spec": {
            "serviceName": "writer", "replicas": 1,
            "selector": {"matchLabels": {"app": "writer"}},
            "template": {
                "metadata": {"labels": {"app": "writer", "harness.medik8s.io/writer": ""}},
                "spec": {"terminationGracePeriodSeconds": 5, "containers": [{"name": "c", "image": "none"}]},
            },
        },
    });
    let sets: Api<k8s_openapi::api::apps::v1::StatefulSet> =
        Api::default_namespaced(cluster.admin());
    sets.patch(
        "writer",
        &PatchParams::apply("test").force(),
        &Patch::Apply(set),
    )
    .await?;
    let pods: Api<Pod> = Api::default_namespaced(cluster.admin());
    let home = wait_for("the writer's pod", Duration::from_secs(20), async || {
        let Some(pod) = pods.get_opt("writer-0").await? else {
            return Ok(None);
        };
        let running = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
        Ok(running
            .then(|| pod.spec.and_then(|spec| spec.node_name))
            .flatten())
    })
    .await?;
    sleep(Duration::from_secs(1)).await;
    let machine = cluster.machine(&home)?;
    let nodes: Api<Node> = Api::all(cluster.admin());
    let boot = nodes
        .get(&home)
        .await?
        .status
        .and_then(|s| s.node_info)
        .context("info")?
        .boot_id;
    ensure!(boot == machine.boot_id(), "boot ID");

    machine.cut(Cut::Everything).await?;
    let cut = Instant::now();
    wait_for("Ready Unknown", Duration::from_secs(28), async || {
        let node = nodes.get(&home).await?;
        Ok((cluster::ready_status(&node) == Some("Unknown")).then_some(()))
    })
    .await?;
    say(&format!(
        "Ready=Unknown {:.1} s after the cut",
        cut.elapsed().as_secs_f64()
    ));

    // The object goes by force: the process stays, and a second one elsewhere is an overlap.
    pods.delete(
        "writer-0",
        &kube::api::DeleteParams::default().grace_period(0),
    )
    .await?;
    wait_for("an overlap", Duration::from_secs(20), async || {
        Ok((!writers::overlaps(&writers::read(&cluster.writers_log())?).is_empty()).then_some(()))
    })
    .await?;
    machine.reset(Cause::Scenario).await?;
    let lines = writers::read(&cluster.writers_log())?.len();
    machine.mend().await?;
    wait_for("the node back", Duration::from_secs(20), async || {
        let node = nodes.get(&home).await?;
        let new = node
            .status
            .as_ref()
            .and_then(|s| s.node_info.as_ref())
            .is_some_and(|i| i.boot_id != boot);
        Ok((cluster::is_ready(&node) && new).then_some(()))
    })
    .await?;
    say(&format!(
        "{lines} lines, {} lives",
        writers::lives(&writers::read(&cluster.writers_log())?).len()
    ));
    Ok(())
}

async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "waited {limit:?} for {what}");
        sleep(Duration::from_millis(200)).await;
    }
}

fn say(text: &str) {
    println!("{text}");
}
