use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn ready(status: Status, reason: &str) -> NewCondition<'_> {
    NewCondition {
        type_: "Ready",
        status,
        reason,
        message: "",
        observed_generation: None,
    }
}

fn stage(conditions: &mut Vec<Condition>, stage: Stage, reason: &str, now: i64) -> StageChange {
    set_stage(
        conditions,
        stage,
        reason,
        "",
        Some(1),
        Refresh::Always,
        at(now),
    )
}

#[test]
fn transition_time_changes_only_with_the_status() {
    let mut list = Vec::new();
    assert!(set(
        &mut list,
        &ready(Status::True, "A"),
        Refresh::Always,
        at(1)
    ));
    assert!(!set(
        &mut list,
        &ready(Status::True, "A"),
        Refresh::Always,
        at(2)
    ));
    assert!(set(
        &mut list,
        &ready(Status::True, "B"),
        Refresh::Always,
        at(3)
    ));
    assert_eq!(list[0].last_transition_time.0, at(1));
    assert!(set(
        &mut list,
        &ready(Status::False, "B"),
        Refresh::Always,
        at(4)
    ));
    assert_eq!(list[0].last_transition_time.0, at(4));
    assert_eq!(list.len(), 1);
}

#[test]
fn refresh_with_status_leaves_the_reason() {
    let mut list = Vec::new();
    assert!(set(
        &mut list,
        &ready(Status::True, "A"),
        Refresh::WithStatus,
        at(1)
    ));
    assert!(!set(
        &mut list,
        &ready(Status::True, "B"),
        Refresh::WithStatus,
        at(2)
    ));
    assert_eq!(list[0].reason, "A");
    assert!(set(
        &mut list,
        &ready(Status::False, "B"),
        Refresh::WithStatus,
        at(3)
    ));
    assert_eq!(list[0].reason, "B");
}

#[test]
fn refresh_brings_message_and_generation_up_to_date() {
    let mut list = Vec::new();
    set(&mut list, &ready(Status::True, "A"), Refresh::Always, at(1));
    let newer = NewCondition {
        message: "template b is missing",
        observed_generation: Some(2),
        ..ready(Status::True, "A")
    };
    assert!(set(&mut list, &newer, Refresh::Always, at(2)));
    assert_eq!(list[0].message, "template b is missing");
    assert_eq!(list[0].observed_generation, Some(2));
}

#[test]
fn times_are_whole_seconds() {
    let mut list = Vec::new();
    let now = "2026-01-02T03:04:05.9Z".parse().unwrap();
    set(&mut list, &ready(Status::True, "A"), Refresh::Always, now);
    let read_back: Vec<Condition> =
        serde_json::from_value(serde_json::to_value(&list).unwrap()).unwrap();
    assert_eq!(read_back, list);
}

#[test]
fn reads_and_removes() {
    let mut list = Vec::new();
    set(
        &mut list,
        &ready(Status::False, "A"),
        Refresh::Always,
        at(1),
    );
    assert_eq!(status(&list, "Ready"), Some(Status::False));
    assert_eq!(status(&list, "Other"), None);
    assert!(is(&list, "Ready", Status::False));
    assert!(!is(&list, "Other", Status::False));
    list[0].status = "Perhaps".to_owned();
    assert_eq!(status(&list, "Ready"), Some(Status::Unknown));
    assert!(remove(&mut list, "Ready"));
    assert!(!remove(&mut list, "Ready"));
}

#[test]
fn stages_follow_the_table_of_the_contract() {
    for (to, processing, succeeded) in [
        (Stage::Started, "True", "Unknown"),
        (Stage::Finished, "False", "True"),
        (Stage::Failed, "False", "False"),
    ] {
        let mut list = Vec::new();
        assert_eq!(stage(&mut list, to, "R", 1), StageChange::Changed);
        assert_eq!(get(&list, "Processing").unwrap().status, processing);
        assert_eq!(get(&list, "Succeeded").unwrap().status, succeeded);
        assert!(list.iter().all(|condition| condition.reason == "R"));
        assert_eq!(Stage::read(&list), Some(to));
    }
}

/// From, to, allowed.
#[test]
fn stages_move_only_forward() {
    use Stage::{Failed, Finished, Started};
    for (from, to, expected) in [
        (Started, Started, StageChange::Unchanged),
        (Started, Finished, StageChange::Changed),
        (Started, Failed, StageChange::Changed),
        (Finished, Started, StageChange::Refused),
        (Finished, Finished, StageChange::Unchanged),
        (Finished, Failed, StageChange::Refused),
        (Failed, Started, StageChange::Refused),
        (Failed, Finished, StageChange::Changed),
        (Failed, Failed, StageChange::Unchanged),
    ] {
        let mut list = Vec::new();
        stage(&mut list, from, "R", 1);
        let before = list.clone();
        assert_eq!(stage(&mut list, to, "R", 2), expected, "{from:?} to {to:?}");
        if expected != StageChange::Changed {
            assert_eq!(list, before);
        }
    }
}

#[test]
fn both_get_the_reason_when_one_changes() {
    let mut list = Vec::new();
    stage(&mut list, Stage::Failed, "First", 1);
    let change = set_stage(
        &mut list,
        Stage::Finished,
        "Second",
        "",
        None,
        Refresh::WithStatus,
        at(2),
    );
    assert_eq!(change, StageChange::Changed);
    assert!(list.iter().all(|condition| condition.reason == "Second"));
    assert_eq!(
        get(&list, "Processing").unwrap().last_transition_time.0,
        at(1)
    );
    assert_eq!(
        get(&list, "Succeeded").unwrap().last_transition_time.0,
        at(2)
    );
}

#[test]
fn the_same_stage_keeps_the_first_reason_if_asked() {
    let mut list = Vec::new();
    stage(&mut list, Stage::Failed, "First", 1);
    let change = set_stage(
        &mut list,
        Stage::Failed,
        "Second",
        "",
        None,
        Refresh::WithStatus,
        at(2),
    );
    assert_eq!(change, StageChange::Unchanged);
    assert!(list.iter().all(|condition| condition.reason == "First"));
}

fn stages() -> impl Strategy<Value = Vec<Stage>> {
    let stage = prop::sample::select(vec![Stage::Started, Stage::Finished, Stage::Failed]);
    prop::collection::vec(stage, 0..12)
}

proptest! {
    #[test]
    fn no_sequence_of_reports_breaks_the_rules(stages in stages()) {
        let mut list = Vec::new();
        let (mut ended, mut succeeded) = (false, false);
        for (now, to) in stages.into_iter().enumerate() {
            let now = i64::try_from(now).unwrap();
            stage(&mut list, to, "R", now);
            prop_assert!(!ended || !is(&list, PROCESSING, Status::True));
            prop_assert!(!succeeded || is(&list, SUCCEEDED, Status::True));
            ended |= is(&list, PROCESSING, Status::False);
            succeeded |= is(&list, SUCCEEDED, Status::True);
            prop_assert!(list.iter().all(|condition| condition.last_transition_time.0 <= at(now)));
        }
    }
}
