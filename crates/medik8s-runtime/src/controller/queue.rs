//! A queue of keys with wakes, retries and client-go's metrics.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{Backoff, Key};
use crate::{
    clock::Clock,
    metrics::{Metrics, QueueMetrics},
};

/// Keys that wait for work. Cheap to clone; clones share the queue.
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

struct Shared<K> {
    name: String,
    backoff: Backoff,
    debounce: Duration,
    clock: Clock,
    metrics: Metrics,
    series: QueueMetrics,
    changed: Notify,
    state: Mutex<State<K>>,
}

struct State<K> {
    keys: BTreeMap<K, Entry>,
    /// Keys that may be worked on now, oldest first, with the time they became ready.
    ready: VecDeque<(K, Instant)>,
}

#[derive(Default)]
struct Entry {
    /// In `ready`.
    queued: bool,
    /// Being worked on since.
    running: Option<Instant>,
    /// Woken while being worked on.
    again: bool,
    /// The earliest wake somebody asked for.
    wake: Option<Instant>,
    /// The wake the last run asked for; a new run replaces it.
    requeue: Option<Instant>,
    /// Failures in a row.
    failures: u32,
}

impl Entry {
    fn due(&self) -> Option<Instant> {
        match (self.wake, self.requeue) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn is_idle(&self) -> bool {
        !self.queued && self.running.is_none() && self.due().is_none() && self.failures == 0
    }
}

impl<K: Key> Queue<K> {
    /// An empty queue. The name is the label `controller` and `name` of its metrics.
    pub fn new(name: &str, backoff: Backoff, clock: Clock, metrics: &Metrics) -> Self {
        Self::with_debounce(name, backoff, Duration::ZERO, clock, metrics)
    }

    /// An empty queue that waits `debounce` after [`Queue::add`], so that what comes in bursts is
    /// worked on once. Wakes with a set time are not delayed.
    pub fn with_debounce(
        name: &str,
        backoff: Backoff,
        debounce: Duration,
        clock: Clock,
        metrics: &Metrics,
    ) -> Self {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            backoff,
            debounce,
            clock,
            metrics: metrics.clone(),
            series: metrics.queue(name),
            changed: Notify::new(),
            state: Mutex::new(State {
                keys: BTreeMap::new(),
                ready: VecDeque::new(),
            }),
        });
        let weak = Arc::downgrade(&shared);
        metrics.before_gather(move || observe_running(&weak));
        Self { shared }
    }

    /// Wakes a key as soon as possible.
    pub fn add(&self, key: K) {
        self.add_after(key, self.shared.debounce);
    }

    /// Wakes a key after some time; an earlier wake wins.
    pub fn add_after(&self, key: K, wait: Duration) {
        let now = Instant::now();
        let mut state = self.lock();
        let entry = state.keys.entry(key.clone()).or_default();
        if wait.is_zero() {
            self.shared.make_ready(&mut state, key, now);
        } else if !entry.queued {
            let at = now + wait;
            entry.wake = Some(entry.wake.map_or(at, |wake| wake.min(at)));
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    /// How many keys are ready and not yet worked on.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    pub(super) fn failures(&self, key: &K) -> u32 {
        self.lock().keys.get(key).map_or(0, |entry| entry.failures)
    }

    /// The next key to work on. It must be given to `finish` or `fail` afterwards.
    pub(super) async fn next(&self) -> K {
        loop {
            let notified = self.shared.changed.notified();
            let now = Instant::now();
            let wait_until = {
                let mut state = self.lock();
                self.shared.take_due(&mut state, now);
                if let Some((key, since)) = state.ready.pop_front() {
                    let series = &self.shared.series;
                    series.depth.dec();
                    series
                        .queue_duration
                        .observe(now.duration_since(since).as_secs_f64());
                    if let Some(entry) = state.keys.get_mut(&key) {
                        entry.queued = false;
                        entry.running = Some(now);
                        // What this run finds decides about the next one.
                        entry.requeue = None;
                    }
                    return key;
                }
                state
                    .keys
                    .values()
                    .filter(|entry| entry.running.is_none())
                    .filter_map(Entry::due)
                    .min()
            };
            match wait_until {
                Some(at) => {
                    tokio::select! {
                        () = notified => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => notified.await,
            }
        }
    }

    /// A run went well; it wants another one after `wait`.
    pub(super) fn finish(&self, key: &K, wait: Option<Duration>) {
        self.ended(key, |entry, now| {
            entry.failures = 0;
            entry.requeue = wait.map(|wait| now + wait);
        });
    }

    /// A run failed; returns after which time it is repeated.
    pub(super) fn fail(&self, key: &K) -> Duration {
        let mut wait = Duration::ZERO;
        self.shared.series.retries.inc();
        self.ended(key, |entry, now| {
            entry.failures = entry.failures.saturating_add(1);
            wait = self.shared.backoff.delay(entry.failures, rand::random());
            entry.requeue = Some(now + wait);
        });
        wait
    }

    fn ended(&self, key: &K, update: impl FnOnce(&mut Entry, Instant)) {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(entry) = state.keys.get_mut(key) {
            if let Some(since) = entry.running.take() {
                let spent = now.duration_since(since).as_secs_f64();
                self.shared.series.work_duration.observe(spent);
            }
            update(entry, now);
            if std::mem::take(&mut entry.again) {
                self.shared.make_ready(&mut state, key.clone(), now);
            } else if entry.is_idle() {
                state.keys.remove(key);
            }
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Key> Shared<K> {
    /// Moves keys whose time has come to the ready ones, in the order of their times.
    fn take_due(&self, state: &mut State<K>, now: Instant) {
        let mut due: Vec<(Instant, K)> = state
            .keys
            .iter()
            .filter(|(_, entry)| entry.running.is_none())
            .filter_map(|(key, entry)| {
                entry
                    .due()
                    .filter(|at| *at <= now)
                    .map(|at| (at, key.clone()))
            })
            .collect();
        due.sort();
        for (_, key) in due {
            self.make_ready(state, key, now);
        }
    }

    fn make_ready(&self, state: &mut State<K>, key: K, now: Instant) {
        let entry = state.keys.entry(key.clone()).or_default();
        entry.wake = None;
        if entry.running.is_some() {
            entry.again = true;
        } else if !entry.queued {
            entry.queued = true;
            self.series.adds.inc();
            self.series.depth.inc();
            state.ready.push_back((key, now));
        }
    }
}

/// client-go keeps these two up to date every half second; here they are computed when asked for.
fn observe_running<K>(shared: &Weak<Shared<K>>) -> bool {
    let Some(shared) = shared.upgrade() else {
        return false;
    };
    let now = Instant::now();
    let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut sum, mut longest) = (0.0, 0.0_f64);
    for since in state.keys.values().filter_map(|entry| entry.running) {
        let seconds = now.duration_since(since).as_secs_f64();
        sum += seconds;
        longest = longest.max(seconds);
    }
    shared.series.unfinished.set(sum);
    shared.series.longest.set(longest);
    true
}
