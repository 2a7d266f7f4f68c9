#![expect(clippy::needless_pass_by_value, reason = "tests build values in place")]

use std::collections::BTreeMap;
use std::sync::Arc;

use medik8s_core::conditions::Status;
use serde_json::{Value, json};

use super::plan::{MachinePlan, MachinesObserved, Target, plan};
use super::*;
use crate::check::TemplateState;
use crate::facts::{ControlPlane, HeldLease};
use crate::fixtures::{API, at, node, noon, remediation, secs};
use crate::plan::{Removal, Step};
use crate::remediation::Remediation;

fn spec() -> Value {
    json!({
        "selector": {"matchLabels": {"role": "worker"}},
        "unhealthyConditions": [
            {"type": "Ready", "status": "False", "timeout": "10s"},
            {"type": "Ready", "status": "Unknown", "timeout": "20s"},
        ],
        "remediationTemplate": {"apiVersion": API, "kind": "FooTemplate", "name": "foo"},
    })
}

fn with(mut spec: Value, field: &str, value: Value) -> Value {
    spec[field] = value;
    spec
}

fn object(spec: Value) -> MachineHealthCheck {
    serde_json::from_value(json!({
        "apiVersion": MACHINE_API, "kind": "MachineHealthCheck",
        "metadata": {"name": "mhc", "namespace": "machines", "uid": "mhc-uid"}, "spec": spec,
    }))
    .unwrap()
}

fn check(spec: Value) -> MachineCheck {
    MachineCheck::parse(&object(spec)).unwrap()
}

fn machine(name: &str, node: Option<&str>) -> MachineFacts {
    MachineFacts {
        id: MachineRef {
            namespace: "machines".to_owned(),
            name: name.to_owned(),
        },
        uid: format!("{name}-uid"),
        labels: BTreeMap::from([("role".to_owned(), "worker".to_owned())]),
        node: node.map(ToOwned::to_owned),
        failed: false,
        last_updated: Some(noon()),
        deleting: false,
    }
}

fn existing(name: &str, status: &str, seconds: i64) -> TargetNode {
    TargetNode::Exists(Arc::new(node(name, status, at(-seconds))))
}

#[test]
fn parses_defaults_and_refuses_what_cannot_work() {
    let parsed = check(spec());
    assert_eq!(parsed.startup_timeout, Some(NODE_STARTUP_TIMEOUT));
    assert_eq!(parsed.template.as_ref().unwrap().namespace, "machines");
    assert_eq!(
        (parsed.key(), parsed.holder()),
        ("machines/mhc".into(), "MachineHealthCheck-mhc".into())
    );
    assert!(!parsed.paused);
    for zero in ["0", "0s"] {
        assert_eq!(
            check(with(spec(), "nodeStartupTimeout", json!(zero))).startup_timeout,
            None
        );
    }
    let mut paused = object(spec());
    paused.metadata.annotations = Some([(PAUSED_ANNOTATION.to_owned(), String::new())].into());
    assert!(MachineCheck::parse(&paused).unwrap().paused);
    let mut elsewhere = spec();
    elsewhere["remediationTemplate"]["namespace"] = json!("other");
    let problem = MachineCheck::parse(&object(elsewhere)).unwrap_err();
    assert!(
        problem
            .to_string()
            .contains("must be in the namespace machines"),
        "{problem}"
    );
    assert!(
        check(with(spec(), "remediationTemplate", Value::Null))
            .template
            .is_none()
    );
    assert!(
        check(with(spec(), "selector", json!({}))).selects(&machine("m", None)),
        "all of them"
    );
    let mut other = machine("m", None);
    other.id.namespace = "other".to_owned();
    assert!(!check(with(spec(), "selector", json!({}))).selects(&other));
}

/// What, health check, machine, node, and what is expected.
type Case<'a> = (
    &'a str,
    &'a MachineCheck,
    &'a MachineFacts,
    TargetNode,
    Box<dyn Fn(&Need) -> bool>,
);

