//! The admission webhook: reads what the rules of [`crate::validate`] need and answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ObjectMeta, admission::AdmissionRequest};
use kube::{Api, Client, ResourceExt};
use medik8s_api::NodeHealthCheck;
use medik8s_core::{roles, selector};
use medik8s_runtime::capabilities::{self, ServedKind};
use medik8s_runtime::read;
use medik8s_runtime::webhook::{
    Decoded, FailurePolicy, Hook, HookKind, Operation, Verdict, decode,
};

use crate::check::{ResourceKind, TemplateRef};
use crate::cluster::ClusterWatch;
use crate::remediation::supports_multiple_templates;
use crate::validate::{self, SelectedNode, Surroundings};

/// The webhook for health checks.
pub const VALIDATE: Hook = Hook {
    kind: HookKind::Validating,
    name: "vnodehealthcheck.kb.io",
    path: "/validate-remediation-medik8s-io-v1alpha1-nodehealthcheck",
    api_group: "remediation.medik8s.io",
    api_version: "v1alpha1",
    resource: "nodehealthchecks",
    operations: &[Operation::Create, Operation::Update, Operation::Delete],
    failure_policy: FailurePolicy::Fail,
    timeout_seconds: None,
};

/// Nodes are read for warnings only: what takes longer gives none.
const WARNING_LIMIT: Duration = Duration::from_secs(3);

/// Answers requests. Cheap to clone.
#[derive(Clone)]
pub struct Admission {
    client: Client,
    cluster: ClusterWatch,
}

impl Admission {
    /// Answers with reads by `client`.
    pub fn new(client: Client, cluster: ClusterWatch) -> Self {
        Self { client, cluster }
    }

    /// Judges a request.
    pub async fn judge(self, request: AdmissionRequest<DynamicObject>) -> Verdict {
        let verdict = match decode::<NodeHealthCheck>(&request) {
            Err(refused) => return refused,
            Ok(Decoded::Create(new)) => validate::create(&new, &self.surroundings(&new).await),
            Ok(Decoded::Update {
                old: Some(old),
                new,
            }) => {
                let around = if validate::needs_judgement(&old, &new) {
                    self.surroundings(&new).await
                } else {
                    Surroundings::default()
                };
                validate::update(&old, &new, &around)
            }
            // What was stored cannot be read: the change must stand on its own.
            Ok(Decoded::Update { old: None, new }) => {
                validate::create(&new, &self.surroundings(&new).await)
            }
            Ok(Decoded::Delete(Some(old))) => validate::delete(&old),
            Ok(Decoded::Delete(None)) => return Verdict::allow(),
        };
        match verdict {
            validate::Verdict::Deny(message) => Verdict::deny(message),
            validate::Verdict::Allow(warnings) => {
                warnings.into_iter().fold(Verdict::allow(), Verdict::warn)
            }
        }
    }

    async fn surroundings(&self, object: &NodeHealthCheck) -> Surroundings {
        let mut around = Surroundings {
            topology: self.cluster.topology().await,
            ..Surroundings::default()
        };
        for kind in validate::repeated_kinds(&object.spec) {
            let support = self.all_support_multiple(&kind).await;
            around.multiple_templates.insert(kind, support);
        }
        // Best effort, and all of it within one limit.
        let warnings = async {
            let missing = self.missing_templates(object).await;
            let (selected, overlapping) = self.selected(object).await.unwrap_or_default();
            (missing, selected, overlapping)
        };
        if let Ok((missing, selected, overlapping)) =
            tokio::time::timeout(WARNING_LIMIT, warnings).await
        {
            around.missing_templates = missing;
            around.selected = selected;
            around.overlapping = overlapping;
        }
        around
    }

    async fn resolve(&self, kind: &ResourceKind) -> Result<Option<ServedKind>, String> {
        capabilities::resolve(&self.client, &kind.api_version, &kind.kind)
            .await
            .map_err(|error| error.to_string())
    }

    /// Whether there are templates of a kind, and all of them support being used side by side.
    async fn all_support_multiple(&self, kind: &ResourceKind) -> Result<bool, String> {
        let Some(served) = self.resolve(kind).await? else {
            return Ok(false);
        };
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &served.resource);
        let templates = read::list_all(&api, &ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        Ok(!templates.is_empty() && templates.iter().all(supports_multiple_templates))
    }

    async fn missing_templates(&self, object: &NodeHealthCheck) -> Vec<String> {
        let mut missing = Vec::new();
        let mut served: BTreeMap<ResourceKind, Option<ServedKind>> = BTreeMap::new();
        for template in
            validate::references(&object.spec).filter_map(|r| TemplateRef::parse(r).ok())
        {
            if !served.contains_key(&template.kind) {
                let Ok(found) = self.resolve(&template.kind).await else {
                    continue;
                };
                served.insert(template.kind.clone(), found);
            }
            let exists = match served.get(&template.kind).and_then(Option::as_ref) {
                None => false,
                Some(kind) => match self.exists(kind, &template).await {
                    Ok(exists) => exists,
                    Err(_) => continue,
                },
            };
            if !exists {
                missing.push(template.to_string());
            }
        }
        missing
    }

    async fn exists(&self, kind: &ServedKind, template: &TemplateRef) -> Result<bool, read::Error> {
        if kind.namespaced && template.namespace.is_empty() {
            return Ok(false);
        }
        let api: Api<DynamicObject> = if kind.namespaced {
            Api::namespaced_with(self.client.clone(), &template.namespace, &kind.resource)
        } else {
            Api::all_with(self.client.clone(), &kind.resource)
        };
        Ok(read::get_metadata_opt(&api, &template.name)
            .await?
            .is_some())
    }

    /// The selected nodes, and other health checks that select some of them.
    async fn selected(
        &self,
        object: &NodeHealthCheck,
    ) -> Option<(Option<Vec<SelectedNode>>, BTreeSet<String>)> {
        let parsed = selector::parse(object.spec.selector.as_ref()?).ok()?;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let params = ListParams::default().labels_from(&parsed);
        let labels = |metadata: ObjectMeta| Some(metadata.labels);
        let nodes = read::list_metadata_dated(&nodes, &params, WARNING_LIMIT, labels)
            .await
            .ok()?
            .items;
        let checks: Api<NodeHealthCheck> = Api::all(self.client.clone());
        let checks = read::list_all(&checks, &ListParams::default())
            .await
            .unwrap_or_default();
        let overlapping = checks
            .iter()
            .filter(|other| other.name_any() != object.name_any())
            .filter(|other| {
                let wanted = other.spec.selector.clone().unwrap_or_default();
                selector::parse(&wanted).is_ok_and(|other| {
                    nodes
                        .iter()
                        .any(|labels| selector::selects(&other, labels.as_ref()))
                })
            })
            .map(ResourceExt::name_any)
            .collect();
        let selected = nodes
            .iter()
            .map(|labels| SelectedNode {
                control_plane: roles::is_control_plane(labels.as_ref()),
                worker: roles::is_worker(labels.as_ref()),
            })
            .collect();
        Some((Some(selected), overlapping))
    }
}
