//! What a run says of itself to whoever started it, and sums over many.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Outcome;

/// One run, as its process prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// Hash of its course.
    pub hash: String,
    /// Simulated milliseconds.
    pub length: u64,
    /// Counts.
    pub counts: BTreeMap<String, u64>,
    /// Broken promises.
    pub violations: Vec<String>,
}

impl Run {
    /// Of an outcome.
    pub fn of(seed: u64, outcome: &Outcome) -> Self {
        let counts = outcome.counts.iter();
        Self {
            seed,
            hash: format!("{:016x}", outcome.hash),
            length: u64::try_from(outcome.length.as_millis()).unwrap_or(u64::MAX),
            counts: counts
                .map(|(what, count)| ((*what).to_owned(), *count))
                .collect(),
            violations: outcome.violations.iter().map(ToString::to_string).collect(),
        }
    }

    /// A run that did not come to its end.
    pub fn failed(seed: u64, why: impl Into<String>) -> Self {
        Self {
            seed,
            hash: String::new(),
            length: 0,
            counts: BTreeMap::new(),
            violations: vec![why.into()],
        }
    }

    /// As one line.
    pub fn to_line(&self) -> String {
        json!({
            "seed": self.seed, "hash": self.hash, "length": self.length, "counts": self.counts,
            "violations": self.violations,
        })
        .to_string()
    }

    /// From that line.
    pub fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let number = |value: &Value| value.as_u64();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let counts = value.get("counts")?.as_object()?.iter();
        Some(Self {
            seed: number(value.get("seed")?)?,
            hash: text(value.get("hash")?)?,
            length: number(value.get("length")?)?,
            counts: counts
                .filter_map(|(k, v)| Some((k.clone(), number(v)?)))
                .collect(),
            violations: value
                .get("violations")?
                .as_array()?
                .iter()
                .filter_map(text)
                .collect(),
        })
    }
}

/// Sums over many runs.
#[derive(Debug, Default)]
pub struct Sums {
    /// Runs that broke no promise.
    pub passed: usize,
    /// Seeds of the others.
    pub failed: Vec<u64>,
    length: Duration,
    counts: BTreeMap<String, u64>,
}

impl Sums {
    /// Adds a run.
    pub fn add(&mut self, run: &Run) {
        if run.violations.is_empty() {
            self.passed += 1;
        } else {
            self.failed.push(run.seed);
        }
        self.length += Duration::from_millis(run.length);
        for (what, count) in &run.counts {
            let sum = self.counts.entry(what.clone()).or_default();
            *sum = if what.starts_with("worst") {
                (*sum).max(*count)
            } else {
                *sum + *count
            };
        }
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.length.as_secs_f64() / 3_600.0;
        writeln!(
            f,
            "{} seeds, {hours:.1} simulated hours",
            self.passed + self.failed.len()
        )?;
        for (what, count) in &self.counts {
            writeln!(f, "  {count:>10}  {what}")?;
        }
        for seed in &self.failed {
            writeln!(
                f,
                "FAILED seed {seed}: make test-sim SEED={seed} replays it"
            )?;
        }
        Ok(())
    }
}
