//! What happened, as lines and as a hash of them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The story of a run.
#[derive(Debug)]
pub struct Trace {
    started: Instant,
    hash: u64,
    lines: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            hash: 0xcbf2_9ce4_8422_2325,
            lines: Vec::new(),
            counts: BTreeMap::new(),
        }
    }
}

impl Trace {
    /// Time since the start.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A line of the story.
    pub fn say(&mut self, text: impl AsRef<str>) {
        let line = format!("{:>9.3} s  {}", self.now().as_secs_f64(), text.as_ref());
        self.mix(&line);
        self.lines.push(line);
    }

    /// Something that only the hash shows (FNV-1a).
    pub fn mix(&mut self, text: &str) {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Counts something.
    pub fn count(&mut self, what: &'static str, by: u64) {
        *self.counts.entry(what).or_default() += by;
    }

    /// Keeps the largest.
    pub fn largest(&mut self, what: &'static str, value: u64) {
        let known = self.counts.entry(what).or_default();
        *known = (*known).max(value);
    }

    /// The hash of everything so far.
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// Its lines and its counts.
    pub fn into_parts(self) -> (Vec<String>, BTreeMap<&'static str, u64>) {
        (self.lines, self.counts)
    }
}
