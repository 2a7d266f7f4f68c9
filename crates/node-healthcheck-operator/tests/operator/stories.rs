//! What users see.

use super::lab::*;
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_node_breaks_and_recovers() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.until("enabled", 5, |lab| lab.phase("nhc") == "Enabled")
        .await;
    assert_eq!(lab.status("nhc").healthy_nodes, Some(3));

    lab.break_node("w2");
    let broken = lab.now();
    lab.until("created", 5, |lab| !lab.remediations().is_empty())
        .await;
    // The condition is from the full second; it must have lasted for three seconds.
    let waited = lab.now().duration_since(broken);
    assert!(waited.as_secs_f64() <= 3.2, "{waited:?}");
    let remediation = &lab.remediations()[0];
    assert_eq!(remediation["metadata"]["name"], "w2");
    assert_eq!(remediation["metadata"]["annotations"][NODE_NAME], "w2");
    assert_eq!(remediation["spec"], json!({"strategy": "foo"}));
    let owner = &remediation["metadata"]["ownerReferences"][0];
    assert_eq!(owner["kind"], "NodeHealthCheck");
    assert_eq!(owner["uid"], json!(lab.check("nhc").metadata.uid));
    assert_eq!(
        lab.leases(),
        [("node-w2".to_owned(), "NodeHealthCheck-nhc".to_owned())]
    );
    lab.until("remediating", 2, |lab| lab.phase("nhc") == "Remediating")
        .await;
    assert!(
        lab.reason("nhc")
            .starts_with("NHC is remediating 1 nodes; w2: is being remediated by")
    );

    lab.heal_node("w2");
    let healed = lab.now();
    lab.until("deleted", 5, |lab| lab.remediations().is_empty())
        .await;
    let waited = lab.now().duration_since(healed);
    assert!(waited.as_secs_f64() <= 0.3, "{waited:?}");
    lab.until("enabled again", 2, |lab| lab.phase("nhc") == "Enabled")
        .await;
    assert_eq!(lab.status("nhc").healthy_nodes, Some(3));
    assert!(lab.leases().is_empty());
    lab.seconds(5).await;
    for reason in [
        "Enabled",
        "DetectedUnhealthy",
        "RemediationCreated",
        "RemediationRemoved",
    ] {
        assert_eq!(lab.told(reason), 1, "{reason}: {:?}", lab.events());
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_visible_on_the_health_check() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("told", 10, |lab| lab.told("RemediationCreated") == 1)
        .await;
    let events = lab.api.list::<k8s_openapi::api::core::v1::Event>();
    let event = events
        .iter()
        .find(|one| one.reason.as_deref() == Some("RemediationCreated"))
        .unwrap();
    assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(
        event.involved_object.kind.as_deref(),
        Some("NodeHealthCheck")
    );
    assert_eq!(
        event.message.as_deref(),
        Some("[remediation] Created remediation object for node w1")
    );
    assert_eq!(
        event.source.as_ref().unwrap().component.as_deref(),
        Some("NodeHealthCheck")
    );
}

