//! Own series: what waits, what was released and on what evidence, and how long that took.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use medik8s_runtime::controller::ObjectKey;
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::metrics::prometheus::{
    self, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts,
};
use self_node_remediation_core::order::Phase;
use self_node_remediation_core::release::By;

/// What the manager reports. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RemediationMetrics {
    released: IntCounterVec,
    seconds: HistogramVec,
    phases: IntGaugeVec,
    holding: IntGaugeVec,
    current: Arc<Mutex<BTreeMap<ObjectKey, Shown>>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Shown {
    phase: &'static str,
    holding: Option<&'static str>,
}

impl RemediationMetrics {
    /// Registers all series.
    pub fn new(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let registry = metrics.registry();
        let released = IntCounterVec::new(
            Opts::new(
                "self_node_remediation_released_total",
                "Number of nodes whose workload was released, by evidence",
            ),
            &["evidence"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "self_node_remediation_release_seconds",
                "Time from the order to reboot until the workload was released, by evidence",
            )
            .buckets(vec![
                5.0, 15.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0, 240.0, 300.0, 600.0, 1800.0,
            ]),
            &["evidence"],
        )?;
        let phases = IntGaugeVec::new(
            Opts::new(
                "self_node_remediation_remediations",
                "Number of remediations, by phase",
            ),
            &["phase"],
        )?;
        let holding = IntGaugeVec::new(
            Opts::new(
                "self_node_remediation_holding",
                "Number of remediations that time alone does not release, by reason",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(released.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(phases.clone()))?;
        registry.register(Box::new(holding.clone()))?;
        Ok(Self {
            released,
            seconds,
            phases,
            holding,
            current: Arc::default(),
        })
    }

    /// A workload was released.
    pub(super) fn released(&self, by: By, seconds: Option<f64>) {
        self.released.with_label_values(&[by.as_str()]).inc();
        if let Some(seconds) = seconds {
            self.seconds
                .with_label_values(&[by.as_str()])
                .observe(seconds);
        }
    }

    /// Where a remediation stands.
    pub(super) fn shows(&self, key: &ObjectKey, phase: &Phase, holding: Option<&'static str>) {
        let shown = Shown {
            phase: label(phase),
            holding,
        };
        let old = self.lock().insert(key.clone(), shown);
        if old != Some(shown) {
            self.count(old, -1);
            self.count(Some(shown), 1);
        }
    }

    /// A remediation is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        let old = self.lock().remove(key);
        self.count(old, -1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ObjectKey, Shown>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, shown: Option<Shown>, change: i64) {
        let Some(Shown { phase, holding }) = shown else {
            return;
        };
        self.phases.with_label_values(&[phase]).add(change);
        if let Some(reason) = holding {
            self.holding.with_label_values(&[reason]).add(change);
        }
    }
}

const fn label(phase: &Phase) -> &'static str {
    match phase {
        Phase::Started => "fencing-started",
        Phase::PreRebootCompleted => "pre-reboot-completed",
        Phase::RebootCompleted => "reboot-completed",
        Phase::FencingCompleted => "fencing-completed",
        Phase::Unknown(_) => "unknown",
    }
}
