//! How the drains of a process share what it may have under way.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many evictions of all nodes together may be under way. The API server queues what is more, may
/// refuse some of it, and each that is open takes a connection with its memory.
const TOGETHER: usize = 50;

/// What a node can count on, however many there are, and however long the others' evictions take.
const LEAST: usize = 4;

/// Counts the drains under way. Cheap to clone; clones are the same count.
#[derive(Debug, Clone, Default)]
pub struct Active(Arc<AtomicUsize>);

/// One drain under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Active);

impl Active {
    /// A drain begins.
    pub(super) fn begin(&self) -> Turn {
        self.0.fetch_add(1, Ordering::Relaxed);
        Turn(self.clone())
    }

    /// How many evictions each drain may have under way.
    pub(super) fn share(&self) -> usize {
        (TOGETHER / self.0.load(Ordering::Relaxed).max(1)).max(LEAST)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drains_share_what_may_be_under_way() {
        let active = Active::default();
        let first = active.begin();
        assert_eq!(active.share(), TOGETHER);
        let others: Vec<Turn> = (0..9).map(|_| active.begin()).collect();
        assert_eq!(active.share(), TOGETHER / 10);
        let many: Vec<Turn> = (0..90).map(|_| active.begin()).collect();
        assert_eq!(active.share(), LEAST);
        drop((others, many));
        assert_eq!(active.share(), TOGETHER);
        drop(first);
    }
}
