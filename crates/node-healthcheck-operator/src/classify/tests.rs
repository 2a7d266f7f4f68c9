use super::*;
use crate::fixtures::{at, noon, secs};

fn rule(type_: &str, status: &str, seconds: u64) -> Rule {
    Rule {
        type_: type_.to_owned(),
        status: status.to_owned(),
        duration: secs(seconds),
    }
}

fn condition(type_: &str, status: &str, since: Option<Timestamp>) -> NodeCondition {
    NodeCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        since,
    }
}

fn soon(type_: &str, status: &str, until: Timestamp) -> Class {
    Class::Soon {
        type_: type_.to_owned(),
        status: status.to_owned(),
        until,
    }
}

fn matching(type_: &str, status: &str) -> Class {
    Class::Matching {
        type_: type_.to_owned(),
        status: status.to_owned(),
    }
}

#[test]
fn the_duration_must_be_exceeded() {
    let rules = [rule("Ready", "Unknown", 10)];
    let class = |age: i64| {
        classify(
            &rules,
            &[condition("Ready", "Unknown", Some(at(-age)))],
            noon(),
        )
    };
    assert_eq!(class(11), matching("Ready", "Unknown"));
    let instant = SignedDuration::from_millis(1);
    assert_eq!(
        class(10),
        soon("Ready", "Unknown", noon().checked_add(instant).unwrap())
    );
    assert_eq!(
        class(0),
        soon("Ready", "Unknown", at(10).checked_add(instant).unwrap())
    );
}

#[test]
fn the_moment_that_is_given_is_the_first_that_matches() {
    let rules = [rule("Ready", "Unknown", 10), rule("Ready", "Unknown", 25)];
    let conditions = [condition("Ready", "Unknown", Some(noon()))];
    let Class::Soon { until, .. } = classify(&rules, &conditions, noon()) else {
        panic!()
    };
    let before = until.checked_sub(SignedDuration::from_millis(1)).unwrap();
    assert!(matches!(
        classify(&rules, &conditions, before),
        Class::Soon { .. }
    ));
    assert!(matches!(
        classify(&rules, &conditions, until),
        Class::Matching { .. }
    ));
}

#[test]
fn one_rule_is_enough_and_the_earliest_counts() {
    let rules = [
        rule("Ready", "False", 100),
        rule("Disk", "True", 50),
        rule("Net", "Bad", 10),
    ];
    let conditions = [
        condition("Ready", "False", Some(at(-30))),
        condition("Disk", "True", Some(at(-30))),
    ];
    assert!(
        matches!(classify(&rules, &conditions, noon()), Class::Soon { type_, .. } if type_ == "Disk")
    );
    let conditions = [
        condition("Ready", "False", Some(at(-30))),
        condition("Disk", "True", Some(at(-30))),
        condition("Net", "Bad", Some(at(-30))),
    ];
    assert_eq!(
        classify(&rules, &conditions, noon()),
        matching("Net", "Bad")
    );
}

#[test]
fn what_is_missing_does_not_match() {
    let rules = [rule("Ready", "False", 0)];
    assert_eq!(classify(&rules, &[], noon()), Class::NotMatching);
    assert_eq!(
        classify(&[], &[condition("Ready", "False", None)], noon()),
        Class::NotMatching
    );
    let other = [condition("Ready", "Unknown", Some(at(-99)))];
    assert_eq!(classify(&rules, &other, noon()), Class::NotMatching);
}

#[test]
fn a_condition_without_a_time_has_been_there_for_ever() {
    let rules = [rule("Ready", "False", u64::MAX)];
    let conditions = [condition("Ready", "False", None)];
    assert_eq!(
        classify(&rules, &conditions, noon()),
        matching("Ready", "False")
    );
    let dated = [condition("Ready", "False", Some(noon()))];
    assert_eq!(
        classify(&rules, &dated, noon()),
        soon("Ready", "False", Timestamp::MAX)
    );
}
