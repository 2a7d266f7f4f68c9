//! Who competes for a node, and nodes that compete: a double of the original health checker wants the
//! lease, two control-plane nodes want the one disruption that etcd allows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{core::v1::Node, policy::v1::PodDisruptionBudget};
use medik8s_core::lease::{Incident, Owner};
use medik8s_runtime::{
    leader::Leadership,
    node_lease::{LeaseError, NodeLeases},
    write::Writer,
};
use medik8s_testing::{
    build::{self, NodeExt, PodExt},
    wire::Reply,
};
use serde_json::json;

use super::lab::{Lab, NODE};

const CHECKER: &str = "NodeHealthCheck-workers";

/// Takes the lease as the original does, remediates for a while, gives it back, comes again.
async fn health_checker(lab: Lab, held: Arc<AtomicUsize>, skipped: Arc<AtomicUsize>) {
    let writer = Writer::new("nhc").gated(Leadership::always(lab.clock.clone()));
    let client = lab.api.client_as("nhc");
    let leases = NodeLeases::new(client, "medik8s-leases", writer, lab.clock.clone());
    let uid = lab.node().metadata.uid.unwrap();
    for turn in 1u64.. {
        let owner = Owner::node(NODE, uid.clone());
        match leases
            .request(&owner, CHECKER, Duration::from_mins(11), Incident::New)
            .await
        {
            Ok(_) => {
                held.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(20 + 7 * (turn % 5))).await;
                leases.release(NODE, CHECKER).await.unwrap();
            }
            Err(LeaseError::AlreadyHeld(_)) => {
                skipped.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(900 + 1300 * (turn % 7))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_node_belongs_to_one_of_the_two_at_a_time() {
    let lab = Lab::new();
    lab.put_pods(&["stuck"]);
    lab.refuse(&["stuck"], || Some(Reply::too_many_requests("budget")));
    lab.operator();
    let (held, skipped) = (Arc::default(), Arc::default());
    let double = tokio::spawn(health_checker(
        lab.clone(),
        Arc::clone(&held),
        Arc::clone(&skipped),
    ));
    let mut maintained = 0;
    for turn in 0..14u64 {
        lab.maintain("m", NODE);
        let mut is_counted = false;
        for _ in 0..(30 + 17 * (turn % 6)) {
            let before = lab.evictions().len();
            lab.pass(Duration::from_millis(500)).await;
            match lab.holder().as_deref() {
                Some(CHECKER) => {
                    assert!(
                        lab.is_bare(),
                        "the health checker remediates a node in maintenance"
                    );
                    assert_eq!(
                        lab.evictions().len(),
                        before,
                        "evicted under a health checker"
                    );
                }
                Some("node-maintenance") if lab.is_marked() && !is_counted => {
                    (maintained, is_counted) = (maintained + 1, true);
                }
                Some(_) | None => {}
            }
        }
        lab.end("m");
        lab.until("the end", |lab| lab.get("m").is_none()).await;
        lab.seconds(turn % 9).await;
    }
    assert!(!double.is_finished(), "the double failed");
    double.abort();
    let (held, skipped) = (
        held.load(Ordering::Relaxed),
        skipped.load(Ordering::Relaxed),
    );
    assert!(
        maintained >= 3 && held >= 3 && skipped >= 3,
        "{maintained} {held} {skipped}"
    );
}

/// The budget of etcd allows one disruption and does not move, as it does not when the guards of both
/// nodes are still there.
#[tokio::test(start_paused = true)]
async fn two_control_plane_nodes_do_not_go_at_the_same_moment() {
    let lab = Lab::new();
    lab.api.add_namespace("openshift-etcd");
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "etcd-guard-pdb", "namespace": "openshift-etcd"},
        "spec": {"selector": {"matchLabels": {"app": "guard"}}},
        "status": {"disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2,
            "expectedPods": 3},
    }))
    .unwrap();
    lab.api.put(&budget);
    let nodes = ["cp1", "cp2"];
    for node in nodes {
        lab.api
            .put(&build::node(node).control_plane().ready(lab.clock.now()));
        let pod = build::pod("default", &format!("on-{node}")).on(node);
        lab.api
            .put(&pod.controlled_by("apps/v1", "ReplicaSet", "r"));
    }
    lab.refuse(&["on-cp1", "on-cp2"], {
        let clock = lab.clock.clone();
        let end = clock.now() + jiff::SignedDuration::from_mins(5);
        move || (clock.now() < end).then(|| Reply::too_many_requests("budget"))
    });
    for node in nodes {
        lab.maintain(node, node);
    }
    lab.operator_on(&["config.openshift.io/v1"]);
    let closed = |lab: &Lab| {
        let is_closed = |node: &&&str| {
            let node: Node = lab.api.get(None, node).unwrap();
            node.spec.and_then(|spec| spec.unschedulable) == Some(true)
        };
        nodes.iter().filter(is_closed).count()
    };
    for second in 0..290 {
        lab.seconds(1).await;
        assert!(closed(&lab) <= 1, "both after {second} s");
    }
    assert_eq!(closed(&lab), 1);
    let waiting = nodes
        .iter()
        .filter(|node| lab.last_error(node).contains("will violate etcd quorum"));
    assert_eq!(waiting.count(), 1);
    lab.until("both to succeed, one after the other", |lab| {
        nodes.iter().all(|node| lab.phase(node) == "Succeeded")
    })
    .await;
}
