//! Is a node unhealthy, soon unhealthy, or neither?

use jiff::{SignedDuration, Timestamp};

use crate::check::Rule;
use crate::node::NodeCondition;

#[cfg(test)]
mod tests;

/// What the rules say about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// A rule matches: the condition has lasted longer than its duration.
    Matching {
        /// Type of the condition.
        type_: String,
        /// Its status.
        status: String,
    },
    /// A condition has the status of a rule, but not for long enough yet.
    Soon {
        /// Type of the condition.
        type_: String,
        /// Its status.
        status: String,
        /// First moment at which the rule matches, if nothing changes.
        until: Timestamp,
    },
    /// No rule applies.
    NotMatching,
}

/// The smallest step of time after which a duration that must be exceeded is exceeded.
const INSTANT: SignedDuration = SignedDuration::from_millis(1);

/// Judges a node by its conditions. The first rule that matches wins; of those that do not match yet, the one that
/// matches first.
///
/// A condition without a time has been there for ever, as for the original, whose missing time is the year 1.
pub fn classify(rules: &[Rule], conditions: &[NodeCondition], now: Timestamp) -> Class {
    let mut soon: Option<(Timestamp, &Rule)> = None;
    for rule in rules {
        let Some(condition) = conditions
            .iter()
            .find(|condition| condition.type_ == rule.type_)
        else {
            continue;
        };
        if condition.status != rule.status {
            continue;
        }
        let expiry = condition.since.map(|since| after(since, rule));
        match expiry {
            Some(expiry) if now <= expiry => {
                if soon.is_none_or(|(earliest, _)| expiry < earliest) {
                    soon = Some((expiry, rule));
                }
            }
            Some(_) | None => {
                return Class::Matching {
                    type_: rule.type_.clone(),
                    status: rule.status.clone(),
                };
            }
        }
    }
    soon.map_or(Class::NotMatching, |(expiry, rule)| Class::Soon {
        type_: rule.type_.clone(),
        status: rule.status.clone(),
        until: expiry.checked_add(INSTANT).unwrap_or(Timestamp::MAX),
    })
}

fn after(since: Timestamp, rule: &Rule) -> Timestamp {
    since.checked_add(rule.duration).unwrap_or(Timestamp::MAX)
}
