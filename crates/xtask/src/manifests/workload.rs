//! The manager: its Deployment, and the Service for its metrics.

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use medik8s_api::names::kubernetes::{CONTROL_PLANE_ROLE_LABEL, LOST_TAINTS, MASTER_ROLE_LABEL};
use serde_json::{Value, json};

use super::{metadata, pairs};
use crate::operators::{Env, Operator};
use crate::yaml;

/// Role of nodes that run the cluster's own services, where an administrator set some apart.
const INFRA_ROLE_LABEL: &str = "node-role.kubernetes.io/infra";

/// The metrics Service and the Deployment.
pub(super) fn documents(operator: &Operator) -> Result<Vec<String>> {
    let service = metrics_service(operator);
    yaml::typed::<Service>(&service)?;
    let deployment = deployment(operator);
    yaml::typed::<Deployment>(&deployment)?;
    Ok(vec![
        yaml::document(&service)?,
        yaml::document(&deployment)?,
    ])
}

fn metrics_service(operator: &Operator) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(operator, &operator.name("controller-manager-metrics-service"), true),
        "spec": {
            "ports": [{ "name": "https", "port": 8443, "protocol": "TCP", "targetPort": "https" }],
            "selector": pairs(operator.selector),
        },
    })
}

fn deployment(operator: &Operator) -> Value {
    let mut labels = pairs(operator.labels);
    for (key, value) in operator.selector {
        labels[*key] = (*value).into();
    }
    let mut pod = json!({
        "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
            prefers(INFRA_ROLE_LABEL, 3),
            prefers(MASTER_ROLE_LABEL, 1),
            prefers(CONTROL_PLANE_ROLE_LABEL, 1),
        ] } },
        "containers": [container(operator)],
        "priorityClassName": "system-cluster-critical",
        "securityContext": {
            "runAsNonRoot": true,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "serviceAccountName": operator.manager(),
        "terminationGracePeriodSeconds": operator.termination_grace_period,
    });
    let mut tolerations = vec![
        tolerates(MASTER_ROLE_LABEL, "NoSchedule"),
        tolerates(CONTROL_PLANE_ROLE_LABEL, "NoSchedule"),
        tolerates(INFRA_ROLE_LABEL, "NoSchedule"),
        tolerates(INFRA_ROLE_LABEL, "NoExecute"),
    ];
    // Where all managers are on nodes that are lost together, nobody looks after these nodes until others run elsewhere:
    // by default after five minutes.
    for key in LOST_TAINTS {
        let mut toleration = tolerates(key, "NoExecute");
        toleration["tolerationSeconds"] = 30.into();
        tolerations.push(toleration);
    }
    pod["tolerations"] = tolerations.into();
    let mut spec = json!({
        "replicas": operator.replicas,
        "selector": { "matchLabels": pairs(operator.selector) },
        "template": { "metadata": {
            "annotations": { "kubectl.kubernetes.io/default-container": "manager" },
            "labels": labels,
        } },
    });
    if operator.replicas > 1 {
        pod["topologySpreadConstraints"] = json!([{
            "labelSelector": { "matchLabels": pairs(operator.selector) },
            "maxSkew": 1,
            "topologyKey": medik8s_api::names::kubernetes::HOSTNAME_LABEL,
            "whenUnsatisfiable": "DoNotSchedule",
        }]);
        // With one pod per node a surge would find no place where there are only two nodes.
        spec["strategy"] = json!({
            "type": "RollingUpdate",
            "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 },
        });
    }
    spec["template"]["spec"] = pod;
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(operator, &operator.manager(), true),
        "spec": spec,
    })
}

fn container(operator: &Operator) -> Value {
    let env: Vec<Value> = operator
        .env
        .iter()
        .map(|(name, from)| match from {
            Env::Field(path) => {
                json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
            }
            Env::Image => json!({ "name": name, "value": operator.image() }),
        })
        .collect();
    let amounts = |(cpu, memory): (&str, &str)| json!({ "cpu": cpu, "memory": memory });
    let mut resources = json!({ "requests": amounts(operator.requests) });
    if let Some(limits) = operator.limits {
        resources["limits"] = amounts(limits);
    }
    json!({
        "name": "manager",
        "image": operator.image(),
        "imagePullPolicy": "IfNotPresent",
        "command": ["/manager"],
        "args": operator.args,
        "env": env,
        "ports": [
            { "name": "https", "containerPort": 8443, "protocol": "TCP" },
            { "name": "probes", "containerPort": 8081, "protocol": "TCP" },
            { "name": "webhook", "containerPort": 9443, "protocol": "TCP" },
        ],
        "startupProbe": { "httpGet": probe("/healthz"), "periodSeconds": 5, "failureThreshold": 12 },
        "livenessProbe": { "httpGet": probe("/healthz"), "periodSeconds": 20 },
        "readinessProbe": {
            "httpGet": probe("/readyz"),
            "initialDelaySeconds": 5,
            "periodSeconds": 10,
        },
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 65532,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

fn probe(path: &str) -> Value {
    json!({ "path": path, "port": "probes" })
}

fn prefers(label: &str, weight: i32) -> Value {
    json!({
        "weight": weight,
        "preference": { "matchExpressions": [{ "key": label, "operator": "Exists" }] },
    })
}

fn tolerates(key: &str, effect: &str) -> Value {
    json!({ "key": key, "operator": "Exists", "effect": effect })
}
