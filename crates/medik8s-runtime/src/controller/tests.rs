use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::*;
use crate::{clock::Clock, metrics::Metrics};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
#[error("on purpose")]
struct Failure;

impl Classify for Failure {
    fn class(&self) -> Class {
        Class::Retry
    }
}

fn queue(debounce: Duration) -> (Queue<String>, Metrics) {
    let metrics = Metrics::new().unwrap();
    let clock = Clock::with_tokio(Timestamp::UNIX_EPOCH);
    let backoff = Backoff::new(SECOND, 30 * SECOND);
    (
        Queue::with_debounce("test", backoff, debounce, clock, &metrics),
        metrics,
    )
}

/// What ran when, in milliseconds since the start.
#[derive(Clone)]
struct Log(Arc<Mutex<Vec<(u128, String, u32)>>>, Instant);

impl Log {
    fn new() -> Self {
        Self(Arc::default(), Instant::now())
    }

    fn note(&self, key: &str, attempt: u32) {
        self.0
            .lock()
            .unwrap()
            .push((self.1.elapsed().as_millis(), key.to_owned(), attempt));
    }

    fn times(&self) -> Vec<u128> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|(at, _, _)| *at)
            .collect()
    }
}

/// Runs the queue for `seconds`, with `act` beside it.
async fn drive<F>(
    queue: &Queue<String>,
    workers: usize,
    seconds: u64,
    reconcile: impl Fn(String, u32) -> F + Send + Sync,
    act: impl Future<Output = ()>,
) where
    F: Future<Output = Result<Action, Failure>> + Send,
{
    let stop = Shutdown::manual();
    let end = async {
        sleep(SECOND * u32::try_from(seconds).unwrap()).await;
        stop.trigger();
    };
    tokio::join!(run(queue, workers, reconcile, &stop), end, act);
}

#[tokio::test(start_paused = true)]
async fn failures_wait_longer_each_time_and_success_resets() {
    let (queue, metrics) = queue(Duration::ZERO);
    let log = Log::new();
    queue.add("a".into());
    let noted = log.clone();
    let reconcile = move |key: String, attempt| {
        noted.note(&key, attempt);
        async move {
            if attempt < 3 {
                Err(Failure)
            } else {
                Ok(Action::after(100 * SECOND))
            }
        }
    };
    drive(&queue, 1, 109, reconcile, async {}).await;
    let runs = log.0.lock().unwrap().clone();
    let seen: Vec<_> = runs
        .iter()
        .map(|(at, _, attempt)| (*at / 1000, *attempt))
        .collect();
    assert_eq!(seen, [(0, 0), (1, 1), (3, 2), (7, 3), (107, 0), (108, 1)]);
    let text = metrics.text().unwrap();
    assert!(
        text.contains(r#"controller_runtime_reconcile_errors_total{controller="test"} 5"#),
        "{text}"
    );
    assert!(
        text.contains(r#"workqueue_retries_total{controller="test",name="test"} 5"#),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_key_is_worked_on_by_one_worker_at_a_time() {
    let (queue, _) = queue(Duration::ZERO);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let runs = Arc::new(AtomicUsize::new(0));
    let reconcile = |_: String, _| {
        let (now, most, runs) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&runs));
        async move {
            runs.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(SECOND).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(Action::done())
        }
    };
    let act = async {
        for _ in 0..5 {
            queue.add("a".into());
            sleep(SECOND / 10).await;
        }
    };
    drive(&queue, 4, 10, reconcile, act).await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
    // Wakes during the first run lead to exactly one more.
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_runs_at_once_is_bounded() {
    let (queue, metrics) = queue(Duration::ZERO);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for index in 0..20 {
        queue.add(format!("k{index}"));
    }
    assert_eq!(queue.len(), 20);
    let reconcile = |_: String, _| {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(SECOND).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(Action::done())
        }
    };
    let act = async {
        sleep(SECOND / 2).await;
        let text = metrics.text().unwrap();
        assert!(
            text.contains(r#"workqueue_depth{controller="test",name="test"} 17"#),
            "{text}"
        );
        assert!(text.contains(r#"controller_runtime_active_workers{controller="test"} 3"#));
        let unfinished = r#"workqueue_unfinished_work_seconds{controller="test",name="test"} 1.5"#;
        assert!(text.contains(unfinished), "{text}");
        let longest =
            r#"workqueue_longest_running_processor_seconds{controller="test",name="test"} 0.5"#;
        assert!(text.contains(longest), "{text}");
    };
    drive(&queue, 3, 10, reconcile, act).await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_run_and_set_times_are_not_delayed() {
    let (queue, _) = queue(SECOND / 10);
    let log = Log::new();
    let noted = log.clone();
    let reconcile = move |key: String, attempt| {
        noted.note(&key, attempt);
        async { Ok(Action::done()) }
    };
    let act = async {
        for _ in 0..5 {
            queue.add("a".into());
            sleep(Duration::from_millis(10)).await;
        }
        queue.add_after("a".into(), SECOND);
        queue.add_after("a".into(), Duration::from_millis(500));
        queue.add_after("a".into(), 3 * SECOND);
    };
    drive(&queue, 1, 10, reconcile, act).await;
    // The burst after 100 ms takes everything that waits along.
    assert_eq!(log.times(), [100]);
}

#[tokio::test(start_paused = true)]
async fn the_earliest_wake_wins_and_a_new_run_replaces_the_wish_of_the_last_one() {
    let (queue, _) = queue(Duration::ZERO);
    let log = Log::new();
    let noted = log.clone();
    let reconcile = move |key: String, attempt| {
        noted.note(&key, attempt);
        let first = noted.times().len() == 1;
        async move {
            Ok(if first {
                Action::after(5 * SECOND)
            } else {
                Action::done()
            })
        }
    };
    let act = async {
        queue.add_after("a".into(), 3 * SECOND);
        queue.add_after("a".into(), 2 * SECOND);
        sleep(4 * SECOND).await;
        queue.add("a".into());
    };
    drive(&queue, 1, 20, reconcile, act).await;
    // At 2 s by the earlier wake; at 4 s woken, which drops the wish for 7 s.
    assert_eq!(log.times(), [2000, 4000]);
}

#[tokio::test(start_paused = true)]
async fn on_stop_runs_are_finished_and_none_begins() {
    let (queue, _) = queue(Duration::ZERO);
    let log = Log::new();
    queue.add("a".into());
    queue.add("b".into());
    let (began, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let reconcile = |_: String, _| {
        began.fetch_add(1, Ordering::SeqCst);
        let done = Arc::clone(&done);
        async move {
            sleep(5 * SECOND).await;
            done.fetch_add(1, Ordering::SeqCst);
            Ok(Action::done())
        }
    };
    drive(&queue, 1, 2, reconcile, async {}).await;
    assert_eq!(
        (began.load(Ordering::SeqCst), done.load(Ordering::SeqCst)),
        (1, 1)
    );
    assert_eq!(log.1.elapsed().as_secs(), 5);
}

#[test]
fn keys_print_as_kubectl_writes_them() {
    assert_eq!(ObjectKey::cluster("n").to_string(), "n");
    assert_eq!(ObjectKey::namespaced("ns", "n").to_string(), "ns/n");
}
