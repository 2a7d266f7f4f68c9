//! What keeps a whole health check from remediating, and what goes on all the same.

use super::*;

/// One node newly sick, one under remediation whose lease needs care, one recovered.
fn busy(spec: Value) -> World {
    let mut world = World::new(with(spec, &[("minHealthy", json!(0))]), 5);
    world.break_node("w2");
    world.break_node("w3");
    world.pass();
    world.advance(400);
    world.break_node("w1");
    world.heal_node("w3");
    world
}

fn close(world: &mut World, gate: &str) {
    let seen = &mut world.seen;
    let template = seen.check.ladder[0].template.clone();
    match gate {
        "mhc" => seen.cluster.machine_health_checks = MachineHealthChecks::Custom,
        "topology" => seen.cluster.unsupported_topology = Some("Odd".to_owned()),
        "missing" => {
            seen.templates
                .insert(template, TemplateState::NotFound("it is gone".to_owned()));
        }
        "invalid" => {
            seen.templates.insert(
                template,
                TemplateState::Invalid("no spec.template".to_owned()),
            );
        }
        "unknown" => {
            seen.templates
                .insert(template, TemplateState::Unknown("no answer".to_owned()));
        }
        "upgrade" => seen.cluster.upgrading = Some("ClusterVersion is progressing".to_owned()),
        "pause" => {
            Arc::make_mut(&mut seen.check).pause_requests = vec!["a".to_owned(), "b".to_owned()];
        }
        _ => panic!("{gate}"),
    }
}

#[test]
fn nothing_new_starts_while_a_gate_is_closed_but_running_things_end_well() {
    for (gate, expected_phase, condition, hidden) in [
        (
            "mhc",
            "Disabled",
            Some("ConflictingMachineHealthCheckDetected"),
            true,
        ),
        (
            "topology",
            "Disabled",
            Some("UnsupportedControlPlaneTopology"),
            true,
        ),
        (
            "missing",
            "Disabled",
            Some("RemediationTemplateNotFound"),
            true,
        ),
        (
            "invalid",
            "Disabled",
            Some("RemediationTemplateInvalid"),
            true,
        ),
        (
            "unknown",
            "Remediating",
            Some("NodeHealthCheckEnabled"),
            false,
        ),
        (
            "upgrade",
            "Remediating",
            Some("NodeHealthCheckEnabled"),
            true,
        ),
        ("pause", "Paused", Some("NodeHealthCheckEnabled"), true),
    ] {
        let mut world = busy(spec());
        close(&mut world, gate);
        let plan = world.pass();
        assert!(creations(&plan).is_empty(), "{gate}");
        assert_eq!(
            world.names(),
            ["w2-foo"],
            "{gate}: the recovered node is let go"
        );
        assert!(
            plan.steps
                .iter()
                .any(|step| matches!(step, Step::RenewLease { node, .. } if node == "w2")),
            "{gate}: the running remediation keeps its lease"
        );
        assert!(!world.seen.leases.contains_key("w3"), "{gate}");
        assert_eq!(phase(&world), expected_phase, "{gate}");
        assert_eq!(counters(&world) == (0, 0), hidden, "{gate}");
        let list = world.seen.status.conditions.clone().unwrap();
        let disabled = medik8s_core::conditions::get(&list, nhc::DISABLED).unwrap();
        assert_eq!(Some(disabled.reason.as_str()), condition, "{gate}");
        assert_eq!(
            disabled.status == "True",
            expected_phase == "Disabled",
            "{gate}"
        );
        assert!(
            reason(&world).contains("not remediating w1"),
            "{gate}: {}",
            reason(&world)
        );
        let told = !announced(&plan).is_empty()
            || plan
                .notices
                .keys()
                .any(|topic| topic.reason == "RemediationSkipped");
        assert!(told, "{gate}: one event says why");
        let again = world.plan();
        assert!(
            again.steps.is_empty() && again.announcements.is_empty(),
            "{gate}"
        );
    }
}

#[test]
fn a_repaired_template_enables_again() {
    let mut world = busy(spec());
    close(&mut world, "missing");
    let plan = world.pass();
    assert_eq!(announced(&plan), ["Disabled"]);
    assert_eq!(
        plan.wake,
        Some(medik8s_core::time::after(world.now, TEMPLATE_RETRY))
    );
    assert_eq!(
        reason(&world),
        "NHC is disabled: RemediationTemplateNotFound: it is gone; not remediating w1, w2"
    );
    let template = world.seen.check.ladder[0].template.clone();
    world.seen.templates.insert(template, TemplateState::Valid);
    let plan = world.pass();
    assert_eq!(announced(&plan), ["Enabled"]);
    assert_eq!(creations(&plan), ["w1"]);
}

