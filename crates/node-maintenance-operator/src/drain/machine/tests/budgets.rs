//! Blocked pods and the PodDisruptionBudgets that are watched.

use super::*;

#[test]
fn an_opening_budget_lets_its_pod_go_at_once() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    answer(&mut machine, "a", not_now(), 0);
    let budgets = |allowed| Event::Budgets("ns".to_owned(), vec![budget("b", "a", allowed)]);
    assert_eq!(machine.step(budgets(0), at(0)), []);
    let report = machine.report();
    assert_eq!(report.blocked[0].why, "blocked by PodDisruptionBudget b");
    let mut posts = 0;
    for now in 1..60 {
        if !evicted(&machine.step(Event::Tick, at(now))).is_empty() {
            posts += 1;
            answer(&mut machine, "a", not_now(), now);
        }
    }
    assert!(
        posts <= 5,
        "{posts} tries behind a closed budget in a minute"
    );
    assert_eq!(evicted(&machine.step(budgets(1), at(60))), ["a"]);
    assert_eq!(
        answer(&mut machine, "a", Answer::Accepted, 60),
        [Command::ForgetBudgets("ns".to_owned())]
    );
}

#[test]
fn a_budget_opens_for_as_many_pods_as_it_says() {
    let mut same = Vec::new();
    for name in ["a", "b", "c"] {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        same.push(PodFacts {
            labels,
            ..pod("ns", name, name)
        });
    }
    let (mut machine, _) = begun(Options::default(), same);
    for (now, name) in [(1, "b"), (2, "a"), (3, "c")] {
        answer(&mut machine, name, not_now(), now);
    }
    let budgets = |allowed| Event::Budgets("ns".to_owned(), vec![budget("x", "web", allowed)]);
    assert_eq!(
        evicted(&machine.step(budgets(1), at(4))),
        ["b"],
        "the one that waits longest"
    );
    assert_eq!(
        evicted(&machine.step(budgets(1), at(4))),
        Vec::<String>::new(),
        "the opening is in use"
    );
    assert_eq!(evicted(&machine.step(budgets(2), at(4))), ["a"]);
}

#[test]
fn a_budget_that_seems_open_makes_no_busy_loop() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    answer(&mut machine, "a", not_now(), 0);
    let mut posts = 0;
    for now in 0..60 {
        let open = Event::Budgets("ns".to_owned(), vec![budget("b", "a", 1)]);
        let mut commands = machine.step(open, at(now));
        commands.extend(machine.step(Event::Tick, at(now)));
        if !evicted(&commands).is_empty() {
            posts += 1;
            answer(&mut machine, "a", not_now(), now);
        }
    }
    assert!(posts <= 18, "{posts} tries in a minute");
}

#[test]
fn a_budget_that_goes_or_changes_its_rules_lets_its_pods_try_at_once() {
    let other = || budget("other", "x", 0);
    let of_generation = |generation| Budget {
        generation: Some(generation),
        ..budget("b", "a", 0)
    };
    let blocked_by = |generation| {
        let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
        answer(&mut machine, "a", not_now(), 0);
        let known = vec![other(), of_generation(generation)];
        let commands = machine.step(Event::Budgets("ns".to_owned(), known), at(0));
        assert_eq!(evicted(&commands), Vec::<String>::new());
        machine
    };
    let tells = |machine: &mut Machine, budgets| {
        evicted(&machine.step(Event::Budgets("ns".to_owned(), budgets), at(2)))
    };
    assert_eq!(tells(&mut blocked_by(1), vec![other()]), ["a"], "deleted");
    assert_eq!(
        tells(&mut blocked_by(1), vec![other(), of_generation(2)]),
        ["a"],
        "changed"
    );
    let same = vec![other(), of_generation(1)];
    assert_eq!(
        tells(&mut blocked_by(1), same),
        Vec::<String>::new(),
        "its numbers move all the time"
    );
    let unrelated = vec![of_generation(1)];
    assert_eq!(tells(&mut blocked_by(1), unrelated), Vec::<String>::new());
}

#[test]
fn two_budgets_over_one_pod_open_nothing() {
    let (mut machine, _) = begun(Options::default(), vec![pod("ns", "a", "a")]);
    answer(&mut machine, "a", not_now(), 0);
    let both = vec![budget("x", "a", 1), budget("y", "a", 1)];
    let commands = machine.step(Event::Budgets("ns".to_owned(), both), at(1));
    assert_eq!(evicted(&commands), Vec::<String>::new());
}
