//! The bundles, judged by the operator framework's own tools and by a real OLM: installed as the manual
//! says, with dependencies and by hand, used, updated, and removed.
//!
//! Ends in one line, `N passed, N failed`.

#![expect(
    clippy::disallowed_methods,
    reason = "the test plays the user: its clock and its writes are not the product's"
)]
#![expect(
    clippy::indexing_slicing,
    reason = "what is missing in JSON is null, and then the check fails"
)]
#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use medik8s_harness::{Cluster, Options, child, go_tools, images::Programs, machine::NodeSpec};

#[path = "olm/bundles.rs"]
mod bundles;
#[path = "olm/lifecycle.rs"]
mod lifecycle;
#[path = "olm/manager.rs"]
mod manager;
#[path = "olm/originals.rs"]
mod originals;

/// Counts what was seen.
#[derive(Default)]
pub(crate) struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    /// Notes the outcome of one check; returns whether it passed.
    pub(crate) fn note<T>(
        &mut self,
        name: &str,
        begin: Instant,
        outcome: anyhow::Result<T>,
    ) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.passed += 1;
                println!("passed  {name} ({:.1} s)", begin.elapsed().as_secs_f64());
                Some(value)
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED  {name}: {error:#}");
                None
            }
        }
    }

    /// One check that the next ones need: an error ends the suite.
    pub(crate) async fn needs<T>(
        &mut self,
        name: &str,
        check: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let begin = Instant::now();
        let outcome = check.await;
        self.note(name, begin, outcome)
            .with_context(|| format!("what follows needs: {name}"))
    }

    /// One check that stands for itself.
    pub(crate) async fn sees(
        &mut self,
        name: &str,
        check: impl Future<Output = anyhow::Result<()>>,
    ) {
        let begin = Instant::now();
        let outcome = check.await;
        self.note(name, begin, outcome);
    }
}

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    let begin = Instant::now();
    let mut report = Report::default();
    let code = medik8s_harness::run_with(&[go_tools::OLM, go_tools::SCORECARD], async || {
        let nodes = std::iter::once(NodeSpec::control_plane("control-plane-1"))
            .chain((1..=4).map(|number| NodeSpec::worker(format!("worker-{number}"))))
            .collect();
        let options = Options {
            nodes,
            programs: Some(Programs::find()?),
            ..Options::default()
        };
        let mut cluster = Cluster::start(options).await?;
        let done = suite(&cluster, &mut report).await;
        if done.is_err() || report.failed > 0 {
            println!("logs: {}", cluster.keep_files().display());
        }
        cluster.stop().await;
        done
    });
    println!(
        "{} passed, {} failed ({:.0} s)",
        report.passed,
        report.failed,
        Duration::as_secs_f64(&begin.elapsed())
    );
    if report.failed == 0 {
        code
    } else {
        ExitCode::FAILURE
    }
}

async fn suite(cluster: &Cluster, report: &mut Report) -> anyhow::Result<()> {
    let made = report
        .needs("bundles and catalogs are made", bundles::make(cluster))
        .await?;
    bundles::judge(cluster, &made, report).await;
    // `-- quick` leaves out what takes another tool to be built.
    if !std::env::args().any(|word| word == "quick") {
        bundles::score_all(cluster, report).await?;
    }
    let olm = report
        .needs("OLM runs", manager::Olm::start(cluster, &made))
        .await?;
    lifecycle::run(cluster, &olm, &made, report).await?;
    originals::taken_over(cluster, &made, report).await
}
