use std::time::Duration;

use super::*;
use crate::ids::NodeName;
use crate::order::Phase;

fn at(seconds: u64) -> BootInstant {
    BootInstant::at(Duration::from_secs(seconds))
}

fn uid(text: &str) -> Uid {
    Uid::new(text).unwrap()
}

fn order(id: &str, node: &str) -> Remediation {
    Remediation {
        namespace: "ns".to_owned(),
        name: node.to_owned(),
        uid: uid(id),
        target: Target::Node(NodeName::new(node).unwrap()),
        phase: Phase::PreRebootCompleted,
        finalizer: true,
        withdrawn: false,
        deleting: false,
        timed_out: false,
        boot: BootId::new("b1"),
        created: None,
    }
}

#[test]
fn h05_an_order_is_remembered_for_whatever_boot() {
    let mut knowledge = Knowledge::default();
    let mut unrecorded = order("u1", "x");
    unrecorded.boot = None;
    assert!(knowledge.see(&unrecorded, at(10)));
    assert!(!knowledge.see(&unrecorded, at(11)), "nothing new");
    assert!(knowledge.has_order_about("x", ""));
    assert!(!knowledge.has_order_about("y", ""));
}

#[test]
fn only_orders_are_remembered() {
    let mut knowledge = Knowledge::default();
    let mut withdrawn = order("u1", "x");
    withdrawn.withdrawn = true;
    let mut unmarked = order("u2", "x");
    unmarked.finalizer = false;
    let mut started = order("u3", "x");
    started.phase = Phase::Started;
    for remediation in [withdrawn, unmarked, started] {
        assert!(!knowledge.see(&remediation, at(1)));
    }
    assert!(knowledge.is_empty());
}

#[test]
fn h14_only_a_read_that_started_after_the_last_sighting_clears() {
    for (started, cleared) in [(9, false), (10, false), (11, true)] {
        let mut knowledge = Knowledge::default();
        knowledge.see(&order("u1", "x"), at(10));
        assert_eq!(knowledge.take_list(&[], at(started), at(20)), cleared);
        assert_eq!(
            knowledge.has_order_about("x", ""),
            !cleared,
            "started {started}"
        );
    }
}

#[test]
fn h14_an_acknowledgement_counts_as_a_sighting() {
    let mut knowledge = Knowledge::default();
    knowledge.see(&order("u1", "x"), at(10));
    assert!(knowledge.acknowledge("x", "", &uid("u1"), at(30)));
    knowledge.take_list(&[], at(20), at(31));
    assert!(
        knowledge.has_order_about("x", ""),
        "a slow read does not clear it"
    );
    knowledge.take_list(&[], at(31), at(32));
    assert!(knowledge.is_empty());
}

#[test]
fn h14_only_the_very_order_is_acknowledged() {
    let mut knowledge = Knowledge::default();
    knowledge.see(&order("u1", "x"), at(10));
    assert!(
        !knowledge.acknowledge("x", "", &uid("u2"), at(11)),
        "a new order of the same name"
    );
    assert!(
        !knowledge.acknowledge("y", "", &uid("u1"), at(11)),
        "for another node"
    );
    assert!(knowledge.acknowledge("x", "", &uid("u1"), at(11)));
}

#[test]
fn a_list_that_shows_the_order_keeps_it() {
    let mut knowledge = Knowledge::default();
    knowledge.see(&order("u1", "x"), at(10));
    assert!(!knowledge.take_list(&[order("u1", "x")], at(20), at(21)));
    assert!(knowledge.acknowledge("x", "", &uid("u1"), at(22)));
    // Deletion does not end an order (H6), withdrawal does.
    let mut deleting = order("u1", "x");
    deleting.deleting = true;
    knowledge.take_list(&[deleting], at(30), at(31));
    assert!(knowledge.has_order_about("x", ""));
    let mut withdrawn = order("u1", "x");
    withdrawn.withdrawn = true;
    assert!(knowledge.take_list(&[withdrawn], at(40), at(41)));
    assert!(knowledge.is_empty());
}

#[test]
fn a_machine_that_cannot_be_looked_up_may_be_anybodys() {
    let mut knowledge = Knowledge::default();
    let mut owned = order("u1", "x");
    let machine = |node: Option<&str>| Target::Machine {
        group: "machine.openshift.io".to_owned(),
        namespace: "ns".to_owned(),
        name: "m1".to_owned(),
        node: node.and_then(NodeName::new),
    };
    owned.target = machine(None);
    knowledge.see(&owned, at(1));
    assert!(knowledge.has_order_about("y", ""));
    assert!(
        !knowledge.acknowledge("y", "", &uid("u1"), at(2)),
        "but nobody's for sure"
    );
    assert!(knowledge.acknowledge("y", "m1", &uid("u1"), at(2)));
    owned.target = machine(Some("x"));
    assert!(knowledge.see(&owned, at(3)));
    assert!(!knowledge.has_order_about("y", ""));
    // A look-up that fails later does not make it unknown again.
    owned.target = machine(None);
    knowledge.see(&owned, at(4));
    assert!(!knowledge.has_order_about("y", "") && knowledge.has_order_about("x", ""));
}
