//! Looks at everything that a pass decides from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::core::ObjectMeta;
use kube::{Api, Resource, ResourceExt};
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::openshift::MACHINE_VERSIONS;
use medik8s_api::names::{contract, kubernetes, snr};
use medik8s_api::self_node_remediation::SelfNodeRemediationConfigSpec;
use medik8s_core::{node as node_facts, roles, taints, time, version::ServerVersion};
use medik8s_runtime::{controller::ObjectKey, read};
use self_node_remediation_core::announcement::{Announcement, Relayed, StoppedFeeding};
use self_node_remediation_core::budget::{Limits, Timing};
use self_node_remediation_core::ids::{BootId, NodeName};
use self_node_remediation_core::order::{Phase, Remediation, Target};
use self_node_remediation_core::release::{self, AgentPods, OrderTimes, Others, Peer};
use self_node_remediation_core::table::{ListedNode, Role};
use serde::Deserialize;

use super::{RemediationError, Remediator};

/// Metadata of a node, as the watch keeps it.
#[derive(Debug, Clone, Default, Deserialize, Resource)]
#[resource(inherit = Node)]
pub struct NodeMetadata {
    /// All that is decoded of it.
    #[serde(deserialize_with = "read::metadata")]
    pub metadata: ObjectMeta,
}

/// Namespace of the kubelets' Leases.
const NODE_LEASES: &str = "kube-node-lease";
/// Drops from a node's metadata what nobody here reads.
pub fn keep_roles(node: &mut NodeMetadata) {
    let kept = [
        kubernetes::WORKER_ROLE_LABEL,
        kubernetes::CONTROL_PLANE_ROLE_LABEL,
        kubernetes::MASTER_ROLE_LABEL,
        contract::EXCLUDE_FROM_REMEDIATION_LABEL,
    ];
    let metadata = &mut node.metadata;
    metadata.owner_references = None;
    metadata.finalizers = None;
    if let Some(labels) = &mut metadata.labels {
        labels.retain(|key, _| kept.contains(&key.as_str()));
    }
    if let Some(annotations) = &mut metadata.annotations {
        let kept = [snr::AGENT_VERSION_ANNOTATION, snr::RELAYED_WORDS_ANNOTATION];
        annotations.retain(|key, _| kept.contains(&key.as_str()));
    }
}

/// Everything that a pass decides from.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) object: SelfNodeRemediation,
    pub(super) remediation: Remediation,
    /// The configuration, unless it is absent or being deleted.
    pub(super) config: Option<SelfNodeRemediationConfigSpec>,
    pub(super) found: Found,
    pub(super) times: Option<OrderTimes>,
    /// Worker nodes in the cluster.
    pub(super) workers: usize,
    pub(super) peers: Vec<Peer>,
    pub(super) acknowledged: BTreeSet<NodeName>,
    pub(super) asked: bool,
    pub(super) storm: bool,
    pub(super) calm_since: Timestamp,
    pub(super) watched_since: Timestamp,
    pub(super) kubelet_seen: Option<Timestamp>,
    pub(super) version: Option<ServerVersion>,
    /// Pods on the node; read only while the workload is removed.
    pub(super) pods: Vec<Pod>,
    /// Volume attachments of the node; read only while the workload is removed.
    pub(super) attachments: usize,
}

/// The node of the remediation.
#[derive(Debug)]
pub(super) enum Found {
    Node(Box<NodeSeen>),
    /// There is no such node.
    Absent,
    /// It is not known which node it is, and why.
    Unresolved(String),
}

/// The node, read consistently in this pass.
#[derive(Debug)]
pub(super) struct NodeSeen {
    pub(super) object: Node,
    pub(super) facts: release::Node,
    pub(super) excluded: bool,
    pub(super) tainted: bool,
    pub(super) out_of_service: Option<Taint>,
    /// Settings that agents on the node run with, read from their pods.
    pub(super) pod_timings: Vec<Timing>,
}

impl NodeSeen {
    /// Whether it carries a taint of ours.
    pub(super) fn has_marks(&self) -> bool {
        self.tainted
            || self.out_of_service.is_some()
            || taints::has(&self.object, taints::SELF_NODE_REMEDIATION_LEGACY)
    }

