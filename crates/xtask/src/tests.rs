use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::*;

#[test]
fn generated_files_are_current() -> Result<()> {
    generated()?.check(&root())
}

#[test]
fn modules_that_decide_are_pure() -> Result<()> {
    assert_eq!(purity::violations(&root())?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_missing_a_changed_and_a_left_over_file_are_stale() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut tree = tree::Tree::default();
    for name in [
        "deploy/changed.yaml",
        "deploy/missing.yaml",
        "deploy/same.yaml",
    ] {
        tree.add(name, yaml::file(["a: 1\n"]));
    }
    tree.write(folder.path())?;
    tree.check(folder.path())?;
    fs::remove_file(folder.path().join("deploy/missing.yaml"))?;
    fs::write(folder.path().join("deploy/changed.yaml"), "a: 2\n")?;
    fs::write(
        folder.path().join("deploy/left_over.yaml"),
        yaml::file(["b: 1\n"]),
    )?;
    fs::write(folder.path().join("deploy/by_hand.yaml"), "b: 1\n")?;
    let error = tree.check(folder.path()).unwrap_err().to_string();
    let stale: Vec<&str> = error.lines().skip(1).collect();
    assert_eq!(
        stale,
        [
            "deploy/changed.yaml",
            "deploy/left_over.yaml",
            "deploy/missing.yaml"
        ]
    );
    tree.write(folder.path())?;
    tree.check(folder.path())?;
    assert!(folder.path().join("deploy/by_hand.yaml").is_file());
    assert!(!folder.path().join("deploy/left_over.yaml").exists());
    Ok(())
}

#[test]
fn yaml_is_the_same_whatever_the_order_of_the_keys() -> Result<()> {
    let value: Value = serde_json::from_str(r#"{"z":1.0,"kind":"K","a":"yes","apiVersion":"v1"}"#)?;
    assert_eq!(
        yaml::document(&value)?,
        "apiVersion: v1\nkind: K\na: \"yes\"\nz: 1\n"
    );
    Ok(())
}

/// Each sample is what it says, in the types of the API: no unknown field, no wrong type.
#[test]
fn there_is_a_valid_sample_of_every_kind() -> Result<()> {
    let mut kinds = BTreeSet::new();
    for entry in fs::read_dir(root().join("config/samples"))? {
        let path = entry?.path();
        if path.ends_with("kustomization.yaml") {
            continue;
        }
        for sample in yaml::read(&fs::read_to_string(&path)?)? {
            let kind = sample["kind"].as_str().unwrap_or_default().to_owned();
            sample_is_valid(&kind, &sample).map_err(|e| e.context(path.display().to_string()))?;
            kinds.insert(kind);
        }
    }
    let all: BTreeSet<String> = medik8s_api::crd::all()
        .into_iter()
        .map(|crd| crd.spec.names.kind)
        .collect();
    assert_eq!(kinds, all);
    Ok(())
}

fn sample_is_valid(kind: &str, sample: &Value) -> Result<()> {
    use medik8s_api as api;
    match kind {
        "NodeHealthCheck" => yaml::typed::<api::NodeHealthCheck>(sample),
        "NodeMaintenance" => yaml::typed::<api::NodeMaintenance>(sample),
        "SelfNodeRemediation" => yaml::typed::<api::SelfNodeRemediation>(sample),
        "SelfNodeRemediationConfig" => yaml::typed::<api::SelfNodeRemediationConfig>(sample),
        "SelfNodeRemediationTemplate" => yaml::typed::<api::SelfNodeRemediationTemplate>(sample),
        "FenceAgentsRemediation" => yaml::typed::<api::FenceAgentsRemediation>(sample),
        "FenceAgentsRemediationTemplate" => {
            yaml::typed::<api::FenceAgentsRemediationTemplate>(sample)
        }
        "MachineDeletionRemediation" => yaml::typed::<api::MachineDeletionRemediation>(sample),
        "MachineDeletionRemediationTemplate" => {
            yaml::typed::<api::MachineDeletionRemediationTemplate>(sample)
        }
        "StorageBasedRemediation" => yaml::typed::<api::StorageBasedRemediation>(sample),
        "StorageBasedRemediationConfig" => {
            yaml::typed::<api::StorageBasedRemediationConfig>(sample)
        }
        "StorageBasedRemediationTemplate" => {
            yaml::typed::<api::StorageBasedRemediationTemplate>(sample)
        }
        "CustomizedUserRemediation" => yaml::typed::<api::CustomizedUserRemediation>(sample),
        "CustomizedUserRemediationConfig" => {
            yaml::typed::<api::CustomizedUserRemediationConfig>(sample)
        }
        "CustomizedUserRemediationTemplate" => {
            yaml::typed::<api::CustomizedUserRemediationTemplate>(sample)
        }
        "MeatwareRemediation" => yaml::typed::<api::MeatwareRemediation>(sample),
        "MeatwareRemediationTemplate" => yaml::typed::<api::MeatwareRemediationTemplate>(sample),
        other => anyhow::bail!("{other:?} is no kind of this project"),
    }
}

/// Every link between the pages leads to a page, and to a heading on it.
#[test]
fn links_in_the_documentation_lead_somewhere() -> Result<()> {
    let mut pages = vec![root().join("README.md"), root().join("tests/README.md")];
    for entry in fs::read_dir(root().join("docs"))? {
        pages.push(entry?.path());
    }
    let mut broken = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page)?;
        for target in text.split("](").skip(1) {
            let target = target.split(')').next().unwrap_or_default();
            if target.contains("://") || target.is_empty() {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap_or(&page).join(file)
            };
            let there = fs::read_to_string(&file).is_ok_and(|text| {
                heading.is_empty() || text.lines().any(|line| anchor(line) == heading)
            });
            if !there {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
    Ok(())
}

/// The anchor that GitHub gives to a heading; nothing for other lines.
fn anchor(line: &str) -> String {
    let Some(heading) = line.strip_prefix('#') else {
        return String::new();
    };
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .replace(' ', "-")
        .replace(
            |letter: char| !letter.is_alphanumeric() && letter != '-',
            "",
        )
}

/// What a person wrote about values is what the templates use.
#[test]
fn the_charts_values_fit_its_operators_and_their_images() -> Result<()> {
    let text = fs::read_to_string(root().join("deploy/helm/medik8s/values.yaml"))?;
    let values = yaml::read(&text)?.remove(0);
    assert_eq!(values["imageRegistry"], operators::REGISTRY);
    for operator in operators::OPERATORS {
        let own = &values[operator.chart_key];
        assert_eq!(own["image"]["repository"], operator.package);
        assert_eq!(own["replicas"], operator.replicas);
        let schema = fs::read_to_string(root().join("deploy/helm/medik8s/values.schema.json"))?;
        let schema: Value = serde_json::from_str(&schema)?;
        assert!(schema["properties"][operator.chart_key].is_object());
    }
    Ok(())
}