#[test]
fn judges_machines() {
    let healthy = |need: &Need| *need == Need::Healthy;
    let sick = |need: &Need| matches!(need, Need::Remediation { .. });
    let until = |seconds: i64| {
        let moment = at(seconds)
            .checked_add(jiff::SignedDuration::from_millis(1))
            .unwrap();
        move |need: &Need| matches!(need, Need::Soon { until, .. } if *until == moment)
    };
    let check_of = check(spec());
    let forever = check(with(spec(), "nodeStartupTimeout", json!("0")));
    let plain = machine("m", Some("n"));
    let none = machine("m", None);
    let failed = MachineFacts {
        failed: true,
        ..none.clone()
    };
    let old = MachineFacts {
        last_updated: Some(at(-601)),
        ..none.clone()
    };
    let undated = MachineFacts {
        last_updated: None,
        ..none.clone()
    };
    let cases: Vec<Case<'_>> = vec![
        (
            "ready",
            &check_of,
            &plain,
            existing("n", "True", 99),
            Box::new(healthy),
        ),
        (
            "not ready",
            &check_of,
            &plain,
            existing("n", "False", 11),
            Box::new(sick),
        ),
        (
            "not for long",
            &check_of,
            &plain,
            existing("n", "False", 4),
            Box::new(until(6)),
        ),
        (
            "any rule is enough",
            &check_of,
            &plain,
            existing("n", "Unknown", 21),
            Box::new(sick),
        ),
        (
            "node gone",
            &check_of,
            &plain,
            TargetNode::Missing("n".to_owned()),
            Box::new(sick),
        ),
        (
            "no node yet",
            &check_of,
            &none,
            TargetNode::None,
            Box::new(until(600)),
        ),
        (
            "no node in time",
            &check_of,
            &old,
            TargetNode::None,
            Box::new(sick),
        ),
        (
            "no time known",
            &check_of,
            &undated,
            TargetNode::None,
            Box::new(until(600)),
        ),
        (
            "startup not checked",
            &forever,
            &old,
            TargetNode::None,
            Box::new(healthy),
        ),
        (
            "failed, no node",
            &forever,
            &failed,
            TargetNode::None,
            Box::new(sick),
        ),
        (
            "failed, healthy node",
            &check_of,
            &failed,
            existing("n", "True", 99),
            Box::new(sick),
        ),
    ];
    for (what, check, machine, node, expected) in cases {
        let need = judge(check, machine, &node, noon());
        assert!(expected(&need), "{what}: {need:?}");
    }
}

#[test]
fn the_gate_of_the_wanted_version_decides() {
    let gates = |list: Value| -> FeatureGate {
        serde_json::from_value(json!({
            "apiVersion": "config.openshift.io/v1", "kind": "FeatureGate",
            "metadata": {"name": "cluster"}, "status": {"featureGates": list},
        }))
        .unwrap()
    };
    let version = |status: Value| -> ClusterVersion {
        serde_json::from_value(json!({
            "apiVersion": "config.openshift.io/v1", "kind": "ClusterVersion",
            "metadata": {"name": "version"}, "status": status,
        }))
        .unwrap()
    };
    let name = json!({"name": DISABLE_MHC_FEATURE_GATE});
    let listed = gates(json!([
        {"version": "4.1", "enabled": [], "disabled": [name]},
        {"version": "4.2", "enabled": [{"name": "X"}, name]},
    ]));
    for (status, expected) in [
        (json!({"desired": {"version": "4.2"}}), Some(true)),
        (json!({"desired": {"version": "4.1"}}), Some(false)),
        (json!({"desired": {"version": "4.3"}}), None),
        (
            json!({"history": [{"version": "4.2"}, {"version": "4.1"}]}),
            Some(true),
        ),
        (
            json!({"desired": {"version": ""}, "history": [{"version": "4.1"}]}),
            Some(false),
        ),
        (json!({}), None),
    ] {
        let version = version(status.clone());
        assert_eq!(
            are_ours(Some(&listed), Some(&version)),
            expected,
            "{status}"
        );
        assert_eq!(are_ours(None, Some(&version)), None);
    }
    assert_eq!(are_ours(Some(&listed), None), None);
}

