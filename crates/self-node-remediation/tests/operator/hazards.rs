//! What two writers could do to each other: two managers, late requests, somebody else's taints.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::{kubernetes, snr};
use medik8s_api::self_node_remediation::{RemediationStrategy, SelfNodeRemediationConfig};
use medik8s_testing::build::{self, MetaExt as _, NodeExt as _, PodExt as _};
use medik8s_testing::fake::{Failure, Fault};
use medik8s_testing::wire::{Answer, Recorded};

use crate::lab::{Agents, BOUND, Lab, NAMESPACE, NODE, is_order};

const LATE: Duration = Duration::from_millis(300);

fn ordered(strategy: RemediationStrategy, agents: &Agents) -> Lab {
    let lab = Lab::new(agents);
    let mut remediation = build::self_node_remediation(NODE);
    remediation.spec.remediation_strategy = Some(strategy);
    lab.api.put(&remediation);
    lab
}

fn phase(lab: &Lab) -> String {
    lab.status(NAMESPACE, NODE).phase.unwrap_or_default()
}

/// The worst case: both believe that they lead, all the time.
#[tokio::test]
async fn h09_two_managers_free_once_and_not_early() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
    let (one, other) = (lab.manager().await, lab.manager().await);
    for _ in 0..200 {
        tokio::join!(lab.pass(&one), lab.pass(&other));
        if phase(&lab) == snr::PHASE_FENCING_COMPLETED {
            break;
        }
    }
    assert_eq!(phase(&lab), snr::PHASE_FENCING_COMPLETED, "{}", lab.story());
    lab.assert_right("two managers");
    let (ordered, freed) = {
        let seen = lab.seen.lock().unwrap();
        (seen.ordered.unwrap(), seen.freed.unwrap())
    };
    assert!(freed.as_second() - ordered.as_second() >= BOUND);
    // Every write of the status says which version it was made from, and one order is in place in the end.
    let is_status = |request: &&Recorded| {
        request.method == "PATCH" && request.path.ends_with(&format!("/{NODE}/status"))
    };
    let writes = lab.api.writes();
    for write in writes.iter().filter(is_status) {
        let text = write.body.to_string();
        assert!(text.contains("resourceVersion"), "{text}");
    }
    let accepted = writes.iter().filter(|write| {
        write.status == Some(200)
            && write
                .body
                .to_string()
                .contains(snr::PHASE_PRE_REBOOT_COMPLETED)
    });
    assert_eq!(accepted.count(), 1);
}

/// What went wrong with a remediation is not written on a newer one of its name.
#[tokio::test]
async fn h09_a_report_of_an_error_names_what_was_read() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
    let node = format!("/api/v1/nodes/{NODE}");
    lab.api
        .inject(Fault::on_request("GET", &node, Failure::BreakBefore));
    let manager = lab.manager().await;
    for _ in 0..5 {
        lab.pass(&manager).await;
    }
    let writes = lab.api.writes();
    let mut reports = writes
        .iter()
        .map(|write| write.body.to_string())
        .filter(|text| text.contains("lastError\":\"could not"))
        .peekable();
    assert!(reports.peek().is_some(), "{}", lab.story());
    assert!(reports.all(|text| text.contains("resourceVersion")));
}

/// A delete that arrives late finds a new pod of the same name.
#[tokio::test]
async fn h09_a_late_delete_does_not_hit_a_new_pod() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
    lab.api.inject(Fault::on_request(
        "DELETE",
        "/api/v1/namespaces/default/pods/ledger",
        Failure::Late(LATE),
    ));
    let replaced = {
        let api = lab.api.clone();
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if api
                    .requests()
                    .iter()
                    .any(|request| request.method == "DELETE")
                {
                    let mut new = build::pod("default", "ledger").on("a");
                    new.metadata.uid = Some("the-new-one".to_owned());
                    api.put(&new);
                    return;
                }
            }
        }
    };
    let replaced = tokio::spawn(replaced);
    let manager = lab.manager().await;
    lab.until(&manager, "the end", |lab| {
        phase(lab) == snr::PHASE_FENCING_COMPLETED
    })
    .await;
    replaced.await.unwrap();
    tokio::time::sleep(LATE * 2).await;
    let pod: Pod = lab.api.get(Some("default"), "ledger").unwrap();
    assert_eq!(pod.metadata.uid.as_deref(), Some("the-new-one"));
    lab.assert_right("late delete");
}

