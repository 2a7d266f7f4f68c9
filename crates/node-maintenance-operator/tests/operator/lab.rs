//! A fake API server, a clock, and operators that can be started and killed.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    coordination::v1::Lease,
    core::v1::{Event, Node, Pod},
};
use kube::{Client, client::Body};
use medik8s_api::{
    NodeMaintenance,
    names::nmo,
    node_maintenance::{NodeMaintenanceDrain, NodeMaintenanceStatus},
};
use medik8s_core::{conditions::Status, version::ServerVersion};
use medik8s_runtime::{
    capabilities::{Capabilities, Capability},
    clock::{Clock, ManualClock},
    events,
    leader::{self, Leadership},
    metrics::Metrics,
    process::Process,
    shutdown::Shutdown,
    write::Writer,
};
use medik8s_testing::{
    build::{self, MetaExt, NodeExt, PodExt},
    fake::FakeApi,
    wire::{Answer, Recorded, Reply},
};
use node_maintenance_operator::{PRODUCT, Parts, Settings, drain::pod::Key};
use tokio::task::JoinHandle;

/// How far the clock moves at once.
const STEP: Duration = Duration::from_millis(100);

/// The node of most tests.
pub(crate) const NODE: &str = "n1";

#[derive(Clone)]
pub(crate) struct Lab {
    pub(crate) api: FakeApi,
    pub(crate) clock: Clock,
    hands: ManualClock,
    start: Timestamp,
}

/// An operator at work. Dropping it does not stop it.
pub(crate) struct Operator {
    stop: Shutdown,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Operator {
    /// `kill -9`.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|ended| ended.is_cancelled()));
    }

    /// Waits until it ends by itself; why.
    pub(crate) async fn ended(self) -> anyhow::Error {
        self.task.await.unwrap().unwrap_err()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// SIGTERM; returns when the process has ended.
    pub(crate) async fn stop(self) {
        self.stop.trigger();
        self.task.await.unwrap().unwrap();
    }
}

impl Lab {
    /// A server with one ready worker.
    pub(crate) fn new() -> Self {
        let start: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let (clock, hands) = Clock::manual(start);
        let api = FakeApi::with_medik8s_kinds();
        let time = clock.clone();
        api.follow_clock(move || time.now());
        api.put(&build::node(NODE).worker().ready(start));
        Self {
            api,
            clock,
            hands,
            start,
        }
    }

    /// A new process on a plain cluster.
    pub(crate) fn operator(&self) -> Operator {
        self.operator_on(&[])
    }

    /// A new process on a cluster that serves these group versions.
    pub(crate) fn operator_on(&self, group_versions: &[&str]) -> Operator {
        self.run(self.api.client(), group_versions, false)
    }

    /// A new process whose evictions need this long for their connection.
    pub(crate) fn operator_far_away(&self, handshake: Duration) -> Operator {
        let near = self.api.client();
        let far = tower::service_fn(move |request: http::Request<Body>| {
            let near = near.clone();
            async move {
                if request.uri().path().ends_with("/eviction") {
                    tokio::time::sleep(handshake).await;
                }
                near.send(request).await
            }
        });
        self.run(Client::new(far, "default"), &[], false)
    }

    /// A new process that acts while it has the leader lease `medik8s/135b1886.medik8s.io`.
    pub(crate) fn elected_operator(&self) -> Operator {
        self.run(self.api.client(), &[], true)
    }

