//! Metrics, with the names, labels and types that dashboards for the originals use.
//!
//! # Purpose
//! One registry per process. The generic series are those of controller-runtime and client-go;
//! operators add their own collectors to [`Metrics::registry`].
//!
//! # Guarantees
//! A label value is from a closed set or the name of a controller, queue, webhook or lease: never
//! an object name, never error text.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{
    CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts,
    Registry, TextEncoder, exponential_buckets,
};

mod authorise;
pub mod client_ca;
mod endpoint;
mod process;

pub use authorise::{Authoriser, Decision};
pub use endpoint::{MetricsServer, serve};
pub use prometheus;

/// All series of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Brings series up to date; false when there is nothing left to do.
type GatherHook = Box<dyn Fn() -> bool + Send>;

struct Inner {
    registry: Registry,
    reconcile_total: IntCounterVec,
    reconcile_errors: IntCounterVec,
    reconcile_time: HistogramVec,
    active_workers: IntGaugeVec,
    max_concurrent: IntGaugeVec,
    webhook_requests: IntCounterVec,
    webhook_latency: HistogramVec,
    webhook_in_flight: IntGaugeVec,
    queue_depth: IntGaugeVec,
    queue_adds: IntCounterVec,
    queue_duration: HistogramVec,
    work_duration: HistogramVec,
    queue_retries: IntCounterVec,
    unfinished_work: GaugeVec,
    longest_running: GaugeVec,
    client_requests: IntCounterVec,
    leader: IntGaugeVec,
    watch_errors: IntCounterVec,
    events_dropped: CounterVec,
    before_gather: Mutex<Vec<GatherHook>>,
}

/// How a reconcile ended; the label `result` of `controller_runtime_reconcile_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconcileResult {
    /// Done until something changes.
    Success,
    /// Failed; it is tried again.
    Error,
    /// Done, to be looked at again after some time.
    RequeueAfter,
}

impl ReconcileResult {
    /// Every value, to start all series at zero.
    pub const ALL: [Self; 3] = [Self::Success, Self::Error, Self::RequeueAfter];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::RequeueAfter => "requeue_after",
        }
    }
}

/// controller-runtime's buckets of `controller_runtime_reconcile_time_seconds`.
const RECONCILE_BUCKETS: [f64; 40] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9,
    1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0,
    25.0, 30.0, 40.0, 50.0, 60.0,
];

