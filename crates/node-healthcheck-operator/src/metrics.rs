//! The series of this operator, with the original's names.

use std::collections::BTreeMap;

use jiff::Timestamp;
use medik8s_api::names::nhc;
use medik8s_api::remediation::{NodeHealthCheckStatus, Remediation};
use medik8s_core::conditions;
use medik8s_core::time::elapsed;
use medik8s_runtime::metrics::prometheus::core::Collector;
use medik8s_runtime::metrics::prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, Result,
};

#[cfg(test)]
mod tests;

/// Buckets of the duration of unhealthiness, in seconds.
const BUCKETS: [f64; 10] = [
    30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 600.0, 1200.0, 2400.0, 3600.0,
];

/// All series. Cheap to clone.
#[derive(Clone)]
pub struct Series {
    old: IntCounterVec,
    ongoing: IntGaugeVec,
    unhealthy_duration: HistogramVec,
    observed: IntGaugeVec,
    healthy: IntGaugeVec,
    phase: IntGaugeVec,
    storm: IntGaugeVec,
}

const PHASES: [&str; 4] = [
    nhc::PHASE_DISABLED,
    nhc::PHASE_PAUSED,
    nhc::PHASE_REMEDIATING,
    nhc::PHASE_ENABLED,
];

/// Labels of a remediation: node, namespace and kind.
type Labels = [String; 3];

impl Series {
    /// Registers all series.
    pub fn new(registry: &Registry) -> Result<Self> {
        let per_remediation = &["name", "namespace", "remediation"];
        let gauge = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec> {
            let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let old = IntCounterVec::new(
            Opts::new(
                "nodehealthcheck_old_remediation_cr",
                "Number of old remediation CRs detected by NodeHealthChecks",
            ),
            &["name", "namespace"],
        )?;
        registry.register(Box::new(old.clone()))?;
        let unhealthy_duration = HistogramVec::new(
            HistogramOpts::new(
                "nodehealthcheck_unhealthy_node_duration_seconds",
                "Unhealthy node duration distribution",
            )
            .buckets(BUCKETS.to_vec()),
            per_remediation,
        )?;
        registry.register(Box::new(unhealthy_duration.clone()))?;
        Ok(Self {
            old,
            unhealthy_duration,
            ongoing: gauge(
                "nodehealthcheck_ongoing_remediation",
                "Indication of an ongoing remediation of an unhealthy node",
                per_remediation,
            )?,
            observed: gauge(
                "nodehealthcheck_observed_nodes",
                "Nodes that a NodeHealthCheck selects; 0 while it is disabled or paused",
                &["nodehealthcheck"],
            )?,
            healthy: gauge(
                "nodehealthcheck_healthy_nodes",
                "Healthy ones of the nodes that a NodeHealthCheck selects",
                &["nodehealthcheck"],
            )?,
            phase: gauge(
                "nodehealthcheck_phase",
                "1 for the phase that a NodeHealthCheck is in, 0 for the others",
                &["nodehealthcheck", "phase"],
            )?,
            storm: gauge(
                "nodehealthcheck_storm_active",
                "1 while storm recovery holds back the remediations of a NodeHealthCheck",
                &["nodehealthcheck"],
            )?,
        })
    }

    /// A remediation was reported for its age.
    pub fn reported_old(&self, node: &str) {
        // The original leaves the namespace empty; dashboards may depend on it.
        self.old.with_label_values(&[node, ""]).inc();
    }

    /// The status of a health check changed. `exists` tells whether a node still exists: the series
    /// of nodes that are gone are dropped.
    pub fn status_changed(
        &self,
        check: &str,
        old: &NodeHealthCheckStatus,
        new: &NodeHealthCheckStatus,
        exists: impl Fn(&str) -> bool,
        now: Timestamp,
    ) {
        self.show(check, new);
        let change = changes(old, new);
        for labels in change.ongoing {
            self.ongoing.with_label_values(&labels).set(1);
        }
        for (labels, started) in change.ended {
            let seconds = elapsed(started, now).as_secs_f64();
            self.unhealthy_duration
                .with_label_values(&labels)
                .observe(seconds);
            if labels.first().is_some_and(|node| exists(node)) {
                self.ongoing.with_label_values(&labels).set(0);
            } else if let Err(error) = self.ongoing.remove_label_values(&labels) {
                tracing::debug!(error = &error as &dyn std::error::Error, "no such series");
            }
        }
    }

    /// A node is gone.
    pub fn node_gone(&self, node: &str, statuses: &[NodeHealthCheckStatus]) {
        let in_use = statuses.iter().any(|status| {
            status
                .unhealthy_nodes
                .iter()
                .flatten()
                .any(|entry| entry.name == node)
        });
        if in_use {
            return;
        }
        for family in self.ongoing.collect() {
            for metric in family.get_metric() {
                let value = |name: &str| {
                    metric
                        .get_label()
                        .iter()
                        .find(|label| label.name() == name)
                        .map(|label| label.value().to_owned())
                        .unwrap_or_default()
                };
                let labels = [value("name"), value("namespace"), value("remediation")];
                if labels.first().is_some_and(|name| name == node)
                    && let Err(error) = self.ongoing.remove_label_values(&labels)
                {
                    tracing::debug!(error = &error as &dyn std::error::Error, "no such series");
                }
            }
        }
    }

    /// Shows what a status says.
    pub fn show(&self, check: &str, status: &NodeHealthCheckStatus) {
        let is = |type_| {
            let list = status.conditions.as_deref().unwrap_or_default();
            i64::from(conditions::is(list, type_, conditions::Status::True))
        };
        let count = |number: Option<i64>| number.unwrap_or_default();
        self.observed
            .with_label_values(&[check])
            .set(count(status.observed_nodes));
        self.healthy
            .with_label_values(&[check])
            .set(count(status.healthy_nodes));
        self.storm
            .with_label_values(&[check])
            .set(is(nhc::STORM_ACTIVE));
        for phase in PHASES {
            let current = status.phase.as_deref() == Some(phase);
            self.phase
                .with_label_values(&[check, phase])
                .set(i64::from(current));
        }
    }

    /// A health check is gone.
    pub fn check_gone(&self, check: &str) {
        for family in [&self.observed, &self.healthy, &self.storm] {
            if let Err(error) = family.remove_label_values(&[check]) {
                tracing::debug!(error = &error as &dyn std::error::Error, "no such series");
            }
        }
        for phase in PHASES {
            if let Err(error) = self.phase.remove_label_values(&[check, phase]) {
                tracing::debug!(error = &error as &dyn std::error::Error, "no such series");
            }
        }
    }
}

/// What changed between two statuses.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    /// Remediations that go on.
    ongoing: Vec<Labels>,
    /// Remediations whose node has left the status, with their start.
    ended: Vec<(Labels, Timestamp)>,
}

