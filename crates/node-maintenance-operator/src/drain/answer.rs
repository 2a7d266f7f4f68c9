//! What the API server's answer to an eviction means.
//!
//! # Guarantees
//! Only status codes and machine-readable causes decide; texts are carried along for people.

use std::time::Duration;

use medik8s_runtime::write::{Error, EvictOutcome};

use crate::error::chain;

/// Longest text of a server that goes into a status.
const TEXT_LIMIT: usize = 256;

/// The meaning of an answer to one eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The eviction was accepted; the pod goes in its own time.
    Accepted,
    /// There is no such pod any more.
    Gone,
    /// A precondition failed: another incarnation has the name, or the pod changed just now.
    Contested,
    /// Not now: a PodDisruptionBudget, an admission webhook, or overload.
    NotNow {
        /// How long the server asked us to wait.
        retry_after: Option<Duration>,
        /// What it said.
        text: String,
    },
    /// The pod's namespace is being deleted, which takes the pod with it.
    NamespaceTerminating,
    /// The server will not do this now; another try comes with the next round.
    Refused {
        /// HTTP status code.
        code: u16,
        /// What it said.
        text: String,
    },
    /// No answer came; whether the eviction took place is unknown.
    Unreachable {
        /// What went wrong.
        text: String,
    },
}

impl Answer {
    /// A closed set of names, for the metric label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Gone => "gone",
            Self::Contested => "contested",
            Self::NotNow { .. } => "blocked",
            Self::NamespaceTerminating => "namespace_terminating",
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } => "unreachable",
        }
    }

    /// All values of [`Answer::label`].
    pub const LABELS: [&'static str; 7] = [
        "accepted",
        "gone",
        "contested",
        "blocked",
        "namespace_terminating",
        "refused",
        "unreachable",
    ];

    /// Reads the outcome of a request.
    pub fn read(outcome: Result<EvictOutcome, Error>) -> Self {
        match outcome {
            Ok(EvictOutcome::Evicted) => Self::Accepted,
            Ok(EvictOutcome::Gone) => Self::Gone,
            Ok(EvictOutcome::Replaced) => Self::Contested,
            Ok(EvictOutcome::Blocked { retry_after, why }) => Self::NotNow {
                retry_after,
                text: shorten(&why),
            },
            Ok(EvictOutcome::NamespaceTerminating) => Self::NamespaceTerminating,
            Err(error) if error.is_conflict() => Self::Contested,
            Err(error) => match error.status() {
                Some(status) => Self::Refused {
                    code: status.code,
                    text: shorten(&status.message),
                },
                None => Self::Unreachable {
                    text: shorten(&chain(&error)),
                },
            },
        }
    }
}

/// At most [`TEXT_LIMIT`] bytes, cut at a character, on one line.
pub(super) fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() <= TEXT_LIMIT {
        return line;
    }
    let mut short: String = line
        .char_indices()
        .take_while(|(at, c)| at + c.len_utf8() <= TEXT_LIMIT - 3)
        .map(|(_, c)| c)
        .collect();
    short.push_str("...");
    short
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use medik8s_runtime::error::Cause;

    use super::*;

    fn failed(code: u16, reason: &str) -> Answer {
        let status = Status::failure("what the server said", reason).with_code(code);
        Answer::read(Err(Error::new(
            "evict",
            "pod ns/p",
            kube::Error::Api(status.boxed()),
        )))
    }

    #[test]
    fn maps_every_row_of_the_table() {
        let blocked = EvictOutcome::Blocked {
            retry_after: Some(Duration::from_secs(10)),
            why: "The disruption budget web needs 2 healthy pods".to_owned(),
        };
        for (outcome, expected) in [
            (EvictOutcome::Evicted, Answer::Accepted),
            (EvictOutcome::Gone, Answer::Gone),
            (EvictOutcome::Replaced, Answer::Contested),
            (
                EvictOutcome::NamespaceTerminating,
                Answer::NamespaceTerminating,
            ),
            (
                blocked,
                Answer::NotNow {
                    retry_after: Some(Duration::from_secs(10)),
                    text: "The disruption budget web needs 2 healthy pods".to_owned(),
                },
            ),
        ] {
            assert_eq!(Answer::read(Ok(outcome)), expected);
        }
        assert_eq!(failed(409, "Conflict"), Answer::Contested);
        for code in [400, 403, 422, 500, 503, 504] {
            let text = "what the server said".to_owned();
            assert_eq!(failed(code, "r"), Answer::Refused { code, text }, "{code}");
        }
        let lost = Error::new("evict", "pod ns/p", Cause::Deadline(Duration::from_secs(1)));
        let text = "could not evict pod ns/p: no answer within 1s".to_owned();
        assert_eq!(Answer::read(Err(lost)), Answer::Unreachable { text });
    }

    #[test]
    fn texts_are_bounded_and_on_one_line() {
        let got = shorten(&format!("a\n b {}", "ü".repeat(500)));
        assert!(got.len() <= TEXT_LIMIT && got.starts_with("a b ") && got.ends_with("..."));
        assert_eq!(shorten("x  y"), "x y");
    }

    #[test]
    fn labels_are_closed() {
        assert!(Answer::LABELS.contains(&Answer::Accepted.label()));
        assert!(Answer::LABELS.contains(&failed(500, "r").label()));
    }
}
