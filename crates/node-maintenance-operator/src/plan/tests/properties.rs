//! Any story: objects come and go, the lease is taken, people interfere, the API fails, the process
//! dies between any two steps. The rules are asserted in [`super::world`] at every step.

use proptest::prelude::*;

use super::{
    world::{Holder, Trouble, World},
    *,
};

#[derive(Debug, Clone, Copy)]
enum Happening {
    Creates(u8),
    Deletes(u8),
    OthersTakeLease,
    OthersReleaseLease,
    NodeVanishes,
    NodeRegisters,
    SomebodyUncordons,
    SomebodyUntaints,
    SomebodyUnlabels,
    PodAppears(u8),
    PodGoes,
    ProcessDies,
    StepFails(u8),
    ProcessDiesAfter(u8),
    TimePasses(u8),
    ClockIsSetBack(u8),
    PassRuns,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        4 => (0u8..3).prop_map(Happening::Creates),
        3 => (0u8..3).prop_map(Happening::Deletes),
        2 => Just(Happening::OthersTakeLease),
        2 => Just(Happening::OthersReleaseLease),
        1 => Just(Happening::NodeVanishes),
        2 => Just(Happening::NodeRegisters),
        1 => Just(Happening::SomebodyUncordons),
        1 => Just(Happening::SomebodyUntaints),
        1 => Just(Happening::SomebodyUnlabels),
        2 => (0u8..6).prop_map(Happening::PodAppears),
        4 => Just(Happening::PodGoes),
        1 => Just(Happening::ProcessDies),
        2 => (0u8..6).prop_map(Happening::StepFails),
        3 => (0u8..10).prop_map(Happening::ProcessDiesAfter),
        4 => (1u8..40).prop_map(Happening::TimePasses),
        1 => (1u8..100).prop_map(Happening::ClockIsSetBack),
        10 => Just(Happening::PassRuns),
    ];
    proptest::collection::vec(one, 1..80)
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn live(world: &mut World, happening: Happening) {
    match happening {
        Happening::Creates(which) => {
            let name = NAMES[usize::from(which)];
            if !world.maintenances.iter().any(|one| one.name == name) {
                world.create(name);
            }
        }
        Happening::Deletes(which) => world.delete(NAMES[usize::from(which)]),
        Happening::OthersTakeLease => {
            if world.holder != Holder::Other {
                world.steal();
            }
        }
        Happening::OthersReleaseLease => {
            if world.holder == Holder::Other {
                world.holder = Holder::Nobody;
            }
        }
        Happening::NodeVanishes => world.delete_node(),
        Happening::NodeRegisters => world.register_node(),
        Happening::SomebodyUncordons => {
            if let Some(node) = &mut world.node {
                node.is_unschedulable = false;
                node.has_unschedulable_taint = false;
            }
        }
        Happening::SomebodyUntaints => {
            if let Some(node) = &mut world.node {
                node.has_unschedulable_taint = false;
            }
        }
        Happening::SomebodyUnlabels => {
            if let Some(node) = &mut world.node
                && !world.had_label
            {
                node.exclude_label = None;
            }
        }
        Happening::PodAppears(which) => {
            if world.node.is_some() {
                world.pods.insert(format!("p{which}"));
            }
        }
        Happening::PodGoes => {
            // A watch tells within no time, so the drain never outlives a deletion.
            world.reconcile();
            if world.holder == Holder::Us {
                world.evict_one();
            }
        }
        Happening::ProcessDies => world.die(),
        Happening::StepFails(after) => world.trouble = Trouble::FailAfter(after),
        Happening::ProcessDiesAfter(after) => world.trouble = Trouble::DieAfter(after),
        Happening::TimePasses(seconds) => {
            // Wakes that come due meanwhile are not slept through.
            world.run_for(i64::from(seconds));
        }
        Happening::ClockIsSetBack(minutes) => world.pass_time(-60 * i64::from(minutes)),
        Happening::PassRuns => world.reconcile(),
    }
    // Changes are watched: a pass follows each. A foreign lease is not watched.
    if !matches!(
        happening,
        Happening::OthersTakeLease | Happening::OthersReleaseLease
    ) {
        world.reconcile();
    }
}

/// Nothing stands in the way any more and time passes.
fn calm(world: &mut World) {
    world.trouble = Trouble::None;
    world.holder = if world.holder == Holder::Other {
        Holder::Nobody
    } else {
        world.holder.clone()
    };
    world.register_node();
    for _ in 0..8 {
        world.run_for(100);
        while world.drain.is_some() && !world.pods.is_empty() {
            world.evict_one();
        }
    }
}

proptest! {
    #[test]
    fn must_not_do_anything_of_section_14(story in happenings(), had_label: bool) {
        let mut world = World::new();
        world.had_label = had_label;
        world.node().exclude_label = had_label.then(excluded);
        for happening in story {
            live(&mut world, happening);
        }
        for count in world.told_by_object(nmo::EVENT_BEGIN).values() {
            prop_assert_eq!(*count, 1, "BeginMaintenance once for each object");
        }
        for count in world.told_by_object(nmo::EVENT_REMOVED).values() {
            prop_assert_eq!(*count, 1);
        }
    }

    /// A crash between any two steps, or after any of them, is repaired.
    #[test]
    fn every_story_ends_with_the_node_given_back(story in happenings()) {
        let mut world = World::new();
        for happening in story {
            live(&mut world, happening);
        }
        for name in NAMES {
            world.delete(name);
        }
        calm(&mut world);
        prop_assert!(world.maintenances.is_empty(), "{:?}", world.maintenances);
        prop_assert_ne!(world.holder, Holder::Us);
        prop_assert!(world.drain.is_none());
        let node = world.node.as_ref().unwrap();
        prop_assert!(!node.has_drain_taint && !node.is_unschedulable && !node.is_excluded());
    }

    /// The maintenance that counts succeeds once nothing stands in its way, and then is quiet.
    #[test]
    fn every_story_ends_with_the_node_drained(story in happenings()) {
        let mut world = World::new();
        for happening in story {
            live(&mut world, happening);
        }
        for name in NAMES {
            world.delete(name);
        }
        calm(&mut world);
        world.create("a");
        calm(&mut world);
        prop_assert_eq!(world.get("a").phase(), Phase::Succeeded);
        prop_assert_eq!(&world.get("a").status.last_error, &None);
        prop_assert!(!world.node.as_ref().unwrap().is_open());
        world.steps.clear();
        world.run_for(1700);
        let asked = world.steps.iter().all(|step| matches!(step, Step::RequestLease { .. }));
        prop_assert!(asked && world.steps.len() <= 1, "{:?}", world.steps);
    }

    /// Asking twice without a change between gives the same answer.
    #[test]
    fn planning_changes_nothing(story in happenings()) {
        let mut world = World::new();
        for happening in story {
            live(&mut world, happening);
            let seen = world.seen(&std::collections::BTreeSet::new(), None);
            prop_assert_eq!(next(&seen, world.now), next(&seen, world.now));
        }
    }
}