    /// Reads a node and the agent pods on it.
    pub(super) fn new(object: Node, name: NodeName, pods: &[Pod]) -> Self {
        let annotation = |key: &str| node_facts::annotation(&object, key);
        let agents: Vec<&Pod> = pods
            .iter()
            .filter(|pod| is_agent(pod) && is_live(pod))
            .collect();
        let facts = release::Node {
            name,
            ready: node_facts::ready(&object),
            kubelet_boot: node_facts::boot_id(&object).and_then(BootId::new),
            announced: annotation(snr::ANNOUNCED_ANNOTATION)
                .and_then(|text| text.parse::<Announcement>().ok()),
            reboot_capable: annotation(snr::IS_REBOOT_CAPABLE_ANNOTATION) == Some("true"),
            published_watchdog: annotation(snr::WATCHDOG_TIMEOUT_ANNOTATION)
                .and_then(|text| text.parse().ok())
                .map(Duration::from_secs),
            last_words: annotation(snr::STOPPED_FEEDING_ANNOTATION)
                .and_then(|text| text.parse::<StoppedFeeding>().ok()),
            control_plane: roles::is_control_plane(object.metadata.labels.as_ref()),
            agent: guards(&agents),
        };
        Self {
            excluded: node_facts::is_excluded(&object),
            tainted: taints::has(&object, taints::SELF_NODE_REMEDIATION),
            out_of_service: taints::find(&object, taints::OUT_OF_SERVICE).cloned(),
            pod_timings: agents.iter().filter_map(|pod| timing_of(pod)).collect(),
            facts,
            object,
        }
    }
}

/// Who guards the node, by its agent pods that have not ended.
fn guards(agents: &[&Pod]) -> AgentPods {
    let runs = |pod: &Pod| {
        let status = pod.status.as_ref();
        status.and_then(|status| status.phase.as_deref()) == Some("Running")
    };
    if agents.is_empty() {
        AgentPods::None
    } else if agents.iter().all(|pod| has_marker(pod)) {
        AgentPods::Ours
    } else if agents.iter().any(|pod| has_marker(pod) || runs(pod)) {
        AgentPods::Old
    } else {
        // An annotation of its predecessor may still say that the node can be reset.
        AgentPods::Unstarted
    }
}

/// Whether a pod is an agent, of whatever version.
pub(super) fn is_agent(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let label = |key: &str| {
        labels
            .and_then(|labels| labels.get(key))
            .map(String::as_str)
    };
    label(snr::AGENT_NAME_LABEL) == Some(snr::AGENT_NAME_VALUE)
        && label(snr::AGENT_COMPONENT_LABEL) == Some(snr::AGENT_COMPONENT_VALUE)
}

/// Whether containers of the pod may run.
fn is_live(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

fn has_marker(pod: &Pod) -> bool {
    pod.annotations()
        .contains_key(snr::AGENT_POD_MARKER_ANNOTATION)
}

/// The time limits that an agent runs with, from the environment of its pod.
fn timing_of(pod: &Pod) -> Option<Timing> {
    let env: BTreeMap<&str, &str> = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .flat_map(|container| container.env.iter().flatten())
        .filter_map(|variable| Some((variable.name.as_str(), variable.value.as_deref()?)))
        .collect();
    let nanos = |key| env.get(key)?.parse().ok().map(Duration::from_nanos);
    Timing::new(Limits {
        api_check_interval: nanos("API_CHECK_INTERVAL")?,
        api_server_timeout: nanos("API_SERVER_TIMEOUT")?,
        max_api_error_threshold: env.get("MAX_API_ERROR_THRESHOLD")?.parse().ok()?,
        peer_dial_timeout: nanos("PEER_DIAL_TIMEOUT")?,
        peer_request_timeout: nanos("PEER_REQUEST_TIMEOUT")?,
    })
    .ok()
}

/// Last words of others that the agent of a node passed on.
pub(super) fn relayed_by(node: &NodeMetadata) -> Option<Relayed> {
    let annotations = node.metadata.annotations.as_ref()?;
    let text = annotations.get(snr::RELAYED_WORDS_ANNOTATION)?;
    Some(Relayed::read(text))
}

/// The node as a member of a table.
pub(super) fn peer(metadata: &ObjectMeta) -> Option<Peer> {
    let version = metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(snr::AGENT_VERSION_ANNOTATION));
    Some(Peer {
        listed: ListedNode {
            name: NodeName::new(metadata.name.as_deref()?)?,
            role: Role::of(metadata.labels.as_ref()),
            created: metadata
                .creation_timestamp
                .as_ref()
                .map(|created| created.0),
        },
        our_agent: version.is_some_and(|version| !version.is_empty()),
    })
}

