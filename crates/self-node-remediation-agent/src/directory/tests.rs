use serde_json::json;

use super::*;

fn slice(endpoints: &serde_json::Value) -> AgentSlice {
    serde_json::from_value(json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints}))
        .unwrap()
}

fn endpoint(node: &str, address: &str) -> serde_json::Value {
    json!({"addresses": [address], "nodeName": node, "conditions": {"ready": false}})
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn at(directory: &Directory, name: &str) -> Vec<String> {
    directory
        .addresses(&node(name))
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn addresses_come_from_all_slices_ready_or_not() {
    let directory = Directory::default();
    assert!(directory.slice_changed("a", Some(&slice(&json!([endpoint("n1", "10.0.0.1")])))));
    let six = json!([endpoint("n1", "fd00::1"), endpoint("n2", "fd00::2")]);
    assert!(directory.slice_changed("b", Some(&slice(&six))));
    assert!(
        !directory.slice_changed("b", Some(&slice(&six))),
        "nothing new"
    );
    assert_eq!(at(&directory, "n1"), ["10.0.0.1", "fd00::1"]);
    assert_eq!(at(&directory, "n2"), ["fd00::2"]);
    assert!(directory.slice_changed("b", None));
    assert_eq!(at(&directory, "n2"), Vec::<String>::new());
    assert_eq!(directory.len(), 1);
}

#[test]
fn an_endpoint_without_node_or_with_a_name_for_address_is_skipped() {
    let directory = Directory::default();
    let odd = json!([
        {"addresses": ["10.0.0.1"]},
        {"addresses": ["agent.example"], "nodeName": "n1"},
        endpoint("n2", "10.0.0.2"),
    ]);
    directory.slice_changed("a", Some(&slice(&odd)));
    assert_eq!(directory.len(), 1);
}

#[test]
fn pods_are_used_only_where_the_service_is_missing() {
    let pod: AgentPod = serde_json::from_value(json!({
        "metadata": {},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"podIPs": [{"ip": "10.0.0.9"}, {"ip": "fd00::9"}]},
    }))
    .unwrap();
    let directory = Directory::default();
    assert!(directory.needs_pods());
    assert!(directory.pods_listed(std::slice::from_ref(&pod)));
    assert_eq!(at(&directory, "n1"), ["10.0.0.9", "fd00::9"]);
    directory.slice_changed("a", Some(&slice(&json!([endpoint("n1", "10.0.0.1")]))));
    assert!(!directory.needs_pods());
    assert_eq!(at(&directory, "n1"), ["10.0.0.1"]);
}

#[test]
fn what_was_known_survives_the_service_and_the_process() {
    let directory = Directory::default();
    directory.slice_changed("a", Some(&slice(&json!([endpoint("n1", "10.0.0.1")]))));
    directory.slice_changed("a", None);
    assert_eq!(at(&directory, "n1"), ["10.0.0.1"]);
    let successor = Directory::default();
    let text = serde_json::to_string(&directory.remembered()).unwrap();
    successor.recall(serde_json::from_str(&text).unwrap());
    assert_eq!(at(&successor, "n1"), ["10.0.0.1"]);
    successor.slice_changed("a", Some(&slice(&json!([endpoint("n1", "10.0.0.7")]))));
    assert_eq!(at(&successor, "n1"), ["10.0.0.7"]);
}

#[test]
fn the_own_node_tells_machine_and_addresses() {
    let own: OwnNode = serde_json::from_value(json!({
        "metadata": {"name": "n1", "uid": "u1",
            "annotations": {"machine.openshift.io/machine": "openshift-machine-api/m-1"}},
        "status": {"addresses": [
            {"type": "Hostname", "address": "n1"},
            {"type": "InternalIP", "address": "192.168.0.1"},
            {"type": "InternalIP", "address": "fd00::1"},
            {"type": "ExternalIP", "address": "203.0.113.1"},
        ]},
    }))
    .unwrap();
    let directory = Directory::default();
    assert!(directory.own_node_read(&own));
    assert!(!directory.own_node_read(&own));
    let remembered = directory.remembered();
    assert_eq!(
        (directory.machine().as_str(), remembered.uid.as_deref()),
        ("m-1", Some("u1"))
    );
    assert_eq!(remembered.internal.len(), 2);
}

#[test]
fn pruning_keeps_the_addresses() {
    let mut full = slice(&json!([endpoint("n1", "10.0.0.1")]));
    full.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    let before = claims_of(&full);
    prune(&mut full);
    assert_eq!(claims_of(&full), before);
    assert_eq!(full.metadata.labels, None);
}

#[test]
fn a_slice_of_nobody_is_none() {
    let directory = Directory::default();
    assert!(!directory.slice_changed("a", Some(&slice(&json!(null)))));
    assert!(directory.needs_pods());
}
