//! What direct reads prevent when the cache is behind, and what the lock prevents.

use medik8s_core::conditions::Status;
use medik8s_testing::build::NodeExt;
use medik8s_testing::fake::{Failure, Fault};
use medik8s_testing::wire::{Recorded, Reply};
use serde_json::json;

use super::lab::*;

/// S13: the cache still has the sick node, the server does not.
#[tokio::test(start_paused = true)]
async fn a_node_that_has_recovered_meanwhile_is_left_alone() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.until("enabled", 5, |lab| lab.phase("nhc") == "Enabled")
        .await;
    lab.break_node("w1");
    lab.seconds(1).await;
    // From now on watches are silent: new ones hang.
    lab.api
        .inject(Fault::on(Recorded::is_watch, Failure::Hang).times(1000));
    lab.api.drop_watches();
    lab.heal_node("w1");
    lab.seconds(20).await;
    assert!(lab.remediations().is_empty());
    assert!(lab.leases().is_empty(), "no lease is taken for it either");
}

/// S7: a remediation that the cache does not have.
#[tokio::test(start_paused = true)]
async fn a_remediation_that_the_cache_does_not_have_is_found() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.until("enabled", 5, |lab| lab.phase("nhc") == "Enabled")
        .await;
    lab.break_node("w1");
    lab.seconds(1).await;
    lab.api
        .inject(Fault::on(Recorded::is_watch, Failure::Hang).times(1000));
    lab.api.drop_watches();
    lab.seconds(1).await;
    // As an original operator would have named it.
    let uid = lab.check("nhc").metadata.uid.unwrap();
    lab.api.put_value(json!({
        "apiVersion": API, "kind": "Foo",
        "metadata": {"name": "w1-x7b2k", "namespace": NAMESPACE,
            "annotations": {NODE_NAME: "w1", "remediation.medik8s.io/template-name": "foo"},
            "ownerReferences": [{"apiVersion": "remediation.medik8s.io/v1alpha1",
                "kind": "NodeHealthCheck", "name": "nhc", "uid": uid}]},
        "spec": {},
    }));
    lab.seconds(30).await;
    assert_eq!(lab.names("Foo"), ["w1-x7b2k"]);
    assert_eq!(lab.phase("nhc"), "Remediating", "and taken over");
}

/// Two health checks over the same nodes: the lease decides, once.
#[tokio::test(start_paused = true)]
async fn two_health_checks_over_one_node_create_one_remediation() {
    let lab = Lab::new(5);
    lab.put_check("a", single());
    let bar =
        json!({"apiVersion": API, "kind": "BarTemplate", "namespace": NAMESPACE, "name": "bar"});
    lab.put_check("b", with(single(), "remediationTemplate", bar));
    let _operator = lab.start();
    lab.until("enabled", 5, |lab| {
        lab.phase("a") == "Enabled" && lab.phase("b") == "Enabled"
    })
    .await;
    lab.break_node("w1");
    lab.until("created", 10, |lab| !lab.remediations().is_empty())
        .await;
    lab.seconds(130).await;
    assert_eq!(lab.remediated(), ["w1"]);
    let (idle, busy) = if lab.phase("a") == "Remediating" {
        ("b", "a")
    } else {
        ("a", "b")
    };
    assert!(
        lab.reason(idle)
            .contains(&format!("held by NodeHealthCheck-{busy}"))
    );
    lab.heal_node("w1");
    lab.until("let go", 5, |lab| {
        lab.remediations().is_empty() && lab.leases().is_empty()
    })
    .await;
}

/// S2 and S12, across health checks.
#[tokio::test(start_paused = true)]
async fn defect_09_control_plane_nodes_of_two_health_checks_wait_for_each_other() {
    let lab = Lab::new(0);
    for name in ["cp1", "cp2"] {
        let new = medik8s_testing::build::node(name);
        lab.api.put(&new.control_plane().ready(lab.ago(3600)));
    }
    for name in ["cp1", "cp2"] {
        let selector = json!({"matchLabels": {"kubernetes.io/hostname": name}});
        let spec = with(with(single(), "selector", selector), "minHealthy", json!(0));
        let spec = if name == "cp2" {
            let bar = json!({"apiVersion": API, "kind": "BarTemplate",
                "namespace": NAMESPACE, "name": "bar"});
            with(spec, "remediationTemplate", bar)
        } else {
            spec
        };
        lab.put_check(name, spec);
    }
    let _operator = lab.start();
    lab.seconds(2).await;
    lab.set_ready("cp1", Status::False);
    lab.set_ready("cp2", Status::False);
    for _ in 0..200 {
        lab.pass(std::time::Duration::from_millis(50)).await;
        assert!(lab.remediated().len() <= 1, "{:?}", lab.remediated());
    }
    assert_eq!(lab.remediated().len(), 1);
    let (first, second) = if lab.remediated() == ["cp1"] {
        ("cp1", "cp2")
    } else {
        ("cp2", "cp1")
    };
    let labels = &lab.remediations()[0]["metadata"]["labels"];
    assert_eq!(labels["remediation.medik8s.io/isControlPlaneNode"], "");
    assert!(
        lab.reason(second)
            .contains(&format!("control plane node {first} is being remediated"))
    );
    lab.heal_node(first);
    lab.until("the other's turn, at once", 3, |lab| {
        lab.remediated() == [second]
    })
    .await;
}

