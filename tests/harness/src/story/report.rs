//! What the story prints.

use std::time::{Duration, Instant};

/// Prints lines with the seconds since the instant that matters.
#[derive(Debug, Clone)]
pub struct Narrator {
    zero: Instant,
}

impl Narrator {
    /// Counts from now.
    pub fn new() -> Self {
        Self {
            zero: Instant::now(),
        }
    }

    /// The same, counting from another instant.
    #[must_use]
    pub const fn since(&self, zero: Instant) -> Self {
        Self { zero }
    }

    /// A new part of the story.
    pub fn chapter(&self, title: &str) {
        out(&format!("\n== {title}"));
    }

    /// Something that is so.
    pub fn say(&self, text: &str) {
        out(&format!("           {text}"));
    }

    /// Something that happened just now.
    pub fn event(&self, text: &str) {
        self.event_at(Instant::now(), text);
    }

    /// Something that happened at an instant.
    pub fn event_at(&self, at: Instant, text: &str) {
        out(&format!(
            "{:>8.1} s  {text}",
            at.saturating_duration_since(self.zero).as_secs_f64()
        ));
    }

    /// Output of a command, as the user would see it.
    pub fn shell(&self, command: &str, output: &str) {
        out(&format!("           $ {command}"));
        for line in output.lines() {
            out(&format!("           {line}"));
        }
    }
}

impl Default for Narrator {
    fn default() -> Self {
        Self::new()
    }
}

/// The durations of the story.
#[derive(Debug, Clone, Default)]
pub struct Phases {
    rows: Vec<(String, Duration)>,
    /// From the cut to the workload running elsewhere.
    pub failover: Option<Duration>,
    /// From the creation of the NodeMaintenance to 100 %.
    pub drain: Option<Duration>,
}

impl Phases {
    pub(super) fn add(&mut self, name: impl Into<String>, duration: Duration) {
        self.rows.push((name.into(), duration));
    }

    /// The table.
    pub fn print(&self) {
        out("\n== Phases");
        for (name, duration) in &self.rows {
            out(&format!("  {name:<60} {:>7.1} s", duration.as_secs_f64()));
        }
    }

    /// The last line of a story that went well.
    pub fn passed(&self) -> String {
        let seconds = |duration: Option<Duration>| {
            duration.map_or_else(
                || "-".to_owned(),
                |duration| format!("{:.0}", duration.as_secs_f64()),
            )
        };
        format!(
            "DEMO PASSED failover_s={} drain_s={}",
            seconds(self.failover),
            seconds(self.drain)
        )
    }
}

/// Prints a line; also used for the last one.
#[expect(clippy::print_stdout, reason = "the story is told on standard output")]
pub(super) fn out(line: &str) {
    println!("{line}");
}
