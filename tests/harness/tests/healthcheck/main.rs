//! The node health check on a real control plane, with the rights of the shipped manifests.
//!
//! All scenarios run at once on one cluster, each with nodes of its own; then the leader is killed.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]
#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the suite plays the user and other operators: its clock and its writes are not the \
              product's"
)]

mod families;
mod leaders;
mod objects;
mod odd;
mod walk;

use std::{path::Path, process::ExitCode, time::Duration};

use futures::future::{FutureExt as _, LocalBoxFuture, join_all};
use medik8s_harness::{
    child,
    healthcheck::{Lab, Manager, Start},
    images::Programs,
};

/// How long something may take that needs nothing but a few requests.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// One scenario: its name and what it does.
pub(crate) type Scenario<'a> = (&'static str, LocalBoxFuture<'a, anyhow::Result<()>>);

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    medik8s_harness::run(async || {
        let program = Programs::find()?.managers.join("node-healthcheck-operator");
        let mut lab = Lab::start().await?;
        let told = tell(&lab, &program).await;
        if !matches!(told, Ok(0)) {
            println!("logs: {}/logs", lab.cluster.keep_files().display());
        }
        lab.cluster.stop().await;
        anyhow::ensure!(told? == 0, "scenarios failed");
        Ok(())
    })
}

/// Runs all scenarios; returns how many failed.
async fn tell(lab: &Lab, program: &Path) -> anyhow::Result<usize> {
    let first = lab.manager(program, 1, &Start::default()).await?;
    first.leads(SOON).await?;
    // Of every kind it must be known whether it remediates a control plane node: before the
    // scenarios in which one may not be listed.
    let begin = std::time::Instant::now();
    let control_plane = walk::control_plane(lab).await;
    report(
        "held back by another control plane node",
        &control_plane,
        begin.elapsed(),
    );
    let scenarios = scenarios(lab, &first);
    let begin = std::time::Instant::now();
    let done = join_all(scenarios.into_iter().map(|(name, scenario)| async move {
        let done = scenario.await;
        report(name, &done, begin.elapsed());
        done.is_ok()
    }))
    .await;
    let begin = std::time::Instant::now();
    let leaders =
        leaders::the_next_leader_goes_on_where_the_last_one_was_killed(lab, program, first);
    let leaders = leaders.await;
    report(
        "the next leader goes on where the last one was killed",
        &leaders,
        begin.elapsed(),
    );
    let passed = done.iter().filter(|done| **done).count()
        + usize::from(control_plane.is_ok())
        + usize::from(leaders.is_ok());
    let failed = done.len() + 2 - passed;
    println!("healthcheck: {passed} passed, {failed} failed");
    Ok(failed)
}

fn scenarios<'a>(lab: &'a Lab, manager: &'a Manager) -> Vec<Scenario<'a>> {
    let mut all: Vec<Scenario<'a>> = vec![(
        "metrics are for those who may read them",
        odd::metrics_are_for_readers(lab, manager).boxed_local(),
    )];
    all.extend(walk::scenarios(lab));
    all.extend(objects::scenarios(lab));
    all.extend(families::scenarios(lab));
    all.extend(odd::scenarios(lab));
    all
}

fn report(name: &str, done: &anyhow::Result<()>, took: Duration) {
    match done {
        Ok(()) => println!("ok      {name} ({:.1} s)", took.as_secs_f64()),
        Err(error) => println!("FAILED  {name}: {error:#}"),
    }
}
