//! The DaemonSet controller, and the endpoints of the agents.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use medik8s_api::names::snr;
use medik8s_testing::build::{self, MetaExt as _, PodExt as _};
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::control::text;
use crate::machine::AgentPod;
use crate::process::NAMESPACE;

/// How often the controller looks.
const PERIOD: Duration = Duration::from_secs(2);
/// An agent that runs for so long is ready.
const READY: Duration = Duration::from_secs(6);

/// What the pods of the DaemonSet are made from.
#[derive(Debug)]
pub(crate) struct Template {
    number: u64,
    value: Value,
    env: BTreeMap<String, String>,
    secret: String,
    told: Option<DaemonSetStatus>,
    endpoints: Vec<(String, IpAddr)>,
}

impl Cluster {
    /// Takes in the DaemonSet, makes and ends its pods, keeps its status and the endpoints.
    pub(crate) fn roll_out(&mut self) {
        let now = Instant::now();
        if now < self.rolls {
            return;
        }
        self.rolls = now + PERIOD;
        let (kind, name) = ("DaemonSet", snr::DAEMON_SET_NAME);
        let Some(set) = self.api.get_value("apps/v1", kind, Some(NAMESPACE), name) else {
            return;
        };
        let Some(template) = set.pointer("/spec/template") else {
            return;
        };
        if self
            .template
            .as_ref()
            .is_none_or(|known| known.value != *template)
        {
            let number = self.template.as_ref().map_or(0, |known| known.number) + 1;
            self.trace.say(format!("agents: template {number}"));
            self.trace.count("templates of the agents", 1);
            self.template = Some(Template {
                number,
                value: template.clone(),
                env: environment(template),
                secret: secret(template),
                told: self.template.take().and_then(|known| known.told),
                endpoints: Vec::new(),
            });
        }
        let Some(mut template) = self.template.take() else {
            return;
        };
        self.make_pods(&template);
        self.end_old_pods(&template);
        self.tell_status(&mut template, &set);
        self.tell_endpoints(&mut template);
        self.template = Some(template);
    }