#[tokio::test(start_paused = true)]
async fn steps_escalate_until_nothing_is_left() {
    let lab = Lab::new(3);
    lab.put_check("nhc", two_steps());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("first step", 10, |lab| lab.names("Foo").len() == 1)
        .await;
    lab.seconds(58).await;
    assert!(lab.names("Bar").is_empty());
    lab.until("second step", 5, |lab| lab.names("Bar").len() == 1)
        .await;
    let first = lab.remediation("Foo", "w1").unwrap();
    assert!(first["metadata"]["annotations"][TIMED_OUT].is_string());
    let entry = lab.entry("nhc", "w1").unwrap().remediations.unwrap();
    assert!(entry[0].timed_out.is_some());
    lab.until("no step left", 70, |lab| lab.told("NoTemplateLeft") == 1)
        .await;
    assert!(lab.reason("nhc").contains("no template is left"));
    lab.heal_node("w1");
    lab.until("all gone", 5, |lab| {
        lab.remediations().is_empty() && lab.leases().is_empty()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn failure_of_a_remediator_brings_the_next_step_within_seconds() {
    let lab = Lab::new(3);
    lab.put_check("nhc", two_steps());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("first step", 10, |lab| lab.names("Foo").len() == 1)
        .await;
    lab.edit("Foo", "w1", |one| {
        one["status"] = json!({"conditions": [{"type": "Succeeded", "status": "False"}]});
    });
    lab.until("second step", 2, |lab| lab.names("Bar").len() == 1)
        .await;
}

#[tokio::test(start_paused = true)]
async fn several_templates_of_one_kind_get_derived_names() {
    let lab = Lab::new(3);
    let many = json!({"remediation.medik8s.io/multiple-templates-support": "true"});
    lab.put_template("FooTemplate", "foo", many.clone());
    lab.put_template("FooTemplate", "second", many);
    let mut spec = two_steps();
    spec["escalatingRemediations"][0]["remediationTemplate"]["kind"] = json!("FooTemplate");
    spec["escalatingRemediations"][0]["remediationTemplate"]["name"] = json!("second");
    lab.put_check("nhc", spec);
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("both steps", 80, |lab| lab.names("Foo").len() == 2)
        .await;
    let names = lab.names("Foo");
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("w1-") && name.len() == 8),
        "{names:?}"
    );
    lab.seconds(70).await;
    let timed_out = lab
        .remediations()
        .iter()
        .filter(|one| one["metadata"]["annotations"][TIMED_OUT].is_string())
        .count();
    assert_eq!(timed_out, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_maintenance_holds_is_respected_and_shown() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let lease = medik8s_testing::build::lease(
        "medik8s-leases",
        "node-w1",
        "node-maintenance",
        lab.now(),
        3600,
    );
    lab.api.put(&lease);
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("held back", 10, |lab| {
        lab.reason("nhc").contains("held by node-maintenance")
    })
    .await;
    lab.until("told", 2, |lab| lab.told("RemediationSkipped") == 1)
        .await;
    assert!(lab.remediations().is_empty());
    lab.seconds(30).await;
    lab.api
        .remove::<k8s_openapi::api::coordination::v1::Lease>(Some("medik8s-leases"), "node-w1");
    lab.until("created after the retry", 40, |lab| {
        lab.names("Foo").len() == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_the_node_back() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("created", 10, |lab| lab.names("Foo").len() == 1)
        .await;
    lab.edit("Foo", "w1", |one| {
        one["metadata"]["finalizers"] = json!(["remediator/x"]);
    });
    lab.seconds(1).await;
    lab.heal_node("w1");
    lab.until("deleting", 5, |lab| {
        lab.remediation("Foo", "w1").unwrap()["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    lab.seconds(30).await;
    assert_eq!(lab.phase("nhc"), "Remediating");
    assert_eq!(lab.status("nhc").healthy_nodes, Some(2));
    assert_eq!(lab.leases().len(), 1);
    assert!(
        lab.entry("nhc", "w1")
            .unwrap()
            .conditions_healthy_timestamp
            .is_some()
    );
    lab.api.remove::<Foo>(Some(NAMESPACE), "w1");
    lab.until("healthy", 5, |lab| {
        lab.status("nhc").healthy_nodes == Some(3)
    })
    .await;
    assert!(lab.leases().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_healthy_delay_and_its_confirmation() {
    let lab = Lab::new(3);
    lab.put_check("nhc", with(single(), "healthyDelay", json!("-1s")));
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("created", 10, |lab| lab.names("Foo").len() == 1)
        .await;
    lab.heal_node("w1");
    lab.seconds(100).await;
    assert_eq!(lab.names("Foo"), ["w1"]);
    assert_eq!(lab.entry("nhc", "w1").unwrap().healthy_delayed, Some(true));
    let key = "remediation.medik8s.io/manually-confirmed-healthy";
    lab.api
        .update::<k8s_openapi::api::core::v1::Node>(None, "w1", |node| {
            let annotations = node.metadata.annotations.get_or_insert_default();
            annotations.insert(key.to_owned(), String::new());
        });
    lab.until("deleted", 5, |lab| lab.remediations().is_empty())
        .await;
    lab.until("confirmation taken", 5, |lab| {
        let node = lab
            .api
            .get::<k8s_openapi::api::core::v1::Node>(None, "w1")
            .unwrap();
        !node
            .metadata
            .annotations
            .unwrap_or_default()
            .contains_key(key)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_health_check_that_is_deleted_gives_its_leases_back() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("leased", 10, |lab| lab.leases().len() == 1).await;
    lab.api.delete::<medik8s_api::NodeHealthCheck>(None, "nhc");
    lab.until("given back", 5, |lab| lab.leases().is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_deleted_takes_its_remediation_along() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("created", 10, |lab| lab.names("Foo").len() == 1)
        .await;
    lab.api
        .delete::<k8s_openapi::api::core::v1::Node>(None, "w1");
    lab.until("gone", 5, |lab| {
        lab.remediations().is_empty() && lab.leases().is_empty()
    })
    .await;
    lab.until("counted", 5, |lab| {
        lab.status("nhc").observed_nodes == Some(2)
    })
    .await;
    assert!(lab.entry("nhc", "w1").is_none());
}

/// Deleted while no manager ran: the next one gives its leases back.
#[tokio::test(start_paused = true)]
async fn leases_of_a_health_check_that_was_deleted_meanwhile_are_given_back() {
    let lab = Lab::new(3);
    lab.put_check("stays", single());
    for (node, holder) in [("w1", "NodeHealthCheck-gone"), ("w2", "node-maintenance")] {
        let lease = medik8s_testing::build::lease(
            "medik8s-leases",
            &format!("node-{node}"),
            holder,
            lab.now(),
            600,
        );
        lab.api.put(&lease);
    }
    let _operator = lab.start();
    lab.until("given back", 5, |lab| {
        lab.leases() == [("node-w2".to_owned(), "node-maintenance".to_owned())]
    })
    .await;
}

/// The reports of many nodes do not hide the events that say why nothing is done.
#[tokio::test(start_paused = true)]
async fn a_storm_is_told_whatever_the_number_of_nodes() {
    let lab = Lab::new(40);
    lab.put_check("nhc", with(single(), "stormCooldownDuration", json!("30s")));
    let _operator = lab.start();
    lab.seconds(1).await;
    for number in 1..=30 {
        lab.break_node(&format!("w{number}"));
    }
    lab.until("told", 20, |lab| {
        lab.told("StormRecoveryStarted") == 1 && lab.told("RemediationSkipped") == 1
    })
    .await;
    assert_eq!(lab.told("DetectedUnhealthy"), 25);
}
