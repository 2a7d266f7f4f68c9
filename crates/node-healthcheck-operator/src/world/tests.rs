use medik8s_api::NodeHealthCheck;

use super::*;
use crate::fixtures::{health_check, noon, remediation, spec};

fn check() -> Arc<NodeHealthCheck> {
    Arc::new(health_check(spec()))
}

#[test]
fn a_late_answer_brings_no_health_check_back() {
    let world = World::default();
    world.put_written_check(check());
    assert!(world.check("nhc").is_none());
    world.put_check(check());
    world.remove_check("nhc");
    world.put_written_check(check());
    assert!(world.check("nhc").is_none());
    let mut successor = health_check(spec());
    successor.metadata.uid = Some("another".to_owned());
    world.put_check(Arc::new(successor));
    world.put_written_check(check());
    let known = world.check("nhc").unwrap().object.metadata.uid.clone();
    assert_eq!(known.as_deref(), Some("another"));
}

#[test]
fn a_kind_counts_from_the_moment_that_a_health_check_uses_it() {
    let world = World::default();
    let one = remediation("Foo", "foo", "w1", noon());
    let kind = one.kind.clone();
    world.put_written(one.clone(), noon());
    assert!(world.remediation_kinds().is_empty(), "nobody needs it");
    world.put_check(check());
    assert_eq!(
        world.remediation_kinds(),
        [(kind.clone(), Listing::Pending)]
    );
    world.set_remediation_listing(&kind, Listing::Known, None);
    world.put_written(one.clone(), noon());
    assert_eq!(world.remediation_kinds(), [(kind.clone(), Listing::Known)]);
    assert_eq!(world.remediations_of(&kind), [one]);
    world.remove_check("nhc");
    assert!(world.remediation_kinds().is_empty());
}

#[test]
fn a_long_deletion_is_noted_once() {
    let world = World::default();
    let long: BTreeSet<Handle> = [remediation("Foo", "foo", "w1", noon()).handle()].into();
    assert_eq!(world.note_long_deletions("nhc", long.clone()), long);
    assert!(world.note_long_deletions("nhc", long.clone()).is_empty());
    assert!(world.note_long_deletions("nhc", BTreeSet::new()).is_empty());
    assert_eq!(world.note_long_deletions("nhc", long.clone()), long);
}
