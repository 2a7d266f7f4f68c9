//! A process that is killed at any write leaves nothing that its successor does not set right.

use medik8s_testing::crash::{CrashPoint, survives_every_crash};
use medik8s_testing::fake::FakeApi;
use serde_json::json;

use super::lab::*;

/// Runs an operator until `done` or until its server went away; then the process is killed.
async fn work(lab: &Lab, seconds: u64, done: impl Fn(&Lab) -> bool) {
    let _operator = lab.start();
    for _ in 0..seconds * 10 {
        if lab.api.is_dead() || done(lab) {
            return;
        }
        lab.pass(std::time::Duration::from_millis(100)).await;
    }
}

fn remediated_once(lab: &Lab, point: Option<CrashPoint>) {
    let at = point.map_or_else(|| "no crash".to_owned(), |point| point.to_string());
    assert_eq!(lab.remediated(), ["w1"], "{at}");
    assert_eq!(lab.phase("nhc"), "Remediating", "{at}");
    assert_eq!(lab.leases().len(), 1, "{at}");
    let entry = lab.entry("nhc", "w1").unwrap().remediations.unwrap();
    let uid = lab.remediations()[0]["metadata"]["uid"].clone();
    assert_eq!(
        (entry.len(), json!(entry[0].resource.uid)),
        (1, uid),
        "{at}"
    );
}

#[tokio::test(start_paused = true)]
async fn creating_survives_every_crash() {
    for many in [false, true] {
        let labs = std::sync::Mutex::new(None);
        let writes = survives_every_crash(
            || {
                let lab = Lab::new(3);
                if many {
                    let many = json!({"remediation.medik8s.io/multiple-templates-support": "true"});
                    lab.put_template("FooTemplate", "foo", many);
                }
                lab.put_check("nhc", single());
                lab.break_node("w1");
                let api = lab.api.clone();
                *labs.lock().unwrap() = Some(lab);
                api
            },
            |_: FakeApi| {
                let lab = labs.lock().unwrap().clone().unwrap();
                async move {
                    work(&lab, 20, |lab| lab.phase("nhc") == "Remediating").await;
                    // Whatever is still on its way.
                    if !lab.api.is_dead() {
                        work(&lab, 3, |_| false).await;
                    }
                }
            },
            |_, point| remediated_once(&labs.lock().unwrap().clone().unwrap(), point),
        )
        .await;
        assert!(writes >= 4, "lease, remediation, status, events: {writes}");
    }
}

/// As an operator left it so many seconds ago: w1 remediated, leased, tracked.
fn under_way(lab: &Lab, seconds: i64) {
    let since = lab.ago(seconds);
    let uid = lab.check("nhc").metadata.uid.unwrap();
    let remediation = lab.api.put_value(json!({
        "apiVersion": API, "kind": "Foo",
        "metadata": {"name": "w1", "namespace": NAMESPACE, "creationTimestamp": since.to_string(),
            "annotations": {NODE_NAME: "w1", "remediation.medik8s.io/template-name": "foo"},
            "ownerReferences": [{"apiVersion": "remediation.medik8s.io/v1alpha1",
                "kind": "NodeHealthCheck", "name": "nhc", "uid": uid}]},
        "spec": {},
    }));
    let mut lease = medik8s_testing::build::lease(
        "medik8s-leases",
        "node-w1",
        "NodeHealthCheck-nhc",
        lab.now(),
        660,
    );
    lease.spec.as_mut().unwrap().acquire_time = Some(
        k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(since),
    );
    lab.api.put(&lease);
    lab.api
        .update::<medik8s_api::NodeHealthCheck>(None, "nhc", |check| {
            check.status = serde_json::from_value(json!({
                "phase": "Remediating",
                "unhealthyNodes": [{"name": "w1", "remediations": [{
                    "resource": {"apiVersion": API, "kind": "Foo", "namespace": NAMESPACE,
                        "name": "w1", "uid": remediation["metadata"]["uid"]},
                    "started": since.to_string(), "templateName": "foo"}]}],
            }))
            .unwrap();
        });
}

