use super::*;

fn toleration(operator: &str, value: &str, effect: &str) -> Toleration {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Toleration {
        key: Some("k".to_owned()),
        operator: text(operator),
        value: text(value),
        effect: text(effect),
        toleration_seconds: None,
    }
}

#[test]
fn tolerations() {
    for (operator, value, effect, expected) in [
        ("", "v", "", Ok(())),
        ("Equal", "v", "NoSchedule", Ok(())),
        ("Exists", "", "PreferNoSchedule", Ok(())),
        ("Exists", "", "NoExecute", Ok(())),
        ("Exists", "v", "", Err(TolerationError::ValueWithExists)),
        (
            "exists",
            "",
            "",
            Err(TolerationError::Operator("exists".to_owned())),
        ),
        (
            "Lt",
            "5",
            "",
            Err(TolerationError::Operator("Lt".to_owned())),
        ),
        (
            "Equal",
            "v",
            "Never",
            Err(TolerationError::Effect("Never".to_owned())),
        ),
    ] {
        let toleration = toleration(operator, value, effect);
        assert_eq!(check_toleration(&toleration), expected, "{toleration:?}");
    }
    assert_eq!(check_toleration(&Toleration::default()), Ok(()));
}

#[test]
fn requirements() {
    let check = |key: &str, operator: &str, values: &[&str]| {
        check_requirement(&NodeSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        })
        .map_err(|error| error.to_string())
    };
    for (operator, values) in [
        ("In", &["a"][..]),
        ("In", &["a", "b"]),
        ("NotIn", &["a"]),
        ("Exists", &[]),
        ("DoesNotExist", &[]),
        ("Gt", &["5"]),
        ("Lt", &["-5"]),
    ] {
        assert_eq!(
            check("k", operator, values),
            Ok(()),
            "{operator} {values:?}"
        );
    }
    for (key, operator, values, message) in [
        ("", "In", &["a"][..], "node selector requirement has no key"),
        (
            "k",
            "",
            &["a"],
            "node selector requirement for k has no operator",
        ),
        (
            "k",
            "in",
            &["a"],
            "node selector requirement for k has the unknown operator in",
        ),
        (
            "k",
            "In",
            &[],
            "node selector requirement for k: In takes at least one value, but there are 0",
        ),
        (
            "k",
            "NotIn",
            &[],
            "node selector requirement for k: NotIn takes at least one value, but there are 0",
        ),
        (
            "k",
            "Exists",
            &["a"],
            "node selector requirement for k: Exists takes no value, but there are 1",
        ),
        (
            "k",
            "DoesNotExist",
            &["a"],
            "node selector requirement for k: DoesNotExist takes no value, but there are 1",
        ),
        (
            "k",
            "Gt",
            &[],
            "node selector requirement for k: Gt takes one value, but there are 0",
        ),
        (
            "k",
            "Lt",
            &["1", "2"],
            "node selector requirement for k: Lt takes one value, but there are 2",
        ),
        (
            "k",
            "Gt",
            &["1.5"],
            "node selector requirement for k: Gt takes an integer, not 1.5",
        ),
    ] {
        assert_eq!(check(key, operator, values), Err(message.to_owned()));
    }
    let absent = NodeSelectorRequirement {
        key: "k".to_owned(),
        operator: "In".to_owned(),
        values: None,
    };
    assert!(check_requirement(&absent).is_err());
}
