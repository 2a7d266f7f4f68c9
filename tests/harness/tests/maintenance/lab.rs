//! The cluster with the operator, and what scenarios do with it.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Event, Namespace, Node, Pod, ServiceAccount},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use medik8s_api::{
    NodeMaintenance,
    names::{contract, nmo},
    node_maintenance::NodeMaintenanceStatus,
};
use medik8s_harness::{
    Cluster,
    audit::{self, Request},
    manifests, wait,
};
use serde_json::{Value, json};

/// The operator in the audit log.
pub(crate) const USER: &str = "system:serviceaccount:node-maintenance-operator-system:\
                               node-maintenance-operator-controller-manager";
pub(crate) const NAMESPACE: &str = "node-maintenance-operator-system";
const OPERATOR: &str = "node-maintenance-operator";
/// How long a drain may take that nothing holds up.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    log: RefCell<audit::Reader>,
}

impl Lab {
    pub(crate) fn new(cluster: Cluster) -> Self {
        let log = RefCell::new(audit::Reader::new(cluster.audit_log()));
        Self { cluster, log }
    }

    /// Installs the operator as a user would; returns when its webhook answers.
    pub(crate) async fn install(&self) -> anyhow::Result<()> {
        self.cluster
            .apply_text(&manifests::operator(OPERATOR)?)
            .await
            .context("apply the operator")?;
        self.at_work().await
    }

    pub(crate) async fn at_work(&self) -> anyhow::Result<()> {
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let probe = object("probe", "control-plane-1", json!({}))?;
        wait::until("the operator's webhook", LIMIT, async || {
            Ok(Some(self.maintenances().create(&params, &probe).await?))
        })
        .await?;
        // What the leader does first.
        let namespaces: Api<Namespace> = Api::all(self.cluster.admin());
        wait::until("the namespace of the leases", LIMIT, async || {
            Ok(namespaces.get_opt("medik8s-leases").await?.map(drop))
        })
        .await
    }