/// S4: a lease or a remediation that changed hands is left alone.
#[tokio::test(start_paused = true)]
async fn what_changed_hands_is_left_alone() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("created", 10, |lab| lab.names("Foo") == ["w1"])
        .await;
    lab.seconds(1).await;
    lab.api.inject(
        Fault::on(
            |request| request.is_watch() && request.path.contains("foos"),
            Failure::Hang,
        )
        .times(1000),
    );
    lab.api.drop_watches();
    lab.seconds(1).await;
    lab.edit("Foo", "w1", |one| {
        one["metadata"]["ownerReferences"] = json!([]);
    });
    lab.api.update::<k8s_openapi::api::coordination::v1::Lease>(
        Some("medik8s-leases"),
        "node-w1",
        |lease| lease.spec.as_mut().unwrap().holder_identity = Some("somebody".to_owned()),
    );
    lab.heal_node("w1");
    lab.seconds(20).await;
    assert_eq!(lab.names("Foo"), ["w1"]);
    assert_eq!(
        lab.leases(),
        [("node-w1".to_owned(), "somebody".to_owned())]
    );
}

/// A create that fails keeps the lease; it is given back when the node recovers.
#[tokio::test(start_paused = true)]
async fn defect_05_a_create_that_is_refused_is_told_and_holds_up_no_other_node() {
    let lab = Lab::new(4);
    lab.put_check("nhc", single());
    let no = Failure::Refuse(Reply::failure(403, "Forbidden", "quota exceeded"));
    lab.api.inject(
        Fault::on(
            |request| {
                request.method == "POST"
                    && request.path.ends_with("/foos")
                    && request.body["metadata"]["name"] == "w1"
            },
            no,
        )
        .times(1000),
    );
    let _operator = lab.start();
    lab.break_node("w1");
    lab.break_node("w2");
    lab.put_node("w5");
    lab.until("the other node is served", 10, |lab| {
        lab.names("Foo") == ["w2"]
    })
    .await;
    lab.until("told", 5, |lab| {
        lab.reason("nhc").contains("quota exceeded")
    })
    .await;
    lab.until("event", 5, |lab| lab.told("RemediationSkipped") >= 1)
        .await;
    assert_eq!(lab.leases().len(), 2);
    lab.heal_node("w1");
    lab.until("lease given back", 40, |lab| lab.leases().len() == 1)
        .await;
    assert!(lab.told("RemediationSkipped") <= 2, "{:?}", lab.events());
}

/// S3: the cache does not know yet that the health check was paused or changed.
#[tokio::test(start_paused = true)]
async fn a_health_check_that_was_paused_meanwhile_creates_nothing() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.until("enabled", 5, |lab| lab.phase("nhc") == "Enabled")
        .await;
    lab.api.inject(
        Fault::on(
            |request| request.is_watch() && request.path.contains("nodehealthchecks"),
            Failure::Hang,
        )
        .times(1000),
    );
    lab.api.drop_watches();
    lab.seconds(1).await;
    lab.api
        .update::<medik8s_api::NodeHealthCheck>(None, "nhc", |check| {
            check.spec.pause_requests = Some(vec!["mine".to_owned()]);
            check.metadata.generation = check.metadata.generation.map(|old| old + 1);
        });
    lab.break_node("w1");
    lab.seconds(20).await;
    assert!(lab.remediations().is_empty());
    assert!(lab.leases().is_empty());
}

fn acquired(lab: &Lab, node: &str) -> jiff::Timestamp {
    let lease = lab
        .api
        .get::<k8s_openapi::api::coordination::v1::Lease>(
            Some("medik8s-leases"),
            &format!("node-{node}"),
        )
        .unwrap();
    lease.spec.unwrap().acquire_time.unwrap().0
}

