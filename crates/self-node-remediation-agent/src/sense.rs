//! Reading the API.
//!
//! # Guarantees
//! Every list of remediations is consistent (no resourceVersion) and complete (all pages), or it
//! failed; the moment it began is taken before the first request is sent. A remediation of a Machine
//! whose node cannot be looked up stays one of an unknown node, which nobody vouches for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::openshift::{MACHINE_ANNOTATION, MACHINE_VERSIONS};
use medik8s_api::names::snr::{AGENT_SELECTOR, ANNOUNCED_ANNOTATION};
use medik8s_runtime::clock::Clock;
use medik8s_runtime::error::Class;
use medik8s_runtime::read;
use medik8s_watchdog::Host;
use self_node_remediation_core::agent::{Evidence, Listed};
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_core::order::{Remediation, Target, Uptime};
use self_node_remediation_core::table::{ListedNode, Role};
use self_node_remediation_core::time::BootInstant;
use serde_json::Value;

use crate::directory::Directory;
use crate::objects::{AgentPod, OwnNode};

/// Nodes per page: a page of full metadata is decoded at once.
const NODE_PAGE: u32 = 100;

/// The API server did not answer; what it would have said is open.
struct Unanswered;

/// Remediations of which more is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// With the nodes of their Machines where those could be found.
    pub remediations: Vec<Remediation>,
    /// One that may be an order for this boot may be for the own Machine, which could not be asked for: what was read
    /// proves nothing.
    pub own_is_open: bool,
}

/// Key of a Machine: group, namespace, name.
type MachineKey = (String, String, String);

/// Reads for the rules. Cheap to clone.
#[derive(Clone)]
pub struct Senses {
    client: Client,
    clock: Clock,
    host: Arc<Host>,
    directory: Directory,
    namespace: String,
    node: NodeName,
    api_timeout: Duration,
    table_timeout: Duration,
}

