//! The cluster of this suite, its installation, and what is looked at all the time.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use medik8s_api::{
    NodeHealthCheck, SelfNodeRemediation, SelfNodeRemediationConfig,
    names::{kubernetes, nhc, snr},
};
use medik8s_harness::{
    Cluster, NODE_MONITOR_GRACE, NODE_MONITOR_PERIOD, Options, cluster,
    machine::NodeSpec,
    real_node::{Fleet, RealNode},
    story::Narrator,
    wait,
    writers::{self, Life},
};
use self_node_remediation_core::{announcement::Announcement, budget};
use serde_json::json;

use super::install;

pub(crate) const CONFIG: &str = include_str!("config.yaml");

/// The managers go to control-plane nodes; one replica of each operator per node.
const CONTROL_PLANE: u8 = 2;
const WORKERS: u8 = 4;
pub(crate) const OPERATORS: [&str; 2] = ["self-node-remediation", "node-healthcheck-operator"];
/// How long a worker is not Ready before its remediation, as `health-check.yaml` says.
const UNHEALTHY_FOR: Duration = Duration::from_secs(10);
/// Members of a peer table must be this old before its node's quorum counts them.
const MEMBER_AGE: Duration = Duration::from_mins(1);
/// For everything that takes a fraction of a second on a machine that has nothing else to do.
pub(crate) const SLACK: Duration = Duration::from_mins(1);

/// The cluster.
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    pub(crate) narrator: Narrator,
    nodes: Vec<Arc<RealNode>>,
    /// Resets that were right, by node.
    resets: RefCell<BTreeMap<String, usize>>,
    /// How long an agent goes on without proof.
    pub(crate) span: Duration,
    /// Timeout of the watchdogs.
    pub(crate) watchdog: Duration,
    /// From order to release without evidence.
    pub(crate) wait: Duration,
}