fn told_to_stop(lab: &Lab) -> usize {
    let all = lab.remediations();
    let told = all.iter();
    told.filter(|one| one["metadata"]["annotations"][TIMED_OUT].is_string())
        .count()
}

/// 8.3: the node is sick again before the finalizers of the last incident are gone.
#[tokio::test(start_paused = true)]
async fn a_relapse_after_a_long_cleanup_is_not_given_up_at_once() {
    let lab = Lab::new(3);
    lab.put_check("nhc", two_steps());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("created", 10, |lab| lab.names("Foo") == ["w1"])
        .await;
    lab.edit("Foo", "w1", |one| {
        one["metadata"]["finalizers"] = json!(["remediator/x"]);
    });
    lab.heal_node("w1");
    lab.seconds(2).await;
    lab.break_node("w1");
    // Longer than three times a step: the lease is kept all the time.
    lab.seconds(240).await;
    assert_eq!(lab.leases().len(), 1);
    let old = lab.remediation("Foo", "w1").unwrap()["metadata"]["uid"].clone();
    lab.api.remove::<Foo>(Some(NAMESPACE), "w1");
    lab.until("created anew", 5, |lab| {
        let new = lab.remediation("Foo", "w1");
        new.is_some_and(|new| new["metadata"]["uid"] != old)
    })
    .await;
    lab.seconds(50).await;
    assert_eq!(told_to_stop(&lab), 0);
    assert!(lab.names("Bar").is_empty());
}

/// 8.2.5, 8.3: attempts that fail keep the lease, but the time counts from the one that works.
#[tokio::test(start_paused = true)]
async fn what_was_refused_for_long_is_not_given_up_at_once() {
    let lab = Lab::new(3);
    lab.put_check("nhc", two_steps());
    let refuse = Failure::Refuse(Reply::failure(403, "Forbidden", "quota exceeded"));
    let posts = |request: &Recorded| request.method == "POST" && request.path.ends_with("/foos");
    // 1, 2, 4 ... 60, 60, 60 seconds apart.
    lab.api.inject(Fault::on(posts, refuse).times(10));
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("created at last", 400, |lab| lab.names("Foo") == ["w1"])
        .await;
    lab.seconds(50).await;
    assert_eq!(told_to_stop(&lab), 0);
    assert!(lab.names("Bar").is_empty());
}

/// 8.3: the steps of one incident share its time, also when they are of several kinds.
#[tokio::test(start_paused = true)]
async fn a_second_step_keeps_the_time_of_the_incident() {
    let lab = Lab::new(3);
    lab.put_check("nhc", two_steps());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("first step", 10, |lab| lab.names("Foo").len() == 1)
        .await;
    let since = acquired(&lab, "w1");
    lab.until("second step", 70, |lab| lab.names("Bar").len() == 1)
        .await;
    lab.seconds(1).await;
    assert_eq!(acquired(&lab, "w1"), since);
}

/// Two control-plane nodes with a health check each, the second one's of another kind.
fn put_control_plane(lab: &Lab, second: serde_json::Value) {
    let foo = single()["remediationTemplate"].clone();
    for (name, template) in [("cp1", foo), ("cp2", second)] {
        let new = medik8s_testing::build::node(name);
        lab.api.put(&new.control_plane().ready(lab.ago(3600)));
        let selector = json!({"matchLabels": {"kubernetes.io/hostname": name}});
        let spec = with(with(single(), "selector", selector), "minHealthy", json!(0));
        lab.put_check(name, with(spec, "remediationTemplate", template));
    }
}

/// S2 after a leader change: a kind that nobody could look at yet may hide a remediation.
#[tokio::test(start_paused = true)]
async fn a_kind_that_is_discovered_late_counts_for_the_control_plane() {
    let lab = Lab::new(0);
    let (group, name) = ("late.example.com/v1", "late");
    for (kind, plural) in [("Late", "lates"), ("LateTemplate", "latetemplates")] {
        lab.api.add_dynamic_kind(group, kind, plural, true);
    }
    let template =
        json!({"apiVersion": group, "kind": "LateTemplate", "namespace": NAMESPACE, "name": name});
    lab.api.put_value(json!({
        "apiVersion": group, "kind": "LateTemplate",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"template": {"spec": {}}},
    }));
    put_control_plane(&lab, template);
    // As an earlier leader left it.
    let uid = lab.check("cp2").metadata.uid.unwrap();
    lab.api.put_value(json!({
        "apiVersion": group, "kind": "Late",
        "metadata": {"name": "cp2", "namespace": NAMESPACE,
            "labels": {"remediation.medik8s.io/isControlPlaneNode": ""},
            "annotations": {NODE_NAME: "cp2", "remediation.medik8s.io/template-name": name},
            "ownerReferences": [{"apiVersion": "remediation.medik8s.io/v1alpha1",
                "kind": "NodeHealthCheck", "name": "cp2", "uid": uid}]},
        "spec": {},
    }));
    lab.break_node("cp2");
    lab.break_node("cp1");
    lab.seconds(10).await;
    // Template and remediation, 10 seconds each time.
    let discovery = |request: &Recorded| request.path == "/apis/late.example.com/v1";
    lab.api.inject(Fault::on(discovery, Failure::Hang).times(4));
    let _operator = lab.start();
    for _ in 0..50 {
        lab.seconds(1).await;
        assert!(lab.names("Foo").is_empty(), "{}", lab.reason("cp1"));
    }
    lab.until("known at last", 70, |lab| {
        lab.reason("cp1")
            .contains("control plane node cp2 is being remediated")
    })
    .await;
}

