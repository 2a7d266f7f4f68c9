//! OpenShift: MachineHealthChecks, upgrades, etcd, owners.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use medik8s_api::foreign::{
    ClusterVersion, ClusterVersionSpec, FeatureGate, FeatureGateSpec, Infrastructure, Machine,
    MachineHealthCheck, MachineSpec,
};
use medik8s_core::conditions::Status;
use medik8s_testing::build::{NodeExt, node};
use medik8s_testing::fake::{Failure, Fault};
use medik8s_testing::wire::Recorded;
use serde_json::{Value, json};

use super::lab::*;

const MACHINES: &str = "openshift-machine-api";

/// A lab on OpenShift with the Machine API.
fn openshift(nodes: usize) -> Lab {
    let lab = Lab::new(nodes);
    lab.api.add_namespace(MACHINES);
    lab.api.add_namespace("openshift-etcd");
    lab.api.add_kind::<Machine>();
    lab.api.add_kind::<MachineHealthCheck>();
    lab.api.put(&read::<Infrastructure>(json!({
        "metadata": {"name": "cluster"}, "status": {"controlPlaneTopology": "HighlyAvailable"},
    })));
    lab.api.put(&version(false));
    lab.api.put(&gates(false));
    lab
}

fn read<K: serde::de::DeserializeOwned>(value: Value) -> K {
    let mut value = value;
    for (field, text) in [("apiVersion", "x/v1"), ("kind", "X")] {
        value[field] = json!(text);
    }
    serde_json::from_value(value).unwrap()
}

fn version(progressing: bool) -> ClusterVersion {
    let status = if progressing { "True" } else { "False" };
    let mut version = ClusterVersion::new("version", ClusterVersionSpec::default());
    version.status = serde_json::from_value(json!({
        "desired": {"version": "4.20"}, "conditions": [{"type": "Progressing", "status": status}],
    }))
    .unwrap();
    version
}

fn gates(ours: bool) -> FeatureGate {
    let list = json!([{"name": "MachineAPIOperatorDisableMachineHealthCheckController"}]);
    let field = if ours { "enabled" } else { "disabled" };
    let mut gates = FeatureGate::new("cluster", FeatureGateSpec::default());
    gates.status =
        serde_json::from_value(json!({"featureGates": [{"version": "4.20", field: list}]}))
            .unwrap();
    gates
}

fn machine_check(lab: &Lab, conditions: Value) {
    let mut check = MachineHealthCheck::new(
        "mhc",
        serde_json::from_value(json!({
            "selector": {}, "unhealthyConditions": conditions,
            "remediationTemplate": {"apiVersion": API, "kind": "FooTemplate", "name": "foo"},
        }))
        .unwrap(),
    );
    check.metadata.namespace = Some(MACHINES.to_owned());
    lab.api.put(&check);
    lab.api.put_value(json!({
        "apiVersion": API, "kind": "FooTemplate", "metadata": {"name": "foo", "namespace": MACHINES},
        "spec": {"template": {"spec": {}}},
    }));
}

fn put_machine(lab: &Lab, name: &str, node: Option<&str>, phase: &str) {
    let mut machine = Machine::new(name, MachineSpec::default());
    machine.metadata.namespace = Some(MACHINES.to_owned());
    machine.status = serde_json::from_value(json!({
        "phase": phase, "nodeRef": node.map(|name| json!({"name": name})),
        "lastUpdated": "2026-03-04T12:00:00Z",
    }))
    .unwrap();
    lab.api.put(&machine);
}

