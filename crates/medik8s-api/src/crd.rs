//! The CRDs, as they are installed.
//!
//! # Purpose
//! `T::crd()` of kube-derive is nearly what the original project ships. This module closes the gap:
//! it removes `nullable`, which the original CRDs do not have (and which would let `null` in where
//! the original refuses it), does not require `spec` where the original does not, gives `listKind`,
//! and describes `apiVersion` and `kind`.

pub mod additions;
pub mod surface;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::core::crd::CustomResourceExt;

use crate::{
    CustomizedUserRemediation, CustomizedUserRemediationConfig, CustomizedUserRemediationTemplate,
    FenceAgentsRemediation, FenceAgentsRemediationTemplate, MachineDeletionRemediation,
    MachineDeletionRemediationTemplate, MeatwareRemediation, MeatwareRemediationTemplate,
    NodeHealthCheck, NodeMaintenance, SelfNodeRemediation, SelfNodeRemediationConfig,
    SelfNodeRemediationTemplate, StorageBasedRemediation, StorageBasedRemediationConfig,
    StorageBasedRemediationTemplate,
};

/// Whether an object must have a `spec`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spec {
    Required,
    Optional,
}

/// All CRDs of the project, by name.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        finish(NodeHealthCheck::crd(), Spec::Optional),
        finish(SelfNodeRemediation::crd(), Spec::Optional),
        finish(SelfNodeRemediationConfig::crd(), Spec::Optional),
        finish(SelfNodeRemediationTemplate::crd(), Spec::Required),
        finish(NodeMaintenance::crd(), Spec::Optional),
        finish(FenceAgentsRemediation::crd(), Spec::Optional),
        finish(FenceAgentsRemediationTemplate::crd(), Spec::Optional),
        finish(MachineDeletionRemediation::crd(), Spec::Optional),
        finish(MachineDeletionRemediationTemplate::crd(), Spec::Optional),
        finish(StorageBasedRemediation::crd(), Spec::Optional),
        finish(StorageBasedRemediationConfig::crd(), Spec::Optional),
        finish(StorageBasedRemediationTemplate::crd(), Spec::Optional),
        finish(CustomizedUserRemediation::crd(), Spec::Optional),
        finish(CustomizedUserRemediationConfig::crd(), Spec::Optional),
        finish(CustomizedUserRemediationTemplate::crd(), Spec::Optional),
        finish(MeatwareRemediation::crd(), Spec::Optional),
        finish(MeatwareRemediationTemplate::crd(), Spec::Required),
    ];
    crds.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    crds
}

fn finish(mut crd: CustomResourceDefinition, spec: Spec) -> CustomResourceDefinition {
    crd.spec.names.list_kind = Some(format!("{}List", crd.spec.names.kind));
    for version in &mut crd.spec.versions {
        let schema = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut());
        if let Some(root) = schema {
            finish_root(root, spec);
        }
    }
    crd
}

fn finish_root(root: &mut JSONSchemaProps, spec: Spec) {
    tidy(root);
    // The title would only repeat the kind.
    root.title = None;
    if spec == Spec::Optional {
        root.required = root
            .required
            .take()
            .map(|names| {
                names
                    .into_iter()
                    .filter(|name| name != "spec")
                    .collect::<Vec<_>>()
            })
            .filter(|names| !names.is_empty());
    }
    let properties = root.properties.get_or_insert_default();
    properties.insert("apiVersion".into(), text("Version of the API that this object is written in, as group/version. The server converts to the newest one and refuses unknown ones."));
    properties.insert(
        "kind".into(),
        text("Kind of this object. Cannot be changed."),
    );
    // No description: the API server refuses one, it describes metadata itself.
    properties.insert("metadata".into(), of_type("object"));
}

fn text(description: &str) -> JSONSchemaProps {
    JSONSchemaProps {
        description: Some(description.into()),
        type_: Some("string".into()),
        ..JSONSchemaProps::default()
    }
}

/// Brings one schema node and all below it into the form that the original CRDs have.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(values) = &mut schema.enum_ {
        values.retain(|value| !value.0.is_null());
    }
    if let Some(description) = &mut schema.description {
        *description = one_line_per_paragraph(description);
    }
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.any_of = Some(vec![of_type("integer"), of_type("string")]);
    }
    for child in schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
    {
        tidy(child);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => {
            tidy(items);
        }
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(tidy),
        None => {}
    }
    match &mut schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(value)) => tidy(value),
        Some(JSONSchemaPropsOrBool::Bool(_)) | None => {}
    }
}

fn of_type(name: &str) -> JSONSchemaProps {
    JSONSchemaProps {
        type_: Some(name.into()),
        ..JSONSchemaProps::default()
    }
}

/// Doc comments are wrapped for the source; `kubectl explain` wraps by itself.
fn one_line_per_paragraph(text: &str) -> String {
    text.split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n\n")
}
