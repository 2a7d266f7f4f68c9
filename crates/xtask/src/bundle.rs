//! OLM bundles and the catalog of them: `bundle/<package>/` and `bundle/catalog/`.
//!
//! Names, permissions and Deployments are those of `deploy/`; the examples are those of
//! `config/samples/`. What is written only here is what OperatorHub and the OpenShift console show.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::manifests::{self, pairs};
use crate::operators::{OPERATORS, Operator, REGISTRY, Remediation, VERSION};
use crate::tree::Tree;
use crate::{crds, yaml};

mod catalog;
mod csv;
mod descriptors;
mod lint;
mod openshift;
mod text;

/// Where OLM installs all of this project's operators, as their manuals say.
pub(crate) const SUGGESTED_NAMESPACE: &str = "openshift-workload-availability";
/// The only channel.
pub(crate) const CHANNEL: &str = "stable";

/// For whom a bundle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Variant {
    /// Any Kubernetes.
    K8s,
    /// OKD and OpenShift's community catalog.
    Okd,
    /// OpenShift, whose Prometheus reads the metrics with a client certificate.
    Ocp,
}

/// What differs between two generations of the same bundle.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Release {
    /// Version of the operators.
    #[arg(long, default_value = VERSION)]
    pub(crate) version: String,
    /// Version that this one replaces in the update graph.
    #[arg(long)]
    pub(crate) replaces: Option<String>,
    /// Versions from which OLM may update to this one directly, such as `>=0.0.1 <0.1.0`.
    #[arg(long)]
    pub(crate) skip_range: Option<String>,
    /// For whom.
    #[arg(long, value_enum, default_value = "k8s")]
    pub(crate) variant: Variant,
    /// The node health check brings self node remediation along.
    #[arg(long)]
    pub(crate) with_dependencies: bool,
    /// When the images were built, as RFC 3339; left out where results must not differ.
    #[arg(long)]
    pub(crate) created_at: Option<String>,
    /// Images by digest: package=image@sha256:... (may be repeated).
    #[arg(long = "image", value_name = "PACKAGE=IMAGE")]
    pub(crate) images: Vec<String>,
    /// Image that serves the node health check's page in OpenShift's console; without it the bundle
    /// has no such page.
    #[arg(long)]
    pub(crate) console_image: Option<String>,
    /// Image that collects what support needs (OpenShift).
    #[arg(long)]
    pub(crate) must_gather_image: Option<String>,
}

impl Default for Release {
    fn default() -> Self {
        Self {
            version: VERSION.to_owned(),
            replaces: None,
            skip_range: None,
            variant: Variant::K8s,
            with_dependencies: false,
            created_at: None,
            images: Vec::new(),
            console_image: None,
            must_gather_image: None,
        }
    }
}

impl Release {
    /// The image of an operator.
    fn image(&self, operator: &Operator) -> String {
        self.images
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .find(|(package, _)| *package == operator.package)
            .map_or_else(
                || format!("{REGISTRY}/{}:v{}", operator.package, self.version),
                |(_, image)| image.to_owned(),
            )
    }

    /// The bundle's own image.
    fn bundle_image(&self, operator: &Operator) -> String {
        format!("{REGISTRY}/{}-bundle:v{}", operator.package, self.version)
    }

    /// Name of the ClusterServiceVersion.
    pub(crate) fn csv_name(&self, operator: &Operator) -> String {
        csv_name(operator, &self.version)
    }
}

fn csv_name(operator: &Operator, version: &str) -> String {
    format!("{}.v{version}", operator.package)
}

/// Adds the bundles of all operators and the catalog.
pub(crate) fn generate(tree: &mut Tree, root: &Path, release: &Release) -> Result<()> {
    for operator in OPERATORS {
        let files = files(operator, root, release).with_context(|| operator.package.to_owned())?;
        let problems = lint::Bundle::read(operator, &files)?.problems();
        ensure!(
            problems.is_empty(),
            "the bundle of {}:\n{}",
            operator.package,
            problems.join("\n")
        );
        for (path, text) in files {
            tree.add(format!("bundle/{}/{path}", operator.package), text);
        }
    }
    catalog::generate(tree, root, release)
}

