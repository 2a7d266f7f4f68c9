//! The tables.

use std::time::Duration;

use crate::{
    bench::{Idle, Sample},
    measure::Memory,
};

#[expect(
    clippy::print_stdout,
    reason = "a command line tool reports on standard output"
)]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// All drains of one node.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    pub(crate) ours: Vec<Sample>,
    pub(crate) kubectl: Vec<Sample>,
}

impl Drains {
    pub(crate) fn print(&self) {
        say("");
        say("| pods | maintenance s | `kubectl drain` s | requests | of `kubectl drain` | CPU s |");
        say("|---|---|---|---|---|---|");
        let mut counts: Vec<usize> = self.ours.iter().map(|sample| sample.pods).collect();
        counts.dedup();
        for pods in counts {
            let of = |samples: &[Sample]| -> Vec<Sample> {
                let chosen = samples.iter().filter(|sample| sample.pods == pods);
                chosen.copied().collect()
            };
            let (ours, kubectl) = (of(&self.ours), of(&self.kubectl));
            say(&format!(
                "| {pods} | {} | {} | {} | {} | {} |",
                seconds(&ours, |one| Some(one.took)),
                seconds(&kubectl, |one| Some(one.took)),
                numbers(&ours),
                numbers(&kubectl),
                seconds(&ours, |one| one.cpu),
            ));
        }
        say("");
        for sample in self.ours.iter().chain(&self.kubectl) {
            let who = if sample.cpu.is_some() {
                "maintenance"
            } else {
                "kubectl    "
            };
            let detail = [
                ("last eviction accepted at", sample.evicted),
                ("last pod ended at", sample.ended),
                ("CPU", sample.cpu),
            ]
            .map(|(what, time)| {
                time.map_or_else(String::new, |time| {
                    format!(", {what} {:.3} s", time.as_secs_f64())
                })
            })
            .concat();
            say(&format!(
                "    {who} {:>3} pods: {:.3} s, {} requests ({} evictions){detail}",
                sample.pods,
                sample.took.as_secs_f64(),
                sample.requests,
                sample.evictions,
            ));
        }
    }
}

/// Several nodes at the same time.
#[derive(Debug)]
pub(crate) struct Together {
    pub(crate) pods: usize,
    /// Of each node.
    pub(crate) took: Vec<Duration>,
    pub(crate) requests: usize,
    pub(crate) evictions: usize,
    pub(crate) cpu: Duration,
    pub(crate) memory: Memory,
}

impl Together {
    pub(crate) fn print(&self) {
        let mut took = self.took.clone();
        took.sort();
        let (first, last) = (took.first().copied(), took.last().copied());
        say("");
        say(&format!(
            "{} nodes of {} pods at once: first done after {:.2} s, last after {:.2} s; {} requests ({} \
             evictions), {:.3} CPU s; PSS afterwards {}, peak {}",
            took.len(),
            self.pods,
            first.unwrap_or_default().as_secs_f64(),
            last.unwrap_or_default().as_secs_f64(),
            self.requests,
            self.evictions,
            self.cpu.as_secs_f64(),
            mebi(self.memory.pss),
            mebi(self.memory.peak),
        ));
    }
}

/// A cluster with many nodes.
#[derive(Debug)]
pub(crate) struct Scale {
    pub(crate) nodes: usize,
    pub(crate) before: Idle,
    pub(crate) first: Sample,
    pub(crate) after: Idle,
}

impl Scale {
    pub(crate) fn print(&self) {
        let nodes = self.nodes;
        idle(
            &format!("{nodes} nodes, before any maintenance"),
            &self.before,
        );
        say(&format!(
            "{nodes} nodes, first maintenance, {} pods: {:.3} s, {} requests, {:.3} CPU s",
            self.first.pods,
            self.first.took.as_secs_f64(),
            self.first.requests,
            self.first.cpu.unwrap_or_default().as_secs_f64(),
        ));
        idle(
            &format!("{nodes} nodes, a node in maintenance"),
            &self.after,
        );
    }
}

pub(crate) fn idle(when: &str, idle: &Idle) {
    say(&format!(
        "idle, {when}: PSS {} (anonymous {}, peak {}), {:.4} CPU s per minute, {} requests beside the \
         leader lease",
        mebi(idle.memory.pss),
        mebi(idle.memory.anonymous),
        mebi(idle.memory.peak),
        idle.cpu.as_secs_f64() * 60.0 / idle.lasted.as_secs_f64(),
        idle.requests,
    ));
}

fn mebi(kibi: u64) -> String {
    let tenths = (kibi * 10 + 512) / 1024;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn seconds(samples: &[Sample], of: impl Fn(&Sample) -> Option<Duration>) -> String {
    let mut all: Vec<Duration> = samples.iter().filter_map(of).collect();
    all.sort();
    median(&all).map_or_else(
        || "-".to_owned(),
        |time| format!("{:.2}", time.as_secs_f64()),
    )
}

fn numbers(samples: &[Sample]) -> String {
    let mut all: Vec<usize> = samples.iter().map(|sample| sample.requests).collect();
    all.sort_unstable();
    median(&all).map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn median<T: Copy>(sorted: &[T]) -> Option<T> {
    sorted.get(sorted.len() / 2).copied()
}
