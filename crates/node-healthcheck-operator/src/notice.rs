//! From what is true to what is said: events are for changes.
//!
//! # Guarantees
//! A plan lists what is worth saying **now**, each time. The ledger lets through what was not said
//! before, or says something else now, so that an event stands for a change and not for a pass.

use std::collections::BTreeMap;

#[cfg(test)]
mod tests;

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// All is well.
    Normal,
    /// Somebody may want to look.
    Warning,
}

/// What a notice is about: its reason and its subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Topic {
    /// Event reason.
    pub reason: &'static str,
    /// What it is about, for example a node; empty for the health check as a whole.
    pub subject: String,
}

/// Something worth saying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is normal.
    pub severity: Severity,
    /// The words.
    pub message: String,
}

/// All that is worth saying now.
pub type Notices = BTreeMap<Topic, Notice>;

/// An event to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Whether it is normal.
    pub severity: Severity,
    /// Event reason.
    pub reason: &'static str,
    /// The words, without the common prefix.
    pub message: String,
}

impl Announcement {
    /// A normal event.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Normal,
            reason,
            message: message.into(),
        }
    }

    /// A warning.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            reason,
            message: message.into(),
        }
    }
}

/// What was said last.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Notices);

impl Ledger {
    /// Takes what is true now and returns what is new about it: first what concerns the health check
    /// as a whole, since only so many events can wait. What is no longer true is forgotten, so that
    /// it is said again when it returns.
    pub fn update(&mut self, notices: Notices) -> Vec<Announcement> {
        let new = notices
            .iter()
            .filter(|(topic, notice)| self.0.get(topic) != Some(notice));
        let (whole, single): (Vec<_>, Vec<_>) =
            new.partition(|(topic, _)| topic.subject.is_empty());
        let news = whole
            .into_iter()
            .chain(single)
            .map(|(topic, notice)| Announcement {
                severity: notice.severity,
                reason: topic.reason,
                message: notice.message.clone(),
            })
            .collect();
        self.0 = notices;
        news
    }
}
