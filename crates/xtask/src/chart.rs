//! The Helm chart: the manifests of `deploy/`, with what a user may choose put into them as template
//! actions.
//!
//! The values, their schema, the notes and the helpers are written by hand in
//! `deploy/helm/medik8s/`; what Kubernetes objects there are and what they hold is not written twice.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::manifests::{self, monitoring, policy};
use crate::operators::{OPERATORS, Operator, VERSION};
use crate::tree::Tree;
use crate::yaml;

/// Where the chart is.
const CHART: &str = "deploy/helm/medik8s";
/// Stands for the release's namespace while documents are made.
const NAMESPACE: &str = "TOKENnamespace";

/// Adds the chart's generated files.
pub(crate) fn generate(tree: &mut Tree) -> Result<()> {
    let chart = yaml::document(&json!({
        "apiVersion": "v2",
        "name": "medik8s",
        "description": "Finds sick nodes, fences them, frees their workload safely, and puts nodes into maintenance",
        "type": "application",
        "version": VERSION,
        "appVersion": VERSION,
        "kubeVersion": ">=1.28.0-0",
        "home": "https://www.medik8s.io",
        "sources": [env!("CARGO_PKG_REPOSITORY")],
        "keywords": ["fencing", "node", "remediation", "maintenance", "high-availability"],
        "maintainers": [{ "name": "medik8s", "email": "medik8s@googlegroups.com" }],
    }))?;
    tree.add(format!("{CHART}/Chart.yaml"), yaml::file([chart.as_str()]));
    for operator in OPERATORS {
        let operator = Operator {
            namespace: NAMESPACE,
            ..*operator
        };
        let files = files(&operator).with_context(|| operator.package.to_owned())?;
        for (name, condition, documents) in files {
            let text = template(&operator, condition, &documents)?;
            tree.add(
                format!("{CHART}/templates/{}/{name}.yaml", operator.package),
                text,
            );
        }
    }
    Ok(())
}

/// Name, further condition and documents of each file.
fn files(operator: &Operator) -> Result<Vec<(&'static str, &'static str, Vec<String>)>> {
    let parts = manifests::parts(operator)?;
    let crds: Result<Vec<String>> = parts.crds.iter().map(|crd| kept(crd)).collect();
    let rbac: Vec<String> = parts
        .rbac
        .into_iter()
        .flat_map(|(_, documents)| documents)
        .collect();
    let manager: Result<Vec<String>> = parts
        .manager
        .iter()
        .map(|document| choices(operator, document))
        .collect();
    let mut webhooks = Vec::new();
    for document in &parts.webhooks {
        webhooks.push(injected(operator, document)?);
    }
    let mut files = vec![
        ("crds", ".Values.crds.install", crds?),
        ("rbac", "", rbac),
        ("manager", "", manager?),
        ("webhooks", "", webhooks),
        (
            "certificate",
            "(eq .Values.webhooks.certificates \"cert-manager\")",
            certificate(operator)?,
        ),
        (
            "network-policies",
            ".Values.networkPolicies.enabled",
            policy::network_policies(operator)?,
        ),
        (
            "service-monitor",
            ".Values.serviceMonitor.enabled",
            monitors(operator)?,
        ),
        (
            "prometheus-rule",
            ".Values.prometheusRule.enabled",
            // Prometheus has template actions of its own, in the same form.
            vec![labelled(
                &monitoring::prometheus_rule(operator)?
                    .replace("{{", "TOKENopen")
                    .replace("}}", "TOKENclose"),
                "$.Values.prometheusRule.labels",
            )],
        ),
        (
            "dashboard",
            ".Values.dashboards.enabled",
            vec![dashboard(operator)?],
        ),
    ];
    let admission = policy::admission_policy(operator)?;
    if !admission.is_empty() {
        files.push((
            "agent-admission-policy",
            "(and .Values.agentAdmissionPolicy.enabled (.Capabilities.APIVersions.Has \"admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy\"))",
            admission,
        ));
    }
    Ok(files)
}