/// Machines `m1`.. with nodes `n1`.., all healthy.
fn seen(spec: Value, machines: usize) -> MachinesObserved {
    let check = Arc::new(check(spec));
    MachinesObserved {
        owner: check.owner(),
        check,
        status: MachineHealthCheckStatus::default(),
        targets: (1..=machines)
            .map(|number| {
                let name = format!("n{number}");
                Target {
                    machine: Arc::new(machine(&format!("m{number}"), Some(&name))),
                    node: existing(&name, "True", 999),
                }
            })
            .collect(),
        remediations: Vec::new(),
        template: TemplateState::Valid,
        unknown: None,
        control_plane: ControlPlane::default(),
        leases: BTreeMap::new(),
        shares_holder: false,
        refusals: BTreeMap::new(),
    }
}

use medik8s_api::foreign::MachineHealthCheckStatus;

fn break_node(seen: &mut MachinesObserved, index: usize) {
    let name = format!("n{}", index + 1);
    seen.targets[index].node = existing(&name, "False", 60);
}

fn own(seen: &MachinesObserved, machine: &str, node: &str) -> Remediation {
    Remediation {
        name: machine.to_owned(),
        namespace: "machines".to_owned(),
        owners: vec![seen.owner.clone()],
        ..remediation("Foo", "foo", node, at(-5))
    }
}

fn created(plan: &MachinePlan) -> Vec<&str> {
    plan.steps
        .iter()
        .filter_map(|step| {
            let Step::Create(creation) = step else {
                return None;
            };
            Some(creation.subject())
        })
        .collect()
}

fn make(seen: &MachinesObserved) -> MachinePlan {
    plan(seen, noon()).unwrap()
}

#[test]
fn a_sick_machine_gets_a_remediation_of_its_name() {
    let mut seen = seen(spec(), 3);
    break_node(&mut seen, 1);
    let plan = make(&seen);
    let [Step::Create(creation)] = plan.steps.as_slice() else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(creation.node, "n2");
    assert_eq!(creation.machine.as_ref().unwrap().name, "m2");
    assert_eq!(creation.lease, secs(660));
    let status = &plan.status;
    assert_eq!(
        (status.expected_machines, status.current_healthy),
        (Some(3), Some(2))
    );
    assert_eq!(status.remediations_allowed, Some(2), "unset means all");
    let allowed = &status.conditions.as_ref().unwrap()[0];
    assert_eq!(
        (allowed.type_.as_str(), allowed.status.as_str()),
        ("RemediationAllowed", "True")
    );
    let one = own(&seen, "m2", "n2");
    seen.remediations.push(Arc::new(one));
    seen.status = plan.status;
    let again = make(&seen);
    assert!(again.steps.is_empty() && again.status == seen.status);
}

/// Section 18, defect 7: the original dereferences a node that is not there.
#[test]
fn defect_07_machines_without_a_node_are_handled() {
    for node in [TargetNode::None, TargetNode::Missing("n1".to_owned())] {
        for startup in ["0", "10m"] {
            let mut seen = seen(with(spec(), "nodeStartupTimeout", json!(startup)), 2);
            let mut failed = machine("m1", None);
            failed.failed = true;
            seen.targets[0] = Target {
                machine: Arc::new(failed),
                node: node.clone(),
            };
            assert_eq!(created(&make(&seen)), ["m1"]);
        }
    }
}

#[test]
fn too_many_unhealthy_machines_short_circuit() {
    for (maximum, sick, allowed) in [
        (json!("40%"), 2, true),
        (json!("40%"), 3, false),
        (json!("39%"), 2, false),
        (json!("3"), 3, true),
        (json!(-1), 1, false),
        (json!(0), 1, false),
        (Value::Null, 5, true),
        (json!("what"), 1, false),
    ] {
        let mut seen = seen(with(spec(), "maxUnhealthy", maximum.clone()), 5);
        for index in 0..sick {
            break_node(&mut seen, index);
        }
        let plan = make(&seen);
        assert_eq!(
            created(&plan).len(),
            if allowed { sick } else { 0 },
            "{maximum} {sick}"
        );
        assert_eq!(plan.short_circuit, !allowed, "{maximum} {sick}");
        let condition = &plan.status.conditions.as_ref().unwrap()[0];
        let reason = (!allowed).then_some("TooManyUnhealthy");
        assert_eq!(condition.reason.as_deref(), reason, "{maximum} {sick}");
        let told = plan
            .notices
            .keys()
            .any(|topic| topic.reason == "RemediationSkipped");
        assert_eq!(told, !allowed);
    }
}

