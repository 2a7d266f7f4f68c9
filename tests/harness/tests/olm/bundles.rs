//! The bundles of two releases, the catalogs made of them, and what the tools say about them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, bail, ensure};
use medik8s_harness::{
    Cluster, go_tools, installation,
    process::{Launch, Process},
    tools,
};
use serde_json::Value;

use crate::{Report, originals};

/// The release that is installed first, and the one that it is updated to.
pub(crate) const OLD: &str = "0.0.9";
pub(crate) const NEW: &str = "0.1.0";
/// What stands for a release of the original operators.
pub(crate) const ORIGINALS: &str = "0.0.1";
pub(crate) const PACKAGES: [&str; 3] = [
    "node-healthcheck-operator",
    "self-node-remediation",
    "node-maintenance-operator",
];
const SCORECARD: [&str; 6] = [
    "basic-check-spec",
    "olm-bundle-validation",
    "olm-crds-have-validation",
    "olm-crds-have-resources",
    "olm-spec-descriptors",
    "olm-status-descriptors",
];

/// Where everything is.
pub(crate) struct Made {
    pub(crate) tools: PathBuf,
    /// Folders with `bundle/` of each release.
    pub(crate) old: PathBuf,
    pub(crate) new: PathBuf,
    pub(crate) skip: PathBuf,
    pub(crate) openshift: PathBuf,
    /// Catalogs that a catalog server can serve: the old release, the new one, the originals, and the
    /// new one as their successor.
    pub(crate) catalogs: [PathBuf; 4],
}

/// Generates the bundles of both releases and renders the catalogs.
pub(crate) async fn make(cluster: &Cluster) -> anyhow::Result<Made> {
    let tools = go_tools::OLM.ready()?;
    let folder = cluster.folder().join("bundles");
    let made = Made {
        old: folder.join("old"),
        new: folder.join("new"),
        skip: folder.join("skip"),
        openshift: folder.join("openshift"),
        catalogs: [1, 2, 3, 4].map(|number| folder.join(format!("catalog-{number}"))),
        tools,
    };
    generate(&made.old, &["--version", OLD, "--with-dependencies"]).await?;
    // Two of the operators are updated by replaces, one by skipRange alone.
    generate(&made.new, &["--version", NEW, "--replaces", OLD]).await?;
    let range = format!(">=0.0.1 <{NEW}");
    generate(&made.skip, &["--version", NEW, "--skip-range", &range]).await?;
    let openshift = [
        "--variant=ocp",
        "--replaces=0.0.9",
        "--skip-range=>=0.0.1 <0.1.0",
        "--console-image=ghcr.io/medik8s/node-remediation-console:v0.1.0",
        "--must-gather-image=ghcr.io/medik8s/must-gather:v0.1.0",
    ];
    generate(&made.openshift, &openshift).await?;
    let originals = folder.join("originals");
    generate(&originals, &["--version", ORIGINALS]).await?;
    originals::dress(&originals.join("bundle"))?;
    let successor = folder.join("successor");
    generate(&successor, &["--version", NEW, "--replaces", ORIGINALS]).await?;
    let opm = made.tools.join("opm");
    for package in PACKAGES {
        let by_range = package == "node-maintenance-operator";
        let releases = [
            &made.old,
            if by_range { &made.skip } else { &made.new },
            &originals,
            if by_range { &made.skip } else { &successor },
        ];
        for (catalog, release) in made.catalogs.iter().zip(releases) {
            render(cluster, &opm, release, package, catalog).await?;
        }
    }
    Ok(made)
}

/// Package and channel as generated, the bundle with its manifests inlined: no image has to be pulled
/// to unpack it.
async fn render(
    cluster: &Cluster,
    opm: &Path,
    release: &Path,
    package: &str,
    catalog: &Path,
) -> anyhow::Result<()> {
    let file = catalog.join(package).join("catalog.yaml");
    fs::create_dir_all(file.parent().context("no folder")?)?;
    let generated =
        fs::read_to_string(release.join(format!("bundle/catalog/{package}/catalog.yaml")))?;
    let mut blobs: Vec<&str> = generated
        .split("---\n")
        .filter(|blob| !blob.contains("schema: olm.bundle"))
        .collect();
    let bundle = release.join("bundle").join(package).display().to_string();
    let rendered = installation::run(cluster, opm, &["render", &bundle, "-o", "yaml"]).await?;
    blobs.push(rendered.trim_start_matches("---\n"));
    fs::write(file, blobs.join("---\n"))?;
    Ok(())
}

