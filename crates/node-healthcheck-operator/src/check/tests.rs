use serde_json::{Value, json};

use super::*;
use crate::fixtures::{escalating, health_check, secs, spec, template, with};

fn problem(spec: Value) -> String {
    Check::parse(&health_check(spec)).unwrap_err().to_string()
}

#[test]
fn a_missing_list_of_conditions_is_the_default_and_an_empty_one_is_empty() {
    let check = Check::parse(&health_check(with(
        spec(),
        &[("unhealthyConditions", Value::Null)],
    )));
    let rules = check.unwrap().rules;
    assert_eq!(rules.len(), 2);
    assert!(
        rules
            .iter()
            .all(|rule| rule.type_ == "Ready" && rule.duration == secs(300))
    );
    let check = Check::parse(&health_check(with(
        spec(),
        &[("unhealthyConditions", json!([]))],
    )));
    assert!(check.unwrap().rules.is_empty());
}

#[test]
fn steps_run_in_ascending_order() {
    let spec = escalating(&[
        ("ATemplate", "third", 10, "3m"),
        ("BTemplate", "first", -5, "1m"),
        ("CTemplate", "second", 0, "2m"),
    ]);
    let check = Check::parse(&health_check(spec)).unwrap();
    let ladder: Vec<_> = check
        .ladder
        .iter()
        .map(|rung| {
            (
                rung.template.name.as_str(),
                rung.timeout.unwrap().as_secs(),
                rung.earlier.as_secs(),
            )
        })
        .collect();
    assert_eq!(
        ladder,
        [("first", 60, 0), ("second", 120, 60), ("third", 180, 180)]
    );
}

#[test]
fn defect_07_a_kind_that_is_no_templates_is_a_problem_and_not_a_panic() {
    for kind in [
        "Template",
        "",
        "Foo",
        "FooTemplat",
        "ßTemplateX",
        "template",
    ] {
        let spec = with(spec(), &[("remediationTemplate", template(kind, "foo"))]);
        assert!(problem(spec).contains("must end in"), "{kind}");
    }
    let mut reference = template("FooTemplate", "");
    assert!(problem(with(spec(), &[("remediationTemplate", reference.clone())])).contains("name"));
    reference["apiVersion"] = json!("");
    assert!(problem(with(spec(), &[("remediationTemplate", reference)])).contains("apiVersion"));
}

#[test]
fn overflowing_durations_are_problems_of_their_field() {
    let huge = "9999999999999h";
    let rules = json!([{"type": "Ready", "status": "False", "duration": huge}]);
    for (field, value) in [
        ("unhealthyConditions", rules),
        ("healthyDelay", json!(huge)),
        ("stormCooldownDuration", json!(huge)),
    ] {
        let message = problem(with(spec(), &[(field, value)]));
        assert!(message.contains(field), "{message}");
    }
    let message = problem(escalating(&[("ATemplate", "a", 1, huge)]));
    assert!(message.contains("timeout"), "{message}");
}

#[test]
fn defect_12_numbers_in_quotes_are_numbers() {
    let check = Check::parse(&health_check(with(spec(), &[("minHealthy", json!("8"))]))).unwrap();
    assert_eq!(check.threshold.minimum_healthy(100), 8);
}

#[test]
fn remediation_kind_is_the_template_kind_without_its_suffix() {
    let check = Check::parse(&health_check(spec())).unwrap();
    let template = check.templates().next().unwrap();
    assert_eq!(
        template.remediation_kind(),
        ResourceKind::new("test.example.com/v1", "Foo")
    );
    assert_eq!(
        template.to_string(),
        "FooTemplate.test.example.com remediators/foo"
    );
    assert_eq!(
        (template.kind.group(), template.kind.version()),
        ("test.example.com", "v1")
    );
    assert_eq!(
        (
            ResourceKind::new("v1", "Pod").group(),
            ResourceKind::new("v1", "Pod").version()
        ),
        ("", "v1")
    );
}
