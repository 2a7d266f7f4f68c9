//! The webhook: verdicts and the reads they need.

use k8s_openapi::api::{core::v1::Node, policy::v1::PodDisruptionBudget};
use kube::{api::DynamicObject, core::admission::AdmissionReview};
use medik8s_core::conditions::Status;
use medik8s_runtime::webhook::Verdict;
use medik8s_testing::{
    build::{self, NodeExt},
    fake::{Failure, Fault},
    wire::Reply,
};
use node_maintenance_operator::admission::Admission;
use serde_json::{Value, json};

use super::lab::{Lab, NODE};

const OPENSHIFT: &[&str] = &["config.openshift.io/v1"];

fn object(node: &str) -> Value {
    json!({"apiVersion": "nodemaintenance.medik8s.io/v1beta1", "kind": "NodeMaintenance",
        "metadata": {"name": "new"}, "spec": {"nodeName": node}})
}

async fn judge(
    lab: &Lab,
    group_versions: &[&str],
    operation: &str,
    new: Value,
    old: Value,
) -> Verdict {
    let review: AdmissionReview<DynamicObject> = serde_json::from_value(json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "r", "operation": operation, "name": "new", "userInfo": {},
            "kind": {"group": "nodemaintenance.medik8s.io", "version": "v1beta1", "kind": "NodeMaintenance"},
            "resource": {"group": "nodemaintenance.medik8s.io", "version": "v1beta1", "resource": "nodemaintenances"},
            "object": new, "oldObject": old, "dryRun": true,
        },
    }))
    .unwrap();
    let admission = Admission {
        client: lab.api.client(),
        capability: Lab::capability(group_versions),
    };
    lab.api.clear_requests();
    let verdict = admission.judge(review.request.unwrap()).await;
    assert_eq!(lab.api.writes(), [], "a verdict changes nothing");
    verdict
}

async fn create(lab: &Lab, group_versions: &[&str], node: &str) -> Verdict {
    judge(lab, group_versions, "CREATE", object(node), Value::Null).await
}

#[tokio::test]
async fn the_node_must_exist() {
    let lab = Lab::new();
    assert!(create(&lab, &[], NODE).await.is_allowed());
    assert_eq!(
        lab.api.requests().len(),
        2,
        "GET node and LIST nodemaintenances"
    );
    for name in ["nowhere", "", "Bad,Name"] {
        let text = format!("invalid nodeName, no node with name {name} found");
        assert_eq!(create(&lab, &[], name).await.denial(), Some(text.as_str()));
    }
    let down = Failure::Refuse(Reply::failure(500, "InternalError", "down"));
    lab.api
        .inject(Fault::on_request("GET", "/api/v1/nodes/n1", down));
    let denied = create(&lab, &[], NODE).await;
    let text = denied.denial().unwrap();
    assert!(
        text.starts_with("could not get node for validating spec.NodeName, please try again"),
        "{text}"
    );
}

#[tokio::test]
async fn a_node_has_one_maintenance() {
    let lab = Lab::new();
    lab.api.put(&build::node_maintenance("other", NODE));
    assert_eq!(
        create(&lab, &[], NODE).await.denial(),
        Some("invalid nodeName, a NodeMaintenance for node n1 already exists")
    );
}

#[tokio::test]
async fn the_node_name_is_immutable() {
    let lab = Lab::new();
    let verdict = judge(&lab, &[], "UPDATE", object("n2"), object(NODE)).await;
    assert_eq!(
        verdict.denial(),
        Some("updating spec.NodeName isn't allowed")
    );
    assert!(
        judge(&lab, &[], "UPDATE", object(NODE), object(NODE))
            .await
            .is_allowed()
    );
    assert_eq!(lab.api.requests().len(), 0, "an update needs no reads");
}

#[tokio::test]
async fn a_wrong_type_is_denied_and_not_a_panic() {
    let lab = Lab::new();
    let mut new = object(NODE);
    new["spec"]["drain"] = json!({"gracePeriodSeconds": 0});
    let verdict = judge(&lab, &[], "CREATE", new, Value::Null).await;
    assert!(
        verdict
            .denial()
            .unwrap()
            .contains("spec.drain.gracePeriodSeconds"),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn etcd_is_asked_for_control_plane_nodes_of_openshift_only() {
    let lab = Lab::new();
    lab.api.add_namespace("openshift-etcd");
    lab.api
        .put(&build::node("cp").control_plane().ready(lab.clock.now()));
    let quorum = "can not put master/control-plane node into maintenance at this moment, \
                  disrupting node cp will violate etcd quorum";
    assert_eq!(
        create(&lab, OPENSHIFT, "cp").await.denial(),
        Some(quorum),
        "no budget"
    );
    assert!(create(&lab, OPENSHIFT, NODE).await.is_allowed(), "a worker");
    assert!(create(&lab, &[], "cp").await.is_allowed(), "not OpenShift");
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "etcd-guard-pdb", "namespace": "openshift-etcd"},
        "spec": {"selector": {"matchLabels": {"app": "guard"}}},
        "status": {"disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3},
    }))
    .unwrap();
    lab.api.put(&budget);
    assert!(create(&lab, OPENSHIFT, "cp").await.is_allowed());
    lab.api
        .update::<PodDisruptionBudget>(Some("openshift-etcd"), "etcd-guard-pdb", |budget| {
            budget.status.as_mut().unwrap().disruptions_allowed = 0;
        });
    assert!(
        create(&lab, OPENSHIFT, "cp").await.is_allowed(),
        "no guard pod on it"
    );
    let guard: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "guard", "namespace": "openshift-etcd", "labels": {"app": "guard"}},
        "spec": {"nodeName": "cp", "containers": []},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap();
    lab.api.put(&guard);
    assert_eq!(
        create(&lab, OPENSHIFT, "cp").await.denial(),
        Some(quorum),
        "a live member"
    );
    let lists = lab
        .api
        .requests()
        .iter()
        .filter(|one| one.path == "/api/v1/pods")
        .count();
    assert_eq!(lists, 0, "pods of one namespace only");
}

#[tokio::test]
async fn outside_openshift_a_second_control_plane_node_is_a_warning() {
    let lab = Lab::new();
    lab.api
        .put(&build::node("cp1").control_plane().ready(lab.clock.now()));
    lab.api
        .put(&build::node("cp2").control_plane().ready(lab.clock.now()));
    assert_eq!(
        create(&lab, &[], "cp1").await.warnings(),
        Vec::<String>::new()
    );
    lab.api.update::<Node>(None, "cp2", |node| {
        *node = node.clone().not_ready(Status::Unknown, lab.clock.now());
    });
    let verdict = create(&lab, &[], "cp1").await;
    assert!(verdict.is_allowed());
    assert!(
        verdict.warnings()[0].contains("cp2 (not Ready)"),
        "{verdict:?}"
    );
}
