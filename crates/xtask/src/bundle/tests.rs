use super::lint::Bundle;
use super::*;
use crate::root;

/// What the linter says about the bundle of `package` after `spoil` changed one of its files.
fn problems(package: &str, file: &str, spoil: impl Fn(&mut Value)) -> Result<Vec<String>> {
    let operator = OPERATORS
        .iter()
        .find(|operator| operator.package == package)
        .context("no such operator")?;
    let mut all = files(operator, &root(), &Release::default())?;
    for (path, text) in &mut all {
        if path.ends_with(file) {
            let mut object = yaml::read(text)?.remove(0);
            spoil(&mut object);
            *text = yaml::file([yaml::document(&object)?.as_str()]);
        }
    }
    Ok(Bundle::read(operator, &all)?.problems())
}

const CSV: &str = "clusterserviceversion.yaml";

#[test]
fn our_bundles_have_no_problem() -> Result<()> {
    for operator in OPERATORS {
        assert_eq!(
            problems(operator.package, "nothing", |_| {})?,
            Vec::<String>::new()
        );
    }
    Ok(())
}

/// Each of these passes every validator of the operator framework.
#[test]
fn spoiled_bundles_are_found() -> Result<()> {
    type Spoil = fn(&mut Value);
    let cases: &[(&str, Spoil)] = &[
        ("is no field", |csv| csv["spec"]["replcaes"] = "x".into()),
        ("no SVG picture", |csv| {
            csv["spec"]["icon"][0]["base64data"] = "base64EncodedIcon".into();
        }),
        ("names the ClusterServiceVersion itself", |csv| {
            csv["spec"]["replaces"] = csv["metadata"]["name"].clone();
        }),
        ("is there twice", |csv| {
            let hook = csv["spec"]["webhookdefinitions"][0].clone();
            if let Some(hooks) = csv["spec"]["webhookdefinitions"].as_array_mut() {
                hooks.push(hook);
            }
        }),
        ("for a Deployment that is not", |csv| {
            csv["spec"]["webhookdefinitions"][0]["deploymentName"] = "other".into();
        }),
        ("not both used and given permissions", |csv| {
            csv["spec"]["install"]["spec"]["clusterPermissions"][0]["serviceAccountName"] =
                "other".into();
        }),
        ("allows everything", |csv| {
            csv["spec"]["install"]["spec"]["clusterPermissions"][0]["rules"][0]["verbs"][0] =
                "*".into();
        }),
        ("not that of the original", |csv| {
            csv["spec"]["install"]["spec"]["deployments"][0]["spec"]["selector"]["matchLabels"]["app.kubernetes.io/part-of"] =
                "medik8s".into();
        }),
        ("not in spec.relatedImages", |csv| {
            csv["spec"]["relatedImages"] = json!([]);
        }),
        ("is not among the owned kinds", |csv| {
            csv["spec"]["customresourcedefinitions"]["owned"][0]["name"] = "other".into();
        }),
        ("has no descriptor", |csv| {
            csv["spec"]["customresourcedefinitions"]["owned"][0]["specDescriptors"] = json!([]);
        }),
        ("there is no example", |csv| {
            csv["metadata"]["annotations"]["alm-examples"] = "[]".into();
        }),
        ("has a status", |csv| {
            let examples = &mut csv["metadata"]["annotations"]["alm-examples"];
            let text = examples.as_str().unwrap_or_default();
            *examples = text
                .replacen("\"spec\"", "\"status\":{},\"spec\"", 1)
                .into();
        }),
        ("in a namespace that OLM does not", |csv| {
            let examples = &mut csv["metadata"]["annotations"]["alm-examples"];
            let text = examples.as_str().unwrap_or_default();
            *examples = text
                .replace(SUGGESTED_NAMESPACE, "self-node-remediation")
                .into();
        }),
    ];
    for (expected, spoil) in cases {
        let found = problems("self-node-remediation", CSV, spoil)?;
        assert!(
            found.iter().any(|problem| problem.contains(expected)),
            "{expected}: {found:?}"
        );
    }
    let found = problems(
        "self-node-remediation",
        "metrics-service_v1_service.yaml",
        |service| {
            service["spec"]["selector"] = json!({ "control-plane": "controller-manager" });
        },
    )?;
    assert!(
        found
            .iter()
            .any(|p| p.contains("selects the pods of 2 operators")),
        "{found:?}"
    );
    let found = problems(
        "self-node-remediation",
        "selfnoderemediations.yaml",
        |crd| {
            crd["spec"]["versions"][0]["deprecated"] = true.into();
        },
    )?;
    assert!(
        found.iter().any(|p| p.contains("not the one of the types")),
        "{found:?}"
    );
    Ok(())
}

