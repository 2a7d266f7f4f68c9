//! The moments from which a release is counted, recorded on the remediation so that they survive a change of the leader.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::snr;

use crate::announcement::{Announcement, Fields, ParseError};
use crate::ids::{BootId, Uid};
use crate::order::Remediation;

/// What released the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// The bound has passed since order and quorum.
    Time,
    /// The bound has passed without a storm, in mixed operation.
    GuardedTime,
    /// E1: the node was seen in another boot.
    Reboot,
    /// E2: the agent's last words, and the watchdog's time since.
    LastWords,
}

impl By {
    const ALL: [Self; 4] = [Self::Time, Self::GuardedTime, Self::Reboot, Self::LastWords];

    /// The word in the annotation, and the label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::GuardedTime => "guarded-time",
            Self::Reboot => "reboot",
            Self::LastWords => "last-words",
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When and by what the workload was released. Pods created later are not removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Released {
    /// When.
    pub at: Timestamp,
    /// By what.
    pub by: By,
}

/// `uid=<uid> boot=<id> seen=<t_v> [bound=<s> wd=<s>] [quorum=<t_k>] [words=<first sight>] [released=<t> by=<word>]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OrderTimes {
    /// The remediation that they are of.
    pub uid: Uid,
    /// The boot that the order is for.
    pub boot: BootId,
    /// t_v: when the order was first known to be in place.
    pub seen: Timestamp,
    /// The largest bound that was read since, in seconds.
    pub bound: Option<u64>,
    /// The largest watchdog timeout that was read since, in seconds.
    pub wd: Option<u64>,
    /// t_k: when the quorum was complete.
    pub quorum: Option<Timestamp>,
    /// First sight of the last words.
    pub words: Option<Timestamp>,
    /// The release.
    pub released: Option<Released>,
}

impl OrderTimes {
    /// The order is in place now.
    pub const fn begin(uid: Uid, boot: BootId, seen: Timestamp) -> Self {
        Self {
            uid,
            boot,
            seen,
            bound: None,
            wd: None,
            quorum: None,
            words: None,
            released: None,
        }
    }

    /// Takes in an announcement: only ever larger values.
    #[must_use]
    pub fn with_bound(mut self, announced: Option<&Announcement>) -> Self {
        if let Some(Announcement {
            bound: Some(bound),
            wd,
            ..
        }) = announced
        {
            self.bound = self.bound.max(Some(*bound));
            self.wd = self.wd.max(Some(*wd));
        }
        self
    }

    /// What is recorded on `object` for the order that it is. Times of another UID or boot, or unreadable ones, are none:
    /// they start anew.
    pub fn of(object: &SelfNodeRemediation, order: &Remediation) -> Option<Self> {
        let annotations = object.metadata.annotations.as_ref();
        let text = annotations.and_then(|all| all.get(snr::ORDER_TIMES_ANNOTATION));
        Self::read(text.map(String::as_str), &order.uid, order.boot.as_ref())
    }

    /// Reads the annotation.
    pub fn read(text: Option<&str>, uid: &Uid, boot: Option<&BootId>) -> Option<Self> {
        let times: Self = text?.parse().ok()?;
        (times.uid == *uid && Some(&times.boot) == boot).then_some(times)
    }
}

impl fmt::Display for OrderTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid={} boot={} seen={}", self.uid, self.boot, self.seen)?;
        if let Some(bound) = self.bound {
            write!(f, " bound={bound}")?;
        }
        if let Some(wd) = self.wd {
            write!(f, " wd={wd}")?;
        }
        if let Some(quorum) = self.quorum {
            write!(f, " quorum={quorum}")?;
        }
        if let Some(words) = self.words {
            write!(f, " words={words}")?;
        }
        if let Some(Released { at, by }) = self.released {
            write!(f, " released={at} by={by}")?;
        }
        Ok(())
    }
}

impl FromStr for OrderTimes {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fields = Fields(text);
        let time = |key| fields.optional(key, |value| value.parse().ok());
        let number = |key| fields.optional(key, |value| value.parse().ok());
        let by = fields.optional("by", |value| {
            By::ALL.into_iter().find(|by| by.as_str() == value)
        })?;
        let released = match (time("released")?, by) {
            (Some(at), Some(by)) => Some(Released { at, by }),
            (None, None) => None,
            (Some(_), None) => return Err(ParseError::Missing("by")),
            (None, Some(_)) => return Err(ParseError::Missing("released")),
        };
        Ok(Self {
            uid: fields.parse("uid", Uid::new)?,
            boot: fields.parse("boot", BootId::new)?,
            seen: fields.parse("seen", |value| value.parse().ok())?,
            bound: number("bound")?,
            wd: number("wd")?,
            quorum: time("quorum")?,
            words: time("words")?,
            released,
        })
    }
}
