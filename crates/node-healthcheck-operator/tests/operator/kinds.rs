//! Template kinds that come, go, or cannot be read; malformed objects.

use medik8s_testing::fake::{Failure, Fault};
use medik8s_testing::wire::Reply;
use serde_json::json;

use super::lab::*;

fn other(name: &str) -> serde_json::Value {
    with(
        single(),
        "remediationTemplate",
        json!({"apiVersion": "late.example.com/v1", "kind": "LateTemplate",
               "namespace": NAMESPACE, "name": name}),
    )
}

fn install_late(lab: &Lab) {
    lab.api
        .add_dynamic_kind("late.example.com/v1", "Late", "lates", true);
    lab.api
        .add_dynamic_kind("late.example.com/v1", "LateTemplate", "latetemplates", true);
    lab.api.put_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "latetemplates.late.example.com"}, "spec": {"group": "late.example.com",
            "names": {"kind": "LateTemplate", "plural": "latetemplates"}, "scope": "Namespaced",
            "versions": []},
    }));
}

#[tokio::test(start_paused = true)]
async fn defect_13_a_template_that_is_installed_later_or_repaired_is_picked_up_at_once() {
    let lab = Lab::new(3);
    lab.put_check("nhc", other("late"));
    lab.put_check("fine", single());
    let _operator = lab.start();
    lab.until("disabled", 5, |lab| lab.phase("nhc") == "Disabled")
        .await;
    assert!(
        lab.reason("nhc").contains("RemediationTemplateNotFound"),
        "{}",
        lab.reason("nhc")
    );
    lab.until("the other works", 5, |lab| lab.phase("fine") == "Enabled")
        .await;
    lab.seconds(3).await;
    install_late(&lab);
    lab.until("kind seen", 2, |lab| {
        lab.reason("nhc").contains("late: not found")
    })
    .await;
    lab.api.put_value(json!({
        "apiVersion": "late.example.com/v1", "kind": "LateTemplate",
        "metadata": {"name": "late", "namespace": NAMESPACE}, "spec": {},
    }));
    lab.until("invalid", 2, |lab| {
        lab.reason("nhc").contains("RemediationTemplateInvalid")
    })
    .await;
    lab.api.put_value(json!({
        "apiVersion": "late.example.com/v1", "kind": "LateTemplate",
        "metadata": {"name": "late", "namespace": NAMESPACE}, "spec": {"template": {}},
    }));
    lab.until("enabled", 2, |lab| lab.phase("nhc") == "Enabled")
        .await;
    assert!(lab.told("Disabled") >= 2 && lab.told("Enabled") >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_template_that_is_deleted_and_restored() {
    let lab = Lab::new(4);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("created", 10, |lab| lab.names("Foo") == ["w1"])
        .await;
    lab.api.remove_kind(API, "FooTemplate");
    // No event of a CRD tells it here; the watch ends, which is noticed when the kind is looked at.
    lab.api
        .add_dynamic_kind(API, "FooTemplate", "footemplates", true);
    lab.api.drop_watches();
    lab.until("disabled", 60, |lab| lab.phase("nhc") == "Disabled")
        .await;
    lab.break_node("w2");
    lab.seconds(10).await;
    assert_eq!(lab.names("Foo"), ["w1"]);
    lab.heal_node("w1");
    lab.until("the recovered node is let go", 5, |lab| {
        lab.names("Foo").is_empty()
    })
    .await;
    lab.put_template("FooTemplate", "foo", json!({}));
    lab.until("enabled and at work", 10, |lab| lab.names("Foo") == ["w2"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_may_not_be_listed_blocks_nobody_else() {
    let lab = Lab::new(4);
    let spec = with(
        single(),
        "remediationTemplate",
        json!({"apiVersion": API, "kind": "BarTemplate", "namespace": NAMESPACE, "name": "bar"}),
    );
    lab.put_check("forbidden", spec);
    lab.put_check("fine", single());
    let no = || Failure::Refuse(Reply::failure(403, "Forbidden", "bars is forbidden"));
    lab.api.inject(
        Fault::on(
            |request| request.path.contains("/bars") && request.method == "GET",
            no(),
        )
        .times(40),
    );
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("the other works", 10, |lab| lab.names("Foo") == ["w1"])
        .await;
    lab.until("said why", 20, |lab| {
        lab.reason("forbidden").contains("could not list")
    })
    .await;
    assert!(
        lab.reason("forbidden").contains("not remediating w1"),
        "{}",
        lab.reason("forbidden")
    );
    assert!(lab.names("Bar").is_empty());
    assert_eq!(
        lab.phase("forbidden"),
        "Enabled",
        "nothing is known to be wrong with the template"
    );
    lab.until("permitted at last", 1500, |lab| {
        lab.reason("forbidden")
            .contains("node lease is held by NodeHealthCheck-fine")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_malformed_health_check_concerns_only_itself() {
    let lab = Lab::new(3);
    lab.put_check(
        "bad",
        with(single(), "healthyDelay", json!("9999999999999h")),
    );
    lab.put_check(
        "worse",
        json!({"selector": 7, "minHealthy": [], "remediationTemplate": "x"}),
    );
    let mut reference = single();
    reference["remediationTemplate"]["kind"] = json!("Template");
    lab.put_check("short", reference);
    lab.put_check("fine", single());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("the good one works", 10, |lab| lab.names("Foo") == ["w1"])
        .await;
    lab.until("told", 5, |lab| {
        lab.phase("bad") == "Disabled" && lab.phase("short") == "Disabled"
    })
    .await;
    assert!(
        lab.reason("bad").contains("InvalidSpec: spec.healthyDelay"),
        "{}",
        lab.reason("bad")
    );
    assert!(
        lab.reason("short").contains("must end in"),
        "{}",
        lab.reason("short")
    );
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_nobody_uses_any_more_is_not_watched() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.until("enabled", 5, |lab| lab.phase("nhc") == "Enabled")
        .await;
    lab.api.delete::<medik8s_api::NodeHealthCheck>(None, "nhc");
    lab.seconds(2).await;
    lab.api.clear_requests();
    lab.api.drop_watches();
    lab.seconds(60).await;
    let again: Vec<String> = lab
        .api
        .requests()
        .iter()
        .filter(|one| one.path.contains("test.example.com"))
        .map(|one| one.path.clone())
        .collect();
    assert!(again.is_empty(), "{again:?}");
}

/// Older platforms let their own remediators' objects be read and written, but not listed.
#[tokio::test(start_paused = true)]
async fn kinds_that_may_only_be_read_one_by_one_are_polled() {
    let lab = Lab::new(4);
    lab.put_check("nhc", two_steps());
    let no = || Failure::Refuse(Reply::failure(403, "Forbidden", "list is forbidden"));
    let lists = |request: &medik8s_testing::wire::Recorded| {
        let listed = ["/foos", "/footemplates"];
        request.method == "GET" && listed.iter().any(|plural| request.path.ends_with(plural))
    };
    lab.api.inject(Fault::on(lists, no()).times(10_000));
    let patches = |request: &medik8s_testing::wire::Recorded| {
        request.method == "PATCH" && request.path.contains("/foos/")
    };
    lab.api.inject(Fault::on(patches, no()).times(10_000));
    let _operator = lab.start();
    lab.until("enabled", 20, |lab| lab.phase("nhc") == "Enabled")
        .await;
    assert!(
        lab.reason("nhc").contains("may not be listed"),
        "{}",
        lab.reason("nhc")
    );
    lab.break_node("w1");
    lab.until("created", 10, |lab| lab.names("Foo") == ["w1"])
        .await;
    // Its failure is noticed by the next look, the annotation is written without `patch`.
    lab.edit("Foo", "w1", |one| {
        one["status"] = json!({"conditions": [{"type": "Succeeded", "status": "False"}]});
    });
    lab.until("escalated", 35, |lab| lab.names("Bar") == ["w1"])
        .await;
    let first = lab.remediation("Foo", "w1").unwrap();
    assert!(first["metadata"]["annotations"][TIMED_OUT].is_string());
    assert_eq!(
        first["spec"],
        json!({"strategy": "foo"}),
        "and nothing is lost"
    );
    lab.heal_node("w1");
    lab.until("let go", 65, |lab| {
        lab.remediations().is_empty() && lab.status("nhc").healthy_nodes == Some(4)
    })
    .await;
    // A template that is deleted is missed by the next look.
    lab.api
        .remove_value(API, "FooTemplate", Some(NAMESPACE), "foo");
    lab.until("disabled", 20, |lab| lab.phase("nhc") == "Disabled")
        .await;
    assert_eq!(
        lab.told("PollingInsteadOfWatching"),
        2,
        "{:?}",
        lab.events()
    );
}

/// Lists are permitted, watches are not: what others do is noticed by the next list.
#[tokio::test(start_paused = true)]
async fn kinds_that_may_not_be_watched_are_listed_again_and_again() {
    let lab = Lab::new(4);
    lab.put_check("nhc", single());
    let no = Failure::Refuse(Reply::failure(403, "Forbidden", "watch is forbidden"));
    let watches = |request: &medik8s_testing::wire::Recorded| {
        request.is_watch() && request.path.ends_with("/foos")
    };
    lab.api.inject(Fault::on(watches, no).times(3));
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("created", 20, |lab| lab.names("Foo") == ["w1"])
        .await;
    assert!(lab.reason("nhc").contains("may not be watched"));
    lab.edit("Foo", "w1", |one| {
        one["metadata"]["finalizers"] = json!(["remediator/x"]);
    });
    lab.heal_node("w1");
    lab.until("deleting", 5, |lab| {
        lab.remediation("Foo", "w1").unwrap()["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    lab.api.remove::<Foo>(Some(NAMESPACE), "w1");
    lab.until("its end is noticed", 35, |lab| {
        lab.status("nhc").healthy_nodes == Some(4)
    })
    .await;
    // Permitted at last: nothing more is said about it.
    lab.until("watched", 120, |lab| {
        lab.reason("nhc") == "NHC is enabled, no ongoing remediation"
    })
    .await;
}

/// 7.6 f: whoever cannot be seen may still need the confirmation.
#[tokio::test(start_paused = true)]
async fn a_confirmation_stays_while_a_kind_cannot_be_seen() {
    let key = "remediation.medik8s.io/manually-confirmed-healthy";
    let lab = Lab::new(4);
    let spec = with(single(), "healthyDelay", json!("-1s"));
    let bar =
        json!({"apiVersion": API, "kind": "BarTemplate", "namespace": NAMESPACE, "name": "bar"});
    lab.put_check("unseen", with(spec.clone(), "remediationTemplate", bar));
    lab.put_check("seen", spec);
    let no = Failure::Refuse(Reply::failure(403, "Forbidden", "bars is forbidden"));
    let reads = |request: &medik8s_testing::wire::Recorded| {
        request.path.contains("/bars") && request.method == "GET"
    };
    lab.api.inject(Fault::on(reads, no).times(20));
    lab.api
        .update::<k8s_openapi::api::core::v1::Node>(None, "w1", |node| {
            let annotations = node.metadata.annotations.get_or_insert_default();
            annotations.insert(key.to_owned(), String::new());
        });
    let confirmed = |lab: &Lab| {
        let node = lab
            .api
            .get::<k8s_openapi::api::core::v1::Node>(None, "w1")
            .unwrap();
        node.metadata
            .annotations
            .is_some_and(|all| all.contains_key(key))
    };
    let _operator = lab.start();
    lab.seconds(30).await;
    assert!(confirmed(&lab));
    lab.until("seen at last", 300, |lab| !confirmed(lab)).await;
    assert!(!lab.reason("unseen").contains("could not list"));
}
