use serde_json::{Value, json};

use super::*;
use crate::fixtures::{API, escalating, health_check, spec, template, with};

fn judged(spec: Value) -> Verdict {
    create(&health_check(spec), &Surroundings::default())
}

fn denied(spec: Value) -> String {
    match judged(spec) {
        Verdict::Deny(message) => message,
        Verdict::Allow(warnings) => panic!("allowed, {warnings:?}"),
    }
}

fn allowed() -> Verdict {
    Verdict::Allow(Vec::new())
}

fn remediating(spec: Value) -> NodeHealthCheck {
    let mut object = health_check(spec);
    object.status = serde_json::from_value(json!({
        "unhealthyNodes": [{"name": "w1", "remediations": [
            {"resource": {"name": "w1"}, "started": "2026-03-04T12:00:00Z"}]}],
    }))
    .unwrap();
    object
}

#[test]
fn good_ones_are_allowed() {
    assert_eq!(judged(spec()), allowed());
    assert_eq!(
        judged(escalating(&[
            ("ATemplate", "a", -1, "60s"),
            ("BTemplate", "b", 0, "1m")
        ])),
        allowed()
    );
    assert_eq!(
        judged(with(spec(), &[("minHealthy", json!("8"))])),
        allowed()
    );
    assert_eq!(judged(with(spec(), &[("minHealthy", json!(0))])), allowed());
}

#[test]
fn every_message() {
    let max = |value: Value| {
        with(
            spec(),
            &[("minHealthy", Value::Null), ("maxUnhealthy", value)],
        )
    };
    let mdr = template("machinedeletionremediationTemplate", "m");
    let expression = |operator: &str, values: Value| {
        let expression = json!([{"key": "a", "operator": operator, "values": values}]);
        with(
            spec(),
            &[("selector", json!({"matchExpressions": expression}))],
        )
    };
    for (spec, expected) in [
        (
            with(spec(), &[("maxUnhealthy", json!(1))]),
            "minHealthy and maxUnhealthy cannot be specified at the same time",
        ),
        (
            with(spec(), &[("minHealthy", Value::Null)]),
            "one of minHealthy and maxUnhealthy should be specified",
        ),
        (
            with(spec(), &[("minHealthy", json!(-1))]),
            "minHealthy must not be negative: -1",
        ),
        (max(json!(-7)), "maxUnhealthy must not be negative: -7"),
        (
            with(max(json!(1)), &[("remediationTemplate", mdr.clone())]),
            "maxUnhealthy can't be used with MachineDeletionRemediationTemplate",
        ),
        (
            with(
                max(json!(1)),
                &[
                    ("remediationTemplate", Value::Null),
                    (
                        "escalatingRemediations",
                        json!([{"remediationTemplate":
                            template("MachineDeletionRemediationTemplate", "m"),
                            "order": 1, "timeout": "1m"}]),
                    ),
                ],
            ),
            "maxUnhealthy can't be used with MachineDeletionRemediationTemplate escalating \
             remediation",
        ),
        (
            with(spec(), &[("selector", Value::Null)]),
            "Selector is mandatory",
        ),
        (
            with(spec(), &[("selector", json!({}))]),
            "Selector is mandatory",
        ),
        (
            with(
                spec(),
                &[(
                    "selector",
                    json!({"matchLabels": {}, "matchExpressions": []}),
                )],
            ),
            "Selector is mandatory",
        ),
        (
            expression("Like", json!(["x"])),
            "Invalid selector: \"Like\" is not a valid label selector operator",
        ),
        (
            with(spec(), &[("remediationTemplate", Value::Null)]),
            "Either RemediationTemplate or at least one EscalatingRemediations must be set",
        ),
        (
            with(
                escalating(&[("ATemplate", "a", 1, "1m")]),
                &[("remediationTemplate", template("FooTemplate", "foo"))],
            ),
            "RemediationTemplate and EscalatingRemediations usage is mutual exclusive",
        ),
        (
            escalating(&[("ATemplate", "a", 1, "1m"), ("BTemplate", "b", 1, "1m")]),
            "EscalatingRemediation Order must be unique: found duplicate order 1",
        ),
        (
            escalating(&[("ATemplate", "a", 1, "59s")]),
            "EscalatingRemediation Timeout must be at least one minute: found timeout 59s",
        ),
        (
            escalating(&[("ATemplate", "a", 1, "1m"), ("ATemplate", "b", 2, "1m")]),
            "Using multiple templates of same kind is not supported for this template: duplicate \
             template kind: ATemplate",
        ),
        (
            escalating(&[("ATemplate", "a", 1, "1m"), ("ATemplate", "a", 2, "1m")]),
            "EscalatingRemediations must not use ATemplate.test.example.com remediators/a more \
             than once",
        ),
        (
            with(spec(), &[("remediationTemplate", template("Foo", "foo"))]),
            "kind of the template reference must end in \"Template\" after at least one \
             character: found \"Foo\"",
        ),
        (
            with(spec(), &[("healthyDelay", json!("-9999999999999h"))]),
            "healthyDelay is not valid: time: invalid duration \"-9999999999999h\"",
        ),
    ] {
        assert_eq!(denied(spec.clone()), expected, "{spec}");
    }
    assert!(denied(expression("In", json!([]))).starts_with("Invalid selector: values"));
    let label = with(
        spec(),
        &[("selector", json!({"matchLabels": {"bad key": "x"}}))],
    );
    assert!(denied(label).starts_with("Invalid selector: "));
}