/// S1: the holder of a lease has no namespace.
#[test]
fn leases_of_another_health_check_of_the_name_are_left_alone() {
    let mut seen = seen(spec(), 2);
    let held = HeldLease {
        node_uid: None,
        acquired: Some(noon()),
        renewed: Some(noon()),
        duration: Some(secs(660)),
    };
    seen.leases.insert("elsewhere".to_owned(), held);
    seen.shares_holder = true;
    assert!(make(&seen).steps.is_empty());
    seen.shares_holder = false;
    assert_eq!(
        make(&seen).steps,
        [Step::ReleaseLease {
            node: "elsewhere".to_owned()
        }]
    );
}

#[test]
fn a_recovered_machine_is_let_go() {
    let mut seen = seen(spec(), 2);
    let mut one = own(&seen, "m1", "n1");
    seen.remediations.push(Arc::new(one.clone()));
    let held = HeldLease {
        node_uid: Some("n1-uid".to_owned()),
        acquired: Some(noon()),
        renewed: Some(noon()),
        duration: Some(secs(660)),
    };
    seen.leases.insert("n1".to_owned(), held);
    let plan = make(&seen);
    assert!(matches!(
        plan.steps.as_slice(),
        [Step::Delete {
            cause: Removal::Recovered,
            ..
        }]
    ));
    assert_eq!(plan.status.current_healthy, Some(2), "counted at once");
    one.deleting_since = Some(noon());
    seen.remediations = vec![Arc::new(one)];
    assert!(make(&seen).steps.is_empty());
    seen.remediations.clear();
    assert_eq!(
        make(&seen).steps,
        [Step::ReleaseLease {
            node: "n1".to_owned()
        }]
    );
}

#[test]
fn remediations_of_machines_that_are_gone_end() {
    let mut seen = seen(spec(), 1);
    let mut one = own(&seen, "gone", "n9");
    seen.remediations.push(Arc::new(one.clone()));
    assert!(matches!(
        make(&seen).steps.as_slice(),
        [Step::Delete {
            cause: Removal::MachineGone,
            ..
        }]
    ));
    // A.10: the lease is given back when the remediation is gone, not when that begins.
    let held = HeldLease {
        node_uid: None,
        acquired: Some(noon()),
        renewed: Some(noon()),
        duration: Some(secs(660)),
    };
    seen.leases.insert("n9".to_owned(), held);
    assert!(matches!(
        make(&seen).steps.as_slice(),
        [Step::Delete { .. }]
    ));
    one.deleting_since = Some(noon());
    seen.remediations = vec![Arc::new(one.clone())];
    assert!(make(&seen).steps.is_empty());
    seen.remediations.clear();
    assert_eq!(
        make(&seen).steps,
        [Step::ReleaseLease {
            node: "n9".to_owned()
        }]
    );
    seen.leases.clear();
    one.deleting_since = None;
    one.node_deletion_expected = true;
    seen.remediations = vec![Arc::new(one.clone())];
    assert!(
        make(&seen).steps.is_empty(),
        "the machine's end is part of the cure"
    );
    one.succeeded = Some(Status::True);
    seen.remediations = vec![Arc::new(one)];
    assert_eq!(make(&seen).steps.len(), 1);
}

