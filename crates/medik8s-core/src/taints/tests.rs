use proptest::prelude::*;

use super::*;

fn taint(key: &str, effect: &str, value: Option<&str>) -> Taint {
    Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        value: value.map(ToOwned::to_owned),
        time_added: None,
    }
}

fn keys(taints: &[Taint]) -> Vec<&str> {
    taints.iter().map(|taint| taint.key.as_str()).collect()
}

#[test]
fn the_taints_are_those_of_the_contract() {
    let written = |id: TaintId| format!("{}:{}", id.key, id.effect.as_str());
    assert_eq!(written(DRAIN), "medik8s.io/drain:NoSchedule");
    assert_eq!(
        written(UNSCHEDULABLE),
        "node.kubernetes.io/unschedulable:NoSchedule"
    );
    assert_eq!(
        written(SELF_NODE_REMEDIATION),
        "remediation.medik8s.io/self-node-remediation:NoSchedule"
    );
    assert_eq!(
        written(SELF_NODE_REMEDIATION_LEGACY),
        "medik8s.io/remediation:NoExecute"
    );
    assert_eq!(
        written(FENCE_AGENTS_REMEDIATION),
        "remediation.medik8s.io/fence-agents-remediation:NoSchedule"
    );
    assert_eq!(
        written(MEATWARE_REMEDIATION),
        "remediation.medik8s.io/meatware-remediation:NoSchedule"
    );
    let now = "2026-01-02T03:04:05.6Z".parse().unwrap();
    assert_eq!(
        serde_json::to_value(out_of_service(now)).unwrap(),
        serde_json::json!({
            "key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown",
            "effect": "NoExecute", "timeAdded": "2026-01-02T03:04:05Z",
        })
    );
}

#[test]
fn identity_is_key_and_effect() {
    assert!(DRAIN.is(&taint("medik8s.io/drain", "NoSchedule", Some("x"))));
    assert!(!DRAIN.is(&taint("medik8s.io/drain", "NoExecute", None)));
    assert!(!DRAIN.is(&taint("medik8s.io/drained", "NoSchedule", None)));
}

#[test]
fn new_taints_come_first() {
    let current = [
        taint("a", "NoExecute", Some("1")),
        taint("b", "NoSchedule", None),
    ];
    let list = with(&current, &[DRAIN.taint(), UNSCHEDULABLE.taint()]);
    assert_eq!(keys(&list), [DRAIN.key, UNSCHEDULABLE.key, "a", "b"]);
}

#[test]
fn a_present_taint_keeps_value_and_time() {
    let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    let mut old = taint(DRAIN.key, "NoSchedule", Some("kept"));
    old.time_added = Some(whole_second(now));
    let current = [taint("a", "NoSchedule", None), old.clone()];
    assert_eq!(with(&current, &[DRAIN.taint()]), current);
    let list = with(&current, &[DRAIN.taint(), UNSCHEDULABLE.taint()]);
    assert_eq!(
        list,
        [old, UNSCHEDULABLE.taint(), taint("a", "NoSchedule", None)]
    );
}

#[test]
fn removal_ignores_the_value_and_spares_the_rest() {
    let current = [
        taint(DRAIN.key, "NoSchedule", Some("x")),
        taint(DRAIN.key, "NoExecute", None),
        taint("a", "NoSchedule", None),
    ];
    assert_eq!(without(&current, &[DRAIN, UNSCHEDULABLE]), current[1..]);
}

fn any_taint() -> impl Strategy<Value = Taint> {
    let keys = vec!["a", "b", DRAIN.key, UNSCHEDULABLE.key, OUT_OF_SERVICE.key];
    let effects = vec!["NoSchedule", "NoExecute", "PreferNoSchedule"];
    let values = vec![None, Some("x")];
    (
        prop::sample::select(keys),
        prop::sample::select(effects),
        prop::sample::select(values),
    )
        .prop_map(|(key, effect, value)| taint(key, effect, value))
}

fn taint_list() -> impl Strategy<Value = Vec<Taint>> {
    prop::collection::vec(any_taint(), 0..6).prop_map(|mut list| {
        // The API server refuses two taints of one identity.
        let mut seen = Vec::new();
        list.retain(|taint| {
            let id = (taint.key.clone(), taint.effect.clone());
            let new = !seen.contains(&id);
            seen.push(id);
            new
        });
        list
    })
}

const OURS: [TaintId; 3] = [DRAIN, UNSCHEDULABLE, OUT_OF_SERVICE];

fn foreign(list: &[Taint]) -> Vec<Taint> {
    without(list, &OURS)
}

proptest! {
    #[test]
    fn foreign_taints_survive(current in taint_list()) {
        let added = with(&current, &OURS.map(TaintId::taint));
        prop_assert_eq!(foreign(&added), foreign(&current));
        prop_assert_eq!(without(&added, &OURS), foreign(&current));
    }

    #[test]
    fn adding_puts_each_there_once(current in taint_list()) {
        let added = with(&current, &OURS.map(TaintId::taint));
        for id in OURS {
            prop_assert_eq!(added.iter().filter(|taint| id.is(taint)).count(), 1);
        }
        prop_assert_eq!(with(&added, &OURS.map(TaintId::taint)), added);
    }
}
