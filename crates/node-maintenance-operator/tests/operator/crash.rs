//! The process is killed at every write, before and after it is stored; the next one must bring the
//! same story to the same end.

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use medik8s_api::NodeMaintenance;
use medik8s_testing::{
    build::{self, MetaExt as _},
    crash::{CrashPoint, survives_every_crash},
    fake::FakeApi,
};

use super::lab::{Lab, NODE};

/// Runs an operator on the lab until `is_done` or until the server goes away under it.
async fn run(lab: &Lab, act: impl Fn(&Lab), is_done: impl Fn(&Lab) -> bool) {
    let operator = lab.operator();
    for _ in 0..3000 {
        if lab.api.is_dead() || is_done(lab) {
            break;
        }
        act(lab);
        lab.pass(std::time::Duration::from_millis(100)).await;
    }
    operator.kill().await;
}

/// A maintenance from its creation to its end.
#[tokio::test(start_paused = true)]
async fn from_begin_to_end() {
    let labs = std::sync::Mutex::new(Vec::<Lab>::new());
    let lab_of = |api: &FakeApi| {
        let labs = labs.lock().unwrap();
        let lab = labs.last().unwrap().clone();
        drop(labs);
        assert_eq!(lab.api.requests().len(), api.requests().len());
        lab
    };
    let setup = || {
        let lab = Lab::new();
        lab.put_pods(&["a", "b"]);
        lab.maintain("m", NODE);
        let api = lab.api.clone();
        labs.lock().unwrap().push(lab);
        api
    };
    let story = |api: FakeApi| {
        let lab = lab_of(&api);
        async move {
            run(
                &lab,
                |lab| {
                    let object = lab.get("m");
                    let is_ending =
                        object.is_some_and(|one| one.metadata.deletion_timestamp.is_some());
                    if lab.phase("m") == "Succeeded" && !is_ending {
                        lab.end("m");
                    }
                },
                |lab| lab.get("m").is_none(),
            )
            .await;
        }
    };
    let check = |api: &FakeApi, point: Option<CrashPoint>| {
        let lab = lab_of(api);
        assert!(lab.get("m").is_none(), "{point:?}: {}", lab.story());
        assert!(lab.is_bare(), "{point:?}: {:?}", lab.marks());
        assert_eq!(lab.lease(), None, "{point:?}");
        assert!(!lab.has_pod("a") && !lab.has_pod("b"), "{point:?}");
        assert!(lab.told("m", "BeginMaintenance") <= 1, "{point:?}");
        assert!(lab.told("m", "SucceedMaintenance") <= 1, "{point:?}");
        assert_eq!(api.list::<NodeMaintenance>().len(), 0);
    };
    let writes = survives_every_crash(setup, story, check).await;
    assert!(writes >= 10, "{writes} writes");
}

