//! What somebody is told about.

use crate::operators::Operator;

/// One alert.
#[derive(Clone)]
pub(crate) struct Alert {
    /// Its name, which is also the heading of its explanation.
    pub(crate) name: &'static str,
    /// PromQL.
    pub(crate) expression: String,
    /// How long the expression has to hold.
    pub(crate) lasting: &'static str,
    /// `critical` (somebody has to act now) or `warning`.
    pub(crate) severity: &'static str,
    /// What is the matter, in one sentence.
    pub(crate) summary: &'static str,
    /// What it means.
    pub(crate) description: &'static str,
}

const fn alert(
    name: &'static str,
    severity: &'static str,
    lasting: &'static str,
    summary: &'static str,
    description: &'static str,
) -> Alert {
    Alert {
        name,
        expression: String::new(),
        lasting,
        severity,
        summary,
        description,
    }
}

impl Alert {
    fn when(self, expression: impl Into<String>) -> Self {
        Self {
            expression: expression.into(),
            ..self
        }
    }
}

/// The alerts of one operator: its own, then those of every manager.
pub(crate) fn alerts(operator: &Operator) -> Vec<Alert> {
    let mut alerts = match operator.package {
        "node-healthcheck-operator" => node_health_check(),
        "self-node-remediation" => self_node_remediation(),
        "node-maintenance-operator" => node_maintenance(),
        _ => Vec::new(),
    };
    let job = operator.name("controller-manager-metrics-service");
    let (leader, failing) = match operator.package {
        "node-healthcheck-operator" => (
            "NodeHealthCheckWithoutLeader",
            "NodeHealthCheckReconcileErrors",
        ),
        "self-node-remediation" => (
            "SelfNodeRemediationWithoutLeader",
            "SelfNodeRemediationReconcileErrors",
        ),
        _ => (
            "NodeMaintenanceWithoutLeader",
            "NodeMaintenanceReconcileErrors",
        ),
    };
    alerts.push(
        alert(
            leader,
            "critical",
            "5m",
            "No manager leads, so nothing is done",
            "Either no pod of the manager runs, or none can renew its lease.",
        )
        .when(format!(
            "(sum(leader_election_master_status{{job=\"{job}\"}}) or vector(0)) < 1"
        )),
    );
    alerts.push(
        alert(
            failing,
            "warning",
            "15m",
            "The manager fails at {{ $labels.controller }} again and again",
            "Its log and the events of the objects say why.",
        )
        .when(format!(
            "sum by (controller) (rate(controller_runtime_reconcile_errors_total{{job=\"{job}\"}}[10m])) > 0"
        )),
    );
    alerts
}

fn node_health_check() -> Vec<Alert> {
    vec![
        alert(
            "NodeHealthCheckDisabled",
            "critical",
            "5m",
            "NodeHealthCheck {{ $labels.nodehealthcheck }} is disabled: sick nodes are not remediated",
            "Its condition Disabled says why: its template is missing or wrong, or a MachineHealthCheck does the same work.",
        )
        .when("nodehealthcheck_phase{phase=\"Disabled\"} == 1"),
        alert(
            "NodeHealthCheckBlocked",
            "critical",
            "10m",
            "Nodes are sick and NodeHealthCheck {{ $labels.nodehealthcheck }} remediates none of them",
            "Usually fewer nodes are healthy than spec.minHealthy asks for: look for a common cause (network, storage, control plane) before anything else.",
        )
        .when(
            "(nodehealthcheck_observed_nodes - nodehealthcheck_healthy_nodes > 0) \
             and on (nodehealthcheck) (nodehealthcheck_phase{phase=\"Enabled\"} == 1)",
        ),
        alert(
            "NodeHealthCheckStorm",
            "critical",
            "1m",
            "NodeHealthCheck {{ $labels.nodehealthcheck }} holds back remediation: too many nodes became sick at once",
            "Storm recovery waits until enough nodes are healthy again.",
        )
        .when("nodehealthcheck_storm_active == 1"),
        alert(
            "NodeRemediationPendingTooLong",
            "critical",
            "30m",
            "Node {{ $labels.name }} is being remediated for more than half an hour",
            "The remediation's conditions and events say what it waits for.",
        )
        .when("nodehealthcheck_ongoing_remediation == 1"),
        alert(
            "NodeRemediationOld",
            "warning",
            "0m",
            "A remediation of node {{ $labels.name }} is two days old",
            "The node did not become healthy. Repair it, or delete it if it is gone for good.",
        )
        .when("increase(nodehealthcheck_old_remediation_cr[1h]) > 0"),
    ]
}

fn self_node_remediation() -> Vec<Alert> {
    vec![
        alert(
            "NodeWatchdogNotArmed",
            "warning",
            "10m",
            "The agent on {{ $labels.instance }} has no armed watchdog",
            "If this node is cut off, its workload is not freed by time alone. Load a watchdog driver, softdog if there is no hardware.",
        )
        .when("self_node_remediation_agent_watchdog_armed == 0"),
        alert(
            "NodeRemediationAgentMissing",
            "warning",
            "15m",
            "{{ $value }} nodes have no running agent of self node remediation",
            "Such a node is remediated only when it reports a new boot. `kubectl get pods` in the operator's namespace shows which.",
        )
        .when(
            "kube_daemonset_status_desired_number_scheduled{daemonset=\"self-node-remediation-ds\"} \
             - kube_daemonset_status_number_available{daemonset=\"self-node-remediation-ds\"} > 0",
        ),
        alert(
            "NodeAgentCannotReachAPI",
            "warning",
            "1m",
            "The agent on {{ $labels.instance }} cannot prove that nobody ordered its reboot",
            "It asks its peers. If they do not answer either, the node resets itself.",
        )
        .when("self_node_remediation_agent_last_proof_age_seconds > 45"),
        alert(
            "NodeFencingItself",
            "critical",
            "0m",
            "The agent on {{ $labels.instance }} is resetting its node",
            "It was ordered to, or it is cut off.",
        )
        .when("self_node_remediation_agent_fencing == 1"),
        alert(
            "SelfNodeRemediationHolding",
            "critical",
            "5m",
            "A remediation waits for more than time: {{ $labels.reason }}",
            "The workload of the node is not freed, because it is not proven that it does not run. Switch the node off or let it boot; the remediation's events say what counts as proof.",
        )
        .when("self_node_remediation_holding > 0"),
        alert(
            "PeerCertificateExpires",
            "warning",
            "1h",
            "The certificates of the agents expire in less than 30 days",
            "When they have expired, agents cannot answer each other, and an outage of the API server looks like isolation to each node.",
        )
        .when(
            "self_node_remediation_agent_certificate_expiry_timestamp_seconds - time() < 30 * 24 * 3600",
        ),
    ]
}

fn node_maintenance() -> Vec<Alert> {
    vec![
        alert(
            "NodeDrainStuck",
            "warning",
            "30m",
            "{{ $value }} pods have not left node {{ $labels.node }} for half an hour",
            "The NodeMaintenance's status says which pods, and which PodDisruptionBudget blocks them.",
        )
        .when("medik8s_nmo_pods_pending > 0"),
        alert(
            "NodeDrainBlocked",
            "warning",
            "30m",
            "Evictions are refused again and again",
            "A PodDisruptionBudget allows none; the events of the NodeMaintenance name it.",
        )
        .when("rate(medik8s_nmo_evictions_total{result=\"blocked\"}[10m]) > 0"),
    ]
}
