//! Every promise can be seen broken, and a seed is replayed exactly.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

use self_node_remediation_simulation::judge::Rule;
use self_node_remediation_simulation::report::Run;
use self_node_remediation_simulation::scenario::{
    CALM, Fault, Incident, Profile, Sabotage, Scenario, incident,
};
use self_node_remediation_simulation::{Outcome, run};

/// Six workers with the fast profile, nothing goes wrong by itself.
fn quiet() -> Scenario {
    Scenario {
        workers: 6,
        control_plane: 0,
        managers: 1,
        profile: Profile::Fast,
        rotates: false,
        ..Scenario::of(1, Some(6))
    }
}

fn play(sabotage: Sabotage, incidents: Vec<Incident>) -> Outcome {
    run(quiet().with(sabotage, incidents)).unwrap()
}

fn broken(outcome: &Outcome) -> Vec<Rule> {
    outcome
        .violations
        .iter()
        .map(|violation| violation.rule)
        .collect()
}

fn assert_breaks(rule: Rule, sabotage: Sabotage, incidents: Vec<Incident>) {
    let whole = play(Sabotage::None, incidents.clone());
    assert_eq!(broken(&whole), [], "{:#?}", whole.lines);
    let outcome = play(sabotage, incidents);
    assert!(broken(&outcome).contains(&rule), "{:#?}", outcome.lines);
}

fn second() -> u64 {
    CALM.as_secs()
}

#[test]
fn a_watchdog_that_never_fires_makes_two_copies() {
    let cut = incident(second(), 400, quiet().cut_off(2));
    assert_breaks(Rule::AtMostOne, Sabotage::WatchdogNeverFires, vec![cut]);
}

#[test]
fn a_watchdog_that_ignores_its_feeds_resets_a_node_without_need() {
    assert_breaks(
        Rule::NoNeedlessReset,
        Sabotage::WatchdogIgnoresFeeds,
        vec![],
    );
}

#[test]
fn a_manager_that_stops_misses_the_bound() {
    let off = incident(second(), 500, Fault::PowerOff(2));
    assert_breaks(Rule::Bound, Sabotage::ManagerStops, vec![off]);
}

/// A process runs nothing but one seed, so tokio's own randomness is the same as well.
#[test]
fn a_seed_is_replayed_exactly() {
    let hash = |seed: &str| {
        let program = env!("CARGO_BIN_EXE_self-node-remediation-simulation");
        let mut command = Command::new(program);
        command.args(["--quiet", "--seed", seed, "--nodes", "6"]);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let run = Run::parse(text.trim()).unwrap();
        (run.hash, run.length, run.counts)
    };
    let (one, other) = (hash("7"), hash("8"));
    assert_eq!(one, hash("7"));
    assert_eq!(other, hash("8"));
    assert_ne!(one.0, other.0);
}
