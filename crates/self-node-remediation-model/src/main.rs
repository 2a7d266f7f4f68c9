//! Runs the searches.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a report for people, with the time it took"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use self_node_remediation_model::cases::{self, Case, Report};
use self_node_remediation_model::{document, story};

/// Exhaustive search through the histories of one order.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The space that every change searches.
    Small,
    /// The whole space.
    Full {
        /// Most states of one search; 20 million take about 2 GiB and four minutes.
        #[arg(long, value_name = "STATES", default_value_t = 4_000_000)]
        most: usize,
        /// Write the table of results into this document.
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
        /// Only searches whose name contains this.
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
    },
    /// The story of each broken rule.
    Stories {
        /// Write them into this document.
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
        /// Only searches whose name contains this.
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
    },
}

fn main() -> Result<ExitCode> {
    let good = match Arguments::parse().what {
        What::Small => run(cases::small(), true, None),
        What::Full { most, write, only } => {
            let mut cases = cases::broken();
            cases.extend(cases::full(most));
            run(chosen(cases, only.as_deref()), false, write.as_deref())
        }
        What::Stories { write, only } => {
            stories(&chosen(cases::broken(), only.as_deref()), write.as_deref())
        }
    }?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn chosen(cases: Vec<Case>, only: Option<&str>) -> Vec<Case> {
    let wanted = |case: &Case| only.is_none_or(|only| case.name.contains(only));
    cases.into_iter().filter(wanted).collect()
}

fn run(mut cases: Vec<Case>, with_broken: bool, write: Option<&Path>) -> Result<bool> {
    if with_broken {
        cases.extend(cases::broken());
    }
    let (mut passed, mut failed) = (0u32, 0u32);
    let mut table = String::from(
        "| Search | States | Actions | Space | Cut off for good | Time | Found |\n|---|---|---|---|---|---|---|\n",
    );
    let begin = Instant::now();
    let mut states = 0;
    for case in &cases {
        let start = Instant::now();
        let report = case.run();
        let good = report.passed(case);
        if good {
            passed += 1;
        } else {
            failed += 1;
        }
        states += report.states;
        let row = row(case, &report, start.elapsed().as_secs_f64());
        println!("{}  {row}", if good { "ok  " } else { "FAIL" });
        table.push_str(&row);
        table.push('\n');
        if !good {
            println!("{}", story::text(case, &report));
        }
    }
    println!("{states} states in {:.0} s", begin.elapsed().as_secs_f64());
    if let Some(path) = write {
        document::replace(path, "results", &table)?;
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn row(case: &Case, report: &Report, seconds: f64) -> String {
    let name = match case.broken {
        Some(rule) => format!("{}: {}", case.name, rule.sentence().trim_end_matches('.')),
        None => case.name.clone(),
    };
    let space = match (report.closed, report.violation.is_some()) {
        (_, true) => "until found",
        (true, false) => "closed",
        (false, false) => "bounded",
    };
    let found = if report.violation.is_some() {
        "the trace"
    } else {
        "nothing"
    };
    format!(
        "| {name} | {} | {} | {space} | {} | {seconds:.1} s | {found} |",
        report.states, report.depth, report.lives
    )
}

fn stories(cases: &[Case], write: Option<&Path>) -> Result<bool> {
    let reports: Vec<Report> = cases.iter().map(Case::run).collect();
    let text = story::markdown(cases.iter().zip(&reports));
    match write {
        Some(path) => document::replace(path, "traces", &text)
            .with_context(|| format!("could not update {}", path.display()))?,
        None => println!("{text}"),
    }
    for (case, _) in cases
        .iter()
        .zip(&reports)
        .filter(|(case, report)| !report.passed(case))
    {
        println!("{} led nowhere", case.name);
    }
    Ok(cases
        .iter()
        .zip(&reports)
        .all(|(case, report)| report.passed(case)))
}
