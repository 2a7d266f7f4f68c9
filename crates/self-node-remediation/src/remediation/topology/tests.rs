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

fn nodes(roles: &[(Role, usize)]) -> Vec<Member> {
    roles
        .iter()
        .flat_map(|(role, count)| {
            let member = Member {
                role: *role,
                without_agent: false,
                never_had_one: false,
            };
            vec![member; *count]
        })
        .collect()
}

fn told(nodes: &[Member]) -> Vec<(bool, String)> {
    describe(nodes, 1)
        .into_iter()
        .map(|told| (told.warning, told.text))
        .collect()
}

#[test]
fn a_single_node_is_held() {
    let told = told(&nodes(&[(BOTH, 1)]));
    let [(warning, text)] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert!(warning);
    assert!(text.contains("is held until there is evidence"), "{text}");
    assert!(text.contains("minPeersForRemediation is 1"), "{text}");
}

#[test]
fn a_lone_worker_is_held_and_its_control_plane_is_not() {
    let told = told(&nodes(&[(WORKER, 1), (MASTER, 3)]));
    assert_eq!(told.len(), 2);
    assert!(told[0].0 && told[0].1.starts_with("a worker lost here is held"));
    assert!(
        told[1]
            .1
            .starts_with("a control-plane node lost here is freed")
    );
    assert!(
        told[1]
            .1
            .contains("1 of the 1 other workers and 1 of the 2 other control-plane nodes")
    );
}

#[test]
fn two_workers_depend_on_each_other() {
    let told = told(&nodes(&[(WORKER, 2), (MASTER, 1)]));
    assert!(told[0].0);
    assert!(told[0].1.contains("1 of the 1 other workers"));
    assert!(told[0].1.contains("both are held"));
    assert!(!told[1].0, "the control-plane node knows two workers");
}

#[test]
fn a_usual_cluster_is_no_warning() {
    let told = told(&nodes(&[(WORKER, 5), (MASTER, 3)]));
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|(warning, _)| !warning), "{told:?}");
    assert!(told[0].1.contains("2 of the 4 other workers"));
}

/// C4, C7: nodes without agent vote by their silence.
#[test]
fn workers_without_agent_are_told_of_when_they_decide() {
    let cluster = |excluded: usize| {
        let mut all = nodes(&[(WORKER, 5), (MASTER, 3)]);
        for node in all.iter_mut().take(excluded) {
            node.without_agent = true;
        }
        told(&all)
    };
    assert!(
        cluster(1)
            .iter()
            .all(|(_, text)| !text.contains("run no agent"))
    );
    // Two of the four others answer: enough to acknowledge, no majority in an outage.
    let two = cluster(2);
    assert!(
        two[0].0 && two[0].1.contains("2 of 5 workers run no agent"),
        "{two:?}"
    );
    assert!(!two[0].1.contains("freed by time"));
    assert!(cluster(3)[0].1.contains("no node is freed by time"));
}

/// C7: those that never had an agent are no reason to hold for ever, but the release is weaker.
#[test]
fn workers_that_never_had_an_agent_leave_the_weaker_rule() {
    let cluster = |never: usize| {
        let mut all = nodes(&[(WORKER, 5), (MASTER, 3)]);
        for (index, node) in all.iter_mut().take(3).enumerate() {
            node.without_agent = true;
            node.never_had_one = index < never;
        }
        told(&all).swap_remove(0).1
    };
    let three = cluster(3);
    assert!(
        three.contains("freed after its bound only") && three.contains("weaker"),
        "{three}"
    );
    assert!(cluster(2).contains("no node is freed by time"));
}

#[test]
fn a_node_has_an_agent_unless_it_is_known_to_have_none() {
    let mut node = NodeMetadata::default();
    node.metadata.name = Some("n".to_owned());
    let agents = |names: &[&str]| {
        names
            .iter()
            .filter_map(|name| NodeName::new(*name))
            .collect()
    };
    assert!(!Member::of(&node, None).without_agent);
    assert!(!Member::of(&node, Some(&agents(&["n"]))).without_agent);
    assert!(Member::of(&node, Some(&agents(&["m"]))).without_agent);

    assert!(Member::of(&node, None).never_had_one);
    let annotations = node.metadata.annotations.get_or_insert_default();
    annotations.insert(AGENT_VERSION_ANNOTATION.to_owned(), "1".to_owned());
    assert!(!Member::of(&node, None).never_had_one);
}
