use proptest::prelude::*;

use super::*;

const WORKER: Role = Role {
    control_plane: false,
    worker: true,
};
const MASTER: Role = Role {
    control_plane: true,
    worker: false,
};
const BOTH: Role = Role {
    control_plane: true,
    worker: true,
};

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn node(text: &str, role: Role, created: i64) -> ListedNode {
    ListedNode {
        name: name(text),
        role,
        created: Some(at(created)),
    }
}

fn names(set: &BTreeSet<NodeName>) -> Vec<&str> {
    set.iter().map(NodeName::as_str).collect()
}

#[test]
fn a_table_has_everybody_else_of_the_electorate() {
    let nodes = [
        node("x", BOTH, 0),
        node("a", WORKER, 0),
        node("b", BOTH, 0),
        node("m", MASTER, 0),
    ];
    let table = Table::of(&nodes, &name("x"), BOTH, at(1000));
    assert_eq!(names(&table.workers), ["a", "b"]);
    assert_eq!(names(&table.control_plane), ["b", "m"]);
    // A node outside the control plane has no such electorate, so it announces cp=0.
    let table = Table::of(&nodes, &name("a"), WORKER, at(1000));
    assert_eq!(names(&table.workers), ["b", "x"]);
    assert!(table.control_plane.is_empty());
}

#[test]
fn members_are_those_that_the_list_must_have_had() {
    let nodes = [
        node("x", WORKER, 0),
        node("old", WORKER, 940),
        node("young", WORKER, 941),
        node("m", MASTER, 0),
        ListedNode {
            created: None,
            ..node("unknown", WORKER, 0)
        },
    ];
    let of = |electorate| members(&nodes, &name("x"), electorate, at(1000));
    assert_eq!(names(&of(Electorate::Workers)), ["old"]);
    assert_eq!(names(&of(Electorate::ControlPlane)), ["m"]);
    assert!(Table::of(&nodes, &name("x"), WORKER, at(1000)).has_young);
    assert!(!Table::of(&nodes[..2], &name("x"), WORKER, at(1000)).has_young);
}

#[test]
fn the_parity_of_quorum_and_majority() {
    for (size, quorum) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (49, 25)] {
        assert_eq!(quorum_of(size), quorum, "{size}");
    }
    for (votes, size, majority) in [
        (0, 0, false),
        (0, 1, false),
        (1, 1, true),
        (1, 2, false),
        (2, 2, true),
        (2, 3, true),
        (2, 4, false),
        (3, 4, true),
    ] {
        assert_eq!(is_strict_majority(votes, size), majority, "{votes}/{size}");
    }
}

#[test]
fn an_address_of_two_nodes_belongs_to_neither() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let known = directory([
        (name("a"), ip("10.0.0.1")),
        (name("b"), ip("10.0.0.1")),
        (name("b"), ip("fd00::2")),
        (name("c"), ip("10.0.0.3")),
        (name("c"), ip("10.0.0.3")),
    ]);
    assert_eq!(known.get(&name("a")), None);
    assert_eq!(known[&name("b")], BTreeSet::from([ip("fd00::2")]));
    assert_eq!(known[&name("c")], BTreeSet::from([ip("10.0.0.3")]));
}

#[test]
fn the_order_of_asking_depends_on_chance_and_loses_nobody() {
    let all: BTreeSet<NodeName> = (0..50).map(|index| name(&format!("n{index}"))).collect();
    let orders: BTreeSet<Vec<NodeName>> = (0..20).map(|chance| shuffled(&all, chance)).collect();
    assert_eq!(orders.len(), 20);
    for order in orders {
        assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), all);
    }
}

proptest! {
    /// The heart of the quorum: who has acknowledged never votes "API error", and the others are no strict majority.
    #[test]
    fn a_quorum_leaves_no_majority(size in 0usize..2000, more in 0usize..2000) {
        let acknowledged = (quorum_of(size) + more).min(size);
        prop_assert!(!is_strict_majority(size - acknowledged, size));
        // And it is not larger than needed.
        if quorum_of(size) > 0 {
            prop_assert!(is_strict_majority(size - (quorum_of(size) - 1), size));
        }
    }

    /// Whoever the manager counts is in the agent's table, if both saw the same nodes.
    #[test]
    fn members_are_in_the_table(ages in proptest::collection::vec((0i64..200, any::<bool>(), any::<bool>()), 0..20)) {
        let stamp = at(10_000);
        let mut nodes: Vec<ListedNode> = ages
            .iter()
            .enumerate()
            .map(|(index, (age, control_plane, worker))| {
                let role = Role { control_plane: *control_plane, worker: *worker };
                node(&format!("n{index}"), role, 10_000 - age)
            })
            .collect();
        nodes.push(node("x", BOTH, 0));
        let table = Table::of(&nodes, &name("x"), BOTH, stamp);
        prop_assert!(members(&nodes, &name("x"), Electorate::Workers, stamp).is_subset(&table.workers));
        prop_assert!(members(&nodes, &name("x"), Electorate::ControlPlane, stamp).is_subset(&table.control_plane));
    }
}
