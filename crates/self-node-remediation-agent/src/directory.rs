//! Where the agents of other nodes are, and what a reader needs to know of the own Node.
//!
//! # Purpose
//! Who votes is decided by the node list (`self_node_remediation_core::table`). This is only the
//! way to them: addresses by node, from the EndpointSlices of the agents' headless Service, or from
//! the agent pods where that Service is missing.
//!
//! # Guarantees
//! What was known is kept when the API goes away, and outlives the process under `/run`: an agent
//! that starts during an outage can still ask. A stale address costs an answer, never a vote, since
//! one vote counts per node and an address that two nodes claim is given to neither.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use medik8s_api::names::openshift::{MACHINE_ANNOTATION, MACHINE_GROUP};
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_core::table;
use serde::{Deserialize, Serialize};

use crate::objects::{AgentPod, AgentSlice, OwnNode};

/// An address of an agent and the node it runs on.
type Claim = (NodeName, IpAddr);

/// What is remembered across restarts of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Addresses by node.
    pub addresses: BTreeMap<NodeName, BTreeSet<IpAddr>>,
    /// The own Machine's name; empty if there is none.
    pub machine: String,
    /// The own Node's internal addresses, for the kubelet probe.
    pub internal: Vec<IpAddr>,
    /// The own Node's UID, for Events.
    pub uid: Option<String>,
}

#[derive(Debug, Default)]
struct Known {
    slices: BTreeMap<String, Vec<Claim>>,
    pods: Vec<Claim>,
    /// Nodes by the Machine that they say they are of, as `namespace/name`; `None` if several do.
    machines: BTreeMap<String, Option<NodeName>>,
    now: Remembered,
}

/// The directory. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Directory(Arc<Mutex<Known>>);

impl Directory {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts from what an earlier process of this boot knew.
    pub fn recall(&self, remembered: Remembered) {
        self.lock().now = remembered;
    }

    /// What to remember.
    pub fn remembered(&self) -> Remembered {
        self.lock().now.clone()
    }

    /// Addresses of the agent on a node.
    pub fn addresses(&self, node: &NodeName) -> Vec<IpAddr> {
        self.lock()
            .now
            .addresses
            .get(node)
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    /// How many nodes have an address.
    pub fn len(&self) -> usize {
        self.lock().now.addresses.len()
    }

    /// Whether no node has an address.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The own Machine's name; empty if there is none.
    pub fn machine(&self) -> String {
        self.lock().now.machine.clone()
    }

    /// Takes in an EndpointSlice, or its deletion. Returns whether anything changed.
    pub fn slice_changed(&self, name: &str, slice: Option<&AgentSlice>) -> bool {
        let mut known = self.lock();
        match slice {
            Some(slice) => known.slices.insert(name.to_owned(), claims_of(slice)),
            None => known.slices.remove(name),
        };
        known.renew()
    }

    /// Whether the agent pods must be listed, because no EndpointSlice tells of any.
    pub fn needs_pods(&self) -> bool {
        self.lock().slices.values().all(Vec::is_empty)
    }

    /// Takes in all agent pods. Returns whether anything changed.
    pub fn pods_listed(&self, pods: &[AgentPod]) -> bool {
        let mut known = self.lock();
        known.pods = pods.iter().flat_map(claims_of_pod).collect();
        known.renew()
    }

    /// Takes in which Node says that it is of which Machine (`namespace/name`).
    pub fn machines_listed(&self, claims: Vec<(String, NodeName)>) {
        let mut machines = BTreeMap::new();
        for (machine, node) in claims {
            machines
                .entry(machine)
                .and_modify(|known| *known = None)
                .or_insert(Some(node));
        }
        self.lock().machines = machines;
    }

    /// The one Node that says it is of this Machine.
    pub fn node_of_machine(&self, group: &str, namespace: &str, name: &str) -> Option<NodeName> {
        if group != MACHINE_GROUP {
            return None;
        }
        let machine = format!("{namespace}/{name}");
        self.lock().machines.get(&machine).cloned().flatten()
    }

    /// Takes in the own Node. Returns whether anything changed.
    pub fn own_node_read(&self, node: &OwnNode) -> bool {
        let machine = node
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(MACHINE_ANNOTATION))
            .and_then(|value| value.split_once('/'))
            .map_or_else(String::new, |(_namespace, name)| name.to_owned());
        let addresses = node.status.addresses.iter().flatten();
        let internal: Vec<IpAddr> = addresses
            .filter(|address| address.kind == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect();
        let mut known = self.lock();
        let now = &mut known.now;
        let uid = node.metadata.uid.clone();
        let changed = now.machine != machine || now.internal != internal || now.uid != uid;
        now.machine = machine;
        now.internal = internal;
        now.uid = uid;
        changed
    }
}

impl Known {
    fn renew(&mut self) -> bool {
        let slices = self.slices.values().flatten();
        let claims: Vec<Claim> = if self.slices.values().all(Vec::is_empty) {
            self.pods.clone()
        } else {
            slices.cloned().collect()
        };
        if claims.is_empty() {
            // All agents gone at once is more likely a Service that was made anew; the old
            // addresses cost nothing.
            return false;
        }
        let addresses = table::directory(claims);
        let changed = addresses != self.now.addresses;
        self.now.addresses = addresses;
        changed
    }
}

fn claims_of(slice: &AgentSlice) -> Vec<Claim> {
    slice
        .endpoints
        .iter()
        .flatten()
        .flat_map(|endpoint| {
            let node = endpoint.node_name.as_deref().and_then(NodeName::new);
            endpoint
                .addresses
                .iter()
                .filter_map(move |address| Some((node.clone()?, address.parse().ok()?)))
        })
        .collect()
}

fn claims_of_pod(pod: &AgentPod) -> Vec<Claim> {
    let node = pod.spec.node_name.as_deref().and_then(NodeName::new);
    let ips = pod.status.pod_ips.iter().flatten();
    ips.filter_map(|ip| Some((node.clone()?, ip.ip.parse().ok()?)))
        .collect()
}

/// Keeps of an EndpointSlice only what [`Directory::slice_changed`] reads.
pub fn prune(slice: &mut AgentSlice) {
    slice.metadata.annotations = None;
    slice.metadata.labels = None;
    slice.metadata.owner_references = None;
}

#[cfg(test)]
mod tests;