#[tokio::test(start_paused = true)]
async fn a_custom_machine_health_check_disables_until_it_is_gone() {
    let lab = openshift(3);
    lab.put_check("nhc", single());
    machine_check(
        &lab,
        json!([{"type": "Ready", "status": "False", "timeout": "5m"}]),
    );
    let _operator = lab.start();
    lab.until("disabled", 5, |lab| lab.phase("nhc") == "Disabled")
        .await;
    assert!(
        lab.reason("nhc")
            .contains("ConflictingMachineHealthCheckDetected")
    );
    lab.break_node("w1");
    lab.seconds(10).await;
    assert!(lab.remediations().is_empty());
    lab.api.delete::<MachineHealthCheck>(Some(MACHINES), "mhc");
    lab.until("enabled", 5, |lab| lab.phase("nhc") == "Remediating")
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_postpones() {
    let lab = openshift(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.until("enabled", 5, |lab| lab.phase("nhc") == "Enabled")
        .await;
    lab.api.put(&version(true));
    lab.break_node("w1");
    lab.until("postponed", 10, |lab| {
        lab.reason("nhc").contains("is being upgraded")
    })
    .await;
    assert_eq!(
        (lab.status("nhc").observed_nodes, lab.remediations().len()),
        (Some(0), 0)
    );
    lab.until("told", 5, |lab| lab.told("RemediationSkipped") == 1)
        .await;
    lab.api.put(&version(false));
    lab.until("at once", 2, |lab| lab.names("Foo") == ["w1"])
        .await;
}

/// S3, section 10: a new leader knows of the upgrade before it does anything.
#[tokio::test(start_paused = true)]
async fn an_upgrade_postpones_also_the_first_pass() {
    for (late, created) in [(true, false), (false, true)] {
        let lab = openshift(3);
        lab.put_check("nhc", single());
        lab.api.put(&version(true));
        lab.break_node("w1");
        lab.seconds(10).await;
        let versions = |request: &Recorded| request.path.ends_with("/clusterversions");
        if late {
            // The list of them takes its time.
            lab.api.inject(Fault::on(
                versions,
                Failure::Late(std::time::Duration::from_secs(3)),
            ));
        } else {
            // Nobody waits for ever.
            lab.api
                .inject(Fault::on(versions, Failure::Hang).times(1000));
        }
        let _operator = lab.start();
        lab.seconds(20).await;
        assert_eq!(!lab.names("Foo").is_empty(), created, "{late}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unsupported_topology_disables() {
    let lab = openshift(3);
    lab.api
        .update::<Infrastructure>(None, "cluster", |cluster| {
            cluster.status.as_mut().unwrap().control_plane_topology =
                Some("DualReplica".to_owned());
        });
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.until("disabled", 5, |lab| lab.phase("nhc") == "Disabled")
        .await;
    assert!(
        lab.reason("nhc")
            .contains("topology DualReplica is not supported")
    );
}

/// Three control-plane nodes under one health check.
fn put_control_plane(lab: &Lab) {
    for name in ["cp1", "cp2", "cp3"] {
        lab.api
            .put(&node(name).control_plane().ready(lab.ago(3600)));
    }
    let selector = json!({"matchLabels": {"node-role.kubernetes.io/control-plane": ""}});
    lab.put_check("nhc", with(single(), "selector", selector));
}

/// The budget of etcd's guards, and the guard on cp1.
fn put_etcd_guard(lab: &Lab, allowed: i32, guard_ready: &str) {
    let mut budget: PodDisruptionBudget = serde_json::from_value(json!({
        "metadata": {"name": "etcd-guard-pdb", "namespace": "openshift-etcd"},
        "spec": {"selector": {"matchLabels": {"app": "guard"}}},
    }))
    .unwrap();
    budget.status = serde_json::from_value(json!({
        "disruptionsAllowed": allowed, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3,
    }))
    .unwrap();
    lab.api.put(&budget);
    let guard: Pod = serde_json::from_value(json!({
        "metadata": {"name": "guard", "namespace": "openshift-etcd", "labels": {"app": "guard"}},
        "spec": {"nodeName": "cp1", "containers": []},
        "status": {"conditions": [{"type": "Ready", "status": guard_ready}]},
    }))
    .unwrap();
    lab.api.put(&guard);
}

/// 8.2.1 (i): only a remediation with the label says that etcd was asked before.
#[tokio::test(start_paused = true)]
async fn a_remediation_by_hand_opens_no_way_around_etcd() {
    let lab = openshift(0);
    put_control_plane(&lab);
    put_etcd_guard(&lab, 0, "True");
    lab.api.put_value(json!({
        "apiVersion": API, "kind": "Foo",
        "metadata": {"name": "by-hand", "namespace": NAMESPACE, "annotations": {NODE_NAME: "cp1"}},
        "spec": {},
    }));
    let _operator = lab.start();
    lab.seconds(1).await;
    lab.break_node("cp1");
    lab.until("refused", 10, |lab| {
        lab.reason("nhc").contains("etcd guard: LiveMember")
    })
    .await;
    lab.seconds(70).await;
    assert_eq!(lab.names("Foo"), ["by-hand"]);
}

/// S2 across health checks of both kinds, for a machine that never got a node.
#[tokio::test(start_paused = true)]
async fn a_control_plane_machine_without_a_node_waits_for_the_others() {
    let lab = openshift(0);
    lab.api.put(&gates(true));
    put_control_plane(&lab);
    put_etcd_guard(&lab, 1, "True");
    machine_check(&lab, json!([]));
    let _operator = lab.start_with(true);
    lab.seconds(1).await;
    lab.break_node("cp2");
    lab.until("the node's turn", 10, |lab| lab.remediated() == ["cp2"])
        .await;
    let mut machine = Machine::new("m1", MachineSpec::default());
    machine.metadata.namespace = Some(MACHINES.to_owned());
    let role = "machine.openshift.io/cluster-api-machine-role".to_owned();
    machine.metadata.labels = Some([(role, "master".to_owned())].into());
    machine.status = serde_json::from_value(json!({"phase": "Failed"})).unwrap();
    lab.api.put(&machine);
    lab.seconds(70).await;
    assert!(names(&lab).is_empty());
    lab.heal_node("cp2");
    lab.until("the machine's turn", 70, |lab| names(lab) == ["m1"])
        .await;
    lab.break_node("cp3");
    lab.until("the other way round", 10, |lab| {
        lab.reason("nhc")
            .contains("control plane node m1 is being remediated")
    })
    .await;
    lab.seconds(70).await;
    assert_eq!(names(&lab), ["m1"]);
    assert!(lab.remediated().iter().all(|name| name != "cp3"));
}

#[tokio::test(start_paused = true)]
async fn etcd_is_asked_before_a_control_plane_node_is_remediated() {
    for (allowed, guard_ready, created) in [
        (1, "True", true),
        (0, "True", false),
        (0, "Unknown", false),
        (0, "False", true),
    ] {
        let lab = openshift(0);
        put_control_plane(&lab);
        put_etcd_guard(&lab, allowed, guard_ready);
        let _operator = lab.start();
        lab.seconds(1).await;
        lab.set_ready("cp1", Status::Unknown);
        lab.seconds(10).await;
        assert_eq!(
            lab.names("Foo").len(),
            usize::from(created),
            "{allowed} {guard_ready}"
        );
        if !created {
            assert!(
                lab.reason("nhc").contains("etcd guard: LiveMember"),
                "{}",
                lab.reason("nhc")
            );
            assert!(lab.leases().is_empty(), "refused before the lease is taken");
            lab.api.update::<PodDisruptionBudget>(
                Some("openshift-etcd"),
                "etcd-guard-pdb",
                |budget| budget.status.as_mut().unwrap().disruptions_allowed = 1,
            );
            lab.until("asked again", 70, |lab| lab.names("Foo").len() == 1)
                .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_machine_of_a_node_owns_its_remediation_if_it_lives_beside() {
    let lab = openshift(3);
    lab.put_check("nhc", single());
    let machine = |name: &str, namespace: &str| {
        let mut machine = Machine::new(name, MachineSpec::default());
        machine.metadata.namespace = Some(namespace.to_owned());
        lab.api.put(&machine);
    };
    machine("m1", NAMESPACE);
    machine("m2", MACHINES);
    for (name, reference) in [
        ("w1", format!("{NAMESPACE}/m1")),
        ("w2", format!("{MACHINES}/m2")),
        ("w3", format!("{NAMESPACE}/missing")),
    ] {
        lab.api
            .update::<k8s_openapi::api::core::v1::Node>(None, name, |node| {
                let annotations = node.metadata.annotations.get_or_insert_default();
                annotations.insert("machine.openshift.io/machine".to_owned(), reference.clone());
            });
    }
    let _operator = lab.start();
    for (name, owners) in [("w1", 2), ("w2", 1), ("w3", 1)] {
        lab.break_node(name);
        lab.until("created", 10, |lab| lab.names("Foo") == [name])
            .await;
        let found = lab.remediation("Foo", name).unwrap();
        assert_eq!(
            found["metadata"]["ownerReferences"]
                .as_array()
                .unwrap()
                .len(),
            owners,
            "{name}"
        );
        lab.heal_node(name);
        lab.until("healed", 10, |lab| lab.names("Foo").is_empty())
            .await;
    }
}

fn names(lab: &Lab) -> Vec<String> {
    use kube::ResourceExt;
    lab.api
        .list::<Foo>()
        .iter()
        .filter(|one| one.namespace().as_deref() == Some(MACHINES))
        .map(ResourceExt::name_any)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn defect_07_a_gate_that_goes_on_off_and_on_is_followed() {
    let lab = openshift(3);
    for number in 1..=3 {
        put_machine(
            &lab,
            &format!("m{number}"),
            Some(&format!("w{number}")),
            "Running",
        );
    }
    machine_check(
        &lab,
        json!([{"type": "Ready", "status": "Unknown", "timeout": "3s"}]),
    );
    let operator = lab.start();
    lab.seconds(1).await;
    lab.break_node("w1");
    lab.seconds(10).await;
    assert!(
        names(&lab).is_empty(),
        "the platform's own controller works on it"
    );
    assert!(!operator.metrics.text().unwrap().contains("mapi_"));
    lab.api.put(&gates(true));
    lab.until("created", 5, |lab| names(lab) == ["m1"]).await;
    let found = lab.api.get::<Foo>(Some(MACHINES), "m1").unwrap().metadata;
    assert_eq!(found.annotations.unwrap()[NODE_NAME], "w1");
    assert_eq!(found.owner_references.unwrap().len(), 2);
    assert_eq!(
        lab.leases(),
        [("node-w1".to_owned(), "MachineHealthCheck-mhc".to_owned())]
    );
    let status = || {
        lab.api
            .get::<MachineHealthCheck>(Some(MACHINES), "mhc")
            .unwrap()
            .status
            .unwrap()
    };
    assert_eq!(
        (status().current_healthy, status().expected_machines),
        (Some(2), Some(3))
    );
    let text = operator.metrics.text().unwrap();
    assert!(text.contains(
        "mapi_machinehealthcheck_nodes_covered{name=\"mhc\",namespace=\"openshift-machine-api\"} 3"
    ));
    // Off and on again.
    lab.api.put(&gates(false));
    lab.seconds(2).await;
    lab.heal_node("w1");
    lab.seconds(5).await;
    assert_eq!(names(&lab), ["m1"]);
    lab.api.put(&gates(true));
    lab.until("let go", 5, |lab| {
        names(lab).is_empty() && lab.leases().is_empty()
    })
    .await;
    let text = operator.metrics.text().unwrap();
    assert!(text.contains("mapi_machinehealthcheck_remediation_success_total{name=\"mhc\",namespace=\"openshift-machine-api\"} 1"));
    // A machine that failed before it had a node.
    put_machine(&lab, "m4", None, "Failed");
    lab.until("created without a node", 5, |lab| names(lab) == ["m4"])
        .await;
    let found = lab.api.get::<Foo>(Some(MACHINES), "m4").unwrap().metadata;
    assert_eq!(
        found.annotations.unwrap()[NODE_NAME],
        "",
        "as the contract has it"
    );
    assert!(lab.leases().is_empty(), "no node, no lease");
    lab.api.remove::<Machine>(Some(MACHINES), "m4");
    lab.until("gone with its machine", 5, |lab| names(lab).is_empty())
        .await;
}

/// The original ends when nothing is said about feature gates within a minute.
#[tokio::test(start_paused = true)]
async fn defect_10_missing_feature_gates_end_nothing() {
    let lab = openshift(3);
    lab.api.remove::<FeatureGate>(None, "cluster");
    lab.api.remove::<ClusterVersion>(None, "version");
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.seconds(120).await;
    lab.break_node("w1");
    lab.until("created", 10, |lab| lab.names("Foo") == ["w1"])
        .await;
}

/// What must be known first and cannot be read is said, instead of doing nothing in silence.
#[tokio::test(start_paused = true)]
async fn a_topology_that_cannot_be_read_is_said() {
    let lab = openshift(3);
    lab.api.remove::<Infrastructure>(None, "cluster");
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("said", 20, |lab| {
        lab.reason("nhc")
            .contains("control plane topology cannot be read")
    })
    .await;
    assert!(lab.remediations().is_empty());
    lab.api.put(&read::<Infrastructure>(json!({
        "metadata": {"name": "cluster"}, "status": {"controlPlaneTopology": "SingleReplica"},
    })));
    lab.until("at work", 60, |lab| lab.names("Foo") == ["w1"])
        .await;
}

/// Machines without MachineHealthChecks: nobody else looks after nodes.
#[tokio::test(start_paused = true)]
async fn machines_without_health_checks_block_nothing() {
    let lab = Lab::new(3);
    lab.api.add_namespace(MACHINES);
    lab.api.add_kind::<Machine>();
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("created", 10, |lab| lab.names("Foo") == ["w1"])
        .await;
    // They come later.
    lab.api.add_kind::<MachineHealthCheck>();
    machine_check(
        &lab,
        json!([{"type": "Ready", "status": "False", "timeout": "5m"}]),
    );
    lab.until("disabled", 70, |lab| lab.phase("nhc") == "Disabled")
        .await;
}

const METAL3: &str = "infrastructure.cluster.x-k8s.io/v1beta1";

fn metal3(lab: &Lab, name: &str) -> Option<Value> {
    lab.api
        .get_value(METAL3, "Metal3Remediation", Some(MACHINES), name)
}

/// Metal3 can do nothing without the Machine: the next step gets its turn.
#[tokio::test(start_paused = true)]
async fn metal3_gets_only_nodes_with_a_machine() {
    let lab = openshift(4);
    let kinds = [
        ("Metal3RemediationTemplate", "metal3remediationtemplates"),
        ("Metal3Remediation", "metal3remediations"),
    ];
    for (kind, plural) in kinds {
        lab.api.add_dynamic_kind(METAL3, kind, plural, true);
    }
    lab.api.put_value(json!({
        "apiVersion": METAL3, "kind": "Metal3RemediationTemplate",
        "metadata": {"name": "metal3-remediation", "namespace": MACHINES},
        "spec": {"template": {"spec": {"strategy": {"type": "Reboot", "retryLimit": 1}}}},
    }));
    let template = json!({"apiVersion": METAL3, "kind": "Metal3RemediationTemplate",
        "namespace": MACHINES, "name": "metal3-remediation"});
    let mut spec = with(two_steps(), "minHealthy", json!(0));
    spec["escalatingRemediations"][1]["remediationTemplate"] = template.clone();
    lab.put_check("nhc", spec);
    put_machine(&lab, "m1", Some("w1"), "Running");
    for (node, machine) in [("w1", "m1"), ("w2", "missing")] {
        lab.api
            .update::<k8s_openapi::api::core::v1::Node>(None, node, |node| {
                let annotations = node.metadata.annotations.get_or_insert_default();
                let reference = format!("{MACHINES}/{machine}");
                annotations.insert("machine.openshift.io/machine".to_owned(), reference);
            });
    }
    let _operator = lab.start();
    for node in ["w1", "w2", "w3"] {
        lab.break_node(node);
    }
    lab.until("the others got the second step", 10, |lab| {
        lab.names("Bar") == ["w2", "w3"]
    })
    .await;
    let found = metal3(&lab, "w1").unwrap();
    let owners = found["metadata"]["ownerReferences"].as_array().unwrap();
    let kinds: Vec<&str> = owners
        .iter()
        .map(|one| one["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["NodeHealthCheck", "Machine"]);
    assert!(metal3(&lab, "w2").is_none() && metal3(&lab, "w3").is_none());
    lab.until("told for each", 5, |lab| {
        lab.told("RemediationSkipped") == 2
    })
    .await;
    // The ladder never goes back, also when the Machine appears.
    put_machine(&lab, "missing", Some("w2"), "Running");
    lab.seconds(900).await;
    assert!(metal3(&lab, "w2").is_none());

    // With a single template nothing is created, and that is said.
    lab.put_check("single", {
        let selector = json!({"matchLabels": {"kubernetes.io/hostname": "w4"}});
        let spec = with(with(single(), "minHealthy", json!(0)), "selector", selector);
        with(spec, "remediationTemplate", template)
    });
    lab.break_node("w4");
    lab.until("said", 10, |lab| {
        lab.reason("single")
            .contains("it has no Machine, which Metal3Remediation needs")
    })
    .await;
    assert!(metal3(&lab, "w4").is_none());
}

/// Metal3 deletes the Node in the middle of its work and keeps its object by a finalizer: the node
/// that returns is nobody else's, and not healthy, before the object is gone.
#[tokio::test(start_paused = true)]
async fn a_node_that_returns_belongs_to_its_remediation_until_that_is_gone() {
    let lab = Lab::new(3);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.break_node("w1");
    lab.until("created", 10, |lab| lab.names("Foo") == ["w1"])
        .await;
    lab.edit("Foo", "w1", |one| {
        one["metadata"]["finalizers"] = json!(["remediator/x"]);
    });
    lab.seconds(1).await;
    lab.api
        .delete::<k8s_openapi::api::core::v1::Node>(None, "w1");
    lab.until("deleting", 5, |lab| {
        lab.remediation("Foo", "w1").unwrap()["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    assert_eq!(
        lab.leases().len(),
        1,
        "the lease is kept as long as the object"
    );
    // As garbage collection does, since the lease belongs to the node that is gone.
    lab.api
        .remove::<k8s_openapi::api::coordination::v1::Lease>(Some("medik8s-leases"), "node-w1");
    let again = node("w1").worker().ready(lab.ago(3600));
    lab.api
        .put(&medik8s_testing::build::MetaExt::with_uid(again, "another"));
    lab.until("asked for again", 5, |lab| {
        lab.leases() == [("node-w1".to_owned(), "NodeHealthCheck-nhc".to_owned())]
    })
    .await;
    lab.seconds(30).await;
    assert_eq!(lab.status("nhc").healthy_nodes, Some(2));
    assert_eq!(lab.names("Foo"), ["w1"]);
    lab.api.remove::<Foo>(Some(NAMESPACE), "w1");
    lab.until("healthy", 5, |lab| {
        lab.status("nhc").healthy_nodes == Some(3) && lab.leases().is_empty()
    })
    .await;
}

/// If the administrator wants it so, only health checks over the same nodes are in conflict.
#[tokio::test(start_paused = true)]
async fn machine_health_checks_of_other_nodes_can_be_allowed() {
    let lab = openshift(4);
    let over = |name: &str| {
        let selector = json!({"matchLabels": {"kubernetes.io/hostname": name}});
        with(with(single(), "minHealthy", json!(0)), "selector", selector)
    };
    lab.put_check("same", over("w1"));
    lab.put_check("other", over("w2"));
    put_machine(&lab, "m1", Some("w1"), "Running");
    machine_check(
        &lab,
        json!([{"type": "Ready", "status": "False", "timeout": "5m"}]),
    );
    let _operator = lab.start_with(true);
    lab.until("only one is disabled", 10, |lab| {
        lab.phase("same") == "Disabled" && lab.phase("other") == "Enabled"
    })
    .await;
    // A machine whose node the other selects.
    put_machine(&lab, "m2", Some("w2"), "Running");
    lab.until("both are disabled", 10, |lab| {
        lab.phase("other") == "Disabled"
    })
    .await;
    lab.api.remove::<Machine>(Some(MACHINES), "m1");
    lab.until("the first is enabled", 10, |lab| {
        lab.phase("same") == "Enabled"
    })
    .await;
}

/// S2: what the platform's own controller remediates counts, also a kind that only it uses.
#[tokio::test(start_paused = true)]
async fn remediations_of_allowed_machine_health_checks_count_for_the_control_plane() {
    let lab = openshift(0);
    put_control_plane(&lab);
    put_etcd_guard(&lab, 1, "True");
    for (kind, plural) in [("Late", "lates"), ("LateTemplate", "latetemplates")] {
        lab.api
            .add_dynamic_kind("late.example.com/v1", kind, plural, true);
    }
    let mut check = MachineHealthCheck::new(
        "platform",
        serde_json::from_value(json!({
            "selector": {"matchLabels": {"nothing": "matches"}}, "unhealthyConditions": [],
            "remediationTemplate":
                {"apiVersion": "late.example.com/v1", "kind": "LateTemplate", "name": "late"},
        }))
        .unwrap(),
    );
    check.metadata.namespace = Some(MACHINES.to_owned());
    lab.api.put(&check);
    let mut machine = Machine::new("m1", MachineSpec::default());
    machine.metadata.namespace = Some(MACHINES.to_owned());
    let role = "machine.openshift.io/cluster-api-machine-role".to_owned();
    machine.metadata.labels = Some([(role, "master".to_owned())].into());
    let uid = lab.api.put(&machine).metadata.uid;
    // As the platform's controller names and owns it.
    lab.api.put_value(json!({
        "apiVersion": "late.example.com/v1", "kind": "Late",
        "metadata": {"name": "m1", "namespace": MACHINES, "ownerReferences": [{
            "apiVersion": "machine.openshift.io/v1beta1", "kind": "Machine", "name": "m1", "uid": uid}]},
        "spec": {},
    }));
    let _operator = lab.start_with(true);
    lab.until("enabled", 10, |lab| lab.phase("nhc") == "Enabled")
        .await;
    lab.break_node("cp1");
    lab.until("waits", 10, |lab| {
        lab.reason("nhc")
            .contains("control plane node m1 is being remediated")
    })
    .await;
    lab.seconds(70).await;
    assert!(lab.names("Foo").is_empty());
    lab.api
        .remove_value("late.example.com/v1", "Late", Some(MACHINES), "m1");
    lab.until("its turn", 5, |lab| lab.names("Foo") == ["cp1"])
        .await;
}