/// A forced delete that arrives late finds the same pod, started again by a node that has come back meanwhile.
#[tokio::test]
async fn h13_a_late_delete_does_not_hit_a_pod_that_runs_again() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
    lab.api.inject(Fault::on_request(
        "DELETE",
        "/api/v1/namespaces/default/pods/ledger",
        Failure::Late(LATE),
    ));
    let is_delete =
        |request: &Recorded| request.method == "DELETE" && request.path.ends_with("/pods/ledger");
    let manager = lab.manager().await;
    let restarted = async {
        while !lab.api.requests().iter().any(is_delete) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        lab.api.update::<Pod>(Some("default"), "ledger", |pod| {
            pod.status.get_or_insert_default().message = Some("running again".to_owned());
        });
        lab.comes_back("b2");
    };
    let told = lab.until(&manager, "the pod is told to end", |lab| {
        let pod = lab.api.get::<Pod>(Some("default"), "ledger");
        pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    });
    tokio::join!(told, restarted);
    let deletes: Vec<(bool, Option<u16>)> = lab
        .api
        .requests()
        .iter()
        .filter(|request| is_delete(request))
        .map(|request| (request.body["gracePeriodSeconds"] == 0, request.status))
        .collect();
    assert_eq!(
        deletes,
        [(true, Some(409)), (false, Some(200))],
        "by force: {deletes:?}"
    );
    lab.assert_right("late delete of a pod that runs again");
}

/// An escalating health checker deletes both remediations of a node at once.
#[tokio::test]
async fn two_remediations_that_end_together_leave_no_taint() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
    let mut other = build::self_node_remediation("another");
    other.metadata.annotations.get_or_insert_default().insert(
        "remediation.medik8s.io/node-name".to_owned(),
        NODE.to_owned(),
    );
    lab.api.put(&other);
    let manager = lab.manager().await;
    lab.until(&manager, "both freed", |lab| {
        [NODE, "another"].iter().all(|name| {
            let phase = lab.status(NAMESPACE, name).phase;
            phase.as_deref() == Some(snr::PHASE_FENCING_COMPLETED)
        })
    })
    .await;
    lab.comes_back("b2");
    for name in [NODE, "another"] {
        lab.api.delete::<SelfNodeRemediation>(Some(NAMESPACE), name);
    }
    for _ in 0..20 {
        lab.pass_together(&manager).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        lab.api.list::<SelfNodeRemediation>().is_empty(),
        "{}",
        lab.story()
    );
    assert!(!lab.has_taint(snr::REMEDIATION_TAINT), "{}", lab.story());
}

/// The node controller adds its taint between our read and our write.
#[tokio::test]
async fn h10_a_taint_that_somebody_adds_meanwhile_survives() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
    let node = format!("/api/v1/nodes/{NODE}");
    lab.api
        .inject(Fault::on_request("PATCH", &node, Failure::Late(LATE)));
    let added = {
        let api = lab.api.clone();
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let patched = |request: &Recorded| {
                    request.method == "PATCH" && request.path == format!("/api/v1/nodes/{NODE}")
                };
                if api.requests().iter().any(patched) {
                    api.update::<Node>(None, NODE, |node| {
                        let spec = node.spec.get_or_insert_default();
                        spec.taints.get_or_insert_default().push(Taint {
                            key: "node.kubernetes.io/unreachable".to_owned(),
                            effect: "NoExecute".to_owned(),
                            ..Taint::default()
                        });
                    });
                    return;
                }
            }
        }
    };
    let added = tokio::spawn(added);
    let manager = lab.manager().await;
    lab.until(&manager, "ordered", |lab| {
        phase(lab) == snr::PHASE_PRE_REBOOT_COMPLETED
    })
    .await;
    added.await.unwrap();
    assert!(lab.has_taint("node.kubernetes.io/unreachable"));
    assert!(lab.has_taint(snr::REMEDIATION_TAINT));

    // And when ours go, it stays.
    lab.until(&manager, "freed", |lab| {
        phase(lab) == snr::PHASE_FENCING_COMPLETED
    })
    .await;
    lab.comes_back("b2");
    lab.api.delete::<SelfNodeRemediation>(Some(NAMESPACE), NODE);
    lab.until(&manager, "released", |lab| {
        lab.remediation(NAMESPACE, NODE).is_none()
    })
    .await;
    let keys: Vec<String> = lab.taints().into_iter().map(|taint| taint.key).collect();
    assert_eq!(keys, ["node.kubernetes.io/unreachable"]);
}

