//! Which Events are new, which are the same again, and which are too many. No I/O.

use std::{collections::BTreeMap, time::Duration};

use super::{Told, Type};

/// Events remembered for aggregation. The API server keeps them for an hour by default.
const REMEMBERED: usize = 512;
const REMEMBER_FOR: Duration = Duration::from_mins(50);
/// Burst and refill of client-go's `EventSourceObjectSpamFilter`.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_mins(5);

/// What makes two Events the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Same {
    object: Object,
    r#type: Type,
    reason: String,
    message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Object {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

impl Same {
    pub(super) fn of(told: &Told) -> Self {
        let about = &told.regarding;
        Self {
            object: Object {
                kind: about.kind.clone(),
                namespace: about.namespace.clone(),
                name: about.name.clone(),
                uid: about.uid.clone(),
            },
            r#type: told.r#type,
            reason: told.reason.clone(),
            message: told.message.clone(),
        }
    }
}

/// An Event that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) count: i32,
}

#[derive(Debug)]
struct Remembered {
    written: Written,
    last: Duration,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Duration,
}

/// What to do with an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write a new one.
    New,
    /// Count the one that is there.
    Again(Written),
    /// The object has had too many of this reason.
    Spam,
}

/// Memory of what was written.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    known: BTreeMap<Same, Remembered>,
    /// Per object and reason: many of one kind must not hide the one of another that explains them.
    buckets: BTreeMap<(Object, String), Bucket>,
}

impl Correlator {
    /// Decides about an Event at boot time `now`.
    pub(super) fn judge(&mut self, same: &Same, now: Duration) -> Verdict {
        if !self.take_token(same, now) {
            return Verdict::Spam;
        }
        match self.known.get(same) {
            Some(seen) if now.saturating_sub(seen.last) < REMEMBER_FOR => {
                Verdict::Again(seen.written.clone())
            }
            Some(_) | None => Verdict::New,
        }
    }

    /// Remembers what was written.
    pub(super) fn remember(&mut self, same: Same, written: Written, now: Duration) {
        self.known.insert(same, Remembered { written, last: now });
        if self.known.len() > REMEMBERED {
            let oldest = self.known.iter().min_by_key(|(_, seen)| seen.last);
            if let Some(oldest) = oldest.map(|(same, _)| same.clone()) {
                self.known.remove(&oldest);
            }
        }
    }

    /// Forgets an Event that the server no longer has.
    pub(super) fn forget(&mut self, same: &Same) {
        self.known.remove(same);
    }

    fn take_token(&mut self, same: &Same, now: Duration) -> bool {
        if self.buckets.len() > REMEMBERED {
            // A full bucket says nothing that a new one would not.
            self.buckets.retain(|_, bucket| bucket.at(now) < BURST);
        }
        let bucket = self
            .buckets
            .entry((same.object.clone(), same.reason.clone()))
            .or_insert_with(|| Bucket {
                tokens: BURST,
                filled: now,
            });
        let tokens = bucket.at(now);
        let taken = tokens >= 1.0;
        *bucket = Bucket {
            tokens: if taken { tokens - 1.0 } else { tokens },
            filled: now,
        };
        taken
    }
}

impl Bucket {
    fn at(&self, now: Duration) -> f64 {
        let gained = now.saturating_sub(self.filled).as_secs_f64() / REFILL.as_secs_f64();
        (self.tokens + gained).min(BURST)
    }
}
