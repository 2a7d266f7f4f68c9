use serde_json::{Value, json};

use super::*;

fn pdb(allowed: i32, selector: &Value) -> PodDisruptionBudget {
    serde_json::from_value(json!({
        "metadata": {"name": "etcd-guard-pdb", "generation": 2},
        "spec": {"selector": selector},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 0, "desiredHealthy": 0,
            "expectedPods": 0},
    }))
    .unwrap()
}

fn guards() -> Value {
    json!({"matchLabels": {"app": "guard"}})
}

fn pod(node: &str, app: &str, ready: Option<&str>) -> Pod {
    let conditions: Vec<Value> = ready
        .map(|status| json!({"type": "Ready", "status": status}))
        .into_iter()
        .collect();
    serde_json::from_value(json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"conditions": conditions},
    }))
    .unwrap()
}

fn asks(budgets: &[PodDisruptionBudget]) -> Selector {
    match budget(budgets) {
        Ok(Budget::AskPods(selector)) => selector,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_budgets_decide_what_they_can() {
    let decided = |budgets: &[PodDisruptionBudget]| match budget(budgets) {
        Ok(Budget::Decided(verdict)) => verdict,
        other => panic!("{other:?}"),
    };
    assert_eq!(decided(&[]), Verdict::NoBudget);
    assert_eq!(
        decided(&[pdb(1, &guards()), pdb(1, &guards())]),
        Verdict::SeveralBudgets
    );
    assert_eq!(decided(&[pdb(1, &guards())]), Verdict::BudgetLeft);
    for observed in [1, 2, 3] {
        let mut budget = pdb(1, &guards());
        budget.status.as_mut().unwrap().observed_generation = Some(observed);
        let expected = if observed < 2 {
            Verdict::StaleBudget
        } else {
            Verdict::BudgetLeft
        };
        assert_eq!(decided(&[budget]), expected);
    }
    let mut unset = pdb(1, &guards());
    unset.status.as_mut().unwrap().observed_generation = Some(0);
    assert_eq!(decided(&[unset]), Verdict::BudgetLeft);
}

#[test]
fn only_selectors_that_say_what_labels_say_are_understood() {
    for selector in [
        guards(),
        json!({}),
        json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["guard"]}]}),
    ] {
        asks(&[pdb(0, &selector)]);
    }
    for selector in [
        json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}),
        json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}),
        json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "app", "operator": "In"}]}),
        json!({"matchExpressions": [{"key": "bad key", "operator": "In", "values": ["a"]}]}),
        Value::Null,
    ] {
        assert!(budget(&[pdb(0, &selector)]).is_err(), "{selector}");
    }
}

#[test]
fn the_guard_on_the_node_decides() {
    let selector = asks(&[pdb(0, &guards())]);
    for (pods, expected) in [
        (vec![], Verdict::NoMember),
        (vec![pod("other", "guard", Some("True"))], Verdict::NoMember),
        (vec![pod("n", "etcd", Some("True"))], Verdict::NoMember),
        (vec![pod("n", "guard", Some("True"))], Verdict::LiveMember),
        (
            vec![pod("n", "guard", Some("Unknown"))],
            Verdict::LiveMember,
        ),
        (
            vec![pod("n", "guard", Some("False"))],
            Verdict::AlreadyDisrupted,
        ),
        (vec![pod("n", "guard", None)], Verdict::AlreadyDisrupted),
        (
            vec![
                pod("other", "guard", Some("False")),
                pod("n", "guard", Some("True")),
            ],
            Verdict::LiveMember,
        ),
    ] {
        assert_eq!(guard("n", &selector, &pods), expected, "{pods:?}");
    }
}

#[test]
fn an_empty_selector_selects_every_pod() {
    let selector = asks(&[pdb(0, &json!({}))]);
    assert_eq!(
        guard("n", &selector, &[pod("n", "any", Some("True"))]),
        Verdict::LiveMember
    );
}

#[test]
fn what_cannot_be_told_is_not_allowed() {
    for (verdict, allowed) in [
        (Verdict::BudgetLeft, true),
        (Verdict::AlreadyDisrupted, true),
        (Verdict::NoMember, true),
        (Verdict::NoBudget, false),
        (Verdict::SeveralBudgets, false),
        (Verdict::StaleBudget, false),
        (Verdict::LiveMember, false),
    ] {
        assert_eq!(verdict.is_allowed(), allowed, "{verdict:?}");
    }
}
