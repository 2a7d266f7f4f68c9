//! The safety invariants of section 1, over random clusters.

#![expect(
    clippy::struct_excessive_bools,
    reason = "independent dimensions of a random case"
)]

use proptest::prelude::*;

use super::*;
use crate::facts::Cluster;
use crate::node::NodeFacts;
use crate::remediation::Remediation;

#[derive(Debug, Clone, Copy)]
struct Sick {
    ready: &'static str,
    age: i64,
    control_plane: bool,
    excluded: bool,
    confirmed: bool,
}

fn sick() -> impl Strategy<Value = Sick> {
    (
        prop::sample::select(vec!["True", "True", "False", "Unknown"]),
        prop::sample::select(vec![0_i64, 5, 9, 10, 11, 60, 4000]),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(ready, age, control_plane, excluded, confirmed)| Sick {
            ready,
            age,
            control_plane,
            excluded,
            confirmed,
        })
}

#[derive(Debug, Clone)]
struct Existing {
    node: usize,
    second: bool,
    age: i64,
    owner: u8,
    deleting: bool,
    timed_out: bool,
    delay: Option<i64>,
    succeeded: Option<Status>,
    deletion_expected: bool,
}

fn existing() -> impl Strategy<Value = Existing> {
    (
        0_usize..8,
        any::<bool>(),
        prop::sample::select(vec![1_i64, 59, 61, 400, 2000, 200_000]),
        0_u8..3,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop::option::of(0_i64..100),
        prop::option::of(prop::sample::select(vec![
            Status::True,
            Status::False,
            Status::Unknown,
        ])),
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(
                node,
                second,
                age,
                owner,
                deleting,
                timed_out,
                delay,
                succeeded,
                deletion_expected,
            )| {
                Existing {
                    node,
                    second,
                    age,
                    owner,
                    deleting,
                    timed_out,
                    delay,
                    succeeded,
                    deletion_expected,
                }
            },
        )
}

#[derive(Debug, Clone)]
struct Settings {
    escalating: bool,
    minimum: u64,
    delay: Option<&'static str>,
    storm: bool,
    paused: bool,
    upgrading: bool,
    mhc: MachineHealthChecks,
    template: u8,
    kinds_unknown: bool,
    other_control_plane: bool,
}

fn settings() -> impl Strategy<Value = Settings> {
    (
        any::<bool>(),
        0_u64..5,
        prop::option::of(prop::sample::select(vec!["0s", "30s", "-1s"])),
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::sample::select(vec![
            MachineHealthChecks::None,
            MachineHealthChecks::None,
            MachineHealthChecks::None,
            MachineHealthChecks::Unknown,
            MachineHealthChecks::TerminationOnly,
            MachineHealthChecks::Custom,
        ]),
        prop::sample::select(vec![0_u8, 0, 0, 0, 1, 2, 3]),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(
                escalating,
                minimum,
                delay,
                storm,
                paused,
                upgrading,
                mhc,
                template,
                kinds_unknown,
                other_control_plane,
            )| Settings {
                escalating,
                minimum,
                delay,
                storm,
                paused,
                upgrading,
                mhc,
                template,
                kinds_unknown,
                other_control_plane,
            },
        )
}

fn worlds() -> impl Strategy<Value = World> {
    (
        prop::collection::vec(sick(), 1..7),
        prop::collection::vec(existing(), 0..6),
        settings(),
        prop::collection::vec((0_usize..8, prop::option::of(0_i64..3000)), 0..4),
        0_usize..3,
    )
        .prop_map(|(nodes, existing, settings, leases, warm_up)| {
            build(&nodes, &existing, &settings, &leases, warm_up)
        })
}

