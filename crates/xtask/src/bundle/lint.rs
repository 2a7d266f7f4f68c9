//! What the validators of the operator framework do not see.
//!
//! # Purpose
//! A bundle can pass all of them and still not install, or show nothing: they do not decode the icon,
//! do not compare names between the parts, and ignore fields that they do not know.

use std::collections::BTreeSet;

use base64::Engine as _;
use serde_json::Value;

use crate::operators::{OPERATORS, Operator};
use crate::{crds, yaml};

/// Fields of a ClusterServiceVersion's spec.
const FIELDS: &[&str] = &[
    "apiservicedefinitions",
    "cleanup",
    "customresourcedefinitions",
    "description",
    "displayName",
    "icon",
    "install",
    "installModes",
    "keywords",
    "labels",
    "links",
    "maintainers",
    "maturity",
    "minKubeVersion",
    "nativeAPIs",
    "provider",
    "relatedImages",
    "replaces",
    "skips",
    "version",
    "webhookdefinitions",
];

/// A bundle, as its objects.
pub(crate) struct Bundle<'a> {
    operator: &'a Operator,
    csv: Value,
    objects: Vec<Value>,
}

impl<'a> Bundle<'a> {
    /// Reads the manifests among `files`.
    pub(crate) fn read(operator: &'a Operator, files: &[(String, String)]) -> anyhow::Result<Self> {
        let mut csv = Value::Null;
        let mut objects = Vec::new();
        for (path, text) in files {
            if !path.starts_with("manifests/") {
                continue;
            }
            for object in yaml::read(text)? {
                if object["kind"] == "ClusterServiceVersion" {
                    csv = object;
                } else {
                    objects.push(object);
                }
            }
        }
        Ok(Self {
            operator,
            csv,
            objects,
        })
    }