#[test]
fn several_violations_are_joined_without_repetition() {
    let spec = with(
        spec(),
        &[
            ("minHealthy", Value::Null),
            ("selector", Value::Null),
            ("remediationTemplate", Value::Null),
        ],
    );
    assert_eq!(
        denied(spec),
        "[one of minHealthy and maxUnhealthy should be specified, Selector is mandatory, Either \
         RemediationTemplate or at least one EscalatingRemediations must be set]"
    );
    let spec = escalating(&[
        ("ATemplate", "a", 1, "59s"),
        ("ATemplate", "b", 1, "58s"),
        ("BTemplate", "b", 2, "1m"),
    ]);
    assert_eq!(
        denied(spec),
        "[EscalatingRemediation Order must be unique: found duplicate order 1, \
         EscalatingRemediation Timeout must be at least one minute: found timeout 59s, Using \
         multiple templates of same kind is not supported for this template: duplicate template \
         kind: ATemplate]"
    );
    assert_eq!(
        joined(vec!["x".to_owned(), "x".to_owned()]).as_deref(),
        Some("x")
    );
}

#[test]
fn templates_of_one_kind_need_the_support_of_all() {
    let object = health_check(escalating(&[
        ("ATemplate", "a", 1, "1m"),
        ("ATemplate", "b", 2, "1m"),
        ("BTemplate", "b", 3, "1m"),
    ]));
    let kind = ResourceKind::new(API, "ATemplate");
    assert_eq!(repeated_kinds(&object.spec), BTreeSet::from([kind.clone()]));
    for (support, allowed) in [
        (Some(Ok(true)), true),
        (Some(Ok(false)), false),
        (Some(Err("no answer".to_owned())), false),
        (None, false),
    ] {
        let around = Surroundings {
            multiple_templates: support
                .iter()
                .map(|one| (kind.clone(), one.clone()))
                .collect(),
            ..Surroundings::default()
        };
        let verdict = create(&object, &around);
        assert_eq!(
            matches!(verdict, Verdict::Allow(_)),
            allowed,
            "{support:?} {verdict:?}"
        );
    }
}

/// Two versions of a kind are one kind, and one template in two versions is one template.
#[test]
fn versions_make_no_other_kind() {
    let mut spec = escalating(&[("ATemplate", "a", 1, "1m"), ("ATemplate", "b", 2, "1m")]);
    spec["escalatingRemediations"][1]["remediationTemplate"]["apiVersion"] =
        json!("test.example.com/v2");
    let kinds = repeated_kinds(&health_check(spec.clone()).spec);
    let second = ResourceKind::new("test.example.com/v2", "ATemplate");
    assert_eq!(kinds, BTreeSet::from([second]));
    assert!(denied(spec.clone()).contains("duplicate template kind: ATemplate"));
    spec["escalatingRemediations"][1]["remediationTemplate"]["name"] = json!("a");
    assert!(denied(spec).contains("more than once"));
}

#[test]
fn the_topology_must_be_supported() {
    for (topology, allowed) in [
        (None, true),
        (Some("HighlyAvailable"), true),
        (Some("SingleReplica"), true),
        (Some("HighlyAvailableArbiter"), true),
        (Some("External"), true),
        (Some("DualReplica"), false),
        (Some(""), false),
    ] {
        let around = Surroundings {
            topology: topology.map(ToOwned::to_owned),
            ..Surroundings::default()
        };
        let verdict = create(&health_check(spec()), &around);
        assert_eq!(verdict == Verdict::Allow(vec![]), allowed, "{topology:?}");
        if !allowed {
            assert_eq!(
                verdict,
                Verdict::Deny("Unsupported control plane topology".to_owned())
            );
        }
    }
}