#[test]
fn a_second_missing_template_refreshes_the_message() {
    let mut world = World::new(
        escalating(&[("ATemplate", "a", 1, "1m"), ("BTemplate", "b", 2, "1m")]),
        3,
    );
    let (a, b) = {
        let mut templates = world.seen.check.templates().cloned();
        (templates.next().unwrap(), templates.next().unwrap())
    };
    world
        .seen
        .templates
        .insert(b.clone(), TemplateState::NotFound("b is gone".to_owned()));
    world.pass();
    assert!(reason(&world).contains("b is gone"));
    world
        .seen
        .templates
        .insert(a, TemplateState::NotFound("a is gone".to_owned()));
    let plan = world.pass();
    assert!(reason(&world).contains("a is gone"));
    assert_eq!(announced(&plan), ["Disabled"]);
    let list = world.seen.status.conditions.clone().unwrap();
    assert_eq!(
        medik8s_core::conditions::get(&list, nhc::DISABLED)
            .unwrap()
            .observed_generation,
        Some(3)
    );
}

#[test]
fn metal3_templates_must_live_where_machines_live() {
    let template = json!({"apiVersion": "infrastructure.cluster.x-k8s.io/v1beta1",
        "kind": "Metal3RemediationTemplate", "namespace": "elsewhere", "name": "m3"});
    let mut world = World::new(
        with(spec(), &[("remediationTemplate", template.clone())]),
        3,
    );
    world.pass();
    assert!(reason(&world).contains("RemediationTemplateInvalid"));
    let mut right = template;
    right["namespace"] = json!("openshift-machine-api");
    let mut world = World::new(with(spec(), &[("remediationTemplate", right)]), 3);
    world.pass();
    assert_eq!(phase(&world), "Enabled");
}

#[test]
fn a_template_that_cannot_be_read_changes_no_condition() {
    let mut world = World::new(spec(), 3);
    close(&mut world, "missing");
    world.pass();
    close(&mut world, "unknown");
    world.break_node("w1");
    let plan = world.pass();
    assert_eq!(plan.incomplete.as_deref(), Some("no answer"));
    assert_eq!(
        world.condition(nhc::DISABLED),
        Some(Status::True),
        "nothing is known to be repaired"
    );
}

#[test]
fn kinds_that_cannot_be_read_stop_creation_and_keep_their_entries() {
    let mut world = busy(spec());
    let gone: Vec<_> = world.seen.remediations.drain(..).collect();
    world
        .seen
        .unknown_kinds
        .insert(gone[0].kind.clone(), "foos cannot be listed".to_owned());
    let plan = world.pass();
    assert!(
        creations(&plan).is_empty(),
        "a remediation may exist unseen"
    );
    assert!(
        !plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::ReleaseLease { .. }))
    );
    assert!(
        world.entry("w3").is_some(),
        "w3 is healthy, but its remediation may still be there"
    );
    assert_eq!(counters(&world), (5, 2));
    assert!(reason(&world).contains("w3: is healthy, but its remediation cannot be read"));
}

#[test]
fn an_upgrade_is_looked_for_only_while_a_node_is_sick() {
    let mut world = World::new(spec(), 3);
    close(&mut world, "upgrade");
    world.pass();
    assert_eq!(counters(&world), (3, 3));
    world.break_node("w1");
    world.pass();
    assert_eq!(counters(&world), (0, 0));

    let mut world = World::new(spec(), 3);
    world.edit_node("w2", |node| node.config_change_pending = true);
    world.break_node("w1");
    assert_eq!(
        creations(&world.plan()),
        ["w1"],
        "a healthy node's update is not the reason"
    );
    world.edit_node("w1", |node| node.config_change_pending = true);
    assert!(creations(&world.plan()).is_empty());
}

#[test]
fn nodes_that_machine_health_checks_look_after_count_as_healthy() {
    for (checks, terminating, created) in [
        (MachineHealthChecks::None, true, 1),
        (MachineHealthChecks::TerminationOnly, true, 0),
        (MachineHealthChecks::Unknown, true, 0),
        (MachineHealthChecks::TerminationOnly, false, 1),
    ] {
        let mut world = World::new(spec(), 3);
        world.seen.cluster.machine_health_checks = checks;
        world.break_node("w1");
        if terminating {
            world.edit_node("w1", |node| {
                node.conditions.push(crate::node::NodeCondition {
                    type_: "Terminating".to_owned(),
                    status: "True".to_owned(),
                    since: Some(at(-9)),
                });
            });
        }
        let plan = world.pass();
        assert_eq!(creations(&plan).len(), created, "{checks:?} {terminating}");
        if created == 0 {
            assert_eq!(counters(&world), (3, 3));
        }
    }
}