    /// One node at a time gets a second agent; whoever has none gets one at once.
    fn make_pods(&mut self, template: &Template) {
        let now = Instant::now();
        // As Kubernetes does it: a node that is lost in the middle holds up the others.
        let surges = self.machines.iter().any(|machine| {
            let old = machine
                .agents
                .iter()
                .any(|pod| pod.template != template.number);
            machine.agents.len() > 1 || (old && !self.control.is_ready(machine.index))
        });
        let mut may_surge = !surges;
        for machine in &mut self.machines {
            let current = machine
                .agents
                .iter()
                .any(|pod| pod.template == template.number);
            let ready = self.control.is_ready(machine.index) && machine.reported;
            let first = machine.agents.is_empty();
            // One that hangs keeps the lock until its liveness probe has killed it.
            let hangs = machine.agents.iter().any(|pod| pod.hangs.is_some());
            if current || hangs || !ready || (!first && !may_surge) {
                continue;
            }
            if !first {
                may_surge = false;
                self.trace.say(format!("{}: a second agent", machine.name));
            }
            self.next_address += 1;
            let number = self.next_address;
            let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number));
            let name = format!("agent-{}-{number}", machine.name);
            let mut env = template.env.clone();
            env.insert("MY_NODE_NAME".to_owned(), machine.name.clone());
            env.insert("POD_NAME".to_owned(), name.clone());
            env.insert("DEPLOYMENT_NAMESPACE".to_owned(), NAMESPACE.to_owned());
            let pod = build::pod(NAMESPACE, &name)
                .on(&machine.name)
                .of_daemon_set(snr::DAEMON_SET_NAME)
                .tolerating_everything()
                .annotated(snr::AGENT_POD_MARKER_ANNOTATION, snr::AGENT_POD_MARKER)
                .labelled(snr::AGENT_NAME_LABEL, snr::AGENT_NAME_VALUE)
                .labelled(snr::AGENT_COMPONENT_LABEL, snr::AGENT_COMPONENT_VALUE)
                .ip(&address.to_string());
            self.api.put(&pod);
            self.net.add_host(address, machine.place());
            machine.agents.push(AgentPod {
                name,
                address,
                created: now,
                template: template.number,
                env,
                secret: template.secret.clone(),
                certificates: None,
                process: None,
                since: now,
                starts: now + Duration::from_secs(1),
                failures: 0,
                ends: None,
                hangs: None,
            });
        }
    }

    /// An old agent is ended once its successor is ready.
    fn end_old_pods(&mut self, template: &Template) {
        let now = Instant::now();
        let deleted = Time(self.clock.now());
        for machine in &self.machines {
            let ready = machine.agents.iter().any(|pod| {
                pod.template == template.number && pod.works() && now >= pod.since + READY
            });
            let old = machine.agents.iter();
            for old in old.filter(|pod| ready && pod.template != template.number) {
                let stored: Option<Pod> = self.api.get(Some(NAMESPACE), &old.name);
                if stored.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none()) {
                    self.api.update::<Pod>(Some(NAMESPACE), &old.name, |pod| {
                        pod.metadata.deletion_timestamp = Some(deleted.clone());
                    });
                }
            }
        }
    }

    fn tell_status(&self, template: &mut Template, set: &Value) {
        let now = Instant::now();
        let count = |wanted: &dyn Fn(&AgentPod) -> bool| {
            let has = |machine: &&crate::machine::Machine| machine.agents.iter().any(wanted);
            i32::try_from(self.machines.iter().filter(has).count()).unwrap_or(i32::MAX)
        };
        let desired = i32::try_from(self.machines.len()).unwrap_or(i32::MAX);
        let updated = |pod: &AgentPod| pod.template == template.number;
        let ready = |pod: &AgentPod| pod.works() && now >= pod.since + READY;
        let extra = self.machines.iter().any(|machine| machine.agents.len() > 1);
        let status = DaemonSetStatus {
            desired_number_scheduled: desired,
            current_number_scheduled: count(&|_| true),
            // A node with two agents is not done.
            updated_number_scheduled: Some(count(&updated) - i32::from(extra)),
            number_ready: count(&ready),
            observed_generation: set.pointer("/metadata/generation").and_then(Value::as_i64),
            ..DaemonSetStatus::default()
        };
        if template.told.as_ref() != Some(&status) {
            let name = snr::DAEMON_SET_NAME;
            self.api.update::<DaemonSet>(Some(NAMESPACE), name, |set| {
                set.status = Some(status.clone());
            });
            template.told = Some(status);
        }
    }

    fn tell_endpoints(&self, template: &mut Template) {
        let agents = self.machines.iter().flat_map(|machine| {
            let pods = machine.agents.iter();
            pods.map(|pod| (machine.name.clone(), pod.address))
        });
        let endpoints: Vec<(String, IpAddr)> = agents.collect();
        if endpoints == template.endpoints {
            return;
        }
        let mut slice = EndpointSlice {
            metadata: build::meta("agents"),
            address_type: "IPv4".to_owned(),
            ..EndpointSlice::default()
        }
        .within(NAMESPACE)
        .labelled("kubernetes.io/service-name", snr::AGENT_SERVICE);
        slice.endpoints = endpoints
            .iter()
            .map(|(node, address)| Endpoint {
                addresses: vec![address.to_string()],
                node_name: Some(node.clone()),
                ..Endpoint::default()
            })
            .collect();
        self.api.put(&slice);
        template.endpoints = endpoints;
    }
}

/// The variables of the agents' container that have a value.
fn environment(template: &Value) -> BTreeMap<String, String> {
    let env = template
        .pointer("/spec/containers/0/env")
        .and_then(Value::as_array);
    let pair = |entry: &Value| {
        Some((
            text(entry, "/name")?.to_owned(),
            text(entry, "/value")?.to_owned(),
        ))
    };
    env.into_iter().flatten().filter_map(pair).collect()
}

/// The Secret that the agents mount.
fn secret(template: &Value) -> String {
    let volumes = template.pointer("/spec/volumes").and_then(Value::as_array);
    let name = |volume: &Value| text(volume, "/secret/secretName").map(str::to_owned);
    volumes
        .into_iter()
        .flatten()
        .find_map(name)
        .unwrap_or_default()
}
