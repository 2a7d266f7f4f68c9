//! A server, nodes, a template, and a process that can be killed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, ResourceExt};
use medik8s_api::NodeHealthCheck;
use medik8s_api::remediation::{NodeHealthCheckStatus, UnhealthyNode};
use medik8s_core::conditions::Status;
use medik8s_runtime::capabilities;
use medik8s_runtime::clock::{Clock, ManualClock};
use medik8s_runtime::events;
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::process::Process;
use medik8s_runtime::shutdown::Shutdown;
use medik8s_runtime::write::Writer;
use medik8s_testing::build::{NodeExt, node};
use medik8s_testing::fake::FakeApi;
use node_healthcheck_operator::cluster::ClusterWatch;
use node_healthcheck_operator::run::{Lead, Parts};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub(crate) const API: &str = "test.example.com/v1";
pub(crate) const NAMESPACE: &str = "medik8s";
pub(crate) const NODE_NAME: &str = "remediation.medik8s.io/node-name";
pub(crate) const TIMED_OUT: &str = "remediation.medik8s.io/nhc-timed-out";

/// Step of the virtual clock.
const TICK: Duration = Duration::from_millis(5);

/// A remediation of any content.
#[derive(CustomResource, Clone, Debug, Serialize, Deserialize)]
#[kube(
    group = "test.example.com",
    version = "v1",
    kind = "Foo",
    namespaced,
    schema = "disabled"
)]
#[kube(status = "Value")]
pub(crate) struct FooSpec {
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// Another one.
#[derive(CustomResource, Clone, Debug, Serialize, Deserialize)]
#[kube(
    group = "test.example.com",
    version = "v1",
    kind = "Bar",
    namespaced,
    schema = "disabled"
)]
#[kube(status = "Value")]
pub(crate) struct BarSpec {
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// A running operator. Dropping it is a kill.
pub(crate) struct Operator {
    process: JoinHandle<anyhow::Result<()>>,
    pub(crate) metrics: Metrics,
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.process.abort();
    }
}

/// Server and time.
#[derive(Clone)]
pub(crate) struct Lab {
    pub(crate) api: FakeApi,
    pub(crate) clock: Clock,
    hands: ManualClock,
}

impl Lab {
    /// A server with workers `w1` to `w<n>`, kinds `Foo` and `Bar` with one template each.
    pub(crate) fn new(nodes: usize) -> Self {
        let start = "2026-03-04T12:00:00Z".parse().unwrap();
        let (clock, hands) = Clock::manual(start);
        let api = FakeApi::with_medik8s_kinds();
        let time = clock.clone();
        api.follow_clock(move || time.now());
        api.add_kind::<CustomResourceDefinition>();
        api.add_kind::<Foo>();
        api.add_kind::<Bar>();
        for kind in ["Foo", "Bar"] {
            let plural = format!("{}templates", kind.to_lowercase());
            api.add_dynamic_kind(API, &format!("{kind}Template"), &plural, true);
        }
        let lab = Self { api, clock, hands };
        lab.put_template("FooTemplate", "foo", json!({}));
        lab.put_template("BarTemplate", "bar", json!({}));
        for number in 1..=nodes {
            lab.put_node(&format!("w{number}"));
        }
        lab
    }

    pub(crate) fn put_node(&self, name: &str) {
        let since = self.ago(3600);
        self.api.put(&node(name).worker().ready(since));
    }

    pub(crate) fn put_template(&self, kind: &str, name: &str, annotations: Value) {
        self.api.put_value(json!({
            "apiVersion": API, "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations},
            "spec": {"template": {"spec": {"strategy": name}}},
        }));
    }

