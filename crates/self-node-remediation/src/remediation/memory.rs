//! What the manager remembers between passes. Nothing that a release depends on survives only here:
//! after a change of the leader acknowledgements are asked for again, and calm is counted anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use medik8s_core::time;
use medik8s_runtime::controller::ObjectKey;
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_core::release::OrderTimes;

/// A gap between two looks in which a storm, or another manager, could have gone unseen.
const LONGEST_GAP: Duration = Duration::from_secs(15);

/// Which order acknowledgements are of. A renewed order starts without any.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OrderKey {
    uid: String,
    boot: String,
    seen: Timestamp,
}

impl OrderKey {
    fn of(times: &OrderTimes) -> Self {
        Self {
            uid: times.uid.to_string(),
            boot: times.boot.to_string(),
            seen: times.seen,
        }
    }
}

#[derive(Debug, Default)]
struct Remembered {
    acknowledged: Option<(OrderKey, BTreeSet<NodeName>)>,
    asked: bool,
    calm: Option<Span>,
    watched: Option<Span>,
    told: BTreeSet<String>,
}

/// A time of looks with no long gap between two of them.
#[derive(Debug, Clone, Copy)]
struct Span {
    since: Timestamp,
    checked: Timestamp,
}

impl Span {
    /// One more look, after which the time goes on or, `anew`, begins; since when it goes on.
    fn look(span: &mut Option<Self>, anew: bool, now: Timestamp) -> Timestamp {
        let since = match *span {
            Some(known) if !anew && time::elapsed(known.checked, now) <= LONGEST_GAP => known.since,
            Some(_) | None => now,
        };
        *span = Some(Self {
            since,
            checked: now,
        });
        since
    }
}

/// Memory of all remediations.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<ObjectKey, Remembered>>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Remembered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The remediation is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        self.lock().remove(key);
    }

    /// Who has acknowledged this very order.
    pub(super) fn acknowledged(
        &self,
        key: &ObjectKey,
        times: Option<&OrderTimes>,
    ) -> BTreeSet<NodeName> {
        let wanted = times.map(OrderKey::of);
        match self
            .lock()
            .get(key)
            .and_then(|known| known.acknowledged.clone())
        {
            Some((order, nodes)) if Some(&order) == wanted.as_ref() => nodes,
            Some(_) | None => BTreeSet::new(),
        }
    }

    /// These have acknowledged the order.
    pub(super) fn add_acknowledged(
        &self,
        key: &ObjectKey,
        times: &OrderTimes,
        nodes: impl IntoIterator<Item = NodeName>,
    ) {
        let mut memory = self.lock();
        let known = memory.entry(key.clone()).or_default();
        let order = OrderKey::of(times);
        match &mut known.acknowledged {
            Some((of, held)) if *of == order => held.extend(nodes),
            other => *other = Some((order, nodes.into_iter().collect())),
        }
    }

    /// Marks that the members were asked, or takes the mark away.
    pub(super) fn set_asked(&self, key: &ObjectKey, asked: bool) {
        self.lock().entry(key.clone()).or_default().asked = asked;
    }

    /// Whether the members were asked in this run; the mark is taken away.
    pub(super) fn take_asked(&self, key: &ObjectKey) -> bool {
        let mut memory = self.lock();
        memory
            .get_mut(key)
            .is_some_and(|known| std::mem::take(&mut known.asked))
    }

    /// t_s: since when the other nodes are seen to be calm. A storm, the first look, and a gap
    /// between two looks start it anew.
    pub(super) fn calm_since(&self, key: &ObjectKey, storm: bool, now: Timestamp) -> Timestamp {
        Span::look(
            &mut self.lock().entry(key.clone()).or_default().calm,
            storm,
            now,
        )
    }

    /// Since when this process looks at the order without a long gap.
    pub(super) fn watched_since(&self, key: &ObjectKey, now: Timestamp) -> Timestamp {
        Span::look(
            &mut self.lock().entry(key.clone()).or_default().watched,
            false,
            now,
        )
    }

    /// Whether this is to be told now: true once until `untell`.
    pub(super) fn tell(&self, key: &ObjectKey, what: &str) -> bool {
        let mut memory = self.lock();
        memory
            .entry(key.clone())
            .or_default()
            .told
            .insert(what.to_owned())
    }

    /// What begins with this may be told again.
    pub(super) fn untell(&self, key: &ObjectKey, prefix: &str) {
        if let Some(known) = self.lock().get_mut(key) {
            known.told.retain(|told| !told.starts_with(prefix));
        }
    }
}

#[cfg(test)]
mod tests {
    use self_node_remediation_core::ids::{BootId, Uid};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn times(boot: &str, seen: i64) -> OrderTimes {
        let uid = Uid::new("u1").unwrap();
        OrderTimes::begin(uid, BootId::new(boot).unwrap(), at(seen))
    }

    #[test]
    fn acknowledgements_are_of_one_order() {
        let (memory, key) = (Memory::default(), ObjectKey::namespaced("ns", "x"));
        let node = NodeName::new("a").unwrap();
        memory.add_acknowledged(&key, &times("b1", 1), [node]);
        assert_eq!(memory.acknowledged(&key, Some(&times("b1", 1))).len(), 1);
        for other in [times("b2", 1), times("b1", 2)] {
            assert!(memory.acknowledged(&key, Some(&other)).is_empty());
        }
        assert!(memory.acknowledged(&key, None).is_empty());
    }

    #[test]
    fn calm_starts_anew_after_a_storm_and_after_a_gap() {
        let (memory, key) = (Memory::default(), ObjectKey::namespaced("ns", "x"));
        assert_eq!(memory.calm_since(&key, false, at(100)), at(100));
        assert_eq!(memory.calm_since(&key, false, at(105)), at(100));
        assert_eq!(memory.calm_since(&key, true, at(110)), at(110));
        assert_eq!(memory.calm_since(&key, false, at(125)), at(110));
        assert_eq!(
            memory.calm_since(&key, false, at(141)),
            at(141),
            "nobody looked for 16 s"
        );
    }

    #[test]
    fn a_manager_that_looks_all_the_time_has_seen_everything_itself() {
        let (memory, key) = (Memory::default(), ObjectKey::namespaced("ns", "x"));
        assert_eq!(memory.watched_since(&key, at(100)), at(100));
        assert_eq!(memory.watched_since(&key, at(112)), at(100));
        assert_eq!(memory.watched_since(&key, at(130)), at(130));
        // Looks at the order are no looks at the other nodes.
        assert_eq!(memory.calm_since(&key, false, at(131)), at(131));
    }

    #[test]
    fn things_are_told_once() {
        let (memory, key) = (Memory::default(), ObjectKey::namespaced("ns", "x"));
        assert!(memory.tell(&key, "hold:quorum") && !memory.tell(&key, "hold:quorum"));
        memory.untell(&key, "hold:");
        assert!(memory.tell(&key, "hold:quorum"));
    }
}