#[test]
fn what_matters_stays_while_a_node_is_remediated() {
    let old = remediating(spec());
    for (spec, expected) in [
        (
            with(spec(), &[("selector", json!({"matchLabels": {"a": "b"}}))]),
            Some("selector update prohibited due to running remediation"),
        ),
        (
            with(
                spec(),
                &[("remediationTemplate", template("FooTemplate", "other"))],
            ),
            Some("remediation template update prohibited due to running remediation"),
        ),
        (
            with(
                spec(),
                &[(
                    "escalatingRemediations",
                    escalating(&[("ATemplate", "a", 1, "1m")])["escalatingRemediations"].clone(),
                )],
            ),
            Some("escalating remediations update prohibited due to running remediation"),
        ),
        (with(spec(), &[("minHealthy", json!(1))]), None),
        (with(spec(), &[("pauseRequests", json!(["x"]))]), None),
        (with(spec(), &[("healthyDelay", json!("5m"))]), None),
        (
            with(spec(), &[("stormCooldownDuration", json!("5m"))]),
            None,
        ),
        (with(spec(), &[("unhealthyConditions", json!([]))]), None),
    ] {
        let new = NodeHealthCheck {
            status: old.status.clone(),
            ..health_check(spec.clone())
        };
        let verdict = update(&old, &new, &Surroundings::default());
        let expected = expected.map_or_else(allowed, |text| Verdict::Deny(text.to_owned()));
        assert_eq!(verdict, expected, "{spec}");
        let idle = health_check(spec);
        if let Verdict::Deny(message) = update(&old, &idle, &Surroundings::default()) {
            assert!(
                !message.contains("prohibited"),
                "the new object's status counts: {message}"
            );
        }
    }
}

#[test]
fn writing_the_same_differently_is_no_change() {
    let steps = |list: &[(&str, &str, i64, &str)]| escalating(list);
    let old = remediating(steps(&[
        ("ATemplate", "a", 1, "2m"),
        ("BTemplate", "b", 2, "60s"),
    ]));
    let mut new = old.clone();
    new.spec = health_check(steps(&[
        ("BTemplate", "b", 2, "1m"),
        ("ATemplate", "a", 1, "120s"),
    ]))
    .spec;
    new.spec.selector = serde_json::from_value(json!({
        "matchLabels": {}, "matchExpressions": [{"key": "worker", "operator": "Exists", "values": []}],
    }))
    .unwrap();
    new.spec.pause_requests = Some(vec![]);
    assert_eq!(update(&old, &new, &Surroundings::default()), allowed());
    assert!(!needs_judgement(&old, &new));
}

#[test]
fn an_unchanged_spec_is_never_refused() {
    let legacy = health_check(with(
        spec(),
        &[("selector", json!({})), ("minHealthy", Value::Null)],
    ));
    let mut labelled = legacy.clone();
    labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    assert_eq!(
        update(&legacy, &labelled, &Surroundings::default()),
        allowed()
    );
    labelled.spec.pause_requests = Some(vec!["x".to_owned()]);
    assert!(matches!(
        update(&legacy, &labelled, &Surroundings::default()),
        Verdict::Deny(_)
    ));
}

#[test]
fn deletion_waits_for_remediations() {
    assert_eq!(delete(&health_check(spec())), allowed());
    let message = "deletion prohibited due to running remediation".to_owned();
    assert_eq!(delete(&remediating(spec())), Verdict::Deny(message));
    let mut held_back = health_check(spec());
    held_back.status =
        serde_json::from_value(json!({"unhealthyNodes": [{"name": "w1", "remediations": []}]}))
            .unwrap();
    assert_eq!(delete(&held_back), allowed());
}

#[test]
fn warnings_never_deny() {
    let object = health_check(with(
        spec(),
        &[("minHealthy", Value::Null), ("maxUnhealthy", json!(3))],
    ));
    let node = |control_plane, worker| SelectedNode {
        control_plane,
        worker,
    };
    let around = Surroundings {
        selected: Some(vec![node(true, false), node(false, true)]),
        overlapping: ["other".to_owned()].into(),
        missing_templates: vec!["FooTemplate.test.example.com remediators/foo".to_owned()],
        ..Surroundings::default()
    };
    let Verdict::Allow(warnings) = create(&object, &around) else {
        panic!()
    };
    assert_eq!(
        warnings,
        [
            "spec.selector selects 1 control plane nodes and 1 workers: use separate health checks \
             for them",
            "spec.maxUnhealthy 3 is more than the 2 nodes that are selected now: all of them may \
             be remediated at once",
            "spec.selector selects nodes that NodeHealthCheck other selects as well",
            "template FooTemplate.test.example.com remediators/foo does not exist (yet)",
        ]
    );
    let around = Surroundings {
        selected: Some(vec![node(true, true)]),
        ..Surroundings::default()
    };
    let object = health_check(spec());
    assert_eq!(
        create(&object, &around),
        allowed(),
        "a compact cluster is not mixed"
    );
}
