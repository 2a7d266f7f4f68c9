#![expect(clippy::needless_pass_by_value, reason = "tests build values in place")]

use serde_json::{Value, json};

use super::*;

fn check(conditions: Value) -> Arc<MachineHealthCheck> {
    Arc::new(
        serde_json::from_value(json!({
            "apiVersion": "machine.openshift.io/v1beta1", "kind": "MachineHealthCheck",
            "metadata": {"name": "m", "namespace": "n"},
            "spec": {"unhealthyConditions": conditions},
        }))
        .unwrap(),
    )
}

#[test]
fn only_one_termination_handler_leaves_room_for_us() {
    let terminating = || check(json!([{"type": "Terminating", "status": "True", "timeout": "0s"}]));
    let ready = || check(json!([{"type": "Ready", "status": "False", "timeout": "5m"}]));
    for (list, expected) in [
        (vec![], MachineHealthChecks::None),
        (vec![terminating()], MachineHealthChecks::TerminationOnly),
        (vec![ready()], MachineHealthChecks::Custom),
        (vec![check(json!([]))], MachineHealthChecks::Custom),
        (
            vec![check(json!([
                {"type": "Terminating", "status": "True", "timeout": "0s"},
                {"type": "Ready", "status": "False", "timeout": "5m"},
            ]))],
            MachineHealthChecks::Custom,
        ),
        (
            vec![terminating(), terminating()],
            MachineHealthChecks::Custom,
        ),
    ] {
        assert_eq!(machine_health_checks(&list), expected);
    }
}

#[test]
fn a_cluster_version_that_progresses_is_an_upgrade() {
    for (conditions, expected) in [
        (json!([{"type": "Progressing", "status": "True"}]), true),
        (json!([{"type": "Progressing", "status": "False"}]), false),
        (json!([{"type": "Available", "status": "True"}]), false),
        (json!(null), false),
    ] {
        let version: ClusterVersion = serde_json::from_value(json!({
            "apiVersion": "config.openshift.io/v1", "kind": "ClusterVersion",
            "metadata": {"name": "version"}, "status": {"conditions": conditions},
        }))
        .unwrap();
        assert_eq!(upgrading(&version).is_some(), expected, "{conditions}");
    }
}