/// One file of the chart.
fn template(operator: &Operator, condition: &str, documents: &[String]) -> Result<String> {
    let key = operator.chart_key;
    let when = if condition.is_empty() {
        "$operator.enabled".to_owned()
    } else {
        format!("and $operator.enabled {condition}")
    };
    let mut text = format!(
        "{}{{{{- $operator := .Values.{key} }}}}\n{{{{- if {when} }}}}\n",
        yaml::HEADER
    );
    for document in documents {
        text.push_str("---\n");
        text.push_str(&actions(operator, document)?);
    }
    text.push_str("{{- end }}\n");
    Ok(text)
}

/// Puts template actions in the place of tokens, and the chart's labels beside ours.
fn actions(operator: &Operator, document: &str) -> Result<String> {
    let image = operator.image();
    let mut text = String::new();
    let mut labelled = false;
    for line in document.lines() {
        let indent = line.len() - line.trim_start().len();
        let pad = " ".repeat(indent);
        if let Some((key, token)) = line.trim_start().split_once(": TOKENblock-") {
            let expression = format!("$operator.{token}");
            let deeper = indent + 2;
            text.extend([format!(
                "{pad}{{{{- with {expression} }}}}\n{pad}{key}:\n{pad}  {{{{- toYaml . | nindent {deeper} }}}}\n{pad}{{{{- end }}}}\n"
            )]);
            continue;
        }
        if let Some(name) = line.trim_start().strip_prefix("TOKENinclude-") {
            let name = name.trim_end_matches(": true");
            let prefix = operator.prefix;
            text.extend([format!(
                "{pad}{{{{- include \"medik8s.{name}\" (dict \"root\" $ \"operator\" $operator \"prefix\" \"{prefix}\") | nindent {indent} }}}}\n"
            )]);
            continue;
        }
        let line = line
            .replace(&image, "{{ include \"medik8s.image\" (dict \"root\" $ \"operator\" $operator \"name\" \"TOKENpackage\") }}")
            .replace("TOKENpackage", operator.package)
            .replace(NAMESPACE, "{{ include \"medik8s.namespace\" $ }}")
            .replace("TOKENreplicas", "{{ $operator.replicas }}")
            .replace("TOKENpullPolicy", "{{ $.Values.imagePullPolicy }}");
        let line = line
            .replace("TOKENopen", "{{ \"{{\" }}")
            .replace("TOKENclose", "{{ \"}}\" }}");
        ensure!(!line.contains("TOKEN"), "a token is left in {line:?}");
        text.push_str(&line);
        text.push('\n');
        if line == "  labels:" && !labelled {
            labelled = true;
            text.push_str("    {{- include \"medik8s.labels\" $ | nindent 4 }}\n");
        }
    }
    Ok(text)
}

/// A CRD that an uninstallation leaves where it is.
fn kept(document: &str) -> Result<String> {
    ensure!(
        !document.contains("{{"),
        "a CRD holds what Helm would take for an action"
    );
    let mut crd = only(document)?;
    crd["metadata"]["annotations"] = json!({ "TOKENinclude-keep": true });
    yaml::document(&crd)
}