    pub(crate) async fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(args).await
    }

    /// What kubectl says when it is refused.
    pub(crate) async fn refused(&self, manifest: &str) -> anyhow::Result<String> {
        match self.cluster.apply_text(manifest).await {
            Ok(()) => anyhow::bail!("was admitted: {manifest}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    pub(crate) fn maintenances(&self) -> Api<NodeMaintenance> {
        Api::all(self.cluster.admin())
    }

    pub(crate) fn nodes(&self) -> Api<Node> {
        Api::all(self.cluster.admin())
    }

    pub(crate) fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.cluster.admin(), "medik8s-leases")
    }

    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.cluster.admin(), namespace)
    }

    /// Creates a NodeMaintenance with the node's name as its own.
    pub(crate) async fn maintain(&self, node: &str) -> anyhow::Result<()> {
        self.maintain_by(node, json!({})).await
    }

    /// As [`Self::maintain`], with more in the spec.
    pub(crate) async fn maintain_by(&self, node: &str, spec: Value) -> anyhow::Result<()> {
        self.maintenances()
            .create(&PostParams::default(), &object(node, node, spec)?)
            .await?;
        Ok(())
    }

    /// Deletes it and waits until it is gone.
    pub(crate) async fn end(&self, name: &str) -> anyhow::Result<()> {
        self.kubectl(&["delete", "nm", name, "--timeout=20s"])
            .await?;
        Ok(())
    }

    pub(crate) async fn status(&self, name: &str) -> anyhow::Result<NodeMaintenanceStatus> {
        let object = self.maintenances().get(name).await?;
        Ok(object.status.unwrap_or_default())
    }

    /// Waits for a phase; how long that took.
    pub(crate) async fn phase(
        &self,
        name: &str,
        phase: &str,
        limit: Duration,
    ) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.status_with(&format!("{name} to be {phase}"), name, limit, |status| {
            status.phase.as_deref() == Some(phase)
        })
        .await?;
        Ok(begin.elapsed())
    }

    /// Waits for a status.
    pub(crate) async fn status_with(
        &self,
        what: &str,
        name: &str,
        limit: Duration,
        holds: impl Fn(&NodeMaintenanceStatus) -> bool,
    ) -> anyhow::Result<NodeMaintenanceStatus> {
        let mut last = NodeMaintenanceStatus::default();
        wait::until(what, limit, async || {
            last = self.status(name).await?;
            Ok(holds(&last).then(|| last.clone()))
        })
        .await
        .with_context(|| format!("the status of {name}"))
    }

    pub(crate) async fn succeeds(&self, name: &str) -> anyhow::Result<Duration> {
        self.phase(name, nmo::PHASE_SUCCEEDED, LIMIT).await
    }

    /// A pod that is bound to a node already; returns when it runs, or is gone again. What `change`
    /// says is merged into it.
    pub(crate) async fn pod(
        &self,
        namespace: &str,
        name: &str,
        node: &str,
        change: Value,
    ) -> anyhow::Result<Pod> {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        });
        merge(&mut pod, change);
        let pods = self.pods(namespace);
        let created = pods
            .create(&PostParams::default(), &serde_json::from_value(pod)?)
            .await
            .with_context(|| format!("create the pod {namespace}/{name}"))?;
        wait::until(&format!("{namespace}/{name} to run"), LIMIT, async || {
            let Some(pod) = pods.get_opt(name).await? else {
                return Ok(Some(()));
            };
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
            Ok((phase.as_deref() == Some("Running")).then_some(()))
        })
        .await?;
        Ok(created)
    }

    /// A namespace with its default ServiceAccount.
    pub(crate) async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        self.kubectl(&["create", "namespace", name]).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.cluster.admin(), name);
        wait::until("the ServiceAccount", LIMIT, async || {
            Ok(accounts.get_opt("default").await?.map(drop))
        })
        .await
    }

    /// Until a pod is not there any more.
    pub(crate) async fn gone(
        &self,
        namespace: &str,
        name: &str,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let pods = self.pods(namespace);
        wait::until(
            &format!("{namespace}/{name} to be gone"),
            limit,
            async || Ok(pods.get_opt(name).await?.is_none().then_some(())),
        )
        .await
    }

    /// Cordon, maintenance taint, unschedulable taint, exclusion label.
    pub(crate) async fn marks(&self, node: &str) -> anyhow::Result<[bool; 4]> {
        let node = self.nodes().get(node).await?;
        let label = node
            .labels()
            .get(contract::EXCLUDE_FROM_REMEDIATION_LABEL)
            .is_some_and(|value| value == contract::TRUE);
        let spec = node.spec.unwrap_or_default();
        let taints = spec.taints.unwrap_or_default();
        let has = |key: &str| taints.iter().any(|taint| taint.key == key);
        Ok([
            spec.unschedulable == Some(true),
            has("medik8s.io/drain"),
            has("node.kubernetes.io/unschedulable"),
            label,
        ])
    }

    pub(crate) async fn ensure_bare(&self, node: &str) -> anyhow::Result<()> {
        let marks = self.marks(node).await?;
        ensure!(marks == [false; 4], "{node} still carries {marks:?}");
        Ok(())
    }

    pub(crate) async fn ensure_marked(&self, node: &str) -> anyhow::Result<()> {
        let marks = self.marks(node).await?;
        ensure!(marks == [true; 4], "{node} carries only {marks:?}");
        Ok(())
    }

    /// Who holds the lease of a node.
    pub(crate) async fn holder(&self, node: &str) -> anyhow::Result<Option<String>> {
        let lease = self.leases().get_opt(&format!("node-{node}")).await?;
        Ok(lease
            .and_then(|lease| lease.spec)
            .and_then(|spec| spec.holder_identity))
    }

    /// Gives the lease of a node to somebody else, by force if it is taken, as a health checker of
    /// the original writes it.
    pub(crate) async fn hand_lease_to(&self, node: &str, holder: &str) -> anyhow::Result<()> {
        let uid = self.nodes().get(node).await?.uid().unwrap_or_default();
        let now = format!("{:.6}", Timestamp::now());
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": format!("node-{node}"), "namespace": "medik8s-leases",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 660, "acquireTime": now,
                "renewTime": now, "leaseTransitions": 0},
        });
        self.leases()
            .patch(
                &format!("node-{node}"),
                &PatchParams::apply("health-checker").force(),
                &Patch::Apply(&lease),
            )
            .await?;
        Ok(())
    }

    /// How often the operator told something about an object, by reason.
    pub(crate) async fn told(&self, about: &str, reason: &str) -> anyhow::Result<i32> {
        let events: Api<Event> = Api::namespaced(self.cluster.admin(), "default");
        let fields = format!("involvedObject.name={about},reason={reason}");
        let found = events.list(&ListParams::default().fields(&fields)).await?;
        Ok(found.iter().map(|event| event.count.unwrap_or(1)).sum())
    }

    /// Waits until something was told.
    pub(crate) async fn hears(&self, about: &str, reason: &str) -> anyhow::Result<()> {
        wait::until(&format!("{reason} about {about}"), LIMIT, async || {
            Ok((self.told(about, reason).await? > 0).then_some(()))
        })
        .await
    }

    /// What the API server was asked, oldest first.
    pub(crate) fn asked(&self, choose: impl Fn(&Request) -> bool) -> anyhow::Result<Vec<Request>> {
        let mut log = self.log.borrow_mut();
        let all = log.read()?.iter();
        Ok(all.filter(|one| choose(one)).cloned().collect())
    }

    /// Evictions of a pod that the operator asked for.
    pub(crate) fn evictions(&self, pod: &str) -> anyhow::Result<Vec<Request>> {
        self.asked(|one| one.user == USER && one.resource == "pods/eviction" && one.name == pod)
    }

    /// MUST NOT 3.
    pub(crate) fn must_not_delete_pods(&self) -> anyhow::Result<()> {
        let deletes = self.asked(|one| {
            one.user == USER && one.resource.starts_with("pods") && one.verb.starts_with("delete")
        })?;
        ensure!(deletes.is_empty(), "the operator deleted pods: {deletes:?}");
        Ok(())
    }
}

/// A NodeMaintenance.
pub(crate) fn object(name: &str, node: &str, spec: Value) -> anyhow::Result<NodeMaintenance> {
    let mut object = json!({
        "apiVersion": "nodemaintenance.medik8s.io/v1beta1", "kind": "NodeMaintenance",
        "metadata": {"name": name},
        "spec": {"nodeName": node},
    });
    let mut change = serde_json::Map::new();
    change.insert("spec".to_owned(), spec);
    merge(&mut object, Value::Object(change));
    Ok(serde_json::from_value(object)?)
}

/// Lays `change` over `base`: objects are merged, everything else is replaced.
pub(crate) fn merge(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, change) => *base = change,
    }
}