impl Remediator {
    pub(super) async fn observe(
        &self,
        key: &ObjectKey,
        object: &SelfNodeRemediation,
    ) -> Result<Observed, RemediationError> {
        let parsed = Remediation::parse(object).ok_or(RemediationError::NotStored)?;
        let (remediation, unresolved) = self.resolve(parsed).await?;
        let config = self.configs.get(Some(&self.namespace), snr::CONFIG_NAME);
        let config = config.filter(|config| config.metadata.deletion_timestamp.is_none());
        let times = OrderTimes::of(object, &remediation);
        let peers: Vec<Peer> = self
            .nodes
            .list()
            .iter()
            .filter_map(|node| peer(&node.metadata))
            .collect();
        let target = remediation.target.node().cloned();
        let mut seen = Observed {
            object: object.clone(),
            config: config.map(|config| config.spec.clone()),
            found: Found::Absent,
            workers: peers.iter().filter(|peer| peer.listed.role.worker).count(),
            peers,
            acknowledged: self.memory.acknowledged(key, times.as_ref()),
            asked: self.memory.take_asked(key),
            times,
            storm: false,
            calm_since: Timestamp::MAX,
            watched_since: Timestamp::MAX,
            kubelet_seen: None,
            version: self.capability.current().map(|known| known.version),
            pods: Vec::new(),
            attachments: 0,
            remediation,
        };
        if let Some(why) = unresolved {
            seen.found = Found::Unresolved(why);
        } else if let Some(name) = target {
            self.look_at_node(key, &mut seen, name).await?;
        }
        Ok(seen)
    }

    /// Pods first and the node last: what is decided about the pods must rest on a boot that was read after them.
    async fn look_at_node(
        &self,
        key: &ObjectKey,
        seen: &mut Observed,
        name: NodeName,
    ) -> Result<(), RemediationError> {
        let on_node = format!("spec.nodeName={name}");
        let api = Api::<Pod>::all(self.client.clone());
        let pods = match seen.remediation.phase {
            Phase::RebootCompleted => {
                seen.attachments = self.attachments(&name).await?;
                seen.pods = read::list_all(&api, &ListParams::default().fields(&on_node)).await?;
                seen.pods.clone()
            }
            Phase::Started | Phase::PreRebootCompleted => {
                let agents = ListParams::default().labels(snr::AGENT_SELECTOR);
                read::list_all(&api, &agents.fields(&on_node)).await?
            }
            Phase::FencingCompleted | Phase::Unknown(_) => Vec::new(),
        };
        let nodes = Api::<Node>::all(self.client.clone());
        let Some(node) = read::get_opt(&nodes, name.as_str()).await? else {
            return Ok(());
        };
        let mut node = NodeSeen::new(node, name, &pods);
        if let Some(boot) = &seen.remediation.boot
            && node.facts.last_words.as_ref().map(|words| &words.boot) != Some(boot)
        {
            node.facts.last_words = self.relayed(&node.facts.name, boot);
        }
        if seen.remediation.phase == Phase::PreRebootCompleted {
            seen.watched_since = self.memory.watched_since(key, self.clock.now());
            let forms_quorum = seen
                .times
                .as_ref()
                .is_none_or(|times| times.quorum.is_none());
            if forms_quorum
                && (release::has_quorum(&node.facts, &seen.peers, &seen.acknowledged)
                    || release::needs_guard(&node.facts, &seen.peers))
            {
                // A copy that lags may still have a node that the announced table has no more: its acknowledgement would
                // count although it has no vote there (H16). To ask and to hold it is good enough.
                let everybody = ListParams::default();
                let member = |metadata| peer(&metadata);
                let listed =
                    read::list_metadata_dated(&nodes, &everybody, read::DEADLINE, member).await?;
                seen.peers = listed.items;
            }
            if seen.remediation.boot.is_none() {
                seen.kubelet_seen = self.kubelet_seen(&node.facts.name).await?;
            }
            if release::needs_guard(&node.facts, &seen.peers) {
                seen.storm = self.others(&node.facts.name).await?.is_storm();
                seen.calm_since = self.memory.calm_since(key, seen.storm, self.clock.now());
            }
        }
        seen.found = Found::Node(Box::new(node));
        Ok(())
    }

    /// Last words of the node that a peer passed on. What a copy shows was said, however old the copy.
    fn relayed(&self, node: &NodeName, boot: &BootId) -> Option<StoppedFeeding> {
        let nodes = self.nodes.list();
        let mut all = nodes.iter().filter_map(|node| relayed_by(node));
        all.find_map(|relayed| relayed.about(node, boot).cloned())
    }