    fn run(&self, client: Client, group_versions: &[&str], is_elected: bool) -> Operator {
        let metrics = Metrics::new().unwrap();
        let stop = Shutdown::manual();
        let mut process = Process::new(stop.clone());
        let (recorder, sink) = events::recorder(
            client.clone(),
            nmo::EVENT_SOURCE,
            Writer::new(PRODUCT.name),
            self.clock.clone(),
            &metrics,
        );
        process.service("events", |stop| sink.run(stop));
        let leadership = if is_elected {
            let (leadership, elector) = leader::elector(leader::Settings {
                client: client.clone(),
                namespace: "medik8s".to_owned(),
                name: nmo::LEADER_ELECTION_ID.to_owned(),
                identity: "nmo-0".to_owned(),
                field_manager: PRODUCT.name,
                clock: self.clock.clone(),
                metrics: metrics.clone(),
                params: leader::Params::default(),
            });
            process.service("leader lease", |stop| async move {
                Ok(elector.run(stop).await?)
            });
            leadership
        } else {
            Leadership::always(self.clock.clone())
        };
        let parts = Parts {
            client,
            writer: Writer::new(PRODUCT.name).gated(leadership.clone()),
            recorder,
            capability: Self::capability(group_versions),
            clock: self.clock.clone(),
            metrics,
            spawner: process.spawner(),
        };
        let settings = Settings {
            namespace: "medik8s".to_owned(),
            lease_namespace: "medik8s-leases".to_owned(),
            own_pod: Some(Key::new("medik8s", "nmo-0")),
        };
        let controller = parts.assemble(settings).unwrap();
        process.worker("controller", |stop| async move {
            if leadership.acquired(&stop).await {
                controller.lead(stop).await?;
            }
            Ok(())
        });
        Operator {
            stop,
            task: tokio::spawn(process.run()),
        }
    }

    pub(crate) fn capability(group_versions: &[&str]) -> Capability {
        Capability::fixed(Capabilities {
            version: ServerVersion::parse("1", "33").unwrap(),
            group_versions: group_versions.iter().map(|one| (*one).to_owned()).collect(),
        })
    }

    /// Lets time pass for everybody.
    pub(crate) async fn pass(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(STEP);
            self.hands.advance(step);
            tokio::time::sleep(step).await;
            left -= step;
        }
    }

    pub(crate) async fn seconds(&self, seconds: u64) {
        self.pass(Duration::from_secs(seconds)).await;
    }