fn build(
    nodes: &[Sick],
    existing: &[Existing],
    settings: &Settings,
    leases: &[(usize, Option<i64>)],
    warm_up: usize,
) -> World {
    let base = if settings.escalating {
        escalating(&[
            ("FooTemplate", "foo", 1, "1m"),
            ("FooTemplate", "bar", 2, "5m"),
        ])
    } else {
        spec()
    };
    let spec = with(
        base,
        &[
            ("minHealthy", json!(settings.minimum)),
            ("healthyDelay", json!(settings.delay)),
            (
                "stormCooldownDuration",
                if settings.storm {
                    json!("30s")
                } else {
                    Value::Null
                },
            ),
        ],
    );
    let mut world = World::new(spec, nodes.len());
    for (index, sick) in nodes.iter().enumerate() {
        let name = format!("w{}", index + 1);
        world.set_ready(&name, sick.ready, at(-sick.age));
        if sick.control_plane {
            world.make_control_plane(&name);
        }
        world.edit_node(&name, |node: &mut NodeFacts| {
            node.confirmed_healthy = sick.confirmed;
            if sick.excluded {
                node.labels.insert(
                    "remediation.medik8s.io/exclude-from-remediation".to_owned(),
                    "true".to_owned(),
                );
            }
        });
    }
    for (index, one) in existing.iter().enumerate() {
        world.add(Remediation {
            uid: format!("uid-{index}"),
            ..remediation_of(one)
        });
    }
    for (node, acquired) in leases {
        let since = acquired.map(|age| at(-age));
        let held = HeldLease {
            node_uid: Some(format!("w{node}-uid")),
            acquired: since,
            renewed: since,
            duration: Some(secs(660)),
        };
        world.seen.leases.insert(format!("w{node}"), held);
    }
    // Stored records of an earlier pass, then the circumstances change.
    for _ in 0..warm_up {
        let plan = world.plan();
        world.seen.status = plan.status;
        world.advance(61);
    }
    let template = world.seen.check.ladder[0].template.clone();
    let seen = &mut world.seen;
    seen.cluster = Cluster {
        machine_health_checks: settings.mhc,
        upgrading: settings.upgrading.then(|| "yes".to_owned()),
        ..Cluster::default()
    };
    if settings.paused {
        Arc::make_mut(&mut seen.check).pause_requests = vec!["x".to_owned()];
    }
    match settings.template {
        1 => drop(
            seen.templates
                .insert(template, TemplateState::NotFound("gone".to_owned())),
        ),
        2 => drop(
            seen.templates
                .insert(template, TemplateState::Invalid("bad".to_owned())),
        ),
        3 => drop(
            seen.templates
                .insert(template, TemplateState::Unknown("?".to_owned())),
        ),
        _ => {}
    }
    if settings.kinds_unknown {
        seen.unknown_kinds.insert(
            ResourceKind::new(crate::fixtures::API, "Foo"),
            "?".to_owned(),
        );
    }
    if settings.other_control_plane {
        seen.control_plane
            .remediated
            .insert("cp-0".to_owned(), true);
    }
    world
}

fn remediation_of(one: &Existing) -> Remediation {
    let template = if one.second { "bar" } else { "foo" };
    let mut made = remediation("Foo", template, &format!("w{}", one.node), at(-one.age));
    match one.owner {
        0 | 1 => {}
        _ => made.owners.clear(),
    }
    made.deleting_since = one.deleting.then(|| at(-1));
    made.timed_out = one.timed_out.then(|| at(-30).to_string());
    made.healthy_delay = one.delay.map(|age| at(-age).to_string());
    made.succeeded = one.succeeded;
    made.node_deletion_expected = one.deletion_expected;
    made
}

