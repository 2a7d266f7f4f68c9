//! For clusters with the Prometheus operator and Grafana: monitors, alerts, dashboards. None of it is
//! part of an installation, which must work without their kinds.

use anyhow::Result;
use medik8s_api::names::snr;
use serde_json::{Value, json};

use super::{metadata, pairs};
use crate::operators::{OPERATORS, Operator};
use crate::tree::Tree;
use crate::yaml;

mod alerts;
mod dashboards;

pub(crate) use alerts::alerts as alerts_of;
use dashboards::dashboard;

/// Where each alert is explained: a heading per alert, in lower case.
const RUNBOOK: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/alerts.md");

/// Adds `config/prometheus/` and the dashboards.
pub(super) fn generate(tree: &mut Tree) -> Result<()> {
    let mut files = Vec::new();
    for operator in OPERATORS {
        let package = operator.package;
        let mut documents = monitors(operator)?;
        documents.push(prometheus_rule(operator)?);
        let name = format!("{package}.yaml");
        tree.add(format!("config/prometheus/{name}"), super::file(&documents));
        files.push(name);
        // One file for both: Grafana takes it as it is, the chart puts it into a ConfigMap.
        let dashboard = dashboard(operator);
        let mut text = yaml::json(&dashboard, true)?;
        text.push('\n');
        for folder in ["deploy/dashboards", "deploy/helm/medik8s/dashboards"] {
            tree.add(format!("{folder}/{package}.json"), text.clone());
        }
        // The rules alone, as promtool checks them.
        tree.add(
            format!("config/prometheus/rules/{package}.yaml"),
            yaml::file([yaml::document(&groups(operator))?.as_str()]),
        );
    }
    super::kustomize::add(tree, "config/prometheus", &files)
}

/// How Prometheus finds the manager and, where there are any, the agents.
pub(crate) fn monitors(operator: &Operator) -> Result<Vec<String>> {
    // The endpoints serve certificates that they make themselves, at every start: there is nothing to
    // verify them with. Who asks is verified by its token.
    let endpoint = |port: (&str, Value)| {
        let mut endpoint = json!({
            "bearerTokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token",
            "path": "/metrics",
            "scheme": "https",
            "tlsConfig": { "insecureSkipVerify": true },
        });
        endpoint[port.0] = port.1;
        endpoint
    };
    let mut monitors = vec![yaml::document(&json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": metadata(operator, &operator.name("controller-manager-metrics-monitor"), true),
        "spec": {
            "endpoints": [endpoint(("port", "https".into()))],
            // The metrics Service, and not the one of the webhooks: it has the port.
            "selector": { "matchLabels": pairs(operator.labels) },
        },
    }))?];
    if operator.agent.is_some() {
        let mut pods = endpoint(("targetPort", 8443.into()));
        // A PodMonitor reads no files of the Prometheus pod.
        if let Some(fields) = pods.as_object_mut() {
            fields.remove("bearerTokenFile");
        }
        pods["bearerTokenSecret"] = json!({
            "name": operator.name("metrics-reader-token"),
            "key": "token",
        });
        monitors.push(yaml::document(&json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": metadata(operator, &operator.name("agent-metrics-monitor"), true),
            "spec": {
                "podMetricsEndpoints": [pods],
                "selector": { "matchLabels": {
                    snr::AGENT_NAME_LABEL: snr::AGENT_NAME_VALUE,
                    snr::AGENT_COMPONENT_LABEL: snr::AGENT_COMPONENT_VALUE,
                } },
            },
        }))?);
        monitors.extend(reader(operator)?);
    }
    Ok(monitors)
}

/// An account whose token the PodMonitor gives to Prometheus.
fn reader(operator: &Operator) -> Result<Vec<String>> {
    let name = operator.name("metrics-reader");
    let mut secret = metadata(operator, &operator.name("metrics-reader-token"), true);
    secret["annotations"] = json!({ "kubernetes.io/service-account.name": name });
    [
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(operator, &name, true),
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/service-account-token",
            "metadata": secret,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata(operator, &name, false),
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": name,
            },
            "subjects": [
                { "kind": "ServiceAccount", "name": name, "namespace": operator.namespace },
            ],
        }),
    ]
    .iter()
    .map(yaml::document)
    .collect()
}

/// The alerts as an object of the Prometheus operator.
pub(crate) fn prometheus_rule(operator: &Operator) -> Result<String> {
    yaml::document(&json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata(operator, &operator.name("alerts"), true),
        "spec": groups(operator),
    }))
}

/// The alerts as Prometheus itself reads them.
fn groups(operator: &Operator) -> Value {
    let rules: Vec<Value> = alerts_of(operator)
        .iter()
        .map(|alert| {
            json!({
                "alert": alert.name,
                "expr": alert.expression,
                "for": alert.lasting,
                "labels": { "severity": alert.severity },
                "annotations": {
                    "summary": alert.summary,
                    "description": alert.description,
                    "runbook_url": format!("{RUNBOOK}#{}", alert.name.to_lowercase()),
                },
            })
        })
        .collect();
    json!({ "groups": [{ "name": operator.package, "rules": rules }] })
}