/// Two maintenances for a node that was cordoned and excluded before: the second one takes over, and
/// who ends it at last leaves the node as it was.
#[tokio::test(start_paused = true)]
async fn from_the_older_to_the_newer_and_back_to_what_was_before() {
    let labs = std::sync::Mutex::new(Vec::<Lab>::new());
    let setup = || {
        let lab = Lab::new();
        let mut node = lab.node();
        node.spec.get_or_insert_default().unschedulable = Some(true);
        node.metadata.labels.get_or_insert_default().insert(
            "remediation.medik8s.io/exclude-from-remediation".to_owned(),
            "true".to_owned(),
        );
        lab.api.put(&node);
        lab.put_pods(&["a"]);
        for (name, created) in [
            ("older", "2026-01-01T00:00:00Z"),
            ("newer", "2026-01-01T01:00:00Z"),
        ] {
            let mut object = build::node_maintenance(name, NODE).created(created.parse().unwrap());
            object.metadata.annotations = Some(
                [(
                    "nodemaintenance.medik8s.io/restore-cordon".to_owned(),
                    "true".to_owned(),
                )]
                .into(),
            );
            lab.api.put(&object);
        }
        let api = lab.api.clone();
        labs.lock().unwrap().push(lab);
        api
    };
    let story = |_: FakeApi| {
        let lab = labs.lock().unwrap().last().unwrap().clone();
        async move {
            let act = |lab: &Lab| {
                if !lab.is_marked() {
                    return;
                }
                for name in ["older", "newer"] {
                    let is_there = lab
                        .get(name)
                        .is_some_and(|object| object.metadata.deletion_timestamp.is_none());
                    let is_alone = name == "older" || lab.get("older").is_none();
                    if is_there && is_alone && lab.phase(name) == "Succeeded" {
                        lab.end(name);
                    }
                }
            };
            run(&lab, act, |lab| lab.get("newer").is_none()).await;
        }
    };
    let check = |_: &FakeApi, point: Option<CrashPoint>| {
        let lab = labs.lock().unwrap().last().unwrap().clone();
        assert!(
            lab.get("older").is_none() && lab.get("newer").is_none(),
            "{point:?}: {}",
            lab.story()
        );
        let kept = ["node.kubernetes.io/unschedulable".to_owned()].into();
        assert_eq!(lab.marks(), (true, kept, true), "{point:?}");
        assert_eq!(lab.lease(), None, "{point:?}");
        assert!(!lab.has_pod("a"), "{point:?}");
    };
    let writes = survives_every_crash(setup, story, check).await;
    assert!(writes >= 12, "{writes} writes");
}

/// A maintenance whose lease is stolen while it drains.
#[tokio::test(start_paused = true)]
async fn handing_back_after_the_lease_was_stolen() {
    let labs = std::sync::Mutex::new(Vec::<Lab>::new());
    let setup = || {
        let lab = Lab::new();
        lab.put_pods(&["a"]);
        let mut node = lab.node();
        let taint = |key: &str| k8s_openapi::api::core::v1::Taint {
            key: key.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..k8s_openapi::api::core::v1::Taint::default()
        };
        let spec = node.spec.get_or_insert_default();
        spec.unschedulable = Some(true);
        spec.taints = Some(vec![
            taint("medik8s.io/drain"),
            taint("node.kubernetes.io/unschedulable"),
        ]);
        lab.api.put(&node);
        let mut object = build::node_maintenance("m", NODE);
        object.metadata.finalizers = Some(vec!["foregroundDeleteNodeMaintenance".to_owned()]);
        object.metadata.annotations = Some(
            [(
                "nodemaintenance.medik8s.io/previous-node-state".to_owned(),
                "{\"unschedulable\":false,\"excludeFromRemediation\":false}".to_owned(),
            )]
            .into(),
        );
        object.status = Some(medik8s_api::node_maintenance::NodeMaintenanceStatus {
            phase: Some("Running".to_owned()),
            total_pods: Some(1),
            eviction_pods: Some(1),
            ..Default::default()
        });
        lab.api.put(&object);
        lab.give_lease_to("thief");
        let api = lab.api.clone();
        labs.lock().unwrap().push(lab);
        api
    };
    let story = |_: FakeApi| {
        let lab = labs.lock().unwrap().last().unwrap().clone();
        async move { run(&lab, |_| {}, |lab| lab.phase("m") == "Failed").await }
    };
    let check = |api: &FakeApi, point: Option<CrashPoint>| {
        let lab = labs.lock().unwrap().last().unwrap().clone();
        assert_eq!(lab.phase("m"), "Failed", "{point:?}: {}", lab.story());
        assert!(lab.is_bare(), "{point:?}: {:?}", lab.marks());
        assert_eq!(lab.holder().as_deref(), Some("thief"), "{point:?}");
        assert_eq!(api.list::<Lease>().len(), 1, "{point:?}");
        assert_eq!(
            api.list::<Pod>().len(),
            1,
            "{point:?}: MUST NOT evict without the lease"
        );
        let annotations = lab
            .get("m")
            .unwrap()
            .metadata
            .annotations
            .unwrap_or_default();
        assert!(annotations.is_empty(), "{point:?}: {annotations:?}");
    };
    survives_every_crash(setup, story, check).await;
}