impl std::fmt::Debug for Senses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Senses")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Senses {
    /// Reads through `client`, which must not retry by itself.
    pub fn new(
        client: Client,
        clock: Clock,
        host: Arc<Host>,
        directory: Directory,
        settings: &crate::settings::Settings,
    ) -> Self {
        Self {
            client,
            clock,
            host,
            directory,
            namespace: settings.namespace.clone(),
            node: settings.node.clone(),
            api_timeout: settings.timing.api_server_timeout(),
            table_timeout: settings.table_read_timeout,
        }
    }

    /// Now, as the rules count time.
    pub fn now(&self) -> BootInstant {
        BootInstant::at(self.clock.boottime())
    }

    /// One consistent, complete list of all remediations, within apiServerTimeout.
    pub async fn remediations(&self) -> (BootInstant, Option<Listed>) {
        let started = self.now();
        let end = tokio::time::Instant::now() + self.api_timeout;
        let list = tokio::time::timeout_at(end, self.list_remediations(end)).await;
        (started, list.ok().flatten())
    }

    async fn list_remediations(&self, end: tokio::time::Instant) -> Option<Listed> {
        let api = Api::<SelfNodeRemediation>::all(self.client.clone());
        let params = ListParams::default();
        let found = read::list_all_within(&api, &params, self.api_timeout).await;
        let objects = match found {
            Ok(objects) => objects,
            Err(error) => {
                let class = error.class();
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%class, error, "failed to check api server");
                return None;
            }
        };
        let mut remediations = Vec::with_capacity(objects.len());
        for object in &objects {
            // An object without UID cannot come from an API server, so the list cannot either.
            remediations.push(Remediation::parse(object)?);
        }
        // A list that has taken long is not lost by look-ups that take longer.
        let end = end.checked_sub(self.api_timeout / 8).unwrap_or(end);
        let end = end.min(self.end_of_look_ups());
        let resolved = self.resolve_until(remediations, end).await;
        (!resolved.own_is_open).then(|| Listed {
            remediations: resolved.remediations,
            uptime: self.uptime(),
        })
    }

    /// Looks up the nodes of Machines that are not known from the remediation itself, all of them within half of
    /// apiServerTimeout, so that a Machine API that hangs does not make a list fail.
    pub async fn resolve(&self, remediations: Vec<Remediation>) -> Resolved {
        self.resolve_until(remediations, self.end_of_look_ups())
            .await
    }

    fn end_of_look_ups(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.api_timeout / 2
    }

    async fn resolve_until(
        &self,
        remediations: Vec<Remediation>,
        end: tokio::time::Instant,
    ) -> Resolved {
        let mut nodes: BTreeMap<MachineKey, NodeName> = BTreeMap::new();
        let own = self.directory.machine();
        let mut own_is_open = false;
        for remediation in &remediations {
            let Target::Machine {
                group,
                namespace,
                name,
                node: None,
            } = &remediation.target
            else {
                continue;
            };
            let key = (group.clone(), namespace.clone(), name.clone());
            if nodes.contains_key(&key) {
                continue;
            }
            let looked_up = self.node_of_machine(group, namespace, name);
            let found = tokio::time::timeout_at(end, looked_up).await;
            match found.unwrap_or(Err(Unanswered)) {
                Ok(Some(node)) => drop(nodes.insert(key, node)),
                Ok(None) => {}
                Err(Unanswered) => {
                    // The Node of another one may say that it is of this Machine.
                    let claimed = self.directory.node_of_machine(group, namespace, name);
                    if let Some(other) = claimed.filter(|node| *node != self.node) {
                        nodes.insert(key, other);
                        continue;
                    }
                    let may_be_own = own.is_empty() || own == *name;
                    // Where the manager recorded a boot, that decides without the Machine.
                    let decides = remediation.is_order() && remediation.boot.is_none();
                    own_is_open |= may_be_own && decides;
                }
            }
        }
        let resolved = remediations
            .into_iter()
            .map(|remediation| remediation.resolved(&nodes));
        Resolved {
            remediations: resolved.collect(),
            own_is_open,
        }
    }

    /// `None`: it has no node, or there is no such Machine, or it may not be read.
    async fn node_of_machine(
        &self,
        group: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<NodeName>, Unanswered> {
        let known = MACHINE_VERSIONS.iter().find(|(known, _)| *known == group);
        for version in known.map_or(&[][..], |(_, versions)| versions) {
            let kind = GroupVersionKind::gvk(group, version, "Machine");
            let resource = ApiResource::from_gvk(&kind);
            let api =
                Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
            match read::get_within(&api, name, self.api_timeout).await {
                Ok(machine) => {
                    let node = machine.data.pointer("/status/nodeRef/name");
                    return Ok(node.and_then(Value::as_str).and_then(NodeName::new));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    let class = error.class();
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(machine = name, %class, error, "the Machine cannot be looked up");
                    // We may not: it will never be known.
                    return if class == Class::Denied {
                        Ok(None)
                    } else {
                        Err(Unanswered)
                    };
                }
            }
        }
        Ok(None)
    }

    /// What the rule for remediations without boot ID compares. An unknown uptime counts as long:
    /// then the machine has not rebooted since.
    fn uptime(&self) -> Uptime {
        let up = self.host.uptime().unwrap_or_else(|error| {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the uptime is unknown"
            );
            Duration::MAX
        });
        Uptime {
            wall: self.clock.now(),
            up,
        }
    }

    /// The node list for the peer table, and on the way what else is needed of Nodes and pods.
    pub async fn nodes(&self, directory: &Directory) -> Evidence {
        let api = Api::<OwnNode>::all(self.client.clone());
        let params = ListParams::default().limit(NODE_PAGE);
        let mut announced = None;
        let mut machines = Vec::new();
        let listed = |metadata: ObjectMeta| {
            let name = metadata.name.as_deref().and_then(NodeName::new)?;
            let annotations = metadata.annotations.as_ref();
            if name == self.node {
                announced = annotations
                    .and_then(|annotations| annotations.get(ANNOUNCED_ANNOTATION).cloned());
            }
            if let Some(machine) = annotations.and_then(|all| all.get(MACHINE_ANNOTATION)) {
                machines.push((machine.clone(), name.clone()));
            }
            Some(ListedNode {
                name,
                role: Role::of(metadata.labels.as_ref()),
                created: metadata.creation_timestamp.map(|created| created.0),
            })
        };
        let dated = read::list_metadata_dated(&api, &params, self.table_timeout, listed).await;
        let dated = match dated {
            Ok(dated) => dated,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the nodes cannot be listed");
                return Evidence::NodesFailed;
            }
        };
        let Some(stamp) = dated.server_time else {
            tracing::warn!("the API server's answer carries no date");
            return Evidence::NodesFailed;
        };
        directory.machines_listed(machines);
        self.read_own_node(&api, directory).await;
        if directory.needs_pods() {
            self.list_pods(directory).await;
        }
        Evidence::Nodes {
            nodes: dated.items,
            stamp,
            announced,
        }
    }

    async fn read_own_node(&self, api: &Api<OwnNode>, directory: &Directory) {
        match read::get_within(api, self.node.as_str(), self.table_timeout).await {
            Ok(node) => {
                directory.own_node_read(&node);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the own Node cannot be read");
            }
        }
    }

    async fn list_pods(&self, directory: &Directory) {
        let api = Api::<AgentPod>::namespaced(self.client.clone(), &self.namespace);
        let agents = ListParams::default().labels(AGENT_SELECTOR);
        let params = agents.limit(NODE_PAGE);
        match read::list_all_within(&api, &params, self.table_timeout).await {
            Ok(pods) => {
                directory.pods_listed(&pods);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the agent pods cannot be listed");
            }
        }
    }

    /// Whether a live read shows that this pod is being deleted. Unknown counts as no.
    pub async fn own_pod_is_deleted(&self, pod: Option<&str>, limit: Duration) -> bool {
        let Some(pod) = pod else { return false };
        let api = Api::<AgentPod>::namespaced(self.client.clone(), &self.namespace);
        match read::get_within(&api, pod, limit).await {
            Ok(pod) => pod.metadata.deletion_timestamp.is_some(),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::info!(error, "the own pod cannot be read");
                false
            }
        }
    }
}