    /// What is wrong, one sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        [
            self.unknown_fields(),
            self.icon(),
            self.update_graph(),
            self.webhooks(),
            self.accounts(),
            self.rules(),
            self.deployments(),
            self.images(),
            self.kinds(),
            self.descriptors(),
            self.examples(),
            self.services(),
        ]
        .concat()
    }

    fn spec(&self) -> &Value {
        &self.csv["spec"]
    }

    fn deployments_of(&self) -> &[Value] {
        list(&self.spec()["install"]["spec"]["deployments"])
    }

    fn owned(&self) -> &[Value] {
        list(&self.spec()["customresourcedefinitions"]["owned"])
    }

    fn unknown_fields(&self) -> Vec<String> {
        self.spec()
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(field, _)| !FIELDS.contains(&field.as_str()))
            .map(|(field, _)| format!("spec.{field} is no field of a ClusterServiceVersion"))
            .collect()
    }

    fn icon(&self) -> Vec<String> {
        let icon = &self.spec()["icon"][0];
        let decoded = base64::engine::general_purpose::STANDARD.decode(text(&icon["base64data"]));
        let picture = decoded
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .is_some_and(|picture| picture.starts_with("<svg ") && picture.contains("</svg>"));
        problem(
            !picture || icon["mediatype"] != "image/svg+xml",
            "spec.icon is no SVG picture in base64",
        )
    }

    fn update_graph(&self) -> Vec<String> {
        problem(
            self.spec()["replaces"] == self.csv["metadata"]["name"],
            "spec.replaces names the ClusterServiceVersion itself: the channel would have no head",
        )
    }

    fn webhooks(&self) -> Vec<String> {
        let deployments: BTreeSet<&str> = self
            .deployments_of()
            .iter()
            .map(|deployment| text(&deployment["name"]))
            .collect();
        let mut names = BTreeSet::new();
        let mut problems = Vec::new();
        for webhook in list(&self.spec()["webhookdefinitions"]) {
            let name = text(&webhook["generateName"]);
            problems.extend(problem(
                !names.insert(name),
                &format!("the webhook {name} is there twice"),
            ));
            problems.extend(problem(
                !deployments.contains(text(&webhook["deploymentName"])),
                &format!("the webhook {name} is for a Deployment that is not in the bundle"),
            ));
        }
        let expected: BTreeSet<&str> = (self.operator.webhooks)()
            .iter()
            .map(|hook| hook.name)
            .collect();
        problems.extend(problem(
            names != expected,
            &format!("the webhooks are {names:?}, the operator answers {expected:?}"),
        ));
        problems
    }

    /// OLM makes only the accounts that have permissions; a pod of another account never starts.
    fn accounts(&self) -> Vec<String> {
        let install = &self.spec()["install"]["spec"];
        let granted: BTreeSet<&str> = list(&install["clusterPermissions"])
            .iter()
            .chain(list(&install["permissions"]))
            .map(|permission| text(&permission["serviceAccountName"]))
            .collect();
        let mut used: BTreeSet<&str> = self
            .deployments_of()
            .iter()
            .map(|deployment| text(&deployment["spec"]["template"]["spec"]["serviceAccountName"]))
            .collect();
        used.extend(
            self.operator
                .agent
                .iter()
                .map(|agent| agent.service_account),
        );
        used.symmetric_difference(&granted)
            .map(|account| format!("the account {account} is not both used and given permissions"))
            .collect()
    }

    fn rules(&self) -> Vec<String> {
        let install = &self.spec()["install"]["spec"];
        list(&install["clusterPermissions"])
            .iter()
            .chain(list(&install["permissions"]))
            .flat_map(|permission| list(&permission["rules"]))
            .filter(|rule| {
                ["apiGroups", "resources", "verbs"]
                    .iter()
                    .any(|field| list(&rule[*field]).iter().any(|value| value == "*"))
            })
            .map(|rule| format!("a rule allows everything of something: {rule}"))
            .collect()
    }

    fn deployments(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for deployment in self.deployments_of() {
            let name = text(&deployment["name"]);
            if name == super::openshift::page(self.operator) {
                continue;
            }
            problems.extend(problem(
                name != self.operator.manager(),
                &format!("there is no Deployment {name} in an installation of the original"),
            ));
            let selector = &deployment["spec"]["selector"]["matchLabels"];
            problems.extend(problem(
                *selector != super::pairs(self.operator.selector),
                &format!("the selector of {name} is not that of the original, and immutable"),
            ));
        }
        problems
    }

    /// Mirrors of disconnected clusters copy what is in `relatedImages`.
    fn images(&self) -> Vec<String> {
        let related: BTreeSet<&str> = list(&self.spec()["relatedImages"])
            .iter()
            .map(|image| text(&image["image"]))
            .collect();
        let containers = self
            .deployments_of()
            .iter()
            .flat_map(|deployment| list(&deployment["spec"]["template"]["spec"]["containers"]));
        let mut used =
            BTreeSet::from([text(&self.csv["metadata"]["annotations"]["containerImage"])]);
        for container in containers {
            used.insert(text(&container["image"]));
            used.extend(
                list(&container["env"])
                    .iter()
                    .filter(|variable| text(&variable["name"]).ends_with("IMAGE"))
                    .map(|variable| text(&variable["value"])),
            );
        }
        used.difference(&related)
            .map(|image| format!("the image {image} is not in spec.relatedImages"))
            .collect()
    }

    /// The CRDs are those of the types, and `owned` lists them.
    fn kinds(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for crd in medik8s_api::crd::all() {
            let name = crd.metadata.name.clone().unwrap_or_default();
            if !self.operator.groups.contains(&crd.spec.group.as_str()) {
                continue;
            }
            let ours = crds::document(&crd).and_then(|text| yaml::read(&text));
            let same = self
                .objects
                .iter()
                .any(|object| ours.as_ref().is_ok_and(|ours| ours.contains(object)));
            problems.extend(problem(
                !same,
                &format!("the CRD {name} is not the one of the types"),
            ));
            problems.extend(problem(
                !self.owned().iter().any(|owned| owned["name"] == *name),
                &format!("{name} is not among the owned kinds"),
            ));
        }
        problems
    }

    fn descriptors(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for crd in self
            .objects
            .iter()
            .filter(|object| object["kind"] == "CustomResourceDefinition")
        {
            let name = &crd["metadata"]["name"];
            let Some(owned) = self.owned().iter().find(|owned| owned["name"] == *name) else {
                continue;
            };
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
            for (part, list_name) in [("spec", "specDescriptors"), ("status", "statusDescriptors")]
            {
                for (field, _) in schema[part]["properties"].as_object().into_iter().flatten() {
                    let there = list(&owned[list_name]).iter().any(|descriptor| {
                        descriptor["path"] == **field
                            && !text(&descriptor["description"]).is_empty()
                    });
                    problems.extend(problem(
                        !there,
                        &format!("{name}: {part}.{field} has no descriptor"),
                    ));
                }
            }
        }
        problems
    }

    fn examples(&self) -> Vec<String> {
        let examples = text(&self.csv["metadata"]["annotations"]["alm-examples"]);
        let examples: Vec<Value> = serde_json::from_str(examples).unwrap_or_default();
        let mut problems = Vec::new();
        for owned in self.owned() {
            let kind = &owned["kind"];
            let Some(example) = examples.iter().find(|example| example["kind"] == *kind) else {
                problems.push(format!("there is no example of {kind}"));
                continue;
            };
            problems.extend(problem(
                !example["status"].is_null(),
                &format!("the example of {kind} has a status"),
            ));
            let foreign = OPERATORS.iter().any(|operator| {
                example
                    .to_string()
                    .contains(&format!("\"namespace\":\"{}\"", operator.namespace))
            });
            problems.extend(problem(
                foreign,
                &format!("the example of {kind} is in a namespace that OLM does not install to"),
            ));
        }
        problems
    }

    /// All operators share a namespace under OLM.
    fn services(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for service in self
            .objects
            .iter()
            .filter(|object| object["kind"] == "Service")
        {
            let selector = &service["spec"]["selector"];
            let selected = OPERATORS
                .iter()
                .filter(|operator| {
                    let mut labels = super::pairs(operator.labels);
                    for (key, value) in operator.selector {
                        labels[*key] = (*value).into();
                    }
                    selector
                        .as_object()
                        .into_iter()
                        .flatten()
                        .all(|(key, value)| labels.get(key) == Some(value))
                })
                .count();
            // The page in the console is no operator; only its own Service may select it.
            let page = self.deployments_of().iter().any(|deployment| {
                let template = &deployment["spec"]["template"]["metadata"]["labels"];
                deployment["name"] == service["metadata"]["name"] && template == selector
            });
            let selected = selected + usize::from(page);
            problems.extend(problem(
                selected != 1,
                &format!(
                    "the Service {} selects the pods of {selected} operators",
                    service["metadata"]["name"]
                ),
            ));
        }
        problems
    }
}

fn problem(wrong: bool, text: &str) -> Vec<String> {
    if wrong {
        vec![text.to_owned()]
    } else {
        Vec::new()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
