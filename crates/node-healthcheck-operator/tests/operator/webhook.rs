//! Reviews as the API server sends them.

use kube::core::admission::AdmissionReview;
use medik8s_runtime::capabilities::{self, Capability};
use medik8s_runtime::shutdown::Shutdown;
use node_healthcheck_operator::cluster::ClusterWatch;
use node_healthcheck_operator::hooks::Admission;
use serde_json::{Value, json};

use super::lab::*;

async fn judge(
    lab: &Lab,
    operation: &str,
    old: Value,
    new: Value,
) -> (Option<String>, Vec<String>) {
    let client = lab.api.client();
    let (capability, discovery) = capabilities::discover(client.clone());
    let stop = Shutdown::manual();
    let task = tokio::spawn(discovery.run(stop.clone()));
    let _known: Option<_> = Capability::known(&capability, &stop).await;
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "r", "name": "nhc", "operation": operation, "object": new, "oldObject": old,
            "kind": {"group": "remediation.medik8s.io", "version": "v1alpha1", "kind": "NodeHealthCheck"},
            "resource": {"group": "remediation.medik8s.io", "version": "v1alpha1", "resource": "nodehealthchecks"},
            "userInfo": {}, "dryRun": false,
        },
    });
    let review: AdmissionReview<kube::api::DynamicObject> = serde_json::from_value(review).unwrap();
    let admission = Admission::new(client.clone(), ClusterWatch::new(client, capability));
    let verdict = admission.judge(review.request.unwrap()).await;
    stop.trigger();
    task.abort();
    (
        verdict.denial().map(ToOwned::to_owned),
        verdict.warnings().to_vec(),
    )
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "remediation.medik8s.io/v1alpha1", "kind": "NodeHealthCheck",
        "metadata": {"name": "nhc"}, "spec": spec})
}

fn denied(text: &str) -> (Option<String>, Vec<String>) {
    (Some(text.to_owned()), vec![])
}

#[tokio::test(start_paused = true)]
async fn good_and_bad_ones() {
    let lab = Lab::new(3);
    assert_eq!(
        judge(&lab, "CREATE", Value::Null, object(single())).await,
        (None, vec![])
    );
    let no_selector = with(single(), "selector", json!({}));
    assert_eq!(
        judge(&lab, "CREATE", Value::Null, object(no_selector.clone())).await,
        denied("Selector is mandatory")
    );
    let old = object(no_selector);
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(judge(&lab, "UPDATE", old, labelled).await, (None, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_running_remediation_protects_its_health_check() {
    let lab = Lab::new(3);
    let mut busy = object(single());
    busy["status"] = json!({"unhealthyNodes": [{"name": "w1", "remediations": [
        {"resource": {"name": "w1"}, "started": "2026-03-04T12:00:00Z"}]}]});
    assert_eq!(
        judge(&lab, "DELETE", busy.clone(), Value::Null).await,
        denied("deletion prohibited due to running remediation")
    );
    let mut changed = busy.clone();
    changed["spec"]["remediationTemplate"]["name"] = json!("other");
    assert_eq!(
        judge(&lab, "UPDATE", busy, changed).await,
        denied("remediation template update prohibited due to running remediation")
    );
}

#[tokio::test(start_paused = true)]
async fn templates_of_one_kind_are_looked_up() {
    let lab = Lab::new(3);
    let mut spec = two_steps();
    spec["escalatingRemediations"][0]["remediationTemplate"]["kind"] = json!("FooTemplate");
    let message = "Using multiple templates of same kind is not supported for this template: \
                   duplicate template kind: FooTemplate";
    assert_eq!(
        judge(&lab, "CREATE", Value::Null, object(spec.clone()))
            .await
            .0
            .as_deref(),
        Some(message)
    );
    let many = json!({"remediation.medik8s.io/multiple-templates-support": ""});
    lab.put_template("FooTemplate", "foo", many.clone());
    lab.put_template("FooTemplate", "bar", many);
    assert_eq!(
        judge(&lab, "CREATE", Value::Null, object(spec.clone())).await,
        (None, vec![])
    );
    lab.put_template("FooTemplate", "another", json!({}));
    assert!(
        judge(&lab, "CREATE", Value::Null, object(spec))
            .await
            .0
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn warnings_tell_what_is_odd() {
    let lab = Lab::new(2);
    lab.put_check("other", single());
    let mut spec = with(single(), "maxUnhealthy", json!(7));
    spec.as_object_mut().unwrap().remove("minHealthy");
    spec["remediationTemplate"]["name"] = json!("missing");
    let (denial, warnings) = judge(&lab, "CREATE", Value::Null, object(spec)).await;
    assert_eq!(denial, None);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(
        warnings
            .iter()
            .any(|one| one.contains("does not exist (yet)"))
    );
    assert!(
        warnings
            .iter()
            .any(|one| one.contains("NodeHealthCheck other"))
    );
    assert!(
        warnings
            .iter()
            .any(|one| one.contains("more than the 2 nodes"))
    );
}