    /// A health check over the workers.
    pub(crate) fn put_check(&self, name: &str, spec: Value) {
        self.api.put_value(json!({
            "apiVersion": "remediation.medik8s.io/v1alpha1", "kind": "NodeHealthCheck",
            "metadata": {"name": name}, "spec": spec,
        }));
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn ago(&self, seconds: i64) -> Timestamp {
        self.now()
            .checked_sub(SignedDuration::from_secs(seconds))
            .unwrap()
    }

    /// Starts the operator as a new process, with nothing remembered.
    pub(crate) fn start(&self) -> Operator {
        self.start_with(false)
    }

    /// Starts it; MachineHealthChecks conflict with all health checks, or only with those over
    /// nodes of theirs.
    pub(crate) fn start_with(&self, conflict_by_nodes: bool) -> Operator {
        let metrics = Metrics::new().unwrap();
        let mut process = Process::new(Shutdown::manual());
        let client = self.api.client_as("nhc");
        let (capability, discovery) = capabilities::discover(client.clone());
        process.service("discovery", |stop| discovery.run(stop));
        let (recorder, sink) = events::recorder(
            self.api.client_as("events"),
            "NodeHealthCheck",
            Writer::new("nhc"),
            self.clock.clone(),
            &metrics,
        );
        process.service("events", |stop| sink.run(stop));
        let (machine_recorder, sink) = events::recorder(
            self.api.client_as("events"),
            "MachineHealthCheck",
            Writer::new("nhc"),
            self.clock.clone(),
            &metrics,
        );
        process.service("machine events", |stop| sink.run(stop));
        let lead = Lead::new(Parts {
            machine_recorder,
            client: client.clone(),
            writer: Writer::new("nhc"),
            recorder,
            clock: self.clock.clone(),
            metrics: metrics.clone(),
            spawner: process.spawner(),
            cluster: ClusterWatch::new(client, capability),
            lease_namespace: "medik8s-leases".to_owned(),
            guard_control_plane_quorum: false,
            watch_kubelet_versions: false,
            conflict_by_nodes,
        })
        .unwrap();
        process.worker("health checks", |stop| lead.run(stop));
        Operator {
            process: tokio::spawn(process.run()),
            metrics,
        }
    }

    /// Lets time pass. Tokio's clock is paused in these tests and jumps to the next timer; the wall
    /// clock follows it in small steps.
    pub(crate) async fn pass(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(TICK);
            self.hands.advance(step);
            tokio::time::sleep(step).await;
            left -= step;
        }
    }

    pub(crate) async fn seconds(&self, seconds: u64) {
        self.pass(Duration::from_secs(seconds)).await;
    }

    /// Lets time pass until something holds; ends the test if it does not.
    pub(crate) async fn until(&self, what: &str, limit: i64, holds: impl Fn(&Self) -> bool) {
        let end = self
            .now()
            .checked_add(SignedDuration::from_secs(limit))
            .unwrap();
        while !holds(self) {
            assert!(
                self.now() < end,
                "{what}: not within {limit} s; status {:#?}, remediations {:#?}",
                self.api.list::<NodeHealthCheck>(),
                self.remediations()
            );
            self.pass(TICK).await;
        }
    }

    pub(crate) fn set_ready(&self, name: &str, status: Status) {
        // The node lifecycle controller writes whole seconds.
        let since = Timestamp::from_second(self.now().as_second()).unwrap();
        self.api.update::<Node>(None, name, |node| {
            *node = node.clone().not_ready(status, since);
        });
    }

    pub(crate) fn break_node(&self, name: &str) {
        self.set_ready(name, Status::Unknown);
    }

    pub(crate) fn heal_node(&self, name: &str) {
        self.set_ready(name, Status::True);
    }

    /// All remediations, as stored.
    pub(crate) fn remediations(&self) -> Vec<Value> {
        let mut found = Vec::new();
        for kind in ["Foo", "Bar"] {
            for name in self.names(kind) {
                found.extend(self.remediation(kind, &name));
            }
        }
        found
    }

    pub(crate) fn remediation(&self, kind: &str, name: &str) -> Option<Value> {
        self.api.get_value(API, kind, Some(NAMESPACE), name)
    }

