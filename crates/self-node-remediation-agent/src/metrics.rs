//! The agent's own series.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use medik8s_runtime::clock::Clock;
use medik8s_runtime::metrics::Metrics;
use medik8s_runtime::metrics::prometheus::core::{Collector, Desc};
use medik8s_runtime::metrics::prometheus::proto::MetricFamily;
use medik8s_runtime::metrics::prometheus::{self, Gauge, IntCounter, IntGauge, Opts};
use self_node_remediation_core::time::BootInstant;

/// Not yet known.
const NEVER: u64 = u64::MAX;

/// What the loop reports. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentMetrics {
    failed_checks: IntCounter,
    peers_known: IntGauge,
    peers_answered: IntGauge,
    watchdog_armed: IntGauge,
    watchdog_timeout: IntGauge,
    fencing: IntGauge,
    orders_known: IntGauge,
    certificate_expiry: Gauge,
    last_proof: Arc<AtomicU64>,
}

/// A reading of the agent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// When the latest direct proof of "no order" began.
    pub last_proof: Option<BootInstant>,
    /// Nodes with an agent address.
    pub peers_known: usize,
    /// Timeout of the armed watchdog in seconds.
    pub armed_timeout: Option<u64>,
    /// Whether the node is fencing itself.
    pub fencing: bool,
    /// Orders that are remembered, for whatever node.
    pub orders_known: usize,
}

impl AgentMetrics {
    /// Registers all series.
    pub fn new(metrics: &Metrics, clock: Clock) -> Result<Self, prometheus::Error> {
        let registry = metrics.registry();
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(format!("self_node_remediation_agent_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let failed_checks = IntCounter::new(
            "self_node_remediation_agent_api_check_failures_total",
            "Number of API checks that failed",
        )?;
        registry.register(Box::new(failed_checks.clone()))?;
        let certificate_expiry = Gauge::new(
            "self_node_remediation_agent_certificate_expiry_timestamp_seconds",
            "When the first of the peer certificates expires",
        )?;
        registry.register(Box::new(certificate_expiry.clone()))?;
        let last_proof = Arc::new(AtomicU64::new(NEVER));
        let age = ProofAge::new(clock, Arc::clone(&last_proof))?;
        registry.register(Box::new(age))?;
        Ok(Self {
            failed_checks,
            peers_known: gauge("peers_known", "Number of other agents with a known address")?,
            peers_answered: gauge(
                "peers_answered",
                "Number of other agents that answered when they were last asked about this node; asking ends with the \
                 first answer that decides",
            )?,
            watchdog_armed: gauge("watchdog_armed", "Whether the watchdog is open and fed")?,
            watchdog_timeout: gauge(
                "watchdog_timeout_seconds",
                "Timeout of the armed watchdog; 0 without one",
            )?,
            fencing: gauge(
                "fencing",
                "Whether the node is being reset by its own agent",
            )?,
            orders_known: gauge(
                "orders_known",
                "Number of orders to reboot, for any node, that the agent has seen and not seen gone",
            )?,
            certificate_expiry,
            last_proof,
        })
    }

    /// So many answered so far in the round of questions that runs, or ran last.
    pub fn peers_answered(&self, count: usize) {
        self.peers_answered
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a failed check.
    pub fn check_failed(&self) {
        self.failed_checks.inc();
    }

    /// When the certificates expire.
    pub fn certificates_expire(&self, at: jiff::Timestamp) {
        let seconds = std::time::Duration::try_from_secs_f64(at.as_duration().as_secs_f64());
        self.certificate_expiry
            .set(seconds.map_or(0.0, |seconds| seconds.as_secs_f64()));
    }

    /// Shows a reading.
    pub fn show(&self, reading: Reading) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let timeout = reading.armed_timeout.unwrap_or(0);
        self.peers_known.set(count(reading.peers_known));
        self.watchdog_armed
            .set(i64::from(reading.armed_timeout.is_some()));
        self.watchdog_timeout
            .set(i64::try_from(timeout).unwrap_or(i64::MAX));
        self.fencing.set(i64::from(reading.fencing));
        self.orders_known.set(count(reading.orders_known));
        let proof = reading.last_proof.map_or(NEVER, |proof| {
            u64::try_from(proof.since_boot().as_nanos()).unwrap_or(NEVER)
        });
        self.last_proof.store(proof, Ordering::SeqCst);
    }
}

/// The age of the latest proof, computed when it is asked for.
struct ProofAge {
    gauge: Mutex<Gauge>,
    desc: Vec<Desc>,
    clock: Clock,
    last_proof: Arc<AtomicU64>,
}

impl ProofAge {
    fn new(clock: Clock, last_proof: Arc<AtomicU64>) -> Result<Self, prometheus::Error> {
        let gauge = Gauge::with_opts(Opts::new(
            "self_node_remediation_agent_last_proof_age_seconds",
            "Time since the latest proof that nobody orders this node to reboot; absent before the first",
        ))?;
        let desc = gauge.desc().into_iter().cloned().collect();
        Ok(Self {
            gauge: Mutex::new(gauge),
            desc,
            clock,
            last_proof,
        })
    }
}

impl Collector for ProofAge {
    fn desc(&self) -> Vec<&Desc> {
        self.desc.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let proof = self.last_proof.load(Ordering::SeqCst);
        if proof == NEVER {
            return Vec::new();
        }
        let now = BootInstant::at(self.clock.boottime());
        let age = now.since(BootInstant::at(std::time::Duration::from_nanos(proof)));
        let gauge = self.gauge.lock().unwrap_or_else(PoisonError::into_inner);
        gauge.set(age.as_secs_f64());
        gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_age_of_the_proof_grows_by_itself() {
        let metrics = Metrics::new().unwrap();
        let (clock, hand) = Clock::manual("2026-07-01T12:00:00Z".parse().unwrap());
        let agent = AgentMetrics::new(&metrics, clock.clone()).unwrap();
        let age = "self_node_remediation_agent_last_proof_age_seconds";
        assert!(!metrics.text().unwrap().contains(age));
        let last_proof = Some(BootInstant::at(clock.boottime()));
        agent.show(Reading {
            last_proof,
            armed_timeout: Some(20),
            ..Reading::default()
        });
        hand.advance(Duration::from_secs(7));
        let text = metrics.text().unwrap();
        assert!(text.contains(&format!("{age} 7\n")), "{text}");
        assert!(text.contains("self_node_remediation_agent_watchdog_timeout_seconds 20\n"));
        assert!(text.contains("self_node_remediation_agent_watchdog_armed 1\n"));
        agent.certificates_expire("2027-01-01T00:00:00Z".parse().unwrap());
        agent.check_failed();
        let text = metrics.text().unwrap();
        assert!(
            text.contains("expiry_timestamp_seconds 1798761600\n"),
            "{text}"
        );
        assert!(text.contains("api_check_failures_total 1\n"));
    }
}
