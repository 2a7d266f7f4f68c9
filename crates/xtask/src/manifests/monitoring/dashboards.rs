//! Grafana dashboards: what an administrator looks at first, then how the process is.

use serde_json::{Value, json};

use crate::operators::Operator;

/// A panel: title, unit of Grafana, queries with the legend of each.
type Panel = (&'static str, &'static str, Vec<(String, &'static str)>);

/// Panels beside each other.
const COLUMNS: usize = 2;
const WIDTH: usize = 12;
const HEIGHT: usize = 8;

fn panels(operator: &Operator) -> Vec<Panel> {
    let job = format!(
        "job=\"{}\"",
        operator.name("controller-manager-metrics-service")
    );
    let own = |metric: &str| metric.to_owned();
    let mut panels: Vec<Panel> = match operator.package {
        "node-healthcheck-operator" => vec![
            (
                "Nodes: observed and healthy",
                "short",
                vec![
                    (own("nodehealthcheck_observed_nodes"), "{{nodehealthcheck}} observed"),
                    (own("nodehealthcheck_healthy_nodes"), "{{nodehealthcheck}} healthy"),
                ],
            ),
            (
                "Phase of each health check",
                "short",
                vec![(own("nodehealthcheck_phase == 1"), "{{nodehealthcheck}}: {{phase}}")],
            ),
            (
                "Remediations under way",
                "short",
                vec![(
                    own("nodehealthcheck_ongoing_remediation == 1"),
                    "{{name}}: {{remediation}}",
                )],
            ),
            (
                "How long nodes were unhealthy (median, 95 %)",
                "s",
                [0.5, 0.95]
                    .map(|q| {
                        (
                            format!("histogram_quantile({q}, sum by (le) (rate(nodehealthcheck_unhealthy_node_duration_seconds_bucket[1d])))"),
                            "",
                        )
                    })
                    .to_vec(),
            ),
            (
                "Held back by storm recovery",
                "short",
                vec![(own("nodehealthcheck_storm_active"), "{{nodehealthcheck}}")],
            ),
            (
                "Remediations older than two days",
                "short",
                vec![(own("increase(nodehealthcheck_old_remediation_cr[1d])"), "{{name}}")],
            ),
        ],
        "self-node-remediation" => vec![
            (
                "Remediations by phase",
                "short",
                vec![(own("self_node_remediation_remediations"), "{{phase}}")],
            ),
            (
                "Remediations that wait for more than time",
                "short",
                vec![(own("self_node_remediation_holding"), "{{reason}}")],
            ),
            (
                "Nodes whose workload was released, by evidence",
                "short",
                vec![(own("increase(self_node_remediation_released_total[1h])"), "{{evidence}}")],
            ),
            (
                "From the order to the release (95 %)",
                "s",
                vec![(
                    own("histogram_quantile(0.95, sum by (le, evidence) (rate(self_node_remediation_release_seconds_bucket[1d])))"),
                    "{{evidence}}",
                )],
            ),
            (
                "Nodes with an armed watchdog",
                "short",
                vec![(own("sum(self_node_remediation_agent_watchdog_armed)"), "armed"),
                     (own("count(self_node_remediation_agent_watchdog_armed)"), "agents")],
            ),
            (
                "Age of the latest proof that nobody ordered a reboot",
                "s",
                vec![(own("self_node_remediation_agent_last_proof_age_seconds"), "{{instance}}")],
            ),
            (
                "Peers that agents know, and that answered when they last had to be asked",
                "short",
                vec![(own("min(self_node_remediation_agent_peers_known)"), "least"),
                     (own("max(self_node_remediation_agent_peers_known)"), "most"),
                     (own("max(self_node_remediation_agent_peers_answered)"), "most answers")],
            ),
            (
                "Failed checks of the API server",
                "short",
                vec![(own("rate(self_node_remediation_agent_api_check_failures_total[5m])"), "{{instance}}")],
            ),
        ],
        _ => vec![
            (
                "Nodes in maintenance",
                "short",
                vec![(own("medik8s_nmo_nodes_in_maintenance"), "nodes")],
            ),
            (
                "Pods that have not left yet",
                "short",
                vec![(own("medik8s_nmo_pods_pending"), "{{node}}")],
            ),
            (
                "Evictions per minute, by result",
                "short",
                vec![(own("60 * rate(medik8s_nmo_evictions_total[5m])"), "{{result}}")],
            ),
            (
                "How long drains take (95 %)",
                "s",
                vec![(
                    own("histogram_quantile(0.95, sum by (le) (rate(medik8s_nmo_drain_duration_seconds_bucket[1d])))"),
                    "",
                )],
            ),
        ],
    };
    panels.extend([
        (
            "Leader",
            "short",
            vec![(format!("leader_election_master_status{{{job}}}"), "{{pod}}")],
        ),
        (
            "Reconciliations per second, by result",
            "short",
            vec![(
                format!("sum by (controller, result) (rate(controller_runtime_reconcile_total{{{job}}}[5m]))"),
                "{{controller}} {{result}}",
            )],
        ),
        (
            "Requests to the API server per second, by answer",
            "short",
            vec![(
                format!("sum by (code) (rate(rest_client_requests_total{{{job}}}[5m]))"),
                "{{code}}",
            )],
        ),
        (
            "Waiting work",
            "short",
            vec![(format!("workqueue_depth{{{job}}}"), "{{name}}")],
        ),
    ]);
    panels
}

/// The dashboard in Grafana's form, importable as it is.
pub(crate) fn dashboard(operator: &Operator) -> Value {
    let source = json!({ "type": "prometheus", "uid": "${datasource}" });
    let panels: Vec<Value> = panels(operator)
        .into_iter()
        .enumerate()
        .map(|(number, (title, unit, queries))| {
            let targets: Vec<Value> = queries
                .into_iter()
                .zip('A'..)
                .map(|((expression, legend), id)| {
                    json!({
                        "datasource": source,
                        "expr": expression,
                        "legendFormat": if legend.is_empty() { "__auto" } else { legend },
                        "refId": id.to_string(),
                    })
                })
                .collect();
            json!({
                "id": number + 1,
                "type": "timeseries",
                "title": title,
                "datasource": source,
                "gridPos": {
                    "h": HEIGHT,
                    "w": WIDTH,
                    "x": (number % COLUMNS) * WIDTH,
                    "y": (number / COLUMNS) * HEIGHT,
                },
                "fieldConfig": { "defaults": { "unit": unit, "min": 0 }, "overrides": [] },
                "options": { "legend": { "displayMode": "list", "placement": "bottom" } },
                "targets": targets,
            })
        })
        .collect();
    json!({
        "title": format!("medik8s / {}", operator.package),
        "uid": format!("medik8s-{}", operator.chart_key.to_lowercase()),
        "tags": ["medik8s"],
        "editable": true,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": { "from": "now-6h", "to": "now" },
        "templating": { "list": [{
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "hide": 0,
        }] },
        "panels": panels,
    })
}