impl Lab {
    /// Control plane and real nodes, one after the other.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let narrator = Narrator::new();
        let cluster = Cluster::start(Options::default()).await?;
        narrator.event("the control plane is up");
        let fleet = Fleet::prepare(&cluster, &install::programs()?)?;
        narrator.event("the images are built");
        let config: SelfNodeRemediationConfig = serde_saphyr::from_str(CONFIG)?;
        let span = budget::Timing::of(&config.spec)?.announced_span();
        let timeout = config.spec.watchdog_timeout.as_ref();
        let watchdog = budget::duration("watchdogTimeout", timeout, "")?;
        let mut lab = Self {
            cluster,
            narrator,
            nodes: Vec::new(),
            resets: RefCell::default(),
            span: Duration::from_secs(span),
            watchdog,
            wait: budget::announced_wait(span, watchdog.as_secs(), None)?,
        };
        let control_plane = (1..=CONTROL_PLANE).map(|n| NodeSpec::control_plane(format!("cp-{n}")));
        let workers = (1..=WORKERS).map(|n| NodeSpec::worker(format!("worker-{n}")));
        for (number, spec) in (0..).zip(control_plane.chain(workers)) {
            let node = RealNode::start(&lab.cluster, &fleet, &spec, number).await?;
            lab.nodes.push(Arc::clone(&node));
            lab.registered(&node).await?;
            lab.narrator.event(&format!("{} is Ready", node.name()));
        }
        Ok(lab)
    }

    async fn registered(&self, node: &RealNode) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(self.cluster.admin());
        let what = format!(
            "{} to be Ready; see {}",
            node.name(),
            node.folder().display()
        );
        wait::until(&what, 2 * SLACK, async || {
            node.ensure_runs()?;
            let found = nodes.get(node.name()).await?;
            ensure!(
                boot_of(&found) == Some(node.boot_id().as_str()),
                "its kubelet reports another boot"
            );
            Ok(cluster::is_ready(&found).then_some(()))
        })
        .await?;
        let role = if node.is_control_plane() {
            kubernetes::CONTROL_PLANE_ROLE_LABEL
        } else {
            kubernetes::WORKER_ROLE_LABEL
        };
        // As kubeadm does: a kubelet may not give itself a role.
        let labels = Patch::Merge(json!({"metadata": {"labels": {role: ""}}}));
        nodes
            .patch(node.name(), &PatchParams::default(), &labels)
            .await?;
        Ok(())
    }

    /// Whether each Deployment has all its replicas.
    pub(crate) async fn managers_are_up(&self) -> anyhow::Result<()> {
        let all: Api<Deployment> = Api::all(self.cluster.admin());
        let found = all.list(&ListParams::default()).await?;
        ensure!(
            found.items.len() >= OPERATORS.len(),
            "a Deployment is missing"
        );
        for deployment in &found {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            let ready = deployment
                .status
                .as_ref()
                .and_then(|status| status.ready_replicas);
            let name = deployment.name_any();
            ensure!(
                ready.is_some() && ready == wanted,
                "{name}: {ready:?} of {wanted:?} are ready"
            );
        }
        Ok(())
    }

    /// Waits until [`Lab::is_ready`].
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let limit = MEMBER_AGE + 3 * SLACK;
        wait::until("all nodes to be healthy and armed", limit, async || {
            self.is_ready().await.map(Some)
        })
        .await?;
        self.ledger().await?;
        Ok(())
    }

    /// Every node is healthy and armed and can be remediated, and nothing is left of an earlier
    /// remediation.
    pub(crate) async fn is_ready(&self) -> anyhow::Result<()> {
        self.guard(None)?;
        self.managers_are_up().await?;
        let nodes = Api::<Node>::all(self.cluster.admin())
            .list(&ListParams::default())
            .await?;
        for node in &nodes {
            self.is_healthy(node)?;
            let said = self.announced(node)?;
            let name = node.name_any();
            let members = nodes.iter().filter(|member| member.name_any() != name);
            let youngest = members.filter_map(ResourceExt::creation_timestamp).max();
            let due = youngest
                .context("no other node")?
                .0
                .checked_add(MEMBER_AGE)?;
            ensure!(said.stamp >= due, "the table of {name} is too young");
        }
        ensure!(
            self.remediations().await?.is_empty(),
            "a remediation is left"
        );
        let checks: Api<NodeHealthCheck> = Api::all(self.cluster.admin());
        for check in checks.list(&ListParams::default()).await? {
            let conditions = check.status.and_then(|status| status.conditions);
            let held = conditions.into_iter().flatten().find(|condition| {
                let storm = [nhc::STORM_ACTIVE, nhc::STORM_COOLDOWN_ACTIVE];
                storm.contains(&condition.type_.as_str()) && condition.status == "True"
            });
            ensure!(held.is_none(), "remediations are held back: {held:?}");
        }
        Ok(())
    }

    fn is_healthy(&self, node: &Node) -> anyhow::Result<()> {
        let name = node.name_any();
        let boot = self.node(&name)?.boot_id();
        ensure!(cluster::is_ready(node), "{name} is not Ready");
        ensure!(
            boot_of(node) == Some(boot.as_str()),
            "{name} reports another boot"
        );
        let ours = [snr::REMEDIATION_TAINT, kubernetes::OUT_OF_SERVICE_TAINT];
        let taints = node
            .spec
            .iter()
            .flat_map(|spec| spec.taints.iter().flatten());
        for taint in taints {
            ensure!(
                !ours.contains(&taint.key.as_str()),
                "{name} is tainted: {}",
                taint.key
            );
        }
        Ok(())
    }

    fn announced(&self, node: &Node) -> anyhow::Result<Announcement> {
        let name = node.name_any();
        let said = node.annotations().get(snr::ANNOUNCED_ANNOTATION);
        let said = said.with_context(|| format!("{name} has announced nothing"))?;
        let said: Announcement = said.parse().with_context(|| format!("{name}: {said}"))?;
        let real = self.node(&name)?;
        let others = u32::from(WORKERS) - u32::from(!real.is_control_plane());
        ensure!(
            said.boot.as_str() == real.boot_id(),
            "{name} has announced nothing in this boot"
        );
        ensure!(
            said.armed && said.bound.is_some(),
            "{name} is not armed: {said}"
        );
        ensure!(
            said.workers == others,
            "{name} knows {} workers",
            said.workers
        );
        Ok(said)
    }

    /// What must hold at every moment: no two writers at once, no node that died by itself, no reset but
    /// one of `victim`. Returns whether that was seen.
    pub(crate) fn guard(&self, victim: Option<&str>) -> anyhow::Result<bool> {
        self.judge()?;
        let mut seen = false;
        for node in &self.nodes {
            node.ensure_runs()?;
            let resets = node.resets().len();
            let expected = self.resets.borrow().get(node.name()).copied().unwrap_or(0);
            let is_victim = victim == Some(node.name());
            ensure!(
                resets <= expected + usize::from(is_victim),
                "{} was reset: a needless reboot",
                node.name()
            );
            seen |= is_victim && resets > expected;
        }
        Ok(seen)
    }

    /// The reset of a victim was right.
    pub(crate) fn accept_reset(&self, victim: &str) {
        *self
            .resets
            .borrow_mut()
            .entry(victim.to_owned())
            .or_default() += 1;
    }

    /// The lives of the ledger as its containers wrote them.
    pub(crate) fn judge(&self) -> anyhow::Result<Vec<Life>> {
        let lines = writers::read(&self.cluster.folder().join("store/writers.log"))?;
        if let Some(overlap) = writers::overlaps(&lines).first() {
            bail!(
                "two copies of the ledger ran at once: on {} and on {}",
                overlap.earlier.node,
                overlap.later.node
            );
        }
        Ok(writers::lives(&lines))
    }

    pub(crate) fn node(&self, name: &str) -> anyhow::Result<&Arc<RealNode>> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.with_context(|| format!("there is no node {name}"))
    }

    pub(crate) fn nodes(&self) -> &[Arc<RealNode>] {
        &self.nodes
    }

    pub(crate) fn workers(&self) -> impl Iterator<Item = &Arc<RealNode>> {
        self.nodes.iter().filter(|node| !node.is_control_plane())
    }

    /// Node and UID of the ledger's pod, once it runs and writes.
    pub(crate) async fn ledger(&self) -> anyhow::Result<(String, String)> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.admin(), "ledger");
        wait::until("the ledger to run", 2 * SLACK, async || {
            let pod = pods.get("ledger-0").await?;
            let uid = pod.uid().unwrap_or_default();
            let writes = self.judge()?.iter().any(|life| life.pod == uid);
            let home = pod.spec.and_then(|spec| spec.node_name);
            let running = pod.status.and_then(|status| status.phase).as_deref() == Some("Running");
            Ok(home.filter(|_| running && writes).map(|home| (home, uid)))
        })
        .await
    }

    pub(crate) async fn remediations(&self) -> anyhow::Result<Vec<SelfNodeRemediation>> {
        let all = Api::<SelfNodeRemediation>::all(self.cluster.admin());
        Ok(all.list(&ListParams::default()).await?.items)
    }

    /// From a silent node to its order.
    pub(crate) fn notice(&self) -> Duration {
        NODE_MONITOR_GRACE + NODE_MONITOR_PERIOD + UNHEALTHY_FOR + SLACK
    }

    pub(crate) async fn stop(self) {
        for node in &self.nodes {
            node.scrap().await;
        }
        self.cluster.stop().await;
    }
}

fn boot_of(node: &Node) -> Option<&str> {
    Some(node.status.as_ref()?.node_info.as_ref()?.boot_id.as_str())
}