/// A document in which what a user may choose about the pods is a token.
fn choices(operator: &Operator, document: &str) -> Result<String> {
    let mut object = only(document)?;
    if object["kind"] != "Deployment" {
        return Ok(document.to_owned());
    }
    let spec = &mut object["spec"];
    spec["replicas"] = "TOKENreplicas".into();
    let template = &mut spec["template"];
    template["metadata"]["annotations"]["TOKENinclude-podAnnotations"] = true.into();
    template["metadata"]["labels"]["TOKENinclude-podLabels"] = true.into();
    let pod = &mut template["spec"];
    for field in ["affinity", "nodeSelector", "tolerations"] {
        pod[field] = format!("TOKENblock-{field}").into();
    }
    pod["priorityClassName"] = "TOKENblock-priorityClassName".into();
    pod["TOKENinclude-pod"] = true.into();
    let container = pod["containers"]
        .get_mut(0)
        .context("a Deployment without a container")?;
    container["imagePullPolicy"] = "TOKENpullPolicy".into();
    container["resources"] = "TOKENblock-resources".into();
    container["TOKENinclude-container"] = true.into();
    container["args"]
        .as_array_mut()
        .context("a container without arguments")?
        .push("TOKENarguments".into());
    let text = yaml::document(&object)?;
    // The list of arguments goes on with the user's; a priority class is a word, not a map.
    let mut out = String::new();
    for line in text.lines() {
        let pad = " ".repeat(line.len() - line.trim_start().len());
        if line.trim_start() == "- TOKENarguments" {
            out.extend([format!(
                "{pad}{{{{- range $operator.extraArgs }}}}\n{pad}- {{{{ . | quote }}}}\n{pad}{{{{- end }}}}\n"
            )]);
        } else if line.trim_start().starts_with("priorityClassName:") {
            out.extend([format!(
                "{pad}{{{{- with $operator.priorityClassName }}}}\n{pad}priorityClassName: {{{{ . }}}}\n{pad}{{{{- end }}}}\n"
            )]);
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
    ensure!(
        out.contains(&operator.image()),
        "the Deployment of {} does not run its image",
        operator.package
    );
    Ok(out)
}

/// A webhook configuration into which cert-manager may write its CA.
fn injected(operator: &Operator, document: &str) -> Result<String> {
    let mut object = only(document)?;
    if object["kind"] == "Service" {
        return Ok(document.to_owned());
    }
    object["metadata"]["annotations"] = json!({ "TOKENinclude-inject": true });
    let text = yaml::document(&object)?;
    Ok(text.replace(
        "  annotations:\n    TOKENinclude-inject: true\n",
        &format!(
            "  {{{{- if eq $.Values.webhooks.certificates \"cert-manager\" }}}}\n  annotations:\n    cert-manager.io/inject-ca-from: {NAMESPACE}/{}\n  {{{{- end }}}}\n",
            operator.name("webhook-certificate")
        ),
    ))
}

/// Issuer and certificate for cert-manager.
fn certificate(operator: &Operator) -> Result<Vec<String>> {
    let name = operator.name("webhook-certificate");
    let service = operator.name("webhook-service");
    let issuer = json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Issuer",
        "metadata": manifests::metadata(operator, &name, true),
        "spec": { "selfSigned": {} },
    });
    let certificate = json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": manifests::metadata(operator, &name, true),
        "spec": {
            "dnsNames": [
                format!("{service}.{NAMESPACE}.svc"),
                format!("{service}.{NAMESPACE}.svc.cluster.local"),
            ],
            "issuerRef": { "kind": "Issuer", "name": name },
            "secretName": name,
            "privateKey": { "algorithm": "ECDSA", "rotationPolicy": "Always" },
        },
    });
    Ok(vec![
        yaml::document(&issuer)?,
        yaml::document(&certificate)?,
    ])
}

fn monitors(operator: &Operator) -> Result<Vec<String>> {
    Ok(monitoring::monitors(operator)?
        .iter()
        .map(|document| labelled(document, "$.Values.serviceMonitor.labels"))
        .collect())
}

/// A document with the user's labels, by which his Prometheus or Grafana finds it.
fn labelled(document: &str, labels: &str) -> String {
    document.replacen(
        "  labels:\n",
        &format!("  labels:\n    {{{{- with {labels} }}}}\n    {{{{- toYaml . | nindent 4 }}}}\n    {{{{- end }}}}\n"),
        1,
    )
}

fn dashboard(operator: &Operator) -> Result<String> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": manifests::metadata(operator, &operator.name("dashboard"), true),
        "data": { format!("{}.json", operator.package): "TOKENdashboard" },
    });
    let text = yaml::document(&object)?;
    Ok(labelled(&text, "$.Values.dashboards.labels").replace(
        "TOKENdashboard",
        &format!(
            "{{{{ $.Files.Get \"dashboards/{}.json\" | toJson }}}}",
            operator.package
        ),
    ))
}

fn only(document: &str) -> Result<Value> {
    yaml::read(document)?
        .into_iter()
        .next()
        .context("no document")
}