    /// Lets time pass until something holds; returns how long that took.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let mut waited = Duration::ZERO;
        while !holds(self) {
            assert!(
                waited < Duration::from_mins(10),
                "{what} never came: {}",
                self.story()
            );
            self.pass(STEP).await;
            waited += STEP;
        }
        waited
    }

    /// Seconds since the beginning.
    pub(crate) fn elapsed(&self) -> i64 {
        self.clock.now().as_second() - self.start.as_second()
    }

    pub(crate) fn maintain(&self, name: &str, node: &str) {
        let mut object = build::node_maintenance(name, node).created(self.clock.now());
        object.metadata.uid = Some(format!("{name}-{}", self.clock.now().as_millisecond()));
        self.api.put(&object);
    }

    pub(crate) fn maintain_by(&self, name: &str, drain: NodeMaintenanceDrain) {
        let mut object = build::node_maintenance(name, NODE).created(self.clock.now());
        object.spec.drain = Some(drain);
        self.api.put(&object);
    }

    pub(crate) fn end(&self, name: &str) {
        self.api.delete::<NodeMaintenance>(None, name);
    }

    /// A running pod of a ReplicaSet on the node.
    pub(crate) fn pod(&self, name: &str) -> Pod {
        build::pod("default", name)
            .on(NODE)
            .labelled("app", name)
            .controlled_by("apps/v1", "ReplicaSet", "rs")
            .running(Status::True, self.start)
    }

    pub(crate) fn put_pods(&self, names: &[&str]) {
        for name in names {
            self.api.put(&self.pod(name));
        }
    }

    pub(crate) fn put_daemon_set(&self, name: &str) {
        let object: DaemonSet = serde_json::from_value(serde_json::json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {}, "template": {}},
        }))
        .unwrap();
        self.api.put(&object);
    }

    pub(crate) fn has_pod(&self, name: &str) -> bool {
        self.api.get::<Pod>(Some("default"), name).is_some()
    }

    pub(crate) fn get(&self, name: &str) -> Option<NodeMaintenance> {
        self.api.get(None, name)
    }

    pub(crate) fn status(&self, name: &str) -> NodeMaintenanceStatus {
        self.get(name)
            .and_then(|object| object.status)
            .unwrap_or_default()
    }

    pub(crate) fn phase(&self, name: &str) -> String {
        self.status(name).phase.unwrap_or_default()
    }

    pub(crate) fn last_error(&self, name: &str) -> String {
        self.status(name).last_error.unwrap_or_default()
    }

    pub(crate) fn node(&self) -> Node {
        self.api.get(None, NODE).expect("the node is there")
    }

    pub(crate) fn lease(&self) -> Option<Lease> {
        self.api
            .get(Some("medik8s-leases"), &format!("node-{NODE}"))
    }

    pub(crate) fn holder(&self) -> Option<String> {
        self.lease()?.spec?.holder_identity
    }

    /// Somebody else holds the lease from now on.
    pub(crate) fn give_lease_to(&self, holder: &str) {
        self.api
            .remove::<Lease>(Some("medik8s-leases"), &format!("node-{NODE}"));
        let name = format!("node-{NODE}");
        let now = self.clock.now();
        self.api
            .put(&build::lease("medik8s-leases", &name, holder, now, 3600));
    }

    /// Reason of each event with how often it was told, about an object.
    pub(crate) fn told(&self, about: &str, reason: &str) -> i32 {
        self.api
            .list::<Event>()
            .iter()
            .filter(|event| event.involved_object.name.as_deref() == Some(about))
            .filter(|event| event.reason.as_deref() == Some(reason))
            .map(|event| event.count.unwrap_or(1))
            .sum()
    }

    /// Evictions that arrived, by pod.
    pub(crate) fn evictions(&self) -> Vec<Recorded> {
        self.api
            .requests()
            .into_iter()
            .filter(|request| request.path.ends_with("/eviction"))
            .collect()
    }

    pub(crate) fn evictions_of(&self, pod: &str) -> usize {
        let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
        self.evictions()
            .iter()
            .filter(|request| request.path == path)
            .count()
    }

    /// Answers evictions of these pods until told otherwise.
    pub(crate) fn refuse(&self, pods: &[&str], reply: impl Fn() -> Option<Reply> + Send + 'static) {
        let paths: BTreeSet<String> = pods
            .iter()
            .map(|pod| format!("/api/v1/namespaces/default/pods/{pod}/eviction"))
            .collect();
        self.api.intercept(move |request| {
            (request.method == "POST" && paths.contains(&request.path))
                .then(&reply)
                .flatten()
                .map(Answer::Reply)
        });
    }

    /// Method and path of every request, for failures of tests.
    pub(crate) fn story(&self) -> String {
        let lines: Vec<String> = self
            .api
            .requests()
            .iter()
            .map(|one| format!("{} {} {:?}", one.method, one.path, one.status))
            .collect();
        format!(
            "{:#?}\n{}",
            self.api.list::<NodeMaintenance>(),
            lines.join("\n")
        )
    }

    /// The marks of a maintenance on the node: cordon, both taints, label.
    pub(crate) fn marks(&self) -> (bool, BTreeSet<String>, bool) {
        let node = self.node();
        let spec = node.spec.unwrap_or_default();
        let taints = spec
            .taints
            .unwrap_or_default()
            .into_iter()
            .map(|taint| taint.key)
            .collect();
        let label = node.metadata.labels.is_some_and(|labels| {
            labels.contains_key("remediation.medik8s.io/exclude-from-remediation")
        });
        (spec.unschedulable.unwrap_or(false), taints, label)
    }

    pub(crate) fn is_bare(&self) -> bool {
        self.marks() == (false, BTreeSet::new(), false)
    }

    pub(crate) fn is_marked(&self) -> bool {
        let taints = ["medik8s.io/drain", "node.kubernetes.io/unschedulable"];
        self.marks()
            == (
                true,
                taints.iter().map(|key| (*key).to_owned()).collect(),
                true,
            )
    }
}
