//! Reading a Node.
//!
//! # Guarantees What a node does not say is unknown, not false: a missing condition, boot ID or
//! address never becomes a verdict.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSystemInfo};
use medik8s_api::names::contract::{EXCLUDE_FROM_REMEDIATION_LABEL, TRUE};
use medik8s_api::names::openshift::MACHINE_ANNOTATION;

use crate::conditions::Status;

/// Type of the condition that tells whether the kubelet is fine.
pub const READY: &str = "Ready";

/// The condition of a type.
pub fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// The status of the Ready condition; without one it is unknown.
pub fn ready(node: &Node) -> Status {
    condition(node, READY).map_or(Status::Unknown, |ready| Status::parse(&ready.status))
}

/// Whether the node is Ready.
pub fn is_ready(node: &Node) -> bool {
    ready(node) == Status::True
}

/// When the kubelet last reported, by the Ready condition.
pub fn last_heartbeat(node: &Node) -> Option<Timestamp> {
    condition(node, READY)?
        .last_heartbeat_time
        .as_ref()
        .map(|time| time.0)
}

fn info(node: &Node) -> Option<&NodeSystemInfo> {
    node.status.as_ref()?.node_info.as_ref()
}

/// The boot that the kubelet reported last. An empty one is no boot ID.
pub fn boot_id(node: &Node) -> Option<&str> {
    info(node)
        .map(|info| info.boot_id.as_str())
        .filter(|id| !id.is_empty())
}

/// Addresses inside the cluster, in the order of the node; what is no IP address is left out.
pub fn internal_ips(node: &Node) -> Vec<IpAddr> {
    let addresses = node
        .status
        .iter()
        .filter_map(|status| status.addresses.as_ref())
        .flatten();
    addresses
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

/// What a node's labels say about remediating it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    /// Nothing: it may be remediated.
    None,
    /// It must not be remediated.
    Excluded,
    /// The label is there without a value: it does not exclude, but somebody should be told.
    EmptyLabel,
}

/// Reads the exclusion label. Only the exact value `true` excludes (NodeHealthCheck, section 7.8c).
pub fn exclusion(node: &Node) -> Exclusion {
    let labels = node.metadata.labels.as_ref();
    match labels
        .and_then(|labels| labels.get(EXCLUDE_FROM_REMEDIATION_LABEL))
        .map(String::as_str)
    {
        Some(TRUE) => Exclusion::Excluded,
        Some("") => Exclusion::EmptyLabel,
        Some(_) | None => Exclusion::None,
    }
}

/// Whether the node must not be remediated.
pub fn is_excluded(node: &Node) -> bool {
    exclusion(node) == Exclusion::Excluded
}

/// Whether the node is cordoned.
pub fn is_unschedulable(node: &Node) -> bool {
    node.spec
        .as_ref()
        .and_then(|spec| spec.unschedulable)
        .unwrap_or(false)
}

/// A value of the node's annotations.
pub fn annotation<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

/// Namespace and name of the node's Machine on OpenShift, if its annotation names one.
pub fn machine(node: &Node) -> Option<(&str, &str)> {
    let (namespace, name) = annotation(node, MACHINE_ANNOTATION)?.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(value: serde_json::Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    fn labelled(value: &str) -> Node {
        let labels = json!({"remediation.medik8s.io/exclude-from-remediation": value});
        node(json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn an_empty_node_says_nothing() {
        let empty = Node::default();
        assert_eq!(ready(&empty), Status::Unknown);
        assert!(!is_ready(&empty));
        assert_eq!(boot_id(&empty), None);
        assert_eq!(last_heartbeat(&empty), None);
        assert!(internal_ips(&empty).is_empty());
        assert_eq!(exclusion(&empty), Exclusion::None);
        assert!(!is_unschedulable(&empty));
        assert_eq!(machine(&empty), None);
    }

    #[test]
    fn reads_status() {
        let node = node(json!({"status": {
            "conditions": [
                {"type": "MemoryPressure", "status": "False"},
                {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-02T03:04:05Z"},
            ],
            "nodeInfo": {"bootID": "abc", "architecture": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
                "operatingSystem": "", "osImage": "", "systemUUID": ""},
            "addresses": [
                {"type": "Hostname", "address": "10.0.0.9"},
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "InternalIP", "address": "nonsense"},
                {"type": "InternalIP", "address": "fd00::1"},
            ],
        }}));
        assert!(is_ready(&node));
        assert_eq!(boot_id(&node), Some("abc"));
        assert_eq!(
            last_heartbeat(&node).unwrap().to_string(),
            "2026-01-02T03:04:05Z"
        );
        let ips: Vec<String> = internal_ips(&node)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(ips, ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn ready_has_three_values() {
        for (status, expected) in [
            ("True", Status::True),
            ("False", Status::False),
            ("Unknown", Status::Unknown),
            ("", Status::Unknown),
        ] {
            let conditions = json!([{"type": "Ready", "status": status}]);
            assert_eq!(
                ready(&node(json!({"status": {"conditions": conditions}}))),
                expected
            );
        }
    }

    #[test]
    fn only_the_exact_value_excludes() {
        for (value, expected) in [
            ("true", Exclusion::Excluded),
            ("", Exclusion::EmptyLabel),
            ("True", Exclusion::None),
            ("false", Exclusion::None),
            ("1", Exclusion::None),
        ] {
            assert_eq!(exclusion(&labelled(value)), expected, "{value:?}");
            assert_eq!(is_excluded(&labelled(value)), value == "true");
        }
    }

    #[test]
    fn machine_annotation_names_namespace_and_name() {
        for (value, expected) in [
            ("ns/m1", Some(("ns", "m1"))),
            ("m1", None),
            ("/m1", None),
            ("ns/", None),
            ("a/b/c", None),
        ] {
            let node =
                node(json!({"metadata": {"annotations": {"machine.openshift.io/machine": value}}}));
            assert_eq!(machine(&node), expected, "{value}");
        }
    }
}