/// The files of one bundle, by path in it.
pub(crate) fn files(
    operator: &Operator,
    root: &Path,
    release: &Release,
) -> Result<Vec<(String, String)>> {
    let one = |text: &str| yaml::file([text]);
    let csv = yaml::document(&csv::csv(operator, &examples(operator, root)?, release)?)?;
    let mut files = vec![(
        format!("manifests/{}.clusterserviceversion.yaml", operator.package),
        one(&csv),
    )];
    for crd in medik8s_api::crd::all() {
        if operator.groups.contains(&crd.spec.group.as_str()) {
            files.push((
                format!(
                    "manifests/{}_{}.yaml",
                    crd.spec.group, crd.spec.names.plural
                ),
                one(&crds::document(&crd)?),
            ));
        }
    }
    for (name, object) in objects(operator, release)? {
        files.push((
            format!("manifests/{name}.yaml"),
            one(&yaml::document(&object)?),
        ));
    }
    let annotations = annotations(release);
    files.push((
        "metadata/annotations.yaml".to_owned(),
        one(&yaml::document(
            &json!({ "annotations": annotations(operator) }),
        )?),
    ));
    if release.with_dependencies && operator.remediation == Remediation::Creates {
        files.push((
            "metadata/dependencies.yaml".to_owned(),
            one(&yaml::document(&dependencies())?),
        ));
    }
    files.push(("tests/scorecard/config.yaml".to_owned(), one(&scorecard()?)));
    files.push((
        "bundle.Dockerfile".to_owned(),
        dockerfile(&annotations(operator)),
    ));
    Ok(files)
}

/// Objects beside the ClusterServiceVersion and the CRDs: one per file, without a namespace, since
/// OLM puts them where the operator is.
///
/// Not among them: the webhook Service and configurations, ServiceAccounts and their roles, which OLM
/// makes itself, and the roles for users, of which it makes its own.
fn objects(operator: &Operator, release: &Release) -> Result<Vec<(String, Value)>> {
    let parts = manifests::parts(operator)?;
    let mut objects = Vec::new();
    let documents = parts
        .manager
        .into_iter()
        .chain(parts.rbac.into_iter().flat_map(|(_, documents)| documents));
    for document in documents {
        for mut object in yaml::read(&document)? {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            let name = object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let shared = name.ends_with("metrics-reader")
                || name.ends_with("ext-remediation")
                || object["aggregationRule"].is_object();
            let (group, wanted) = match kind.as_str() {
                "Service" => ("", true),
                "ClusterRole" => ("rbac.authorization.k8s.io_", shared),
                _ => ("", false),
            };
            if !wanted {
                continue;
            }
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("namespace");
            }
            objects.push((format!("{name}_{group}v1_{}", kind.to_lowercase()), object));
        }
    }
    openshift::objects(operator, release, &mut objects);
    Ok(objects)
}

/// `metadata/annotations.yaml`, which also are the labels of the bundle's image.
fn annotations(release: &Release) -> impl Fn(&Operator) -> Value {
    let variant = release.variant;
    move |operator| {
        let mut annotations = json!({
            "operators.operatorframework.io.bundle.mediatype.v1": "registry+v1",
            "operators.operatorframework.io.bundle.manifests.v1": "manifests/",
            "operators.operatorframework.io.bundle.metadata.v1": "metadata/",
            "operators.operatorframework.io.bundle.package.v1": operator.package,
            "operators.operatorframework.io.bundle.channels.v1": CHANNEL,
            "operators.operatorframework.io.bundle.channel.default.v1": CHANNEL,
            "operators.operatorframework.io.metrics.builder": "medik8s-xtask",
            "operators.operatorframework.io.metrics.mediatype.v1": "metrics+v1",
            "operators.operatorframework.io.metrics.project_layout": "rust",
            "operators.operatorframework.io.test.mediatype.v1": "scorecard+v1",
            "operators.operatorframework.io.test.config.v1": "tests/scorecard/",
        });
        if variant != Variant::K8s {
            annotations["com.redhat.openshift.versions"] = "v4.15".into();
        }
        annotations
    }
}

