//! The manager is killed at every write, before and after it is stored; the next one must bring the same story to the
//! same end, and free nothing before its time.

use std::sync::Mutex;

use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::{kubernetes, snr};
use medik8s_api::self_node_remediation::RemediationStrategy;
use medik8s_testing::build;
use medik8s_testing::crash::{CrashPoint, survives_every_crash};
use medik8s_testing::fake::FakeApi;

use crate::lab::{Agents, BOUND, Lab, NAMESPACE, NODE};

fn phase(lab: &Lab) -> String {
    lab.status(NAMESPACE, NODE).phase.unwrap_or_default()
}

fn is_gone(lab: &Lab) -> bool {
    lab.remediation(NAMESPACE, NODE).is_none()
}

fn delete(lab: &Lab) {
    lab.api.delete::<SelfNodeRemediation>(Some(NAMESPACE), NODE);
}

fn is_being_deleted(lab: &Lab) -> bool {
    lab.remediation(NAMESPACE, NODE)
        .is_some_and(|object| object.metadata.deletion_timestamp.is_some())
}

/// The health checker's part: when the workload is freed, the node comes back and the remediation is deleted.
fn ends_when_freed(lab: &Lab) {
    lab.empties_out_of_service();
    if phase(lab) == snr::PHASE_FENCING_COMPLETED && !is_being_deleted(lab) {
        lab.comes_back("b2");
        delete(lab);
    }
}

/// Runs one story with a kill at every write. Returns how many writes it takes.
async fn story(
    strategy: RemediationStrategy,
    prepare: fn(&Lab),
    act: fn(&Lab),
    check: fn(&Lab, &str),
) -> usize {
    let agents = Agents::start().await;
    let labs = Mutex::new(Vec::<Lab>::new());
    let setup = || {
        let lab = Lab::new(&agents);
        prepare(&lab);
        let mut remediation = build::self_node_remediation(NODE);
        remediation.spec.remediation_strategy = Some(strategy.clone());
        lab.api.put(&remediation);
        let api = lab.api.clone();
        labs.lock().unwrap().push(lab);
        api
    };
    let run = |_: FakeApi| {
        let lab = labs.lock().unwrap().last().unwrap().clone();
        async move {
            let manager = lab.manager().await;
            let turn = |lab: &Lab| {
                act(lab);
                is_gone(lab)
            };
            lab.until(&manager, "the end", turn).await;
            manager.kill();
        }
    };
    let judge = |_: &FakeApi, point: Option<CrashPoint>| {
        let lab = labs.lock().unwrap().last().unwrap().clone();
        let at = point.map_or_else(|| "no crash".to_owned(), |point| point.to_string());
        lab.assert_right(&at);
        assert!(is_gone(&lab), "{at}: {}", lab.story());
        assert_eq!(lab.taints(), [], "{at}");
        check(&lab, &at);
    };
    survives_every_crash(setup, run, judge).await
}

fn freed_by_time(lab: &Lab, at: &str) {
    let seen = lab.seen.lock().unwrap();
    let (ordered, freed) = (seen.ordered.unwrap(), seen.freed.unwrap());
    let waited = freed.as_second() - ordered.as_second();
    assert!(waited >= BOUND, "{at}: freed after {waited} s");
    // A change of the leader asks for nothing anew that was recorded.
    assert!(waited <= 2 * BOUND + 10, "{at}: freed after {waited} s");
    assert!(!lab.has_pods(), "{at}");
}

#[tokio::test]
async fn freed_by_deletion() {
    let writes = story(
        RemediationStrategy::ResourceDeletion,
        |_| {},
        ends_when_freed,
        freed_by_time,
    )
    .await;
    assert!(writes >= 12, "{writes} writes");
}

#[tokio::test]
async fn freed_by_the_out_of_service_taint() {
    let writes = story(
        RemediationStrategy::Automatic,
        |_| {},
        ends_when_freed,
        |lab, at| {
            freed_by_time(lab, at);
            let forced = |request: &medik8s_testing::wire::Recorded| {
                request.method == "DELETE" && request.path.contains("/pods/")
            };
            assert!(!lab.api.writes().iter().any(forced), "{at}");
        },
    )
    .await;
    assert!(writes >= 10, "{writes} writes");
}

/// E1: the node reboots long before its time is over. Its kubelet ends the pods; nothing is forced.
#[tokio::test]
async fn a_node_that_reboots_is_freed_gracefully() {
    let act = |lab: &Lab| {
        let ordered = lab.seen.lock().unwrap().ordered;
        let rebooted = ordered.is_some_and(|at| lab.clock.now().as_second() >= at.as_second() + 40);
        if rebooted && phase(lab) == snr::PHASE_PRE_REBOOT_COMPLETED {
            lab.comes_back("b2");
        }
        lab.kubelet_ends_pods();
        if phase(lab) == snr::PHASE_FENCING_COMPLETED && !is_being_deleted(lab) {
            delete(lab);
        }
    };
    story(
        RemediationStrategy::Automatic,
        |lab| lab.api.keep_terminating_pods(),
        act,
        |lab, at| {
            let seen = lab.seen.lock().unwrap();
            let waited = seen.freed.unwrap().as_second() - seen.ordered.unwrap().as_second();
            assert!((40..=46).contains(&waited), "{at}: {waited}");
            for request in lab.api.writes() {
                let text = request.to_string();
                assert!(
                    !text.contains(kubernetes::OUT_OF_SERVICE_TAINT),
                    "{at}: {text}"
                );
                let deletes = request.method == "DELETE" && request.path.contains("/pods/");
                let forced = request.body.get("gracePeriodSeconds") == Some(&0.into());
                assert!(!(deletes && forced), "{at}: {text}");
            }
        },
    )
    .await;
}

/// The node was healthy all the time: the remediation is deleted before anything is freed.
#[tokio::test]
async fn a_cancelled_order_frees_nothing() {
    let act = |lab: &Lab| {
        if phase(lab) == snr::PHASE_PRE_REBOOT_COMPLETED && !is_being_deleted(lab) {
            lab.comes_back("b1");
            delete(lab);
        }
    };
    story(
        RemediationStrategy::ResourceDeletion,
        |_| {},
        act,
        |lab, at| {
            assert!(lab.has_pods(), "{at}");
            assert_eq!(lab.seen.lock().unwrap().freed, None, "{at}");
        },
    )
    .await;
}
