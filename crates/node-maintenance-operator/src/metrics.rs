//! The operator's own series. The generic ones are registered by the runtime.

use std::time::Duration;

use medik8s_runtime::metrics::{
    Metrics,
    prometheus::{self, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts},
};

use crate::drain::answer::Answer;

/// From a drain of nothing to one that waits for hours.
const DRAIN_BUCKETS: [f64; 14] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14400.0,
];

/// Series about drains. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DrainMetrics {
    evictions: IntCounterVec,
}

/// All series of this operator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OperatorMetrics {
    /// Series about drains.
    pub drains: DrainMetrics,
    nodes: IntGauge,
    duration: Histogram,
    pending: IntGaugeVec,
}

impl OperatorMetrics {
    /// Registers the series.
    pub fn new(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let registry = metrics.registry();
        let evictions = IntCounterVec::new(
            Opts::new(
                "medik8s_nmo_evictions_total",
                "Number of evictions asked for, by answer",
            ),
            &["result"],
        )?;
        for label in Answer::LABELS {
            evictions.with_label_values(&[label]).inc_by(0);
        }
        let nodes = IntGauge::new(
            "medik8s_nmo_nodes_in_maintenance",
            "Number of nodes that are cordoned and tainted for a maintenance",
        )?;
        let duration = Histogram::with_opts(
            HistogramOpts::new(
                "medik8s_nmo_drain_duration_seconds",
                "How long drains took from the first eviction until every pod was gone",
            )
            .buckets(DRAIN_BUCKETS.to_vec()),
        )?;
        let pending = IntGaugeVec::new(
            Opts::new(
                "medik8s_nmo_pods_pending",
                "Number of pods still to be evicted, by node",
            ),
            &["node"],
        )?;
        registry.register(Box::new(evictions.clone()))?;
        registry.register(Box::new(nodes.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(pending.clone()))?;
        Ok(Self {
            drains: DrainMetrics { evictions },
            nodes,
            duration,
            pending,
        })
    }

    /// How many nodes are in maintenance.
    pub fn in_maintenance(&self, nodes: usize) {
        self.nodes.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    /// A drain has completed.
    pub fn drained(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }

    /// How many pods a node still has to lose; `None` once nobody waits for them.
    pub fn pending(&self, node: &str, pods: Option<usize>) {
        match pods {
            Some(pods) => self
                .pending
                .with_label_values(&[node])
                .set(i64::try_from(pods).unwrap_or(i64::MAX)),
            None => {
                // The node may have had no series.
                let (Ok(()) | Err(_)) = self.pending.remove_label_values(&[node]);
            }
        }
    }
}

impl DrainMetrics {
    /// An eviction was answered.
    pub fn evicted(&self, answer: &Answer) {
        self.evictions.with_label_values(&[answer.label()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_have_their_names_and_types() {
        let metrics = Metrics::new().unwrap();
        let own = OperatorMetrics::new(&metrics).unwrap();
        own.in_maintenance(2);
        own.drained(Duration::from_secs(3));
        own.pending("n1", Some(4));
        own.pending("n2", Some(5));
        own.pending("n2", None);
        own.pending("never", None);
        own.drains.evicted(&Answer::Accepted);
        let text = metrics.text().unwrap();
        for line in [
            "# TYPE medik8s_nmo_nodes_in_maintenance gauge",
            "medik8s_nmo_nodes_in_maintenance 2",
            "# TYPE medik8s_nmo_drain_duration_seconds histogram",
            "medik8s_nmo_drain_duration_seconds_count 1",
            "# TYPE medik8s_nmo_evictions_total counter",
            "medik8s_nmo_evictions_total{result=\"accepted\"} 1",
            "medik8s_nmo_evictions_total{result=\"blocked\"} 0",
            "# TYPE medik8s_nmo_pods_pending gauge",
            "medik8s_nmo_pods_pending{node=\"n1\"} 4",
        ] {
            assert!(
                text.lines().any(|got| got == line),
                "{line} missing in\n{text}"
            );
        }
        assert!(!text.contains("n2") && !text.contains("never"));
    }
}