fn changes(old: &NodeHealthCheckStatus, new: &NodeHealthCheckStatus) -> Changes {
    let nodes = |status: &NodeHealthCheckStatus| -> BTreeMap<String, Vec<(Labels, Timestamp)>> {
        status
            .unhealthy_nodes
            .iter()
            .flatten()
            .map(|entry| {
                let list = entry.remediations.iter().flatten();
                (
                    entry.name.clone(),
                    list.map(|one| labels(&entry.name, one)).collect(),
                )
            })
            .collect()
    };
    let now = nodes(new);
    let ended = nodes(old)
        .into_iter()
        .filter(|(node, _)| !now.contains_key(node))
        .flat_map(|(_, list)| list)
        .collect();
    let ongoing = now
        .into_values()
        .flatten()
        .map(|(labels, _)| labels)
        .collect();
    Changes { ongoing, ended }
}

fn labels(node: &str, remediation: &Remediation) -> (Labels, Timestamp) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let resource = &remediation.resource;
    let labels = [
        node.to_owned(),
        text(&resource.namespace),
        text(&resource.kind),
    ];
    (labels, remediation.started.0)
}

/// The series of MachineHealthChecks. They appear when these become ours for the first time.
#[derive(Clone)]
pub struct MachineSeries {
    registry: Registry,
    covered: IntGaugeVec,
    succeeded: IntCounterVec,
    short_circuit: IntGaugeVec,
    /// Whether they are registered: a gate that goes on, off and on again must not register twice.
    shown: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl MachineSeries {
    /// Makes the series without showing them.
    pub fn new(registry: &Registry) -> Result<Self> {
        let labels = &["name", "namespace"];
        Ok(Self {
            registry: registry.clone(),
            covered: IntGaugeVec::new(
                Opts::new(
                    "mapi_machinehealthcheck_nodes_covered",
                    "Number of nodes covered by MachineHealthChecks",
                ),
                labels,
            )?,
            succeeded: IntCounterVec::new(
                Opts::new(
                    "mapi_machinehealthcheck_remediation_success_total",
                    "Number of successful remediations performed by MachineHealthChecks",
                ),
                labels,
            )?,
            short_circuit: IntGaugeVec::new(
                Opts::new(
                    "mapi_machinehealthcheck_short_circuit",
                    "Short circuit status for MachineHealthCheck (0=no, 1=yes)",
                ),
                labels,
            )?,
            shown: std::sync::Arc::default(),
        })
    }

    /// Shows the series.
    pub fn register(&self) -> Result<()> {
        if self.shown.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Ok(());
        }
        self.registry.register(Box::new(self.covered.clone()))?;
        self.registry.register(Box::new(self.succeeded.clone()))?;
        self.registry.register(Box::new(self.short_circuit.clone()))
    }

    /// What a pass found.
    pub fn show(&self, namespace: &str, name: &str, covered: usize, short_circuit: bool) {
        let covered = i64::try_from(covered).unwrap_or(i64::MAX);
        self.covered
            .with_label_values(&[name, namespace])
            .set(covered);
        self.short_circuit
            .with_label_values(&[name, namespace])
            .set(i64::from(short_circuit));
    }

    /// A machine has recovered, and its remediation has been deleted.
    pub fn succeeded(&self, namespace: &str, name: &str) {
        self.succeeded.with_label_values(&[name, namespace]).inc();
    }

    /// A MachineHealthCheck is gone.
    pub fn gone(&self, namespace: &str, name: &str) {
        let labels = &[name, namespace];
        for removed in [
            self.covered.remove_label_values(labels),
            self.short_circuit.remove_label_values(labels),
            self.succeeded.remove_label_values(labels),
        ] {
            if let Err(error) = removed {
                tracing::debug!(error = &error as &dyn std::error::Error, "no such series");
            }
        }
    }
}
