use proptest::prelude::*;

use super::*;

fn text(value: &str) -> IntOrString {
    IntOrString::String(value.to_owned())
}

fn threshold(min: Option<&IntOrString>, max: Option<&IntOrString>) -> HealthThreshold {
    HealthThreshold::parse(min, max).unwrap()
}

#[test]
fn min_healthy_rounds_up() {
    // (value, total, minimum); the first two rows are the examples of the specification.
    for (value, total, minimum) in [
        (text("75%"), 10, 8),
        (text("51%"), 3, 2),
        (text("0%"), 10, 0),
        (text("100%"), 10, 10),
        (text("51%"), 0, 0),
        (text("1%"), 1, 1),
        (text("33%"), 3, 1),
        (text("8"), 10, 8),
        (IntOrString::Int(8), 10, 8),
        (IntOrString::Int(8), 3, 8),
        (IntOrString::Int(0), 3, 0),
    ] {
        let rule = threshold(Some(&value), None);
        assert_eq!(rule.minimum_healthy(total), minimum, "{value} of {total}");
    }
}

#[test]
fn max_unhealthy_is_the_rest_and_clamps() {
    for (value, total, minimum) in [
        (text("75%"), 10, 2),
        (text("0%"), 10, 10),
        (text("100%"), 10, 0),
        (text("40%"), 3, 1),
        (IntOrString::Int(3), 10, 7),
        (IntOrString::Int(0), 10, 10),
        (IntOrString::Int(11), 10, 0),
        (text("11"), 10, 0),
        (text("99999999999999999999999"), 10, 0),
    ] {
        let rule = threshold(None, Some(&value));
        assert_eq!(rule.minimum_healthy(total), minimum, "{value} of {total}");
    }
}

#[test]
fn allows_at_exactly_the_minimum() {
    let rule = threshold(Some(&text("51%")), None);
    assert!(rule.allows(2, 3));
    assert!(!rule.allows(1, 3));
}

#[test]
fn errors_name_the_field_and_the_value() {
    let message = |min: Option<IntOrString>, max: Option<IntOrString>| {
        HealthThreshold::parse(min.as_ref(), max.as_ref())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message(Some(text("1")), Some(text("1"))),
        "minHealthy and maxUnhealthy cannot be specified at the same time"
    );
    assert_eq!(
        message(None, None),
        "one of minHealthy and maxUnhealthy should be specified"
    );
    assert_eq!(
        message(Some(IntOrString::Int(-1)), None),
        "minHealthy must not be negative: -1"
    );
    assert_eq!(
        message(None, Some(IntOrString::Int(-7))),
        "maxUnhealthy must not be negative: -7"
    );
    assert_eq!(
        message(None, Some(text("-7"))),
        "maxUnhealthy must not be negative: -7"
    );
    for value in [
        "", "%", "101%", "-1%", "1.5", "five", " 5", "5 %", "+5", "５",
    ] {
        assert_eq!(
            message(Some(text(value)), None),
            format!("minHealthy must be a number or a percentage from 0% to 100%: {value}")
        );
    }
}

#[test]
fn machine_health_check_rounds_down() {
    for (value, total, allowed) in [
        (None, 7, 7),
        (Some(text("40%")), 3, 1),
        (Some(text("40%")), 2, 0),
        (Some(text("100%")), 5, 5),
        (Some(text("3")), 5, 3),
        (Some(IntOrString::Int(9)), 5, 9),
        (Some(IntOrString::Int(-1)), 5, 0),
        (Some(text("-1")), 5, 0),
    ] {
        assert_eq!(
            allowed_unhealthy(value.as_ref(), total),
            Ok(allowed),
            "{value:?} of {total}"
        );
    }
    assert!(allowed_unhealthy(Some(&text("many")), 5).is_err());
}

proptest! {
    #[test]
    fn percent_minimum_never_exceeds_the_nodes(percent in 0u8..=100, total: u64) {
        let rule = HealthThreshold::MinHealthy(IntOrPercent::Percent(percent));
        prop_assert!(rule.minimum_healthy(total) <= total);
        let rule = HealthThreshold::MaxUnhealthy(IntOrPercent::Percent(percent));
        prop_assert!(rule.minimum_healthy(total) <= total);
    }

    #[test]
    fn minimum_is_a_ceiling(percent in 0u8..=100, total in 0u64..1_000_000) {
        let minimum = HealthThreshold::MinHealthy(IntOrPercent::Percent(percent))
            .minimum_healthy(total);
        prop_assert!(minimum * 100 >= total * u64::from(percent));
        prop_assert!(minimum == 0 || (minimum - 1) * 100 < total * u64::from(percent));
    }

    #[test]
    fn more_healthy_nodes_never_forbid(value in 0u64..50, healthy in 0u64..50, total in 0u64..50) {
        for rule in [
            HealthThreshold::MinHealthy(IntOrPercent::Count(value)),
            HealthThreshold::MaxUnhealthy(IntOrPercent::Count(value)),
        ] {
            prop_assert!(!rule.allows(healthy, total) || rule.allows(healthy + 1, total));
        }
    }

    #[test]
    fn every_value_the_schema_accepts_is_read(value in "((100|[0-9]{1,2})%|[0-9]+)") {
        prop_assert!(IntOrPercent::parse(Field::MinHealthy, &text(&value)).is_ok());
    }

    #[test]
    fn quotes_make_no_difference(number in 0i64..i64::MAX) {
        prop_assert_eq!(
            IntOrPercent::parse(Field::MinHealthy, &IntOrString::Int(number)),
            IntOrPercent::parse(Field::MinHealthy, &text(&number.to_string()))
        );
    }
}
