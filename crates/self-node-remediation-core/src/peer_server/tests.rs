use std::time::Duration;

use super::*;
use crate::ids::{BootId, NodeName};
use crate::order::{Phase, Target};

const FINE: Standing = Standing {
    standing_by: false,
    contact: true,
    own_probe_failed: false,
};
const CUT_OFF: Standing = Standing {
    own_probe_failed: true,
    ..FINE
};

fn at(seconds: u64) -> BootInstant {
    BootInstant::at(Duration::from_secs(seconds))
}

fn remediation(uid: &str, node: &str, phase: Phase) -> Remediation {
    Remediation {
        namespace: "ns".to_owned(),
        name: node.to_owned(),
        uid: Uid::new(uid).unwrap(),
        target: Target::Node(NodeName::new(node).unwrap()),
        phase,
        finalizer: true,
        withdrawn: false,
        deleting: false,
        timed_out: false,
        boot: BootId::new("b1"),
        created: None,
    }
}

fn order(uid: &str) -> Remediation {
    remediation(uid, "x", Phase::PreRebootCompleted)
}

fn knowing(orders: &[Remediation]) -> Knowledge {
    let mut knowledge = Knowledge::default();
    for order in orders {
        knowledge.see(order, at(1));
    }
    knowledge
}

fn question(order: Option<&Uid>) -> Question<'_> {
    Question {
        node: "x",
        machine: "",
        order,
    }
}

/// What the server would say, with a live read of this outcome if it needs one.
fn answer(
    standing: Standing,
    knowledge: &mut Knowledge,
    order: Option<&str>,
    read: Option<&[Remediation]>,
) -> Answer {
    let uid = order.map(|uid| Uid::new(uid).unwrap());
    let question = question(uid.as_ref());
    if let Some(answer) = at_once(&question, standing, knowledge, at(10)) {
        return answer;
    }
    if let Some(list) = read {
        knowledge.take_list(list, at(10), at(11));
    }
    let standing = Standing {
        contact: standing.contact || read.is_some(),
        ..standing
    };
    let read = read.map_or(LiveRead::Failed, LiveRead::List);
    after_read(&question, standing, knowledge, read, at(11))
}

#[test]
fn a_live_list_decides() {
    let mut nothing = Knowledge::default();
    assert_eq!(answer(FINE, &mut nothing, None, Some(&[])), Answer::Healthy);
    let other = remediation("u9", "y", Phase::PreRebootCompleted);
    assert_eq!(
        answer(FINE, &mut nothing, None, Some(&[other])),
        Answer::Healthy
    );
    // Any phase, deletion or annotation.
    for phase in [
        Phase::Started,
        Phase::FencingCompleted,
        Phase::Unknown("Later".to_owned()),
    ] {
        let mut found = remediation("u1", "x", phase);
        found.deleting = true;
        found.timed_out = true;
        let unhealthy = Answer::Unhealthy { acknowledged: None };
        assert_eq!(answer(FINE, &mut nothing, None, Some(&[found])), unhealthy);
    }
}

#[test]
fn without_knowledge_a_failed_read_is_an_api_error() {
    assert_eq!(
        answer(FINE, &mut Knowledge::default(), None, None),
        Answer::ApiError
    );
}

#[test]
fn a_failed_own_probe_answers_at_once() {
    let mut nothing = Knowledge::default();
    let asked = question(None);
    assert_eq!(
        at_once(&asked, CUT_OFF, &mut nothing, at(1)),
        Some(Answer::ApiError)
    );
    assert_eq!(at_once(&asked, FINE, &mut nothing, at(1)), None);
}

#[test]
fn h05_who_knows_an_order_never_says_api_error() {
    for standing in [FINE, CUT_OFF] {
        let mut knowledge = knowing(&[order("u1")]);
        assert_eq!(
            answer(standing, &mut knowledge, None, None),
            Answer::Unavailable
        );
    }
}

#[test]
fn h18_memory_abstains_without_a_live_read() {
    // Not even Unhealthy: the order may be long gone, and the outage is everybody's.
    let mut knowledge = knowing(&[order("u1")]);
    assert_ne!(
        answer(CUT_OFF, &mut knowledge, None, None),
        Answer::Unhealthy { acknowledged: None }
    );
    // With another order's UID neither.
    let mut knowledge = knowing(&[order("u1")]);
    assert_eq!(
        answer(CUT_OFF, &mut knowledge, Some("u2"), None),
        Answer::Unavailable
    );
}

#[test]
fn h14_only_the_very_order_is_acknowledged() {
    let acknowledged = |uid: &str| Answer::Unhealthy {
        acknowledged: Uid::new(uid),
    };
    // From memory, also without API: it will not say "API error" about it any more.
    assert_eq!(
        answer(CUT_OFF, &mut knowing(&[order("u1")]), Some("u1"), None),
        acknowledged("u1")
    );
    // From the live list, once that is in memory.
    let mut nothing = Knowledge::default();
    assert_eq!(
        answer(FINE, &mut nothing, Some("u1"), Some(&[order("u1")])),
        acknowledged("u1")
    );
    // Another UID, or no order yet.
    let other = answer(
        FINE,
        &mut Knowledge::default(),
        Some("u2"),
        Some(&[order("u1")]),
    );
    assert_eq!(other, Answer::Unhealthy { acknowledged: None });
    let started = remediation("u1", "x", Phase::Started);
    let early = answer(
        FINE,
        &mut Knowledge::default(),
        Some("u1"),
        Some(&[started]),
    );
    assert_eq!(early, Answer::Unhealthy { acknowledged: None });
}

#[test]
fn h15_silent_before_the_first_read_since_boot() {
    let fresh = Standing {
        contact: false,
        ..FINE
    };
    for standing in [
        fresh,
        Standing {
            own_probe_failed: true,
            ..fresh
        },
    ] {
        assert_eq!(
            answer(standing, &mut Knowledge::default(), None, None),
            Answer::Unavailable
        );
    }
    // The read made for this very question may be the first.
    assert_eq!(
        answer(fresh, &mut Knowledge::default(), None, Some(&[])),
        Answer::Healthy
    );
}

#[test]
fn a_standby_process_says_nothing() {
    let standby = Standing {
        standing_by: true,
        ..FINE
    };
    let mut knowledge = knowing(&[order("u1")]);
    assert_eq!(
        answer(standby, &mut knowledge, Some("u1"), Some(&[])),
        Answer::Unavailable
    );
}

#[test]
fn nobody_vouches_for_what_cannot_be_found_out() {
    let mut owned = remediation("u1", "x", Phase::Started);
    owned.target = Target::Machine {
        group: "machine.openshift.io".to_owned(),
        namespace: "ns".to_owned(),
        name: "m1".to_owned(),
        node: None,
    };
    assert_eq!(
        answer(
            FINE,
            &mut Knowledge::default(),
            None,
            Some(&[owned.clone()])
        ),
        Answer::ApiError
    );
    // Another match decides all the same.
    let found = [owned, remediation("u2", "x", Phase::Started)];
    let unhealthy = Answer::Unhealthy { acknowledged: None };
    assert_eq!(
        answer(FINE, &mut Knowledge::default(), None, Some(&found)),
        unhealthy
    );
}
