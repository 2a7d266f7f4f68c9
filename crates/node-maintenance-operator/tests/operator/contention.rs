//! A double of the original health checker competes for the lease of the node.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use medik8s_core::lease::{Incident, Owner};
use medik8s_runtime::{
    leader::Leadership,
    node_lease::{LeaseError, NodeLeases},
    write::Writer,
};
use medik8s_testing::wire::Reply;

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