#[test]
fn a_release_names_its_versions_images_and_dependencies() -> Result<()> {
    let release = Release {
        version: "0.2.0".into(),
        replaces: Some("0.1.0".into()),
        skip_range: Some(">=0.0.1 <0.2.0".into()),
        with_dependencies: true,
        variant: Variant::Okd,
        images: vec!["node-healthcheck-operator=x.io/y@sha256:00".into()],
        ..Release::default()
    };
    let operator = OPERATORS
        .iter()
        .find(|operator| operator.remediation == Remediation::Creates)
        .context("nobody creates remediations")?;
    let files = files(operator, &root(), &release)?;
    let csv = &yaml::read(&files[0].1)?[0];
    assert_eq!(csv["metadata"]["name"], "node-healthcheck-operator.v0.2.0");
    assert_eq!(csv["spec"]["replaces"], "node-healthcheck-operator.v0.1.0");
    assert_eq!(
        csv["metadata"]["annotations"]["olm.skipRange"],
        ">=0.0.1 <0.2.0"
    );
    assert_eq!(
        csv["metadata"]["annotations"]["containerImage"],
        "x.io/y@sha256:00"
    );
    assert_eq!(
        csv["spec"]["displayName"],
        "Node Health Check Operator - Community Edition"
    );
    assert!(
        files
            .iter()
            .any(|(path, _)| path == "metadata/dependencies.yaml")
    );
    assert_eq!(
        Bundle::read(operator, &files)?.problems(),
        Vec::<String>::new()
    );
    Ok(())
}

#[test]
fn openshift_gets_the_page_of_the_console_and_metrics_for_its_prometheus() -> Result<()> {
    let release = Release {
        variant: Variant::Ocp,
        console_image: Some("x.io/console:1".into()),
        must_gather_image: Some("x.io/must-gather:1".into()),
        ..Release::default()
    };
    for operator in OPERATORS {
        let files = files(operator, &root(), &release)?;
        assert_eq!(
            Bundle::read(operator, &files)?.problems(),
            Vec::<String>::new()
        );
        let names: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
        let page = "manifests/node-healthcheck-node-remediation-console-plugin_v1_service.yaml";
        let creates = operator.remediation == Remediation::Creates;
        assert_eq!(names.contains(&page), creates, "{names:?}");
        let csv = &yaml::read(&files[0].1)?[0];
        let images: Vec<&Value> = csv["spec"]["relatedImages"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|related| &related["name"])
            .collect();
        if creates {
            assert_eq!(images, ["manager", "console-plugin", "must-gather"]);
            let plugins = &csv["metadata"]["annotations"]["console.openshift.io/plugins"];
            assert_eq!(plugins, "[\"node-remediation-console-plugin\"]");
            let pod = &csv["spec"]["install"]["spec"]["deployments"][0]["spec"]["template"]["spec"];
            assert_eq!(
                pod["volumes"][0]["secret"]["secretName"],
                "node-healthcheck-tls"
            );
        } else {
            assert_eq!(images, ["manager", "must-gather"]);
        }
    }
    Ok(())
}
