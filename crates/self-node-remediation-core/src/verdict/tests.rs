use proptest::prelude::*;

use super::*;
use crate::permit::Permit;

const WORKER: Role = Role {
    control_plane: false,
    worker: true,
};
const MASTER: Role = Role {
    control_plane: true,
    worker: false,
};

fn at(seconds: u64) -> BootInstant {
    BootInstant::at(Duration::from_secs(seconds))
}

fn set(names: &[&str]) -> BTreeSet<NodeName> {
    names
        .iter()
        .map(|name| NodeName::new(*name).unwrap())
        .collect()
}

fn table(workers: &[&str], control_plane: &[&str]) -> Table {
    Table {
        workers: set(workers),
        control_plane: set(control_plane),
        stamp: jiff::Timestamp::UNIX_EPOCH,
        has_young: false,
    }
}

fn answers(said: &[(&str, Said)]) -> Answers {
    said.iter()
        .map(|(name, said)| (NodeName::new(*name).unwrap(), *said))
        .collect()
}

const HEALTHY: Said = Said::Healthy {
    sent: BootInstant::ZERO,
};

fn round(answers: &Answers) -> Round<'_> {
    Round {
        started: at(100),
        full: true,
        ended: true,
        answers,
        diagnostics: Some(true),
        since_proof: Duration::from_mins(1),
    }
}

fn only(announced: &Table) -> Electorates<'_> {
    Electorates {
        announced,
        pending: None,
    }
}

fn outage() -> Verdict {
    Verdict::Proved(Proof::Outage(Outage::in_round(at(100))))
}

#[test]
fn the_worker_table() {
    let (one, four) = (table(&["a"], &[]), table(&["a", "b", "c", "d"], &[]));
    let grace = Duration::from_secs(30);
    let rest = Said::Silent;
    for (said, known, min, ended, since, expected) in [
        (vec![], &one, 2, true, grace * 2, Some(Workers::TooFew)),
        (
            vec![],
            &table(&[], &[]),
            0,
            true,
            grace * 2,
            Some(Workers::Nobody),
        ),
        (
            vec![("a", HEALTHY), ("b", Said::ApiError)],
            &four,
            1,
            false,
            grace * 2,
            Some(Workers::Healthy(BootInstant::ZERO)),
        ),
        (
            vec![("a", Said::Unhealthy), ("b", Said::ApiError)],
            &four,
            1,
            false,
            grace * 2,
            Some(Workers::Unhealthy),
        ),
        (
            vec![
                ("a", Said::ApiError),
                ("b", Said::ApiError),
                ("c", Said::ApiError),
            ],
            &four,
            1,
            false,
            grace * 2,
            Some(Workers::Outage),
        ),
        (
            vec![("a", Said::ApiError), ("b", Said::ApiError)],
            &four,
            1,
            false,
            grace * 2,
            None,
        ),
        (
            vec![
                ("a", Said::ApiError),
                ("b", Said::ApiError),
                ("c", rest),
                ("d", rest),
            ],
            &four,
            1,
            true,
            grace * 2,
            Some(Workers::Isolated),
        ),
        (
            vec![("a", rest)],
            &four,
            1,
            true,
            grace * 2,
            Some(Workers::Isolated),
        ),
        (
            vec![("a", rest)],
            &four,
            1,
            true,
            grace,
            Some(Workers::Grace),
        ),
        (
            vec![("z", HEALTHY), ("y", Said::Unhealthy)],
            &four,
            1,
            true,
            grace * 2,
            Some(Workers::Isolated),
        ),
    ] {
        let answers = answers(&said);
        let round = Round {
            ended,
            since_proof: since,
            ..round(&answers)
        };
        assert_eq!(workers(&round, only(known), min), expected, "{said:?}");
    }
    let nobody = Answers::new();
    let below = Round {
        full: false,
        ..round(&nobody)
    };
    assert_eq!(
        workers(&below, only(&four), 1),
        Some(Workers::BelowThreshold)
    );
}

#[test]
fn what_workers_conclude() {
    let known = table(&["a", "b", "c"], &[]);
    for (said, expected) in [
        (
            vec![("a", HEALTHY)],
            Verdict::Proved(Proof::PeerHealthy(PeerHealthy::asked_at(BootInstant::ZERO))),
        ),
        (vec![("a", Said::Unhealthy)], Verdict::Unhealthy),
        (vec![("a", Said::ApiError), ("b", Said::ApiError)], outage()),
        (vec![("a", Said::ApiError)], Verdict::Open),
        (vec![], Verdict::Open),
    ] {
        let answers = answers(&said);
        assert_eq!(
            verdict(&round(&answers), only(&known), 1, WORKER),
            expected,
            "{said:?}"
        );
    }
}

#[test]
fn h04_a_minority_proves_nothing() {
    let known = table(&["a", "b", "c", "d"], &[]);
    let answers = answers(&[("a", Said::ApiError), ("b", Said::ApiError)]);
    assert_eq!(
        verdict(&round(&answers), only(&known), 1, WORKER),
        Verdict::Open
    );
}

#[test]
fn h16_votes_of_strangers_do_not_count() {
    let known = table(&["a", "b", "c"], &[]);
    let answers = answers(&[
        ("a", Said::ApiError),
        ("y", Said::ApiError),
        ("z", Said::ApiError),
    ]);
    assert_eq!(
        verdict(&round(&answers), only(&known), 1, WORKER),
        Verdict::Open
    );
}