    /// Whether another remediation that we have marked is for the node, by a consistent list. One whose Machine cannot be
    /// looked up is waited for; one whose Machine has no node is for none.
    pub(super) async fn is_shared(
        &self,
        key: &ObjectKey,
        seen: &Observed,
    ) -> Result<bool, RemediationError> {
        let Found::Node(node) = &seen.found else {
            return Ok(false);
        };
        let api = Api::<SelfNodeRemediation>::all(self.client.clone());
        let all = read::list_all(&api, &ListParams::default()).await?;
        let others = all.iter().filter(|other| ObjectKey::of(*other) != *key);
        for other in others.filter_map(Remediation::parse) {
            if other.finalizer
                && self.resolve(other).await?.0.target.node() == Some(&node.facts.name)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn attachments(&self, node: &NodeName) -> Result<usize, RemediationError> {
        let api = Api::<VolumeAttachment>::all(self.client.clone());
        let all = read::list_all(&api, &ListParams::default()).await?;
        Ok(all
            .iter()
            .filter(|attachment| attachment.spec.node_name == node.as_str())
            .count())
    }

    async fn kubelet_seen(&self, node: &NodeName) -> Result<Option<Timestamp>, RemediationError> {
        let api = Api::<Lease>::namespaced(self.client.clone(), NODE_LEASES);
        let lease = read::get_opt(&api, node.as_str()).await?;
        Ok(lease
            .and_then(|lease| lease.spec?.renew_time)
            .map(|renewed| renewed.0))
    }

    /// How the other workers are: not Ready, or with a Lease older than twice its duration.
    async fn others(&self, sick: &NodeName) -> Result<Others, RemediationError> {
        let everything = ListParams::default();
        let leases = Api::<Lease>::namespaced(self.client.clone(), NODE_LEASES);
        let leases = read::list_all(&leases, &everything).await?;
        let nodes = read::list_all(&Api::<Node>::all(self.client.clone()), &everything).await?;
        let now = self.clock.now();
        let renewed: BTreeMap<&str, bool> = leases
            .iter()
            .filter_map(|lease| {
                let spec = lease.spec.as_ref()?;
                let seconds = u64::try_from(spec.lease_duration_seconds?).ok()?;
                let limit = Duration::from_secs(seconds).saturating_mul(2);
                let at = spec.renew_time.as_ref()?.0;
                Some((
                    lease.metadata.name.as_deref()?,
                    time::elapsed(at, now) <= limit,
                ))
            })
            .collect();
        let mut others = Others {
            workers: 0,
            sick: 0,
        };
        for node in &nodes {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            if name == sick.as_str() || !roles::is_worker(node.metadata.labels.as_ref()) {
                continue;
            }
            others.workers = others.workers.saturating_add(1);
            let fine = node_facts::is_ready(node) && renewed.get(name).copied().unwrap_or(false);
            others.sick = others.sick.saturating_add(usize::from(!fine));
        }
        Ok(others)
    }

    /// Finds the node of a Machine-owned remediation; with the reason if it cannot be found out. A Machine that is gone
    /// has no node.
    async fn resolve(
        &self,
        mut remediation: Remediation,
    ) -> Result<(Remediation, Option<String>), RemediationError> {
        let Target::Machine {
            group,
            namespace,
            name,
            node,
        } = &mut remediation.target
        else {
            return Ok((remediation, None));
        };
        let Some((_, versions)) = MACHINE_VERSIONS.iter().find(|(known, _)| known == group) else {
            let why = format!("Machines of the API group {group:?} are not supported");
            return Ok((remediation, Some(why)));
        };
        let mut served = false;
        for version in *versions {
            if !self.serves(&format!("{group}/{version}")) {
                continue;
            }
            served = true;
            let kind = GroupVersionKind::gvk(group, version, "Machine");
            let api = Api::<DynamicObject>::namespaced_with(
                self.client.clone(),
                namespace,
                &ApiResource::from_gvk(&kind),
            );
            let Some(machine) = read::get_opt(&api, name).await? else {
                continue;
            };
            let found = machine
                .data
                .pointer("/status/nodeRef/name")
                .and_then(|name| name.as_str());
            *node = found.and_then(NodeName::new);
            let why = node
                .is_none()
                .then(|| format!("the Machine {name} has no nodeRef"));
            return Ok((remediation, why));
        }
        let why = (!served).then(|| format!("the cluster does not serve Machines of {group}"));
        Ok((remediation, why))
    }

    fn serves(&self, group_version: &str) -> bool {
        self.capability
            .current()
            .is_none_or(|known| known.serves(group_version))
    }
}
