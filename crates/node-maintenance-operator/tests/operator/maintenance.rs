//! Maintenances from beginning to end: the timelines of section 17 and the rows of section 8.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use medik8s_api::NodeMaintenance;
use medik8s_testing::{
    build::{self, MetaExt, NodeExt, PodExt},
    fake::{Failure, Fault},
    wire::{Answer, Reply},
};
use serde_json::json;

use super::lab::{Lab, NODE};

#[tokio::test(start_paused = true)]
async fn a_normal_worker_from_begin_to_end() {
    let lab = Lab::new();
    lab.put_pods(&["a", "b", "c"]);
    lab.put_daemon_set("ds");
    lab.api.put(
        &lab.pod("of-ds")
            .with_meta(|meta| meta.owner_references = None)
            .of_daemon_set("ds"),
    );
    lab.api.put(&lab.pod("static").mirror());
    lab.api.clear_requests();
    lab.maintain("m", NODE);
    let operator = lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;

    let status = lab.status("m");
    assert_eq!(
        (status.total_pods, status.eviction_pods),
        (Some(5), Some(3))
    );
    assert_eq!(
        (status.drain_progress, status.last_error),
        (Some(100), None)
    );
    assert_eq!(
        (status.pending_pods, status.pending_pods_refs),
        (None, None)
    );
    assert!(lab.has_pod("of-ds") && lab.has_pod("static"));
    assert!(lab.is_marked(), "{:?}", lab.marks());
    assert_eq!(lab.holder().as_deref(), Some("node-maintenance"));
    lab.seconds(1).await;
    assert_eq!(
        (
            lab.told("m", "BeginMaintenance"),
            lab.told("m", "SucceedMaintenance")
        ),
        (1, 1)
    );

    // Lease, then record, then node, then evictions (5.2 step 10 and 12).
    let order: Vec<String> = lab
        .api
        .writes()
        .iter()
        .map(|one| format!("{} {}", one.method, one.path))
        .collect();
    let position = |what: &str| {
        order
            .iter()
            .position(|one| one.contains(what))
            .unwrap_or_else(|| panic!("{what}: {order:?}"))
    };
    assert!(position("/leases") < position(&format!("PATCH /api/v1/nodes/{NODE}")));
    assert!(position("PATCH /api/v1/nodes") < position("/eviction"));
    assert!(
        !order.iter().any(|one| one.starts_with("DELETE")),
        "{order:?}"
    );
    assert_eq!(lab.evictions().len(), 3, "one for each pod");

    lab.api.clear_requests();
    lab.end("m");
    lab.until("the end", |lab| lab.get("m").is_none()).await;
    assert!(lab.is_bare(), "{:?}", lab.marks());
    assert_eq!(lab.lease(), None);
    lab.seconds(1).await;
    assert_eq!(
        (
            lab.told(NODE, "UncordonNode"),
            lab.told("m", "RemovedMaintenance")
        ),
        (1, 1)
    );
    let order: Vec<String> = lab
        .api
        .writes()
        .iter()
        .map(|one| format!("{} {}", one.method, one.path))
        .collect();
    let position = |what: &str| order.iter().position(|one| one.contains(what)).unwrap();
    let maintenances = "/apis/nodemaintenance.medik8s.io/v1beta1/nodemaintenances/m";
    assert!(position("PATCH /api/v1/nodes") < position("DELETE /apis/coordination.k8s.io"));
    assert!(position("DELETE /apis/coordination.k8s.io") < position(maintenances));
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_node_is_changed_by_one_guarded_patch() {
    let lab = Lab::new();
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    let patches: Vec<_> = lab
        .api
        .writes()
        .into_iter()
        .filter(|one| one.path == "/api/v1/nodes/n1")
        .collect();
    assert_eq!(patches.len(), 1);
    let operations = patches[0].body.as_array().unwrap();
    assert_eq!(operations[0]["op"], "test");
    assert_eq!(operations[0]["path"], "/metadata/resourceVersion");
    let paths: Vec<&str> = operations
        .iter()
        .map(|one| one["path"].as_str().unwrap())
        .collect();
    for path in ["/spec/taints", "/spec/unschedulable"] {
        assert!(paths.contains(&path), "{paths:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn steady_state_writes_nothing_but_the_lease() {
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    lab.seconds(2).await;
    lab.api.clear_requests();
    // Heartbeats of the kubelet must not cause anything.
    for beat in 0..12 {
        lab.api.update::<Node>(None, NODE, |node| {
            node.status.as_mut().unwrap().images = Some(vec![]);
            let annotations = node.metadata.annotations.get_or_insert_default();
            annotations.insert("beat".to_owned(), beat.to_string());
        });
        lab.seconds(10).await;
    }
    assert_eq!(lab.api.writes(), []);
    let reads = lab
        .api
        .requests()
        .iter()
        .filter(|one| !one.is_watch())
        .count();
    assert_eq!(reads, 0, "{}", lab.story());
    lab.pass(Duration::from_hours(1)).await;
    let writes = lab.api.writes();
    assert_eq!(writes.len(), 2, "half-hourly renewals: {writes:?}");
    assert!(
        writes
            .iter()
            .all(|one| one.method == "PUT" && one.path.contains("/leases/"))
    );
}

#[tokio::test(start_paused = true)]
async fn budget_of_requests_for_a_drain() {
    let lab = Lab::new();
    let names: Vec<String> = (0..100).map(|n| format!("p{n:03}")).collect();
    lab.put_pods(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let operator = lab.operator();
    lab.seconds(5).await;
    lab.api.clear_requests();
    lab.maintain("m", NODE);
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    lab.seconds(1).await;
    let requests = lab.api.requests();
    // The two reads of the admission webhook come on top.
    assert!(requests.len() <= 100 + 18, "{}", lab.story());
    let lists = requests
        .iter()
        .filter(|one| one.path == "/api/v1/pods" && !one.is_watch())
        .count();
    let watches = requests
        .iter()
        .filter(|one| one.path == "/api/v1/pods" && one.is_watch())
        .count();
    assert_eq!(
        (lists, watches),
        (2, 1),
        "one LIST and one WATCH, and a LIST at the end, since the first is older than the cordon"
    );
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn deleting_in_the_middle_of_a_drain_stops_it_at_once() {
    let lab = Lab::new();
    lab.put_pods(&["a", "b"]);
    lab.refuse(&["a"], || Some(Reply::too_many_requests("budget")));
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("progress", |lab| !lab.has_pod("b")).await;
    lab.seconds(3).await;
    assert_eq!(lab.status("m").drain_progress, Some(50));
    lab.end("m");
    lab.until("the end", |lab| lab.get("m").is_none()).await;
    let asked = lab.evictions_of("a");
    lab.seconds(120).await;
    assert_eq!(lab.evictions_of("a"), asked, "MUST NOT evict after the end");
    assert!(lab.has_pod("a") && lab.is_bare() && lab.lease().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_conflict_tells_what_a_broken_watch_does_not() {
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    lab.refuse(&["a"], || Some(Reply::too_many_requests("budget")));
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("an eviction", |lab| lab.evictions_of("a") > 0)
        .await;
    lab.api.intercept(|request| {
        (request.is_watch() && request.path.ends_with("/nodemaintenances")).then_some(Answer::Break)
    });
    lab.api.drop_watches();
    lab.end("m");
    lab.until("the end", |lab| lab.get("m").is_none()).await;
    let asked = lab.evictions_of("a");
    lab.seconds(60).await;
    assert_eq!(lab.evictions_of("a"), asked, "MUST NOT evict after the end");
    assert!(lab.is_bare() && lab.lease().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_is_stopped_evicts_nothing_more() {
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    lab.refuse(&["a"], || Some(Reply::too_many_requests("budget")));
    lab.maintain("m", NODE);
    let operator = lab.operator();
    lab.until("an eviction", |lab| lab.evictions_of("a") > 0)
        .await;
    operator.stop().await;
    let asked = lab.evictions_of("a");
    lab.seconds(120).await;
    assert_eq!(lab.evictions_of("a"), asked);
    assert!(lab.is_marked(), "the node stays in maintenance");
    let writes = lab.api.writes().len();
    lab.operator();
    lab.until("more evictions", |lab| lab.evictions_of("a") > asked)
        .await;
    assert_eq!(lab.told("m", "BeginMaintenance"), 1, "{}", lab.story());
    assert_eq!(lab.status("m").eviction_pods, Some(1), "not counted again");
    assert!(lab.api.writes().len() > writes);
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_a_health_checker_is_waited_for() {
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    lab.give_lease_to("NodeHealthCheck-x");
    lab.maintain("m", NODE);
    lab.operator();
    lab.seconds(45).await;
    assert!(lab.is_bare() && lab.has_pod("a"));
    assert_eq!(
        (
            lab.phase("m").as_str(),
            lab.status("m").error_on_lease_count
        ),
        ("Running", None)
    );
    let error = lab.last_error("m");
    assert!(
        error.contains("failed to obtain a lease that is not owned by us"),
        "{error}"
    );
    lab.api
        .remove::<k8s_openapi::api::coordination::v1::Lease>(Some("medik8s-leases"), "node-n1");
    let took = lab
        .until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    assert!(took <= Duration::from_secs(11), "{took:?}");
    assert_eq!(lab.last_error("m"), "");
}

#[tokio::test(start_paused = true)]
async fn deleting_what_waits_leaves_node_and_foreign_lease_alone() {
    let lab = Lab::new();
    lab.api.update::<Node>(None, NODE, |node| {
        node.spec.get_or_insert_default().unschedulable = Some(true);
    });
    lab.give_lease_to("NodeHealthCheck-x");
    lab.maintain("m", NODE);
    lab.operator();
    lab.seconds(15).await;
    lab.end("m");
    lab.until("the end", |lab| lab.get("m").is_none()).await;
    assert!(lab.marks().0, "the cordon is somebody else's");
    assert_eq!(lab.holder().as_deref(), Some("NodeHealthCheck-x"));
    assert_eq!(lab.told(NODE, "UncordonNode"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stolen_lease_ends_the_maintenance_after_more_than_30_s() {
    let lab = Lab::new();
    lab.put_pods(&["a", "b"]);
    lab.refuse(&["a"], || Some(Reply::too_many_requests("budget")));
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("progress", |lab| lab.status("m").drain_progress == Some(50))
        .await;
    lab.give_lease_to("thief");
    lab.until("notice", |lab| {
        lab.status("m").error_on_lease_count == Some(1)
    })
    .await;
    let (noticed, asked) = (lab.elapsed(), lab.evictions_of("a"));
    let error = lab.last_error("m");
    assert!(
        error.contains("failed to extend a lease that used to be owned by us"),
        "{error}"
    );
    lab.until("failure", |lab| lab.phase("m") == "Failed").await;
    assert!(
        lab.elapsed() - noticed >= 30,
        "{} s",
        lab.elapsed() - noticed
    );
    assert_eq!(
        lab.evictions_of("a"),
        asked,
        "MUST NOT evict without the lease"
    );
    assert_eq!(
        lab.last_error("m"),
        "maintenance failed: lease could not be extended after 4 attempts"
    );
    assert!(lab.is_bare());
    assert_eq!(lab.holder().as_deref(), Some("thief"));
    lab.seconds(2).await;
    assert_eq!(lab.told("m", "FailedMaintenance"), 1);
    lab.api.clear_requests();
    lab.seconds(600).await;
    assert_eq!(lab.api.writes(), [], "terminal");
}

#[tokio::test(start_paused = true)]
async fn two_maintenances_of_one_node() {
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    lab.operator();
    lab.maintain("first", NODE);
    lab.seconds(2).await;
    lab.maintain("second", NODE);
    lab.until("refusal", |lab| lab.phase("second") == "Failed")
        .await;
    assert_eq!(
        lab.last_error("second"),
        "invalid nodeName, a NodeMaintenance for node n1 already exists"
    );
    lab.seconds(1).await;
    assert_eq!(lab.told("second", "FailedMaintenance"), 1);
    lab.end("first");
    lab.until("takeover", |lab| lab.phase("second") == "Succeeded")
        .await;
    assert!(lab.get("first").is_none() && lab.is_marked());
    assert_eq!(
        lab.told(NODE, "UncordonNode"),
        0,
        "MUST NOT uncordon under the other"
    );
    lab.end("second");
    lab.until("the end", |lab| lab.get("second").is_none())
        .await;
    assert!(lab.is_bare() && lab.lease().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_vanishes_and_registers_again() {
    let lab = Lab::new();
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    lab.api.remove::<Node>(None, NODE);
    lab.api
        .remove::<k8s_openapi::api::coordination::v1::Lease>(Some("medik8s-leases"), "node-n1");
    lab.until("failure", |lab| lab.phase("m") == "Failed").await;
    assert_eq!(lab.last_error("m"), "nodes \"n1\" not found");
    lab.api.clear_requests();
    lab.seconds(300).await;
    assert_eq!(lab.api.writes(), [], "no loop while it waits");
    assert_eq!(lab.told("m", "FailedMaintenance"), 1);
    let mut back = build::node(NODE).ready(lab.clock.now());
    back.metadata.uid = Some("second-life".to_owned());
    lab.api.put(&back);
    lab.api.put(&lab.pod("early"));
    lab.until("success again", |lab| lab.phase("m") == "Succeeded")
        .await;
    assert!(lab.is_marked() && !lab.has_pod("early"));
    let owner = lab
        .lease()
        .unwrap()
        .metadata
        .owner_references
        .unwrap()
        .remove(0);
    assert_eq!(
        owner.uid, "second-life",
        "or the garbage collector takes the lease"
    );
}

#[tokio::test(start_paused = true)]
async fn a_maintenance_of_a_missing_node_can_be_deleted() {
    let lab = Lab::new();
    lab.maintain("m", "nowhere");
    lab.maintain("bad", "Not,A=Node");
    lab.operator();
    lab.until("failure", |lab| {
        lab.phase("m") == "Failed" && lab.phase("bad") == "Failed"
    })
    .await;
    assert_eq!(lab.last_error("m"), "nodes \"nowhere\" not found");
    assert_eq!(lab.last_error("bad"), "nodes \"Not,A=Node\" not found");
    lab.seconds(1).await;
    assert_eq!(
        (
            lab.told("m", "BeginMaintenance"),
            lab.told("m", "FailedMaintenance")
        ),
        (1, 1)
    );
    lab.end("m");
    lab.end("bad");
    lab.until("the end", |lab| {
        lab.api.list::<NodeMaintenance>().is_empty()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_uncordon_by_hand_is_undone() {
    let lab = Lab::new();
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    lab.api.put(&lab.pod("node-debugger"));
    lab.seconds(60).await;
    assert!(
        lab.has_pod("node-debugger"),
        "MUST NOT evict what appeared after success"
    );
    lab.api.update::<Node>(None, NODE, |node| {
        node.spec.get_or_insert_default().unschedulable = None;
    });
    lab.until("the cordon", Lab::is_marked).await;
    lab.until("the drain", |lab| !lab.has_pod("node-debugger"))
        .await;
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
}

#[tokio::test(start_paused = true)]
async fn foreign_taints_labels_and_exclusions_stay() {
    let lab = Lab::new();
    lab.api.update::<Node>(None, NODE, |node| {
        let taint = json!({"key": "gpu", "value": "yes", "effect": "NoSchedule",
            "timeAdded": "2026-01-01T00:00:00Z"});
        node.spec.get_or_insert_default().taints =
            Some(vec![serde_json::from_value(taint).unwrap()]);
        node.metadata.labels.get_or_insert_default().insert(
            "remediation.medik8s.io/exclude-from-remediation".to_owned(),
            "true".to_owned(),
        );
    });
    let before = lab.node();
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    let taints = lab.node().spec.unwrap().taints.unwrap();
    assert_eq!(taints.len(), 3);
    assert_eq!(
        taints[2],
        before.spec.as_ref().unwrap().taints.as_ref().unwrap()[0]
    );
    lab.end("m");
    lab.until("the end", |lab| lab.get("m").is_none()).await;
    let after = lab.node();
    assert_eq!(after.spec, before.spec);
    assert_eq!(after.metadata.labels, before.metadata.labels);
}

#[tokio::test(start_paused = true)]
async fn a_label_that_does_not_exclude_comes_back() {
    let key = "remediation.medik8s.io/exclude-from-remediation";
    let lab = Lab::new();
    let label = |lab: &Lab| lab.node().metadata.labels.unwrap_or_default().remove(key);
    lab.api.update::<Node>(None, NODE, |node| {
        let labels = node.metadata.labels.get_or_insert_default();
        labels.insert(key.to_owned(), "false".to_owned());
    });
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    assert_eq!(label(&lab).as_deref(), Some("true"));
    lab.end("m");
    lab.until("the end", |lab| lab.get("m").is_none()).await;
    assert_eq!(label(&lab).as_deref(), Some("false"), "MUST NOT 5");
}

#[tokio::test(start_paused = true)]
async fn load_balancers_are_told_on_order() {
    let key = "node.kubernetes.io/exclude-from-external-load-balancers";
    let annotation = "nodemaintenance.medik8s.io/exclude-from-load-balancers";
    for before in [None, Some("mine")] {
        let lab = Lab::new();
        let label = |lab: &Lab| lab.node().metadata.labels.unwrap_or_default().remove(key);
        if let Some(value) = before {
            lab.api.update::<Node>(None, NODE, |node| {
                let labels = node.metadata.labels.get_or_insert_default();
                labels.insert(key.to_owned(), value.to_owned());
            });
        }
        let mut object = build::node_maintenance("m", NODE).created(lab.clock.now());
        object.metadata.annotations = Some([(annotation.to_owned(), "true".to_owned())].into());
        lab.api.put(&object);
        lab.operator();
        lab.until("success", |lab| lab.phase("m") == "Succeeded")
            .await;
        let expected = before.unwrap_or("node-maintenance-operator");
        assert_eq!(label(&lab).as_deref(), Some(expected));
        lab.end("m");
        lab.until("the end", |lab| lab.get("m").is_none()).await;
        assert_eq!(label(&lab).as_deref(), before, "only ours goes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_is_not_there_is_waited_for() {
    let lab = Lab::new();
    let failing = Reply::failure(500, "InternalError", "failed calling webhook: no endpoints");
    lab.api.inject(
        Fault::on_request(
            "PATCH",
            "/apis/nodemaintenance.medik8s.io/v1beta1/nodemaintenances/m",
            Failure::Refuse(failing),
        )
        .times(3),
    );
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    assert!((5..15).contains(&lab.elapsed()), "{} s", lab.elapsed());
    lab.seconds(1).await;
    assert_eq!(lab.told("m", "BeginMaintenance"), 1);
    assert_eq!(lab.told("m", "DrainBlocked"), 1, "people are told why");
}

#[tokio::test(start_paused = true)]
async fn other_finalizers_stay_and_keep_the_node_alone() {
    let lab = Lab::new();
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    lab.api.update::<NodeMaintenance>(None, "m", |object| {
        object
            .metadata
            .finalizers
            .get_or_insert_default()
            .push("example.com/other".to_owned());
    });
    lab.end("m");
    lab.until("hand back", Lab::is_bare).await;
    lab.seconds(60).await;
    assert_eq!(
        lab.get("m").unwrap().metadata.finalizers.unwrap(),
        ["example.com/other".to_owned()]
    );
    assert!(lab.is_bare(), "MUST NOT cordon again");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_on_the_node_is_repeated_at_once() {
    let lab = Lab::new();
    lab.api.inject(
        Fault::on_request(
            "PATCH",
            "/api/v1/nodes/n1",
            Failure::Refuse(Reply::conflict("changed meanwhile")),
        )
        .times(3),
    );
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    assert!(lab.elapsed() <= 2, "{} s", lab.elapsed());
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_and_overcome() {
    let lab = Lab::new();
    let leases = "/apis/coordination.k8s.io/v1/namespaces/medik8s-leases/leases";
    let down = || Failure::Refuse(Reply::failure(500, "InternalError", "etcd is slow"));
    lab.api
        .inject(Fault::on_request("POST", leases, down()).times(3));
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("the error", |lab| {
        lab.last_error("m").contains("etcd is slow")
    })
    .await;
    assert_eq!(lab.phase("m"), "Running");
    assert!(lab.status("m").error_on_lease_count.is_some());
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    assert_eq!(
        (lab.last_error("m"), lab.status("m").error_on_lease_count),
        (String::new(), None)
    );
    assert!(lab.elapsed() < 15, "1 s doubling: {} s", lab.elapsed());
}

#[tokio::test(start_paused = true)]
async fn several_nodes_do_not_wait_for_each_other() {
    let lab = Lab::new();
    for n in 2..=6 {
        let name = format!("n{n}");
        lab.api.put(&build::node(&name).ready(lab.clock.now()));
        let pod = format!("p-{name}");
        lab.api
            .put(&build::pod("default", &pod).on(&name).controlled_by(
                "apps/v1",
                "ReplicaSet",
                "r",
            ));
    }
    lab.put_pods(&["stuck"]);
    lab.refuse(&["stuck"], || Some(Reply::too_many_requests("budget")));
    lab.maintain("m1", NODE);
    lab.operator();
    lab.seconds(20).await;
    for n in 2..=6 {
        lab.maintain(&format!("m{n}"), &format!("n{n}"));
    }
    let took = lab
        .until("five successes", |lab| {
            (2..=6).all(|n| lab.phase(&format!("m{n}")) == "Succeeded")
        })
        .await;
    assert!(took <= Duration::from_secs(2), "{took:?}");
    assert_eq!(lab.phase("m1"), "Running");
}
