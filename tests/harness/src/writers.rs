//! Writers: one real process per pod of a StatefulSet that must never run twice, and the judge.
//!
//! # Purpose
//! Whether two copies ran at once is judged from what they did, not from what the API says about
//! them: every writer appends a line each 100 ms to one shared log, with the boot-time clock of the
//! machine, which all of them share.
//!
//! # Guarantees
//! [`overlaps`] is pure; a writer that wrote at all, and another one that wrote between its first and
//! its last line, are an overlap, however short.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::Context as _;

/// How often a writer writes.
pub const PERIOD: Duration = Duration::from_millis(100);

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// UID of the pod.
    pub pod: String,
    /// Where it ran.
    pub node: String,
    /// Id of the process: a pod restarted after a reboot is another one.
    pub process: u32,
    /// Boot-time clock.
    pub at: Duration,
}

/// The life of one writer process, as its own lines show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// UID of the pod.
    pub pod: String,
    /// Where it ran.
    pub node: String,
    /// Id of the process.
    pub process: u32,
    /// Its first line.
    pub first: Duration,
    /// Its last line.
    pub last: Duration,
    /// How many lines it wrote.
    pub lines: usize,
}

/// Two lives that ran at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The one that started first.
    pub earlier: Life,
    /// The one that started before the first had ended.
    pub later: Life,
    /// For how long both wrote.
    pub length: Duration,
}

/// Reads a log; a last line without its end (a writer killed in the middle) is left out.
pub fn read(log: &Path) -> anyhow::Result<Vec<Line>> {
    if !log.exists() {
        return Ok(Vec::new());
    }
    parse(&fs::read_to_string(log)?)
}

fn parse(text: &str) -> anyhow::Result<Vec<Line>> {
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    complete.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> anyhow::Result<Line> {
    let mut words = line.split(' ');
    let mut word = || {
        words
            .next()
            .with_context(|| format!("the writers' log has a short line: {line}"))
    };
    Ok(Line {
        pod: word()?.to_owned(),
        node: word()?.to_owned(),
        process: word()?.parse()?,
        at: Duration::from_nanos(word()?.parse()?),
    })
}

/// All lives in the order of their first lines.
pub fn lives(lines: &[Line]) -> Vec<Life> {
    let mut lives: BTreeMap<(&str, &str, u32), Life> = BTreeMap::new();
    for line in lines {
        let life = lives
            .entry((&line.pod, &line.node, line.process))
            .or_insert_with(|| Life {
                pod: line.pod.clone(),
                node: line.node.clone(),
                process: line.process,
                first: line.at,
                last: line.at,
                lines: 0,
            });
        life.first = life.first.min(line.at);
        life.last = life.last.max(line.at);
        life.lines += 1;
    }
    let mut lives: Vec<Life> = lives.into_values().collect();
    lives.sort_by_key(|life| life.first);
    lives
}

/// Every pair of lives that ran at the same time.
pub fn overlaps(lines: &[Line]) -> Vec<Overlap> {
    let lives = lives(lines);
    let mut found = Vec::new();
    for (position, earlier) in lives.iter().enumerate() {
        for later in lives.iter().skip(position + 1) {
            // `later` starts at or after `earlier`.
            if later.first <= earlier.last {
                found.push(Overlap {
                    earlier: earlier.clone(),
                    later: later.clone(),
                    length: earlier.last.min(later.last).saturating_sub(later.first),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[(&str, &str, u32, u64)]) -> Vec<Line> {
        lines
            .iter()
            .map(|(pod, node, process, ms)| Line {
                pod: (*pod).to_owned(),
                node: (*node).to_owned(),
                process: *process,
                at: Duration::from_millis(*ms),
            })
            .collect()
    }

    #[test]
    fn one_after_the_other_is_no_overlap() {
        let lines = log(&[
            ("a", "n1", 1, 0),
            ("a", "n1", 1, 100),
            ("b", "n2", 2, 101),
            ("b", "n2", 2, 300),
        ]);
        assert_eq!(overlaps(&lines), []);
        assert_eq!(lives(&lines).len(), 2);
    }

    #[test]
    fn one_line_of_the_second_before_the_last_of_the_first_is_an_overlap() {
        let lines = log(&[("a", "n1", 1, 0), ("b", "n2", 2, 150), ("a", "n1", 1, 200)]);
        let found = overlaps(&lines);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].later.pod, "b");
        assert_eq!(found[0].length, Duration::ZERO);
    }

    #[test]
    fn order_of_lines_in_the_file_does_not_matter() {
        let lines = log(&[
            ("b", "n2", 2, 150),
            ("b", "n2", 2, 900),
            ("a", "n1", 1, 500),
            ("a", "n1", 1, 0),
        ]);
        let found = overlaps(&lines);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].earlier.pod, "a");
        assert_eq!(found[0].length, Duration::from_millis(350));
    }

    #[test]
    fn two_processes_of_one_pod_count_as_two() {
        let lines = log(&[
            ("a", "n1", 1, 0),
            ("a", "n1", 1, 400),
            ("a", "n1", 2, 300),
            ("a", "n1", 2, 500),
        ]);
        assert_eq!(overlaps(&lines).len(), 1);
    }

    #[test]
    fn three_at_once_are_three_pairs() {
        let lines = log(&[
            ("a", "n1", 1, 0),
            ("a", "n1", 1, 900),
            ("b", "n2", 2, 100),
            ("b", "n2", 2, 800),
            ("c", "n3", 3, 200),
            ("c", "n3", 3, 300),
        ]);
        assert_eq!(overlaps(&lines).len(), 3);
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_short_line_is_an_error() {
        assert_eq!(
            parse("u n 1 5\nu n 1").unwrap(),
            [parse_line("u n 1 5").unwrap()]
        );
        assert!(parse("u n\nu n 1 5\n").is_err());
    }
}
