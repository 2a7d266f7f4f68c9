//! What only the bundles for OpenShift have: the page of the node health check in the console, and
//! metrics for its Prometheus.
//!
//! # Purpose
//! On OpenShift the operator makes a ConsolePlugin and a ServiceMonitor at run time; this is the other
//! half of them. Names are those of the original, so that an update in place finds them.
//!
//! # Caveats
//! The image of the console's page is not part of this project: without `--console-image` the bundle
//! has no console parts.

use serde_json::{Value, json};

use super::{Release, Variant, pairs};
use crate::operators::{Operator, Remediation};

/// Component label and name of what serves the page.
const PAGE: &str = "node-remediation-console-plugin";
const METRICS_SECRET: &str = "node-healthcheck-tls";
const METRICS_CA: &str = "node-healthcheck-ca-bundle";
const METRICS_MOUNT: &str = "/etc/tls/private";
const SERVING_CERTIFICATE: &str = "service.beta.openshift.io/serving-cert-secret-name";

/// Name of the Deployment that serves the page.
pub(super) fn page(operator: &Operator) -> String {
    operator.name(PAGE)
}

fn page_account(operator: &Operator) -> String {
    operator.name("console-plugin")
}

fn page_labels() -> Value {
    pairs(&[("app.kubernetes.io/component", PAGE)])
}

/// Image of the page, if this bundle has one.
fn page_image<'a>(operator: &Operator, release: &'a Release) -> Option<&'a str> {
    let wanted = operator.remediation == Remediation::Creates && release.variant != Variant::K8s;
    release.console_image.as_deref().filter(|_| wanted)
}

/// Whether OpenShift's Prometheus reads the metrics with its client certificate.
fn is_monitored(operator: &Operator, release: &Release) -> bool {
    operator.remediation == Remediation::Creates && release.variant == Variant::Ocp
}

/// Adds to a ClusterServiceVersion what OpenShift needs.
pub(super) fn extend(operator: &Operator, release: &Release, csv: &mut Value) {
    if let Some(image) = page_image(operator, release) {
        csv["metadata"]["annotations"]["console.openshift.io/plugins"] =
            format!("[\"{PAGE}\"]").into();
        let spec = &mut csv["spec"];
        push(
            &mut spec["install"]["spec"]["deployments"],
            page_deployment(operator, image),
        );
        // OLM makes only accounts that may do something; there is no such ConfigMap.
        push(
            &mut spec["install"]["spec"]["permissions"],
            json!({ "serviceAccountName": page_account(operator), "rules": [{
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": [PAGE],
                "verbs": ["get"],
            }] }),
        );
        push(
            &mut spec["relatedImages"],
            json!({ "name": "console-plugin", "image": image }),
        );
    }
    if release.variant != Variant::K8s
        && let Some(image) = &release.must_gather_image
    {
        let spec = &mut csv["spec"];
        let pod = &mut spec["install"]["spec"]["deployments"][0]["spec"]["template"]["spec"];
        push(
            &mut pod["containers"][0]["env"],
            json!({ "name": "RELATED_IMAGE_MUST_GATHER", "value": image }),
        );
        push(
            &mut spec["relatedImages"],
            json!({ "name": "must-gather", "image": image }),
        );
    }
    if is_monitored(operator, release) {
        let deployment = &mut csv["spec"]["install"]["spec"]["deployments"][0];
        let pod = &mut deployment["spec"]["template"]["spec"];
        // The Secret comes a moment after the Service.
        push(
            &mut pod["volumes"],
            json!({ "name": "metrics-tls", "secret": { "secretName": METRICS_SECRET } }),
        );
        push(
            &mut pod["containers"][0]["volumeMounts"],
            json!({ "name": "metrics-tls", "mountPath": METRICS_MOUNT, "readOnly": true }),
        );
    }
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}

fn page_deployment(operator: &Operator, image: &str) -> Value {
    let probe = json!({ "tcpSocket": { "port": "nrc-server" }, "periodSeconds": 10 });
    json!({
        "name": page(operator),
        "label": page_labels(),
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": page_labels() },
            "template": {
                "metadata": { "labels": page_labels() },
                "spec": {
                    "serviceAccountName": page_account(operator),
                    "automountServiceAccountToken": false,
                    "securityContext": {
                        "runAsNonRoot": true,
                        "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [{
                        "name": PAGE,
                        "image": image,
                        "ports": [{ "name": "nrc-server", "containerPort": 9443, "protocol": "TCP" }],
                        "livenessProbe": probe,
                        "readinessProbe": probe,
                        "resources": { "requests": { "cpu": "10m", "memory": "50Mi" } },
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "capabilities": { "drop": ["ALL"] },
                        },
                        "volumeMounts": [{
                            "name": "serving-cert",
                            "mountPath": "/var/serving-cert",
                            "readOnly": true,
                        }],
                    }],
                    "volumes": [{
                        "name": "serving-cert",
                        "secret": { "secretName": "nrc-plugin-cert" },
                    }],
                },
            },
        },
    })
}

/// Adds to the objects beside the ClusterServiceVersion what OpenShift needs.
pub(super) fn objects(operator: &Operator, release: &Release, objects: &mut Vec<(String, Value)>) {
    if page_image(operator, release).is_some() {
        let name = page(operator);
        objects.push((
            format!("{name}_v1_service"),
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {
                    "name": name,
                    "labels": page_labels(),
                    "annotations": { SERVING_CERTIFICATE: "nrc-plugin-cert" },
                },
                "spec": {
                    "ports": [{ "name": "9443-tcp", "port": 9443, "protocol": "TCP", "targetPort": "nrc-server" }],
                    "selector": page_labels(),
                },
            }),
        ));
    }
    if !is_monitored(operator, release) {
        return;
    }
    for (name, object) in objects.iter_mut() {
        if name.contains("metrics-service") {
            object["metadata"]["annotations"][SERVING_CERTIFICATE] = METRICS_SECRET.into();
            object["metadata"]["labels"]["app.kubernetes.io/instance"] = "metrics".into();
        }
    }
    let role = operator.name("prometheus-k8s");
    let api = "rbac.authorization.k8s.io";
    objects.push((
        format!("{METRICS_CA}_v1_configmap"),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": METRICS_CA,
                "annotations": { "service.beta.openshift.io/inject-cabundle": "true" },
            },
        }),
    ));
    objects.push((
        format!("{role}_{api}_v1_role"),
        json!({
            "apiVersion": format!("{api}/v1"),
            "kind": "Role",
            "metadata": { "name": role },
            "rules": [{
                "apiGroups": [""],
                "resources": ["endpoints", "pods", "services"],
                "verbs": ["get", "list", "watch"],
            }],
        }),
    ));
    objects.push((
        format!("{role}_{api}_v1_rolebinding"),
        json!({
            "apiVersion": format!("{api}/v1"),
            "kind": "RoleBinding",
            "metadata": { "name": role },
            "roleRef": { "apiGroup": api, "kind": "Role", "name": role },
            "subjects": [{
                "kind": "ServiceAccount",
                "name": "prometheus-k8s",
                "namespace": "openshift-monitoring",
            }],
        }),
    ));
}
