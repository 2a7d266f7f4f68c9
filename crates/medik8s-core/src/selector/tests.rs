use proptest::prelude::*;
use serde_json::json;

use super::*;

fn selector(value: Value) -> LabelSelector {
    serde_json::from_value(value).unwrap()
}

fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
    selector(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
}

fn label(key: &str, value: &str) -> LabelSelector {
    selector(json!({"matchLabels": {key: value}}))
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn matches(selector: &LabelSelector, on: &[(&str, &str)]) -> bool {
    selects(&parse(selector).unwrap(), Some(&labels(on)))
}

/// Selector, and how apimachinery 0.36 begins its refusal; `None` where it accepts.
#[test]
fn accepts_and_refuses_what_apimachinery_does() {
    let long = "a".repeat(64);
    let long_prefix = format!("{}/b", "a".repeat(254));
    for (selector, refusal) in [
        (label("a", "b"), None),
        (label("a", ""), None),
        (expression("a", "In", &["b"]), None),
        (expression("a", "In", &[""]), None),
        (expression("a", "Exists", &[]), None),
        (expression("example.com/a", "Exists", &[]), None),
        (
            expression("a", "In", &[]),
            Some("values: Invalid value: null: "),
        ),
        (
            expression("a", "NotIn", &[]),
            Some("values: Invalid value: null: "),
        ),
        (
            expression("a", "Foo", &["b"]),
            Some("\"Foo\" is not a valid label selector operator"),
        ),
        (
            expression("a", "", &[]),
            Some("\"\" is not a valid label selector operator"),
        ),
        (
            expression("a", "Gt", &["1"]),
            Some("\"Gt\" is not a valid label selector operator"),
        ),
        (
            expression("a", "Exists", &["b"]),
            Some("values: Invalid value: [\"b\"]: "),
        ),
        (
            expression("a", "DoesNotExist", &["b", "c"]),
            Some("values: Invalid value: [\"b\",\"c\"]: "),
        ),
        (
            expression("", "Exists", &[]),
            Some("key: Invalid value: \"\": "),
        ),
        (
            expression("bad key", "Exists", &[]),
            Some("key: Invalid value: \"bad key\": "),
        ),
        (
            expression("a/b/c", "Exists", &[]),
            Some("key: Invalid value: \"a/b/c\": "),
        ),
        (
            expression("/b", "Exists", &[]),
            Some("key: Invalid value: \"/b\": "),
        ),
        (
            expression("B_d/b", "Exists", &[]),
            Some("key: Invalid value: \"B_d/b\": "),
        ),
        (
            expression("a/", "Exists", &[]),
            Some("key: Invalid value: \"a/\": "),
        ),
        (
            expression(&long, "Exists", &[]),
            Some("key: Invalid value: \"aaaa"),
        ),
        (
            expression(&long_prefix, "Exists", &[]),
            Some("key: Invalid value: \"aaaa"),
        ),
        (
            expression("a", "In", &["bad value"]),
            Some("values[0][a]: Invalid value: \"bad value\": "),
        ),
        (
            expression("a", "In", &["ok", "-x", "y-"]),
            Some("[values[1][a]: Invalid value: \"-x\": "),
        ),
        (
            expression("a", "In", &[&long]),
            Some("values[0][a]: Invalid value: \"aaaa"),
        ),
        (
            label("a", "bad value"),
            Some("values[0][a]: Invalid value: \"bad value\": "),
        ),
        (
            label("bad key", "b"),
            Some("key: Invalid value: \"bad key\": "),
        ),
        (
            label("bad key", "bad value"),
            Some("[key: Invalid value: \"bad key\": "),
        ),
        (
            expression("-a", "In", &[]),
            Some("[key: Invalid value: \"-a\": "),
        ),
    ] {
        match (parse(&selector), refusal) {
            (Ok(_), None) => {}
            (Err(error), Some(start)) => {
                let error = error.to_string();
                assert!(
                    error.starts_with(start),
                    "{error:?} does not begin with {start:?}"
                );
            }
            (got, expected) => panic!("{selector:?}: {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn operators_match_as_documented() {
    let zone_a: &[(&str, &str)] = &[("zone", "a")];
    for (operator, values, with_a, with_c, without) in [
        ("In", &["a", "b"][..], true, false, false),
        ("NotIn", &["a", "b"], false, true, true),
        ("Exists", &[], true, true, false),
        ("DoesNotExist", &[], false, false, true),
    ] {
        let selector = expression("zone", operator, values);
        assert_eq!(matches(&selector, zone_a), with_a, "{operator}");
        assert_eq!(matches(&selector, &[("zone", "c")]), with_c, "{operator}");
        assert_eq!(matches(&selector, &[]), without, "{operator}");
        assert_eq!(
            selects(&parse(&selector).unwrap(), None),
            without,
            "{operator}"
        );
    }
    assert!(matches(&label("zone", "a"), zone_a));
    assert!(!matches(&label("zone", "a"), &[("zone", "b")]));
    assert!(!matches(&label("zone", ""), &[]));
}

#[test]
fn all_requirements_must_hold() {
    let both = selector(json!({
        "matchLabels": {"zone": "a"},
        "matchExpressions": [{"key": "disk", "operator": "Exists"}],
    }));
    assert!(matches(&both, &[("zone", "a"), ("disk", "ssd")]));
    assert!(!matches(&both, &[("zone", "a")]));
    assert!(!matches(&both, &[("disk", "ssd")]));
}

#[test]
fn an_empty_selector_selects_everything() {
    for empty in [
        json!({}),
        json!({"matchLabels": {}, "matchExpressions": []}),
    ] {
        let empty = selector(empty);
        assert!(is_empty(&empty));
        assert!(matches(&empty, &[]) && matches(&empty, &[("a", "b")]));
    }
    assert!(!is_empty(&label("a", "b")));
    assert!(!is_empty(&expression("a", "Exists", &[])));
}

#[test]
fn sameness_ignores_order_and_absence() {
    let absent_or_empty = [
        json!({}),
        json!({"matchLabels": {}, "matchExpressions": []}),
    ];
    assert!(same(
        &selector(absent_or_empty[0].clone()),
        &selector(absent_or_empty[1].clone())
    ));
    assert!(same(
        &expression("a", "In", &["b", "c"]),
        &expression("a", "In", &["c", "b", "c"])
    ));
    assert!(same(&label("a", "b"), &expression("a", "In", &["b"])));
    let one = json!([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]);
    let two = json!([
        {"key": "b", "operator": "Exists", "values": []},
        {"key": "a", "operator": "Exists"},
    ]);
    assert!(same(
        &selector(json!({"matchExpressions": one})),
        &selector(json!({"matchExpressions": two}))
    ));
    assert!(!same(&label("a", "b"), &label("a", "c")));
    assert!(!same(&label("a", "b"), &selector(json!({}))));
    assert!(!same(
        &expression("a", "Exists", &[]),
        &expression("a", "DoesNotExist", &[])
    ));
}

fn selectors() -> impl Strategy<Value = LabelSelector> {
    let key = prop::sample::select(vec!["a", "b", "c"]);
    let value = prop::sample::select(vec!["", "x", "y"]);
    let values = prop::collection::vec(value.clone(), 1..3);
    let with_values = (
        key.clone(),
        prop::sample::select(vec!["In", "NotIn"]),
        values,
    )
        .prop_map(|(k, o, v)| json!({"key": k, "operator": o, "values": v}));
    let without_values = (
        key.clone(),
        prop::sample::select(vec!["Exists", "DoesNotExist"]),
    )
        .prop_map(|(k, o)| json!({"key": k, "operator": o}));
    (
        prop::collection::btree_map(key, value, 0..3),
        prop::collection::vec(prop_oneof![with_values, without_values], 0..4),
    )
        .prop_map(|(labels, expressions)| {
            selector(json!({"matchLabels": labels, "matchExpressions": expressions}))
        })
}

fn label_sets() -> impl Strategy<Value = Labels> {
    let key = prop::sample::select(vec!["a", "b", "c", "d"]);
    let value = prop::sample::select(vec!["", "x", "y"]);
    prop::collection::btree_map(key, value, 0..4).prop_map(|map| {
        map.into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    })
}

proptest! {
    #[test]
    fn same_selectors_select_the_same(
        mut left in selectors(), right in selectors(), on in label_sets(),
    ) {
        let result = |selector: &LabelSelector| selects(&parse(selector).unwrap(), Some(&on));
        if same(&left, &right) {
            prop_assert_eq!(result(&left), result(&right));
        }
        let before = left.clone();
        left.match_expressions.as_mut().unwrap().reverse();
        prop_assert!(same(&left, &before));
        prop_assert_eq!(result(&left), result(&before));
    }

    #[test]
    fn a_requirement_more_never_selects_more(
        selector in selectors(), more in selectors(), on in label_sets(),
    ) {
        let mut both = selector.clone();
        both.match_expressions.as_mut().unwrap().extend(more.match_expressions.unwrap());
        let result = |selector: &LabelSelector| selects(&parse(selector).unwrap(), Some(&on));
        prop_assert!(!result(&both) || result(&selector));
    }
}
