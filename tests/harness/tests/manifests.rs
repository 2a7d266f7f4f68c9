//! The shipped manifests on a real API server: accepted, established, explained.
//!
//! Runs on the user's own cluster with `-- --use-current-context`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::{Api, ResourceExt as _, api::ListParams};
use medik8s_harness::{
    Options, child, manifests,
    target::{self, Target},
    wait,
};

/// How long the API server may take to publish a new kind.
const PUBLISHED: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    target::run(Options::default(), async |target: &Target| {
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        target.kubectl(&apply, &manifests::definitions()?).await?;
        target
            .kubectl(
                &[
                    "wait",
                    "--for=condition=Established",
                    "--timeout=30s",
                    "crd",
                    "--all",
                ],
                "",
            )
            .await?;
        // A dry run: on a user's cluster no operator is installed.
        let try_all = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "-f",
            "-",
        ];
        target.kubectl(&try_all, &manifests::all()?).await?;
        every_field_is_explained(target).await?;
        let explain = [
            "explain",
            "nodehealthcheck.spec.escalatingRemediations.timeout",
        ];
        // Discovery and OpenAPI are published a little later than the CRD is established.
        let said = wait::until("kubectl explain", PUBLISHED, async || {
            target.kubectl(&explain, "").await.map(Some)
        })
        .await?;
        ensure!(said.contains("DESCRIPTION"), "kubectl explain says: {said}");
        Ok(())
    })
}

/// `kubectl explain` of every field of every kind has something to say.
async fn every_field_is_explained(target: &Target) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(target.client());
    let mut silent = Vec::new();
    let mut fields = 0;
    for definition in definitions.list(&ListParams::default()).await? {
        if !definition.spec.group.ends_with("medik8s.io") {
            continue;
        }
        for version in &definition.spec.versions {
            let schema = version
                .schema
                .as_ref()
                .and_then(|schema| schema.open_api_v3_schema.as_ref());
            let schema =
                schema.with_context(|| format!("{} has no schema", definition.name_any()))?;
            walk(
                &definition.spec.names.kind,
                schema,
                &mut fields,
                &mut silent,
            );
        }
    }
    ensure!(fields > 100, "only {fields} fields were found");
    ensure!(
        silent.is_empty(),
        "fields without a useful description: {silent:#?}"
    );
    Ok(())
}

fn walk(path: &str, schema: &JSONSchemaProps, fields: &mut usize, silent: &mut Vec<String>) {
    *fields += 1;
    // A sentence; what repeats only the name of the field explains nothing.
    if schema
        .description
        .as_ref()
        .is_none_or(|text| text.split_whitespace().count() < 3)
    {
        silent.push(path.to_owned());
    }
    for (name, field) in schema.properties.iter().flatten() {
        // The API server puts the published schema of ObjectMeta in its place.
        if name == "metadata" && !path.contains('.') {
            continue;
        }
        walk(&format!("{path}.{name}"), field, fields, silent);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        for (name, field) in items.properties.iter().flatten() {
            walk(&format!("{path}.{name}"), field, fields, silent);
        }
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        for (name, field) in values.properties.iter().flatten() {
            walk(&format!("{path}.{name}"), field, fields, silent);
        }
    }
}