/// H8: the order's outcome is not known to the manager; its time begins when the order is seen in place.
#[tokio::test]
async fn h08_a_late_order_is_counted_from_its_sight() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
    lab.api.inject(Fault::on(is_order, Failure::BreakAfter));
    let manager = lab.manager().await;
    lab.until(&manager, "freed", |lab| {
        phase(lab) == snr::PHASE_FENCING_COMPLETED
    })
    .await;
    lab.assert_right("late order");
    let seen = lab.seen.lock().unwrap();
    let waited = seen.freed.unwrap().as_second() - seen.ordered.unwrap().as_second();
    assert!(waited >= BOUND, "{waited}");
}

/// H8: the write takes effect a minute after it was given up.
#[tokio::test]
async fn h08_a_write_that_lands_late_is_counted_from_its_sight() {
    for old_agent in [false, true] {
        let agents = Agents::start().await;
        let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
        if old_agent {
            lab.has_an_old_agent();
        }
        lands_late(&lab).await;
    }
}

async fn lands_late(lab: &Lab) {
    let manager = lab.manager().await;
    let late = lab
        .clock
        .now()
        .saturating_add(Duration::from_mins(1))
        .unwrap();
    let lost = Arc::new(Mutex::new(None));
    let (keep, clock) = (Arc::clone(&lost), lab.clock.clone());
    lab.api.intercept(move |request: &Recorded| {
        let now = clock.now();
        (is_order(request) && now < late).then(|| {
            let status = || (now, request.body["status"].clone());
            keep.lock().unwrap().get_or_insert_with(status);
            Answer::Break
        })
    });
    while lab.clock.now() < late {
        lab.pass(&manager).await;
    }
    let (computed, written) = lost.lock().unwrap().take().unwrap();
    lab.api
        .update::<SelfNodeRemediation>(Some(NAMESPACE), NODE, |object| {
            let mut status = serde_json::to_value(&object.status).unwrap();
            json_patch::merge(&mut status, &written);
            object.status = serde_json::from_value(status).unwrap();
        });
    let landed = lab.clock.now();
    let assumed = lab.status(NAMESPACE, NODE).time_assumed_rebooted.unwrap().0;
    lab.until(&manager, "freed", |lab| {
        phase(lab) == snr::PHASE_FENCING_COMPLETED
    })
    .await;
    lab.assert_right("late order");
    let freed = lab.seen.lock().unwrap().freed.unwrap();
    let needed = assumed.as_second() - computed.as_second();
    let waited = freed.as_second() - landed.as_second();
    assert!(waited >= needed, "{waited} of {needed}");
}

/// H13: what is decided about the pods rests on a boot that was read after them.
#[tokio::test]
async fn h13_a_boot_that_is_reported_after_the_pods_were_listed_counts() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
    let listed = Arc::new(AtomicBool::new(false));
    let mark = Arc::clone(&listed);
    lab.api.intercept(move |request: &Recorded| {
        // Agents are looked for by their label, the workload is not.
        let is_list = request.path == "/api/v1/pods" && !request.is_watch();
        let of_workload = is_list && !request.query.contains_key("labelSelector");
        mark.fetch_or(of_workload, Ordering::SeqCst);
        None
    });
    let (node, after) = (format!("/api/v1/nodes/{NODE}"), Arc::clone(&listed));
    let is_read = move |request: &Recorded| {
        request.method == "GET" && request.path == node && after.load(Ordering::SeqCst)
    };
    // Long enough for the node to report meanwhile, however busy this machine is.
    lab.api
        .inject(Fault::on(is_read, Failure::Late(Duration::from_secs(3))));
    let manager = lab.manager().await;
    let returns = async {
        while !listed.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lab.comes_back("b2");
    };
    let told = lab.until(&manager, "the pods are told to end", |lab| !lab.has_pods());
    tokio::join!(told, returns);
    let deletes: Vec<_> = lab
        .api
        .requests()
        .into_iter()
        .filter(|request| request.method == "DELETE")
        .map(|request| request.body["gracePeriodSeconds"].clone())
        .collect();
    assert!(!deletes.is_empty(), "{}", lab.story());
    assert!(deletes.iter().all(|grace| grace != 0), "{deletes:?}");
    lab.assert_right("a boot between two reads");
}

/// The strategy of an emptied node is over only when its volumes are detached.
#[tokio::test]
async fn the_out_of_service_taint_stays_until_the_volumes_are_detached() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::OutOfServiceTaint, &agents);
    lab.attach_volume("pv-1");
    let manager = lab.manager().await;
    lab.until(&manager, "taint", |lab| {
        lab.empties_out_of_service();
        lab.has_taint(kubernetes::OUT_OF_SERVICE_TAINT)
    })
    .await;
    for _ in 0..10 {
        lab.empties_out_of_service();
        lab.pass(&manager).await;
        assert!(lab.has_taint(kubernetes::OUT_OF_SERVICE_TAINT));
        assert_ne!(phase(&lab), snr::PHASE_FENCING_COMPLETED);
    }
    lab.detach_volume("pv-1");
    lab.until(&manager, "freed", |lab| {
        phase(lab) == snr::PHASE_FENCING_COMPLETED
    })
    .await;
    assert!(!lab.has_taint(kubernetes::OUT_OF_SERVICE_TAINT));
}