#[test]
fn what_is_in_the_way_is_respected() {
    let sick = || {
        let mut seen = seen(spec(), 3);
        break_node(&mut seen, 0);
        seen
    };
    let mut foreign = sick();
    let one = Remediation {
        owners: vec![],
        ..own(&foreign, "m1", "n1")
    };
    foreign.remediations.push(Arc::new(one));
    assert!(created(&make(&foreign)).is_empty(), "somebody else's");
    let mut terminating = sick();
    let one = Remediation {
        deleting_since: Some(noon()),
        ..own(&terminating, "m1", "n1")
    };
    terminating.remediations.push(Arc::new(one));
    assert!(
        created(&make(&terminating)).is_empty(),
        "still being deleted"
    );
    let mut template = sick();
    template.template = TemplateState::NotFound("gone".to_owned());
    assert!(created(&make(&template)).is_empty());
    let mut unknown = sick();
    unknown.unknown = Some("not listed".to_owned());
    assert!(created(&make(&unknown)).is_empty());
    let mut deleting = sick();
    Arc::make_mut(&mut deleting.targets[0].machine).deleting = true;
    assert!(
        created(&make(&deleting)).is_empty(),
        "the machine is being deleted"
    );
    let mut excluded = sick();
    let mut labelled = node("n1", "False", at(-60));
    labelled.labels.insert(
        "remediation.medik8s.io/exclude-from-remediation".to_owned(),
        "true".to_owned(),
    );
    excluded.targets[0].node = TargetNode::Exists(Arc::new(labelled));
    assert!(created(&make(&excluded)).is_empty());
}

/// S2, for machines as well.
#[test]
fn control_plane_machines_are_remediated_one_at_a_time() {
    let mut seen = seen(spec(), 3);
    for index in 0..2 {
        let mut facts = node(&format!("n{}", index + 1), "False", at(-60));
        facts
            .labels
            .insert("node-role.kubernetes.io/master".to_owned(), String::new());
        seen.targets[index].node = TargetNode::Exists(Arc::new(facts));
    }
    let plan = make(&seen);
    assert_eq!(created(&plan), ["m1"]);
    assert!(plan.waits_for_control_plane);
    seen.control_plane
        .remediated
        .insert("elsewhere".to_owned(), true);
    assert!(created(&make(&seen)).is_empty());
}

/// S2: what a machine is for does not depend on its node.
#[test]
fn a_control_plane_machine_without_a_node_counts_as_well() {
    for node in [TargetNode::None, TargetNode::Missing("n1".to_owned())] {
        let mut seen = seen(spec(), 1);
        let mut failed = machine("m1", None);
        failed.failed = true;
        failed
            .labels
            .insert(ROLE_LABEL.to_owned(), CONTROL_PLANE_ROLE.to_owned());
        seen.targets[0] = Target {
            machine: Arc::new(failed),
            node,
        };
        assert_eq!(created(&make(&seen)), ["m1"]);
        seen.control_plane
            .remediated
            .insert("elsewhere".to_owned(), true);
        let plan = make(&seen);
        assert!(created(&plan).is_empty() && plan.waits_for_control_plane);
    }
}

#[test]
fn an_overdue_remediation_is_told_to_stop_once_and_gives_its_lease_back() {
    let mut seen = seen(spec(), 2);
    break_node(&mut seen, 0);
    let mut one = own(&seen, "m1", "n1");
    seen.remediations.push(Arc::new(one.clone()));
    let held = HeldLease {
        node_uid: Some("n1-uid".to_owned()),
        acquired: Some(at(-1801)),
        renewed: Some(at(-10)),
        duration: Some(secs(660)),
    };
    seen.leases.insert("n1".to_owned(), held);
    assert!(matches!(
        make(&seen).steps.as_slice(),
        [Step::TimeOut { .. }]
    ));
    one.timed_out = Some(noon().to_string());
    seen.remediations = vec![Arc::new(one)];
    assert_eq!(
        make(&seen).steps,
        [Step::ReleaseLease {
            node: "n1".to_owned()
        }]
    );
    seen.leases.clear();
    assert!(make(&seen).steps.is_empty());
}

#[test]
fn paused_and_templateless_checks_do_nothing() {
    let mut without = seen(with(spec(), "remediationTemplate", Value::Null), 2);
    break_node(&mut without, 0);
    assert!(plan(&without, noon()).is_none());
    let mut paused = seen(spec(), 2);
    break_node(&mut paused, 0);
    Arc::make_mut(&mut paused.check).paused = true;
    assert!(plan(&paused, noon()).is_none());
}