async fn generate(out: &Path, args: &[&str]) -> anyhow::Result<()> {
    // Beside the operators' programs, as `make build` makes it.
    let xtask = std::env::current_exe()?
        .ancestors()
        .map(|folder| folder.join("xtask"))
        .find(|file| file.is_file())
        .context("xtask is not built: run `make build`")?;
    let done = tokio::process::Command::new(xtask)
        .args(["bundle", "--out"])
        .arg(out)
        .args(args)
        .current_dir(tools::repository())
        .stdin(Stdio::null())
        .output()
        .await
        .context("run xtask")?;
    if !done.status.success() {
        bail!(
            "xtask bundle: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(())
}

/// Validators, scorecard and catalog checks.
pub(crate) async fn judge(cluster: &Cluster, made: &Made, report: &mut Report) {
    let root = tools::repository();
    let mut folders = Vec::new();
    for base in [
        root.join("bundle"),
        made.old.join("bundle"),
        made.new.join("bundle"),
        made.skip.join("bundle"),
        made.openshift.join("bundle"),
    ] {
        folders.extend(PACKAGES.map(|package| base.join(package).display().to_string()));
    }
    let words: Vec<&str> = folders.iter().map(String::as_str).collect();
    let check = made.tools.join("bundle-check");
    report
        .sees("validators: no error, no warning", async {
            let said = installation::run(cluster, &check, &words).await?;
            ensure!(
                said.contains(&format!("{} bundles, 0 problems", words.len())),
                "{said}"
            );
            Ok(())
        })
        .await;
    let opm = made.tools.join("opm");
    for catalog in [
        root.join("bundle/catalog"),
        root.join("bundle/catalog-with-dependencies"),
        made.openshift.join("bundle/catalog"),
    ]
    .into_iter()
    .chain(made.catalogs.iter().cloned())
    {
        let name = format!(
            "opm validate {}",
            catalog.strip_prefix(&root).unwrap_or(&catalog).display()
        );
        report
            .sees(&name, async {
                let catalog = catalog.display().to_string();
                installation::run(cluster, &opm, &["validate", &catalog]).await?;
                Ok(())
            })
            .await;
    }
}

/// The six tests of the scorecard, on each bundle.
pub(crate) async fn score_all(cluster: &Cluster, report: &mut Report) -> anyhow::Result<()> {
    let root = tools::repository();
    let scorecard = go_tools::SCORECARD.ready()?.join("scorecard-test");
    for package in PACKAGES {
        for test in SCORECARD {
            report
                .sees(
                    &format!("scorecard {test} {package}"),
                    score(
                        cluster,
                        &scorecard,
                        &root.join("bundle").join(package),
                        test,
                    ),
                )
                .await;
        }
    }
    Ok(())
}

/// One scorecard test, which finds its bundle at `/bundle` of the only folder it sees.
async fn score(cluster: &Cluster, program: &Path, bundle: &Path, test: &str) -> anyhow::Result<()> {
    let root = tempfile::tempdir_in(cluster.folder())?;
    copy(bundle, &root.path().join("bundle"))?;
    fs::copy(program, root.path().join("scorecard-test"))?;
    fs::create_dir_all(root.path().join("tmp"))?;
    let log = root.path().join("log");
    let mut launch = Launch::new("scorecard", "/scorecard-test", &log).args([test]);
    launch.root = Some(root.path().to_owned());
    Process::start(launch).await?.wait().await;
    let said = fs::read_to_string(&log)?;
    let json = said
        .find('{')
        .and_then(|start| said.get(start..))
        .with_context(|| format!("no result: {said}"))?;
    let result: Value = serde_json::Deserializer::from_str(json)
        .into_iter()
        .next()
        .context("no result")??;
    let outcome = result.pointer("/results/0").context("no result")?;
    // It suggests a status in the examples, which would be no example to follow.
    let suggested = outcome["suggestions"].is_array() && test != "olm-status-descriptors";
    ensure!(outcome["state"] == "pass" && !suggested, "{outcome:#}");
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