#[tokio::test(start_paused = true)]
async fn healing_survives_every_crash() {
    let labs = std::sync::Mutex::new(None);
    survives_every_crash(
        || {
            let lab = Lab::new(3);
            lab.put_check("nhc", single());
            let api = lab.api.clone();
            under_way(&lab, 0);
            *labs.lock().unwrap() = Some(lab);
            api
        },
        |_: FakeApi| {
            let lab = labs.lock().unwrap().clone().unwrap();
            async move {
                work(&lab, 15, |lab| {
                    lab.phase("nhc") == "Enabled"
                        && lab.leases().is_empty()
                        && lab.told("RemediationRemoved") > 0
                        && lab.told("Enabled") > 0
                })
                .await;
            }
        },
        |_, point| {
            let lab = labs.lock().unwrap().clone().unwrap();
            let at = point.map_or_else(|| "no crash".to_owned(), |point| point.to_string());
            assert!(lab.remediations().is_empty(), "{at}");
            assert!(lab.leases().is_empty(), "{at}");
            assert_eq!(lab.phase("nhc"), "Enabled", "{at}");
            assert_eq!(lab.status("nhc").healthy_nodes, Some(3), "{at}");
        },
    )
    .await;
}

/// S9: no annotation is lost, and no step is skipped or doubled.
#[tokio::test(start_paused = true)]
async fn escalating_survives_every_crash() {
    let labs = std::sync::Mutex::new(None);
    survives_every_crash(
        || {
            let lab = Lab::new(3);
            lab.put_check("nhc", two_steps());
            lab.break_node("w1");
            let api = lab.api.clone();
            *labs.lock().unwrap() = Some(lab);
            api
        },
        |_: FakeApi| {
            let lab = labs.lock().unwrap().clone().unwrap();
            async move { work(&lab, 80, |lab| !lab.names("Bar").is_empty()).await }
        },
        |_, point| {
            let lab = labs.lock().unwrap().clone().unwrap();
            let at = point.map_or_else(|| "no crash".to_owned(), |point| point.to_string());
            assert_eq!(
                (lab.names("Foo").len(), lab.names("Bar").len()),
                (1, 1),
                "{at}"
            );
            let first = lab.remediation("Foo", "w1").unwrap();
            assert!(
                first["metadata"]["annotations"][TIMED_OUT].is_string(),
                "{at}"
            );
            let second = lab.remediation("Bar", "w1").unwrap();
            assert!(
                second["metadata"]["annotations"][TIMED_OUT].is_null(),
                "{at}"
            );
            let entries = lab.entry("nhc", "w1").unwrap().remediations.unwrap();
            let timed_out = entries
                .iter()
                .filter(|one| one.template_name.as_deref() == Some("foo"))
                .all(|one| one.timed_out.is_some());
            assert!(timed_out, "{at}: the record comes before the next step");
        },
    )
    .await;
}

/// S9: a single template whose lease is overdue. The lease alone says so: it goes last.
#[tokio::test(start_paused = true)]
async fn becoming_overdue_survives_every_crash() {
    let labs = std::sync::Mutex::new(None);
    let writes = survives_every_crash(
        || {
            let lab = Lab::new(3);
            lab.put_check("nhc", single());
            lab.break_node("w1");
            under_way(&lab, 1801);
            let api = lab.api.clone();
            *labs.lock().unwrap() = Some(lab);
            api
        },
        |_: FakeApi| {
            let lab = labs.lock().unwrap().clone().unwrap();
            async move {
                let recorded = |lab: &Lab| {
                    let entry = lab.entry("nhc", "w1").unwrap().remediations.unwrap();
                    entry[0].timed_out.is_some() && lab.leases().is_empty()
                };
                work(&lab, 15, recorded).await;
            }
        },
        |_, point| {
            let lab = labs.lock().unwrap().clone().unwrap();
            let at = point.map_or_else(|| "no crash".to_owned(), |point| point.to_string());
            let annotations = &lab.remediation("Foo", "w1").unwrap()["metadata"]["annotations"];
            assert!(annotations[TIMED_OUT].is_string(), "{at}");
            let entry = lab.entry("nhc", "w1").unwrap().remediations.unwrap();
            assert!(entry[0].timed_out.is_some(), "{at}");
            assert!(lab.leases().is_empty(), "{at}");
        },
    )
    .await;
    assert!(writes >= 3, "annotation, lease, status: {writes}");
}
