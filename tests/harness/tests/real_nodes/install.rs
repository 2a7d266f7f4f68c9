//! Installing on real nodes, as a user would, after a look at what an agent could do there.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use medik8s_harness::{
    manifests,
    real_node::{RealNode, images},
    tools, wait,
};

use super::lab::{CONFIG, Lab, OPERATORS, SLACK};

const HEALTH_CHECK: &str = include_str!("health-check.yaml");
const LEDGER: &str = include_str!("ledger.yaml");
const CHECK: &str = include_str!("check.yaml");

impl Lab {
    /// Refuses unless nothing can harm the machine; then installs everything.
    pub(crate) async fn install(&self) -> anyhow::Result<()> {
        for node in self.nodes() {
            self.cluster.apply_text(&check(node)).await?;
        }
        for node in self.nodes() {
            self.is_harmless(node).await?;
        }
        self.narrator.event("no container can reset this machine");
        let cluster = &self.cluster;
        cluster.apply_text(&manifests::definitions()?).await?;
        let established = "wait --for=condition=Established --timeout=60s crd --all";
        cluster
            .kubectl(&established.split(' ').collect::<Vec<_>>())
            .await?;
        cluster.apply_text(CONFIG).await?;
        for operator in OPERATORS {
            cluster.apply_text(&manifests::operator(operator)?).await?;
            self.narrator.say(&format!(
                "$ kubectl apply --server-side -f deploy/{operator}.yaml"
            ));
        }
        wait::until("the managers", 2 * SLACK, async || {
            self.managers_are_up().await.map(Some)
        })
        .await?;
        wait::until("the health check to be admitted", SLACK, async || {
            cluster.apply_text(HEALTH_CHECK).await.map(Some)
        })
        .await?;
        let store = cluster.folder().join("store");
        fs::create_dir_all(&store)?;
        let ledger = LEDGER
            .replace("STORE", &store.display().to_string())
            .replace("IMAGE", images::WORKLOAD);
        cluster.apply_text(&ledger).await?;
        self.ready().await
    }

    async fn is_harmless(&self, node: &RealNode) -> anyhow::Result<()> {
        let pods: Api<Pod> = Api::default_namespaced(self.cluster.admin());
        let name = format!("check-{}", node.name());
        let (phase, said) = wait::until(&format!("the pod {name}"), SLACK, async || {
            let status = pods.get(&name).await?.status.unwrap_or_default();
            let phase = status.phase.unwrap_or_default();
            let ended = status
                .container_statuses
                .iter()
                .flatten()
                .find_map(|container| container.state.clone()?.terminated)
                .and_then(|end| end.message);
            let over = phase == "Succeeded" || phase == "Failed";
            Ok(over.then(|| (phase, ended.unwrap_or_default())))
        })
        .await?;
        ensure!(
            phase == "Succeeded",
            "no agent is started, it could harm this machine: on {}: {said}",
            node.name()
        );
        self.cluster
            .kubectl(&["delete", "pod", &name, "--wait=false"])
            .await?;
        Ok(())
    }
}

/// The pod that looks for ways to harm the machine.
fn check(node: &RealNode) -> String {
    CHECK
        .replace("THE_NODE", node.name())
        .replace("THE_BOOT", &node.boot_id())
        .replace("IMAGE", images::WORKLOAD)
}

/// Static development builds of the managers and of the agent with the test watchdog.
pub(crate) fn programs() -> anyhow::Result<PathBuf> {
    let folder = tools::repository().join("target/nodes/x86_64-unknown-linux-gnu/debug");
    folder
        .canonicalize()
        .with_context(|| format!("{}: `make test-nodes` builds them", folder.display()))
}