#[test]
fn a_spec_that_cannot_be_understood_is_shown_and_nothing_is_done() {
    let problem = crate::check::Problem {
        field: "spec.healthyDelay".into(),
        why: "too long".into(),
    };
    let plan = broken(&NodeHealthCheckStatus::default(), &[], &problem, 4, noon());
    assert!(plan.steps.is_empty());
    assert_eq!(announced(&plan), ["Disabled"]);
    let status = plan.status;
    assert_eq!(status.phase.as_deref(), Some("Disabled"));
    assert_eq!(
        status.reason.as_deref(),
        Some("NHC is disabled: InvalidSpec: spec.healthyDelay: too long")
    );
    let again = broken(&status, &[], &problem, 4, at(5));
    assert_eq!((again.status, again.announcements.len()), (status, 0));
}

#[test]
fn kubelets_of_different_versions_count_as_an_upgrade_if_that_is_wanted() {
    for wanted in [false, true] {
        let mut world = World::new(spec(), 3);
        world.seen.cluster.watch_kubelet_versions = wanted;
        for (node, version) in [("w1", "v1.36.3"), ("w2", "v1.36.3"), ("w3", "v1.36.2")] {
            world.edit_node(node, |node| node.kubelet_version = Some(version.to_owned()));
        }
        world.break_node("w1");
        assert_eq!(creations(&world.pass()).len(), usize::from(!wanted));
        if wanted {
            assert!(reason(&world).contains("its kubelets have the versions v1.36.2, v1.36.3"));
            world.edit_node("w3", |node| {
                node.kubelet_version = Some("v1.36.3".to_owned());
            });
            assert_eq!(creations(&world.pass()), ["w1"]);
        }
    }
}

#[test]
fn what_must_be_known_of_the_cluster_is_waited_for_and_said() {
    let mut world = World::new(spec(), 3);
    let why = "control plane topology cannot be read".to_owned();
    world
        .seen
        .cluster
        .unknown
        .insert("control plane topology", why);
    world.break_node("w1");
    let plan = world.pass();
    assert!(creations(&plan).is_empty() && plan.incomplete.is_some());
    assert!(reason(&world).contains("not remediating w1: control plane topology cannot be read"));
    world.seen.cluster.unknown.clear();
    assert_eq!(creations(&world.pass()), ["w1"]);
}

#[test]
fn kinds_that_may_not_be_watched_are_told_of() {
    let mut world = World::new(spec(), 3);
    let kind = world.seen.check.ladder[0].template.remediation_kind();
    let what = "may not be watched, is listed every 30 s".to_owned();
    world.seen.polled_kinds.insert(kind.clone(), what);
    let plan = world.pass();
    let told = format!("{kind}: may not be watched, is listed every 30 s");
    assert_eq!(said(&plan), [told.as_str()]);
    assert_eq!(
        reason(&world),
        format!("NHC is enabled, no ongoing remediation; {told}")
    );
}

/// A process that died between the creation and its record leaves a lease as the only trace.
#[test]
fn leases_are_kept_while_a_kind_cannot_be_seen() {
    let mut world = World::new(spec(), 3);
    for name in ["w1", "elsewhere"] {
        let held = HeldLease {
            node_uid: Some(format!("{name}-uid")),
            acquired: Some(noon()),
            renewed: Some(noon()),
            duration: Some(secs(660)),
        };
        world.seen.leases.insert(name.to_owned(), held);
    }
    let kind = world.seen.check.ladder[0].template.remediation_kind();
    let why = "no answer".to_owned();
    world.seen.unknown_kinds.insert(kind, why);
    assert!(world.plan().steps.is_empty());
    world.seen.unknown_kinds.clear();
    assert_eq!(world.plan().steps.len(), 2);
}

/// 8.4: in every pass, whatever keeps the health check from remediating.
#[test]
fn a_storm_comes_and_goes_behind_a_closed_gate() {
    for gate in ["mhc", "missing", "upgrade", "pause"] {
        let storm = [
            ("minHealthy", json!(2)),
            ("stormCooldownDuration", json!("30s")),
        ];
        let mut world = World::new(with(spec(), &storm), 3);
        world.pass();
        close(&mut world, gate);
        world.break_node("w1");
        world.break_node("w2");
        let plan = world.pass();
        assert!(announced(&plan).contains(&"StormRecoveryStarted"), "{gate}");
        let skipped = plan
            .notices
            .values()
            .filter(|one| one.message.contains("number of healthy"));
        assert_eq!(skipped.count(), 0, "{gate}: not the reason");
        world.heal_node("w2");
        let plan = world.pass();
        assert!(
            announced(&plan).contains(&"StormRecoveryCooldownStarted"),
            "{gate}"
        );
        world.run_until(at(31));
        assert_eq!(
            world.condition(nhc::STORM_ACTIVE),
            Some(Status::False),
            "{gate}"
        );
    }
}