/// S2: a remediation that somebody made by hand for the node opens no way around the other's.
#[tokio::test(start_paused = true)]
async fn a_remediation_by_hand_lets_no_second_control_plane_node_through() {
    let lab = Lab::new(0);
    let bar =
        json!({"apiVersion": API, "kind": "BarTemplate", "namespace": NAMESPACE, "name": "bar"});
    put_control_plane(&lab, bar);
    let _operator = lab.start();
    lab.seconds(1).await;
    lab.break_node("cp1");
    lab.until("the first", 10, |lab| lab.remediated() == ["cp1"])
        .await;
    lab.api.put_value(json!({
        "apiVersion": API, "kind": "Foo",
        "metadata": {"name": "cp2", "namespace": NAMESPACE, "annotations": {NODE_NAME: "cp2"}},
        "spec": {},
    }));
    lab.break_node("cp2");
    for _ in 0..100 {
        lab.seconds(1).await;
        assert!(lab.names("Bar").is_empty());
    }
    assert!(
        lab.reason("cp2")
            .contains("control plane node cp1 is being remediated")
    );
}

/// A health check of another kind over one node of its own.
fn put_other_check(lab: &Lab, node: &str) {
    let new = medik8s_testing::build::node(node);
    lab.api.put(&new.control_plane().ready(lab.ago(3600)));
    let selector = json!({"matchLabels": {"kubernetes.io/hostname": node}});
    let bar =
        json!({"apiVersion": API, "kind": "BarTemplate", "namespace": NAMESPACE, "name": "bar"});
    let spec = with(with(single(), "selector", selector), "minHealthy", json!(0));
    lab.put_check("other", with(spec, "remediationTemplate", bar));
}

fn creates(plural: &'static str) -> impl Fn(&Recorded) -> bool + Send + Copy + 'static {
    move |request: &Recorded| request.method == "POST" && request.path.ends_with(plural)
}

/// S3, S12: what was decided before the lock was free is decided again.
#[tokio::test(start_paused = true)]
async fn a_decision_that_had_to_wait_is_made_again() {
    let lab = Lab::new(5);
    lab.put_check("nhc", single());
    put_other_check(&lab, "slow");
    lab.api
        .inject(Fault::on(creates("/bars"), Failure::Hang).times(1));
    let _operator = lab.start();
    lab.seconds(1).await;
    lab.break_node("slow");
    let trying = |lab: &Lab| lab.api.requests().iter().any(creates("/bars"));
    lab.until("the other one is at it", 10, trying).await;
    // Two of five may be remediated, three may not.
    lab.break_node("w1");
    lab.break_node("w2");
    lab.seconds(5).await;
    assert!(lab.names("Foo").is_empty(), "waits for its turn");
    lab.break_node("w3");
    lab.seconds(30).await;
    assert!(lab.names("Foo").is_empty(), "{}", lab.reason("nhc"));
    assert!(lab.reason("nhc").contains("only 2 of 5 nodes are healthy"));
}

/// 7.8 d: a kind whose creates hang costs the others one deadline at a time, not one per node.
#[tokio::test(start_paused = true)]
async fn a_kind_that_hangs_does_not_hold_up_the_others() {
    let lab = Lab::new(8);
    lab.put_check("nhc", with(single(), "minHealthy", json!(0)));
    put_other_check(&lab, "mine");
    lab.api
        .inject(Fault::on(creates("/foos"), Failure::Hang).times(1000));
    let _operator = lab.start();
    lab.seconds(1).await;
    for number in 1..=8 {
        lab.break_node(&format!("w{number}"));
    }
    let trying = |lab: &Lab| lab.api.requests().iter().any(creates("/foos"));
    lab.until("it hangs", 10, trying).await;
    lab.break_node("mine");
    lab.until("the other one's turn", 25, |lab| {
        lab.names("Bar") == ["mine"]
    })
    .await;
}

/// Defect 5: one node whose creates hang starves no other node of its kind.
#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_does_not_starve_its_kind() {
    let lab = Lab::new(4);
    lab.put_check("nhc", with(single(), "minHealthy", json!(0)));
    let first =
        |request: &Recorded| creates("/foos")(request) && request.body["metadata"]["name"] == "w1";
    lab.api.inject(Fault::on(first, Failure::Hang).times(1000));
    let _operator = lab.start();
    lab.seconds(1).await;
    for number in 1..=4 {
        lab.break_node(&format!("w{number}"));
    }
    lab.until("all others", 30, |lab| lab.names("Foo").len() == 3)
        .await;
}

