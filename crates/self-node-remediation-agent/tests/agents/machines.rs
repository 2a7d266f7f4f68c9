//! Remediations of Machines, whose nodes are looked up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::snr::FINALIZER;
use medik8s_testing::wire::Reply;
use self_node_remediation_peer::{AskError, Status};

use super::lab::{Did, Lab, until};
use super::{WORKERS, pause, three_armed};

#[tokio::test]
async fn remediations_of_machines_are_matched_or_not_vouched_for() {
    let (lab, _agents) = three_armed().await;
    let group = "machine.openshift.io/v1beta1";
    lab.api.add_dynamic_kind(group, "Machine", "machines", true);
    let mut remediation = SelfNodeRemediation::default();
    remediation.metadata.name = Some("m-1".to_owned());
    remediation.metadata.namespace = Some("default".to_owned());
    remediation.metadata.owner_references = Some(vec![OwnerReference {
        api_version: group.to_owned(),
        kind: "Machine".to_owned(),
        name: "m-1".to_owned(),
        uid: "u".to_owned(),
        ..OwnerReference::default()
    }]);
    lab.api.put(&remediation);
    // Its node cannot be found out, so nobody is vouched for.
    let unknown = lab.ask("w2", "w1", "").await.unwrap();
    assert_eq!(unknown.status_value(), Some(Status::ApiError));
    lab.api.put_value(serde_json::json!({
        "apiVersion": group, "kind": "Machine",
        "metadata": {"name": "m-1", "namespace": "default"},
        "status": {"nodeRef": {"name": "w1"}},
    }));
    let answer = lab.ask("w2", "w1", "").await.unwrap();
    assert_eq!(answer.status_value(), Some(Status::Unhealthy));
    let other = lab.ask("w2", "w3", "").await.unwrap();
    assert_eq!(other.status_value(), Some(Status::Healthy));
}

const MACHINES: &str = "machine.openshift.io/v1beta1";

/// An order of the original for the Machine of w1, which records no boot: only the Machine tells for which node it is.
fn order_for_a_machine(lab: &Lab) {
    let mut order = SelfNodeRemediation::default();
    order.metadata.name = Some("m-w1".to_owned());
    order.metadata.namespace = Some("default".to_owned());
    order.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    order.metadata.owner_references = Some(vec![OwnerReference {
        api_version: MACHINES.to_owned(),
        kind: "Machine".to_owned(),
        name: "m-w1".to_owned(),
        uid: "u".to_owned(),
        ..OwnerReference::default()
    }]);
    order.status.get_or_insert_default().phase = Some("Pre-Reboot-Completed".to_owned());
    lab.api.put(&order);
}

/// A Machine API that answers nobody, or not this client.
fn machines_fail_for(lab: &Lab, client: Option<&'static str>) {
    lab.api
        .add_dynamic_kind(MACHINES, "Machine", "machines", true);
    lab.api.put_value(serde_json::json!({
        "apiVersion": MACHINES, "kind": "Machine",
        "metadata": {"name": "m-w1", "namespace": "default"},
        "status": {"nodeRef": {"name": "w1"}},
    }));
    lab.api.intercept(move |request| {
        let meant = client.is_none_or(|client| request.client == client);
        let refused = meant && request.path.contains("/machines/");
        refused.then(|| Reply::failure(500, "InternalError", "etcd").into())
    });
}

/// Who cannot ask has no proof, and hears from its peers.
#[tokio::test]
async fn a_list_with_an_order_whose_machine_cannot_be_asked_for_is_no_proof() {
    let (lab, _agents) = three_armed().await;
    machines_fail_for(&lab, Some("w1"));
    order_for_a_machine(&lab);
    until("fenced by its peers' word", || {
        lab.dog("w1").did(Did::Set(5))
    })
    .await;
}

/// If nobody can ask, the name of the Machine is all there is. It tells those whose own it is not that their list is a
/// proof, and the one who asks with it that it is meant.
#[tokio::test]
async fn an_order_whose_machine_nobody_can_ask_for_reaches_its_node() {
    let lab = Lab::new(&WORKERS);
    lab.belong_to_machines(&WORKERS);
    let _agents = WORKERS.map(|node| lab.start(node));
    for node in WORKERS {
        lab.armed(node).await;
    }
    machines_fail_for(&lab, None);
    lab.set_reachable("w1", false);
    order_for_a_machine(&lab);
    until("fenced by its peers' word", || {
        lab.dog("w1").did(Did::Set(5))
    })
    .await;
    assert!(!lab.dog("w2").did(Did::Set(5)) && !lab.dog("w3").did(Did::Set(5)));
}

/// Without a Machine of its own on record nobody has a proof; but who has seen an order says no "API error" (H5).
#[tokio::test]
async fn who_has_seen_an_order_for_somebody_says_nothing() {
    let (lab, _agents) = three_armed().await;
    machines_fail_for(&lab, None);
    order_for_a_machine(&lab);
    pause(1).await;
    let answer = lab.ask("w2", "w1", "").await;
    assert!(matches!(answer, Err(AskError::Refused(_))), "{answer:?}");
}

/// A node that is of no Machine is not meant by an order for one that another Node says it is of.
#[tokio::test]
async fn an_order_for_the_machine_of_another_node_silences_nobody() {
    let lab = Lab::new(&WORKERS);
    lab.belong_to_machines(&["w1"]);
    let _agents = WORKERS.map(|node| lab.start(node));
    for node in WORKERS {
        lab.armed(node).await;
    }
    machines_fail_for(&lab, None);
    order_for_a_machine(&lab);
    let about_w1 = lab.ask("w2", "w1", "").await.unwrap();
    assert_eq!(about_w1.status_value(), Some(Status::Unhealthy));
    let about_w3 = lab.ask("w2", "w3", "").await.unwrap();
    assert_eq!(about_w3.status_value(), Some(Status::Healthy));
}