/// Only the one configuration counts: by its name, in the operator's namespace.
#[tokio::test]
async fn another_configuration_counts_for_nothing() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
    let config = || -> SelfNodeRemediationConfig {
        let known = lab.api.get(Some(NAMESPACE), snr::CONFIG_NAME);
        known.unwrap_or_default()
    };
    let mut other_name = config();
    other_name.metadata.name = Some("mine".to_owned());
    other_name.metadata.uid = Some("uid-mine".to_owned());
    let mut other_namespace = config();
    other_namespace.metadata.namespace = Some("default".to_owned());
    lab.api.put(&other_name);
    lab.api.put(&other_namespace);
    lab.api
        .remove::<SelfNodeRemediationConfig>(Some(NAMESPACE), snr::CONFIG_NAME);
    let manager = lab.manager().await;
    for _ in 0..100 {
        lab.pass(&manager).await;
    }
    assert_eq!(lab.condition(NAMESPACE, NODE, snr::DISABLED), "True");
    assert_eq!(lab.taints(), []);
    assert!(lab.has_pods());
}

/// The manager's copy of the Nodes may lag: who is no Node any more has no vote, though its agent still answers.
#[tokio::test]
async fn h16_who_left_the_cluster_has_no_vote() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
    let manager = lab.manager().await;
    lab.api
        .intercept(|request: &Recorded| request.is_watch().then_some(Answer::Hang));
    lab.api.drop_watches();
    for name in ["a", "b"] {
        lab.api.remove::<Node>(None, name);
    }
    for _ in 0..100 {
        lab.pass(&manager).await;
    }
    assert_eq!(phase(&lab), snr::PHASE_PRE_REBOOT_COMPLETED);
    assert!(lab.has_pods(), "one of three acknowledged: {}", lab.story());
    manager.kill();
}

/// One that lands late was computed for an earlier moment.
#[tokio::test]
async fn an_order_that_is_not_answered_is_given_up_soon_and_made_anew() {
    let agents = Agents::start().await;
    let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
    let manager = lab.manager().await;
    lab.api
        .intercept(|request: &Recorded| is_order(request).then_some(Answer::Hang));
    let sent = |lab: &Lab| {
        lab.api
            .requests()
            .iter()
            .filter(|one| is_order(one))
            .count()
    };
    let mut took = Duration::ZERO;
    while sent(&lab) < 2 {
        let begin = tokio::time::Instant::now();
        lab.pass(&manager).await;
        took = took.max(begin.elapsed());
    }
    assert!(took >= Duration::from_secs(4), "{took:?}");
    assert!(took < Duration::from_secs(7), "{took:?}");
    let requests = lab.api.requests();
    let times: Vec<_> = requests
        .iter()
        .filter(|one| is_order(one))
        .map(|one| one.body["status"]["timeAssumedRebooted"].clone())
        .collect();
    assert_ne!(times[0], times[1], "it is counted anew");
    manager.kill();
}

/// A hundred remediations in a large cluster must not keep the API server busy. Lists come in pages of 250.
#[tokio::test]
async fn the_requests_of_a_remediation_do_not_grow_with_the_cluster() {
    let mut counts = Vec::new();
    for others in [0, 200] {
        let agents = Agents::start().await;
        let lab = ordered(RemediationStrategy::ResourceDeletion, &agents);
        for number in 0..others {
            let name = format!("other-{number}");
            let node = build::node(&name).worker().ready(lab.clock.now());
            // Younger than the table that the node announced.
            lab.api.put(&node.created(lab.clock.now()));
        }
        let manager = lab.manager().await;
        lab.api.clear_requests();
        lab.until(&manager, "freed", |lab| {
            phase(lab) == snr::PHASE_FENCING_COMPLETED
        })
        .await;
        let requests = lab.api.requests();
        let asked = requests.iter().filter(|one| !one.is_watch());
        counts.push(asked.count());
        let lists = |one: &&Recorded| one.path == "/api/v1/nodes" && !one.is_watch();
        assert_eq!(requests.iter().filter(lists).count(), 1, "to count members");
        lab.assert_right("many nodes");
    }
    assert_eq!(counts[0], counts[1]);
}