/// A kind that may be read but not listed does not end all remediations of the control plane.
#[tokio::test(start_paused = true)]
async fn a_kind_that_may_not_be_listed_is_read_by_name_for_the_control_plane() {
    let lab = Lab::new(0);
    let bar =
        json!({"apiVersion": API, "kind": "BarTemplate", "namespace": NAMESPACE, "name": "bar"});
    put_control_plane(&lab, bar);
    let lists = |request: &Recorded| request.method == "GET" && request.path.ends_with("/foos");
    let no = Failure::Refuse(Reply::failure(403, "Forbidden", "list is forbidden"));
    lab.api.inject(Fault::on(lists, no).times(10_000));
    let _operator = lab.start();
    lab.until("polled", 20, |lab| lab.phase("cp1") == "Enabled")
        .await;
    // Nobody has a reason to look for this one: its node is healthy.
    lab.api.put_value(json!({
        "apiVersion": API, "kind": "Foo",
        "metadata": {"name": "cp1", "namespace": NAMESPACE, "annotations": {NODE_NAME: "cp1"}},
        "spec": {},
    }));
    lab.break_node("cp2");
    lab.until("found by its name", 15, |lab| {
        lab.reason("cp2")
            .contains("control plane node cp1 is being remediated")
    })
    .await;
    lab.seconds(70).await;
    assert!(lab.names("Bar").is_empty());
    lab.api.remove::<Foo>(Some(NAMESPACE), "cp1");
    lab.until("its turn", 70, |lab| lab.names("Bar") == ["cp2"])
        .await;
    lab.heal_node("cp2");
    lab.until("let go", 40, |lab| lab.names("Bar").is_empty())
        .await;
    lab.break_node("cp1");
    lab.until("also of that kind", 70, |lab| lab.names("Foo") == ["cp1"])
        .await;
}

/// S11: nothing is judged before all nodes and health checks are known.
#[tokio::test(start_paused = true)]
async fn nothing_is_done_before_all_nodes_are_known() {
    for plural in ["/nodes", "/nodehealthchecks"] {
        let lab = Lab::new(3);
        lab.put_check("nhc", single());
        lab.break_node("w1");
        lab.seconds(10).await;
        let lists =
            move |request: &Recorded| request.method == "GET" && request.path.ends_with(plural);
        lab.api.inject(Fault::on(lists, Failure::Hang).times(1000));
        let _operator = lab.start();
        lab.seconds(60).await;
        assert!(lab.api.requests().iter().any(lists), "it was asked");
        let writes: Vec<String> = lab
            .api
            .writes()
            .iter()
            .map(|one| format!("{} {}", one.method, one.path))
            .collect();
        assert!(writes.is_empty(), "{plural}: {writes:?}");
    }
}

/// A status that was written for a health check does not reach another one of its name.
#[tokio::test(start_paused = true)]
async fn a_late_status_does_not_reach_a_successor() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.until("enabled", 5, |lab| lab.phase("nhc") == "Enabled")
        .await;
    let stores = |request: &Recorded| {
        request.method == "PATCH" && request.body["status"]["unhealthyNodes"].is_array()
    };
    let late = Failure::Late(std::time::Duration::from_secs(5));
    lab.api.inject(Fault::on(stores, late));
    // What would set it right again.
    lab.api.inject(Fault::on(stores, Failure::Hang).times(1000));
    lab.break_node("w1");
    let sent = |lab: &Lab| lab.api.requests().iter().any(stores);
    lab.until("on its way", 10, sent).await;
    lab.api.delete::<medik8s_api::NodeHealthCheck>(None, "nhc");
    lab.put_check("nhc", single());
    lab.seconds(10).await;
    assert_eq!(lab.status("nhc").unhealthy_nodes, None);
}
