//! What the agent looks at of objects that are not its own: the rest is neither decoded nor kept.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use medik8s_runtime::read;
use serde::Deserialize;

/// The own Node.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = Node)]
pub struct OwnNode {
    /// Metadata.
    #[serde(deserialize_with = "read::metadata")]
    pub metadata: ObjectMeta,
    /// What its kubelet reports.
    #[serde(default)]
    pub status: OwnNodeStatus,
}

/// See [`OwnNode`].
#[derive(Debug, Clone, Default, Deserialize)]
pub struct OwnNodeStatus {
    /// All addresses.
    #[serde(default)]
    pub addresses: Option<Vec<NodeAddress>>,
}

/// One of them.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeAddress {
    /// The address, or a name.
    pub address: String,
    /// Hostname, InternalIP and others.
    #[serde(rename = "type")]
    pub kind: String,
}

/// An agent's pod.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = Pod)]
pub struct AgentPod {
    /// Metadata.
    #[serde(deserialize_with = "read::metadata")]
    pub metadata: ObjectMeta,
    /// Where it runs.
    #[serde(default)]
    pub spec: AgentPodSpec,
    /// Its addresses.
    #[serde(default)]
    pub status: AgentPodStatus,
}

/// See [`AgentPod`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentPodSpec {
    /// Empty before it is scheduled.
    #[serde(default)]
    pub node_name: Option<String>,
}

/// See [`AgentPod`].
#[derive(Debug, Clone, Default, Deserialize)]
pub struct AgentPodStatus {
    /// One of each IP family.
    #[serde(default, rename = "podIPs")]
    pub pod_ips: Option<Vec<PodIp>>,
}

/// One of them.
#[derive(Debug, Clone, Deserialize)]
pub struct PodIp {
    /// The address.
    #[serde(default)]
    pub ip: String,
}

/// A part of the agents' headless Service.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = EndpointSlice)]
pub struct AgentSlice {
    /// Metadata.
    #[serde(deserialize_with = "read::metadata")]
    pub metadata: ObjectMeta,
    /// Agents; null where there are none.
    #[serde(default)]
    pub endpoints: Option<Vec<AgentEndpoint>>,
}

/// One agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentEndpoint {
    /// Addresses, or names.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Where it runs.
    #[serde(default)]
    pub node_name: Option<String>,
}