fn dependencies() -> Value {
    json!({ "dependencies": [{
        "type": "olm.gvk",
        "value": {
            "group": "self-node-remediation.medik8s.io",
            "kind": "SelfNodeRemediation",
            "version": "v1alpha1",
        },
    }] })
}

fn scorecard() -> Result<String> {
    let image = "quay.io/operator-framework/scorecard-test:v1.42.2";
    let tests: Vec<Value> = [
        ("basic", "basic-check-spec", "basic-check-spec-test"),
        ("olm", "olm-bundle-validation", "olm-bundle-validation-test"),
        (
            "olm",
            "olm-crds-have-validation",
            "olm-crds-have-validation-test",
        ),
        (
            "olm",
            "olm-crds-have-resources",
            "olm-crds-have-resources-test",
        ),
        ("olm", "olm-spec-descriptors", "olm-spec-descriptors-test"),
        (
            "olm",
            "olm-status-descriptors",
            "olm-status-descriptors-test",
        ),
    ]
    .into_iter()
    .map(|(suite, command, test)| {
        json!({
            "entrypoint": ["scorecard-test", command],
            "image": image,
            "labels": { "suite": suite, "test": test },
            "storage": { "spec": { "mountPath": {} } },
        })
    })
    .collect();
    yaml::document(&json!({
        "apiVersion": "scorecard.operatorframework.io/v1alpha3",
        "kind": "Configuration",
        "metadata": { "name": "config" },
        "stages": [{ "parallel": true, "tests": tests }],
        "storage": { "spec": { "mountPath": {} } },
    }))
}

fn dockerfile(annotations: &Value) -> String {
    let mut text = format!("{}FROM scratch\n\n", yaml::HEADER);
    for (key, value) in annotations.as_object().into_iter().flatten() {
        text.extend([format!(
            "LABEL {key}={}\n",
            value.as_str().unwrap_or_default()
        )]);
    }
    text.push_str(
        "\nCOPY manifests /manifests/\nCOPY metadata /metadata/\nCOPY tests/scorecard /tests/scorecard/\n",
    );
    text
}

/// One example of each kind, from `config/samples/`, for an installation in the suggested namespace.
fn examples(operator: &Operator, root: &Path) -> Result<Vec<Value>> {
    let mut examples = Vec::new();
    for crd in medik8s_api::crd::all() {
        if !operator.groups.contains(&crd.spec.group.as_str()) {
            continue;
        }
        let file = root.join(format!(
            "config/samples/{}.yaml",
            crd.spec.names.kind.to_lowercase()
        ));
        let text = fs::read_to_string(&file)
            .with_context(|| format!("could not read {}", file.display()))?;
        let mut samples = yaml::read(&text)?;
        ensure!(samples.len() == 1, "{} is not one sample", file.display());
        let mut sample = samples.remove(0);
        moved(&mut sample);
        examples.push(sample);
    }
    Ok(examples)
}

/// Puts a sample for the namespaces of `deploy/` into the one of OLM.
fn moved(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let home = key == "namespace"
                    && OPERATORS.iter().any(|operator| value == operator.namespace);
                if home {
                    *value = SUGGESTED_NAMESPACE.into();
                } else {
                    moved(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(moved),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The labels and names of a Deployment that OLM makes.
fn deployment(operator: &Operator, release: &Release) -> Result<Value> {
    let documents = manifests::parts(operator)?.manager;
    for document in &documents {
        for mut object in yaml::read(document)? {
            if object["kind"] != "Deployment" {
                continue;
            }
            let image = release.image(operator);
            let container = &mut object["spec"]["template"]["spec"]["containers"][0];
            container["image"] = image.clone().into();
            for variable in container["env"].as_array_mut().into_iter().flatten() {
                if variable["value"] == operator.image() {
                    variable["value"] = image.clone().into();
                }
            }
            return Ok(json!({
                "name": operator.manager(),
                "label": pairs(operator.labels),
                "spec": object["spec"],
            }));
        }
    }
    anyhow::bail!("{} has no Deployment", operator.package)
}

#[cfg(test)]
mod tests;