    /// Names of the remediations of a kind.
    pub(crate) fn names(&self, kind: &str) -> Vec<String> {
        match kind {
            "Foo" => self
                .api
                .list::<Foo>()
                .iter()
                .map(ResourceExt::name_any)
                .collect(),
            "Bar" => self
                .api
                .list::<Bar>()
                .iter()
                .map(ResourceExt::name_any)
                .collect(),
            other => panic!("no kind {other}"),
        }
    }

    /// Nodes that are remediated, once per remediation.
    pub(crate) fn remediated(&self) -> Vec<String> {
        self.remediations()
            .iter()
            .map(|one| {
                one["metadata"]["annotations"][NODE_NAME]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    }

    pub(crate) fn edit(&self, kind: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut object = self.remediation(kind, name).unwrap();
        edit(&mut object);
        self.api.put_value(object);
    }

    pub(crate) fn check(&self, name: &str) -> NodeHealthCheck {
        self.api.get::<NodeHealthCheck>(None, name).unwrap()
    }

    pub(crate) fn status(&self, name: &str) -> NodeHealthCheckStatus {
        self.check(name).status.unwrap_or_default()
    }

    pub(crate) fn phase(&self, name: &str) -> String {
        self.status(name).phase.unwrap_or_default()
    }

    pub(crate) fn reason(&self, name: &str) -> String {
        self.status(name).reason.unwrap_or_default()
    }

    pub(crate) fn entry(&self, check: &str, node: &str) -> Option<UnhealthyNode> {
        self.status(check)
            .unhealthy_nodes?
            .into_iter()
            .find(|entry| entry.name == node)
    }

    /// Nodes whose lease somebody holds, with the holder.
    pub(crate) fn leases(&self) -> Vec<(String, String)> {
        self.api
            .list::<Lease>()
            .into_iter()
            .map(|lease| {
                let holder = lease.spec.unwrap().holder_identity.unwrap();
                (lease.metadata.name.unwrap(), holder)
            })
            .collect()
    }

    /// Reasons of the events on a health check, with how often each was told.
    pub(crate) fn events(&self) -> Vec<(String, i32)> {
        self.api
            .list::<Event>()
            .into_iter()
            .map(|event| (event.reason.unwrap_or_default(), event.count.unwrap_or(1)))
            .collect()
    }

    pub(crate) fn told(&self, reason: &str) -> i32 {
        self.events()
            .iter()
            .filter(|(one, _)| one == reason)
            .map(|(_, count)| count)
            .sum()
    }

    /// The requests of the operator since the last [`FakeApi::clear_requests`], without watches and
    /// without the look at what the cluster offers, every few minutes.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.api
            .requests()
            .iter()
            .filter(|one| one.client == "nhc" && !one.is_watch())
            .filter(|one| !["/version", "/apis"].contains(&one.path.as_str()))
            .map(|one| format!("{} {}", one.method, one.path))
            .collect()
    }
}

/// A health check with a single template.
pub(crate) fn single() -> Value {
    json!({
        "selector": {"matchExpressions": [
            {"key": "node-role.kubernetes.io/worker", "operator": "Exists"}]},
        "unhealthyConditions": [
            {"type": "Ready", "status": "False", "duration": "3s"},
            {"type": "Ready", "status": "Unknown", "duration": "3s"},
        ],
        "minHealthy": "51%",
        "remediationTemplate":
            {"apiVersion": API, "kind": "FooTemplate", "namespace": NAMESPACE, "name": "foo"},
    })
}

/// A health check with two steps of a minute.
pub(crate) fn two_steps() -> Value {
    let mut spec = single();
    spec.as_object_mut().unwrap().remove("remediationTemplate");
    let step = |kind: &str, name: &str, order: i64| {
        json!({"order": order, "timeout": "1m", "remediationTemplate":
            {"apiVersion": API, "kind": kind, "namespace": NAMESPACE, "name": name}})
    };
    spec["escalatingRemediations"] =
        json!([step("BarTemplate", "bar", 2), step("FooTemplate", "foo", 1)]);
    spec
}

pub(crate) fn with(mut spec: Value, field: &str, value: Value) -> Value {
    spec[field] = value;
    spec
}