fn class_of(world: &World, node: &str) -> Option<Class> {
    let node = world.seen.nodes.iter().find(|one| one.name == node)?;
    Some(classify::classify(
        &world.seen.check.rules,
        &node.conditions,
        world.now,
    ))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// S2: never a first remediation for a second control-plane node.
    #[test]
    fn s2_one_control_plane_node_at_a_time(world in worlds()) {
        let is_control_plane = |name: &str| {
            world.seen.nodes.iter().any(|node| node.name == name && node.is_control_plane())
        };
        let plan = world.plan();
        let new: BTreeSet<&str> =
            creations(&plan).into_iter().filter(|node| is_control_plane(node)).collect();
        let busy = &world.seen.control_plane.remediated;
        let goes_on = |node: &str| busy.get(node) == Some(&true);
        let first: BTreeSet<&str> = new.into_iter().filter(|node| !goes_on(node)).collect();
        prop_assert!(first.len() <= 1, "{first:?}");
        let others = busy.keys().filter(|other| !first.contains(other.as_str())).count();
        prop_assert!(first.is_empty() || others == 0, "{first:?} while {busy:?}");
    }

    /// S3: nothing is created while something forbids it.
    #[test]
    fn s3_nothing_new_while_held_back(world in worlds()) {
        let plan = world.plan();
        let created = creations(&plan);
        let seen = &world.seen;
        let healthy = plan.status.healthy_nodes.unwrap();
        let closed = seen.cluster.machine_health_checks == MachineHealthChecks::Custom
            || seen.cluster.upgrading.is_some()
            || !seen.check.pause_requests.is_empty()
            || seen.templates.values().any(|state| *state != TemplateState::Valid)
            || !seen.unknown_kinds.is_empty();
        if closed {
            prop_assert!(created.is_empty(), "{created:?}");
        }
        if !created.is_empty() {
            let total = seen.nodes.len() as u64;
            prop_assert!(seen.check.threshold.allows(healthy.unsigned_abs(), total));
            let list = plan.status.conditions.as_deref().unwrap_or_default();
            prop_assert!(
                medik8s_core::conditions::status(list, nhc::STORM_ACTIVE) != Some(Status::True)
            );
        }
        for node in created {
            let facts = seen.nodes.iter().find(|one| one.name == node).unwrap();
            prop_assert!(facts.exclusion() != medik8s_core::node::Exclusion::Excluded);
            let matches = matches!(class_of(&world, node), Some(Class::Matching { .. }));
            prop_assert!(matches, "created for a node that no rule matches");
        }
    }

    /// S4: only what is ours is touched.
    #[test]
    fn s4_only_own_remediations_are_touched(world in worlds()) {
        for step in world.plan().steps {
            let handle = match step {
                Step::Delete { remediation, .. }
                | Step::StartHealthyDelay { remediation }
                | Step::ClearHealthyDelay { remediation }
                | Step::TimeOut { remediation, .. }
                | Step::ReportOld { remediation, .. } => remediation,
                Step::ReleaseLease { node } | Step::RenewLease { node, .. } => {
                    prop_assert!(world.seen.leases.contains_key(&node));
                    continue;
                }
                Step::DropConfirmation { .. } | Step::Create(_) => continue,
            };
            let found = world.seen.remediations.iter().find(|one| one.uid == handle.uid).unwrap();
            prop_assert_eq!(found.ownership(&world.seen.owner), Ownership::Ours);
            prop_assert!(found.deleting_since.is_none(), "{} is being deleted", handle);
        }
    }

    /// S5 and S6: soon-unhealthy nodes keep what they have, and a delay that is not in place yet
    /// keeps the remediation.
    #[test]
    fn s5_s6_nothing_is_deleted_too_early(world in worlds()) {
        let delay = world.seen.check.healthy_delay;
        for step in world.plan().steps {
            match step {
                Step::Delete { remediation, node, cause: Removal::Recovered } => {
                    let class = class_of(&world, &node);
                    prop_assert!(class == Some(Class::NotMatching) || class.is_none() ||
                        world.seen.cluster.machine_health_checks != MachineHealthChecks::None);
                    let facts = world.seen.nodes.iter().find(|one| one.name == node).unwrap();
                    let found =
                        world.seen.remediations.iter().find(|one| one.uid == remediation.uid).unwrap();
                    if !facts.confirmed_healthy && !delay.is_zero() {
                        prop_assert!(delay.is_positive());
                        let start: Timestamp =
                            found.healthy_delay.as_deref().unwrap().parse().unwrap();
                        prop_assert!(start.checked_add(delay).unwrap() <= world.now);
                    }
                }
                Step::TimeOut { remediation, .. } => {
                    let found =
                        world.seen.remediations.iter().find(|one| one.uid == remediation.uid).unwrap();
                    let matches = matches!(class_of(&world, found.node()), Some(Class::Matching { .. }));
                    prop_assert!(matches);
                }
                Step::Delete { .. }
                | Step::ReleaseLease { .. }
                | Step::StartHealthyDelay { .. }
                | Step::ClearHealthyDelay { .. }
                | Step::DropConfirmation { .. }
                | Step::RenewLease { .. }
                | Step::ReportOld { .. }
                | Step::Create(_) => {}
            }
        }
    }

    /// S7: no second remediation for node and template, whoever owns the first.
    #[test]
    fn s7_no_second_remediation(world in worlds()) {
        for step in world.plan().steps {
            if let Step::Create(creation) = step {
                let twice = world.seen.remediations.iter().any(|one| {
                    one.node() == creation.node && one.is_from(&creation.template)
                });
                prop_assert!(!twice, "{creation:?}");
            }
        }
    }

    /// S8 and S9: who has succeeded is not told to stop, and a record follows its annotation.
    #[test]
    fn s8_s9_annotation_before_record(world in worlds()) {
        let plan = world.plan();
        for step in &plan.steps {
            if let Step::TimeOut { remediation, .. } = step {
                let found =
                    world.seen.remediations.iter().find(|one| one.uid == remediation.uid).unwrap();
                prop_assert!(!found.has_succeeded());
            }
        }
        for entry in plan.status.unhealthy_nodes.iter().flatten() {
            for record in entry.remediations.iter().flatten() {
                let uid = record.resource.uid.as_deref().unwrap();
                let stored = entries::of_uid(world.entry(&entry.name), uid)
                    .is_some_and(|entry| entry.timed_out.is_some());
                let found = world.seen.remediations.iter().find(|one| one.uid == uid);
                if record.timed_out.is_some() && !stored {
                    let found = found.unwrap();
                    prop_assert!(found.timed_out.is_some() || found.has_succeeded());
                }
            }
        }
        // The next step starts only after the record of the step before is stored.
        for step in &plan.steps {
            let Step::Create(creation) = step else { continue };
            for rung in &world.seen.check.ladder {
                if rung.template == creation.template { break }
                let recorded = entries::of_template(world.entry(&creation.node), &rung.template)
                    .any(|entry| entry.timed_out.is_some());
                prop_assert!(recorded, "{:?}", rung.template);
            }
        }
    }

    /// A node is given up only when nothing of ours works on it any more, or has done so for too
    /// long.
    #[test]
    fn leases_are_kept_while_remediations_exist(world in worlds()) {
        for step in world.plan().steps {
            let Step::ReleaseLease { node } = step else { continue };
            let own = world.seen.remediations.iter().any(|one| {
                one.node() == node && one.ownership(&world.seen.owner) == Ownership::Ours
            });
            let held = &world.seen.leases[&node];
            let overdue = world.seen.check.ladder.iter().any(|rung| {
                leases::overdue_from(held, rung).is_some_and(|end| world.now > end)
            });
            let sick = matches!(class_of(&world, &node), Some(Class::Matching { .. }));
            prop_assert!(!own || (sick && overdue), "{node} is still remediated");
        }
    }

    /// Carrying a plan out leads to rest: no step comes twice, and the status settles.
    #[test]
    fn a_pass_comes_to_rest(mut world in worlds()) {
        // The step after one that was given up starts only when the record of that is stored: each
        // rung of the ladder may take two passes of its own.
        for _ in 0..4 {
            world.pass();
        }
        let stored = world.seen.status.clone();
        let last = world.plan();
        prop_assert!(last.steps.is_empty(), "{:?}", last.steps);
        prop_assert_eq!(last.status, stored);
        prop_assert!(last.wake.is_none_or(|wake| wake > world.now));
    }

    /// More health never adds a remediation: healing one node never makes another one sick.
    #[test]
    fn healing_a_node_never_adds_its_remediation(world in worlds(), index in 0_usize..7) {
        let mut healed = world;
        let index = index % healed.seen.nodes.len();
        let name = healed.seen.nodes[index].name.clone();
        healed.heal_node(&name);
        prop_assert!(!creations(&healed.plan()).contains(&name.as_str()));
    }

    /// Everything the plan says about time is in the future, and it never panics.
    #[test]
    fn wakes_are_in_the_future(world in worlds()) {
        let plan = world.plan();
        prop_assert!(plan.wake.is_none_or(|wake| wake > world.now));
    }
}