#[test]
fn h16_while_pending_both_tables_must_have_a_majority() {
    let (old, new) = (table(&["a", "b", "c"], &[]), table(&["c", "d", "e"], &[]));
    let both = Electorates {
        announced: &old,
        pending: Some(&new),
    };
    for (names, majority) in [
        (&["a", "b"][..], false),
        (&["d", "e"], false),
        (&["a", "c"], false),
        (&["a", "c", "d"], true),
        (&["a", "b", "d", "e"], true),
    ] {
        let said: Vec<(&str, Said)> = names.iter().map(|name| (*name, Said::ApiError)).collect();
        let answers = answers(&said);
        let proved = verdict(&round(&answers), both, 1, WORKER) == outage();
        assert_eq!(proved, majority, "{names:?}");
    }
}

#[test]
fn what_control_plane_nodes_conclude() {
    let known = table(&["a", "b", "c"], &["m", "n"]);
    let few = table(&[], &["m", "n"]);
    let error = Said::ApiError;
    let workers_out = [("a", error), ("b", error)];
    let masters_out = [("m", error), ("n", error)];
    for (said, table, diagnostics, expected) in [
        // W6 needs diagnostics.
        (&workers_out[..], &known, Some(true), outage()),
        (&workers_out, &known, Some(false), Verdict::Open),
        (&workers_out, &known, None, Verdict::Open),
        // W7 and W2: a strict majority of the control plane, and diagnostics.
        (&masters_out, &known, Some(true), outage()),
        (&masters_out, &known, Some(false), Verdict::Open),
        (&masters_out, &few, Some(true), outage()),
        // canReach alone extends nothing.
        (&[("m", error)], &known, Some(true), Verdict::Open),
        (
            &[("m", error), ("n", Said::Silent)],
            &few,
            Some(true),
            Verdict::Open,
        ),
        // A peer that knows a remediation fences, whatever the workers say.
        (
            &[("m", Said::Unhealthy), ("a", HEALTHY)],
            &known,
            Some(true),
            Verdict::Unhealthy,
        ),
        (
            &[("a", Said::Unhealthy)],
            &known,
            Some(true),
            Verdict::Unhealthy,
        ),
        (
            &[("m", HEALTHY)],
            &known,
            Some(false),
            Verdict::Proved(Proof::PeerHealthy(PeerHealthy::asked_at(BootInstant::ZERO))),
        ),
    ] {
        let answers = answers(said);
        let round = Round {
            diagnostics,
            ..round(&answers)
        };
        assert_eq!(
            verdict(&round, only(table), 1, MASTER),
            expected,
            "{said:?} {diagnostics:?}"
        );
    }
}

#[test]
fn below_the_threshold_only_a_remediation_or_a_healthy_answer_counts() {
    let known = table(&["a"], &["m"]);
    for (said, expected) in [
        (Said::ApiError, Verdict::Open),
        (Said::Silent, Verdict::Open),
        (Said::Unhealthy, Verdict::Unhealthy),
    ] {
        let answers = answers(&[("m", said)]);
        let round = Round {
            full: false,
            ..round(&answers)
        };
        assert_eq!(verdict(&round, only(&known), 1, MASTER), expected);
    }
}

fn any_said() -> impl Strategy<Value = Said> {
    prop_oneof![
        Just(HEALTHY),
        Just(Said::Unhealthy),
        Just(Said::ApiError),
        Just(Said::Silent)
    ]
}

proptest! {
    /// Nobody but a peer that knows a remediation makes a node fence at once.
    #[test]
    fn api_errors_and_silence_never_fence(
        said in proptest::collection::vec(any_said(), 0..8),
        control_plane: bool,
        ended: bool,
        full: bool,
        diagnostics in proptest::option::of(any::<bool>()),
        min in 0usize..4,
    ) {
        const NAMES: [&str; 8] = ["a", "b", "c", "d", "m", "n", "o", "p"];
        let known = table(&NAMES[..4], &NAMES[4..]);
        let pairs: Vec<(&str, Said)> = NAMES.into_iter().zip(said.iter().copied()).collect();
        let answers = answers(&pairs);
        let round = Round { full, ended, diagnostics, ..round(&answers) };
        let role = if control_plane { MASTER } else { WORKER };
        let verdict = verdict(&round, only(&known), min, role);
        if !said.contains(&Said::Unhealthy) {
            prop_assert_ne!(verdict, Verdict::Unhealthy);
        }
        // A proof needs somebody who said something.
        if let Verdict::Proved(proof) = verdict {
            let mut permit = Permit::default();
            permit.extend(proof);
            let spoke = said.iter().any(|said| *said == HEALTHY || *said == Said::ApiError);
            prop_assert!(spoke);
        }
    }

    /// Better answers never take a proof away.
    #[test]
    fn more_evidence_of_health_keeps_a_proof(said in proptest::collection::vec(any_said(), 4..=4), better in 0usize..4) {
        let known = table(&["a", "b", "c", "d"], &[]);
        let judge = |said: &[Said]| {
            let pairs: Vec<(&str, Said)> = ["a", "b", "c", "d"].into_iter().zip(said.iter().copied()).collect();
            let answers = answers(&pairs);
            verdict(&round(&answers), only(&known), 1, WORKER)
        };
        let before = judge(&said);
        let mut improved = said.clone();
        improved[better] = match said[better] {
            Said::Silent => Said::ApiError,
            Said::ApiError | Said::Healthy { .. } => HEALTHY,
            Said::Unhealthy => Said::Silent,
        };
        let after = judge(&improved);
        if matches!(before, Verdict::Proved(_)) {
            prop_assert!(matches!(after, Verdict::Proved(_)));
        }
        if before == Verdict::Open {
            prop_assert_ne!(after, Verdict::Unhealthy);
        }
    }
}