impl Metrics {
    /// An empty set of series in a registry of its own.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        // client-go's workqueue buckets: 10 ns to 1,000 s.
        let queue_buckets = exponential_buckets(10e-9, 10.0, 12)?;
        let queue = &["name", "controller"];
        let inner = Inner {
            reconcile_total: counter(
                r,
                "controller_runtime_reconcile_total",
                "Total number of reconciliations per controller",
                &["controller", "result"],
            )?,
            reconcile_errors: counter(
                r,
                "controller_runtime_reconcile_errors_total",
                "Total number of reconciliation errors per controller",
                &["controller"],
            )?,
            reconcile_time: histogram(
                r,
                "controller_runtime_reconcile_time_seconds",
                "Length of time per reconciliation per controller",
                &["controller"],
                RECONCILE_BUCKETS.to_vec(),
            )?,
            active_workers: gauge(
                r,
                "controller_runtime_active_workers",
                "Number of currently used workers per controller",
                &["controller"],
            )?,
            max_concurrent: gauge(
                r,
                "controller_runtime_max_concurrent_reconciles",
                "Maximum number of concurrent reconciles per controller",
                &["controller"],
            )?,
            webhook_requests: counter(
                r,
                "controller_runtime_webhook_requests_total",
                "Total number of admission requests by HTTP status code.",
                &["webhook", "code"],
            )?,
            webhook_latency: histogram(
                r,
                "controller_runtime_webhook_latency_seconds",
                "Histogram of the latency of processing admission requests",
                &["webhook"],
                prometheus::DEFAULT_BUCKETS.to_vec(),
            )?,
            webhook_in_flight: gauge(
                r,
                "controller_runtime_webhook_requests_in_flight",
                "Current number of admission requests being served.",
                &["webhook"],
            )?,
            queue_depth: gauge(r, "workqueue_depth", "Current depth of workqueue", queue)?,
            queue_adds: counter(
                r,
                "workqueue_adds_total",
                "Total number of adds handled by workqueue",
                queue,
            )?,
            queue_duration: histogram(
                r,
                "workqueue_queue_duration_seconds",
                "How long in seconds an item stays in workqueue before being requested",
                queue,
                queue_buckets.clone(),
            )?,
            work_duration: histogram(
                r,
                "workqueue_work_duration_seconds",
                "How long in seconds processing an item from workqueue takes.",
                queue,
                queue_buckets,
            )?,
            queue_retries: counter(
                r,
                "workqueue_retries_total",
                "Total number of retries handled by workqueue",
                queue,
            )?,
            unfinished_work: float_gauge(
                r,
                "workqueue_unfinished_work_seconds",
                "How many seconds of work has been done that is in progress and hasn't been \
                 observed by work_duration. Large values indicate stuck threads. One can deduce \
                 the number of stuck threads by observing the rate at which this increases.",
                queue,
            )?,
            longest_running: float_gauge(
                r,
                "workqueue_longest_running_processor_seconds",
                "How many seconds has the longest running processor for workqueue been running.",
                queue,
            )?,
            client_requests: counter(
                r,
                "rest_client_requests_total",
                "Number of HTTP requests, partitioned by status code, method, and host.",
                &["code", "method", "host"],
            )?,
            leader: gauge(
                r,
                "leader_election_master_status",
                "Gauge of if the reporting system is master of the relevant lease, 0 indicates \
                 backup, 1 indicates master. 'name' is the string used to identify the lease. \
                 Please make sure to group by name.",
                &["name"],
            )?,
            watch_errors: counter(
                r,
                "medik8s_watch_errors_total",
                "Number of times a watch failed and was started again",
                &["watch"],
            )?,
            events_dropped: {
                let family = CounterVec::new(
                    Opts::new(
                        "medik8s_events_dropped_total",
                        "Number of Events that were not written, by reason",
                    ),
                    &["why"],
                )?;
                r.register(Box::new(family.clone()))?;
                family
            },
            before_gather: Mutex::default(),
            registry: registry.clone(),
        };
        registry.register(Box::new(process::ProcessCollector::new()?))?;
        Ok(Self(Arc::new(inner)))
    }

    /// Where operators register their own collectors.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// All series in the text format that Prometheus reads.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        self.0
            .before_gather
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|hook| hook());
        let mut buffer = Vec::new();
        TextEncoder::new().encode(&self.0.registry.gather(), &mut buffer)?;
        String::from_utf8(buffer).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }

    /// Calls `hook` before each reading of the series, until it returns false.
    pub(crate) fn before_gather(&self, hook: impl Fn() -> bool + Send + 'static) {
        let mut hooks = self
            .0
            .before_gather
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        hooks.push(Box::new(hook));
    }

    /// The content type of [`Metrics::text`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;

    pub(crate) fn request_sent(&self, code: &str, method: &str, host: &str) {
        self.0
            .client_requests
            .with_label_values(&[code, method, host])
            .inc();
    }

    pub(crate) fn leader(&self, lease: &str, leading: bool) {
        self.0
            .leader
            .with_label_values(&[lease])
            .set(i64::from(leading));
    }

    pub(crate) fn watch_failed(&self, watch: &str) {
        self.0.watch_errors.with_label_values(&[watch]).inc();
    }

    pub(crate) fn watch_started(&self, watch: &str) {
        self.0.watch_errors.with_label_values(&[watch]).inc_by(0);
    }

    pub(crate) fn event_dropped(&self, why: &str) {
        self.0.events_dropped.with_label_values(&[why]).inc();
    }

    pub(crate) fn controller_started(&self, controller: &str, workers: i64) {
        for result in ReconcileResult::ALL {
            self.0
                .reconcile_total
                .with_label_values(&[controller, result.as_str()])
                .inc_by(0);
        }
        self.0
            .reconcile_errors
            .with_label_values(&[controller])
            .inc_by(0);
        self.0
            .active_workers
            .with_label_values(&[controller])
            .set(0);
        self.0
            .max_concurrent
            .with_label_values(&[controller])
            .set(workers);
    }

    pub(crate) fn reconcile_started(&self, controller: &str) {
        self.0.active_workers.with_label_values(&[controller]).inc();
    }

    pub(crate) fn reconcile_ended(&self, controller: &str, result: ReconcileResult, seconds: f64) {
        self.0.active_workers.with_label_values(&[controller]).dec();
        self.0
            .reconcile_total
            .with_label_values(&[controller, result.as_str()])
            .inc();
        if result == ReconcileResult::Error {
            self.0
                .reconcile_errors
                .with_label_values(&[controller])
                .inc();
        }
        self.0
            .reconcile_time
            .with_label_values(&[controller])
            .observe(seconds);
    }

    pub(crate) fn webhook_started(&self, webhook: &str) {
        self.0.webhook_in_flight.with_label_values(&[webhook]).inc();
    }

    pub(crate) fn webhook_registered(&self, webhook: &str) {
        self.0
            .webhook_in_flight
            .with_label_values(&[webhook])
            .set(0);
        for code in ["200", "500"] {
            self.0
                .webhook_requests
                .with_label_values(&[webhook, code])
                .inc_by(0);
        }
    }

    pub(crate) fn webhook_ended(&self, webhook: &str, code: u16, seconds: f64) {
        self.0.webhook_in_flight.with_label_values(&[webhook]).dec();
        self.0
            .webhook_requests
            .with_label_values(&[webhook, &code.to_string()])
            .inc();
        self.0
            .webhook_latency
            .with_label_values(&[webhook])
            .observe(seconds);
    }

    /// The series of one work queue.
    pub(crate) fn queue(&self, name: &str) -> QueueMetrics {
        let labels = &[name, name];
        let inner = &self.0;
        QueueMetrics {
            depth: inner.queue_depth.with_label_values(labels),
            adds: inner.queue_adds.with_label_values(labels),
            queue_duration: inner.queue_duration.with_label_values(labels),
            work_duration: inner.work_duration.with_label_values(labels),
            retries: inner.queue_retries.with_label_values(labels),
            unfinished: inner.unfinished_work.with_label_values(labels),
            longest: inner.longest_running.with_label_values(labels),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct QueueMetrics {
    pub(crate) depth: prometheus::IntGauge,
    pub(crate) adds: prometheus::IntCounter,
    pub(crate) queue_duration: prometheus::Histogram,
    pub(crate) work_duration: prometheus::Histogram,
    pub(crate) retries: prometheus::IntCounter,
    pub(crate) unfinished: prometheus::Gauge,
    pub(crate) longest: prometheus::Gauge,
}

fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let family = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn float_gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, prometheus::Error> {
    let family = GaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: Vec<f64>,
) -> Result<HistogramVec, prometheus::Error> {
    let family = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

#[cfg(test)]
mod tests;
