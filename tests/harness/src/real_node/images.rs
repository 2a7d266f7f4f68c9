//! Images built from the Dockerfiles of this repository, as archives that containerd imports.
//!
//! # Guarantees
//! The image of self node remediation made here holds the agent with the test watchdog, so it goes
//! into a store of its own, never into the user's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::{images::has_test_watchdog, tools};

/// Operator, its programs, as its Dockerfile wants them.
const OPERATORS: [(&str, &[&str]); 2] = [
    ("node-healthcheck-operator", &["node-healthcheck-operator"]),
    (
        "self-node-remediation",
        &["self-node-remediation", "self-node-remediation-agent"],
    ),
];

/// Name of the image of [`crate::go_tools::CONTAINERD`]'s `workload`.
pub const WORKLOAD: &str = "localhost/medik8s-test/workload:1";

/// Builds all images from the static programs of `programs`; returns the archives.
pub(super) fn build(
    folder: &Path,
    programs: &Path,
    workload: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let agent = programs.join("self-node-remediation-agent");
    ensure!(
        has_test_watchdog(&agent)?,
        "{} is not built with the test watchdog",
        agent.display()
    );
    let (repository, version) = (tools::repository(), env!("CARGO_PKG_VERSION"));
    let mut archives = Vec::new();
    for (operator, files) in OPERATORS {
        let files: Vec<PathBuf> = files.iter().map(|file| programs.join(file)).collect();
        archives.push(image(
            folder,
            &repository.join(format!("crates/{operator}/Dockerfile")),
            &files,
            operator,
            &format!("ghcr.io/medik8s/{operator}:v{version}"),
        )?);
    }
    archives.push(image(
        folder,
        &repository.join("tests/containerd/Dockerfile"),
        &[workload.join("workload")],
        "workload",
        WORKLOAD,
    )?);
    Ok(archives)
}

fn image(
    folder: &Path,
    dockerfile: &Path,
    programs: &[PathBuf],
    name: &str,
    reference: &str,
) -> anyhow::Result<PathBuf> {
    let context = folder.join(name);
    fs::create_dir_all(&context)?;
    for program in programs {
        let file = program.file_name().context("a program without a name")?;
        // Symbols of a development build would be copied once per node.
        let status = Command::new("strip")
            .arg("-o")
            .arg(context.join(file))
            .arg(program)
            .status()
            .context("run strip")?;
        ensure!(status.success(), "strip {}: {status}", program.display());
    }
    let archive = folder.join(format!("{name}.tar"));
    let version = format!("VERSION={}", env!("CARGO_PKG_VERSION"));
    let (file, context) = (
        dockerfile.display().to_string(),
        context.display().to_string(),
    );
    buildah(
        folder,
        &[
            "bud",
            "--quiet",
            "--isolation",
            "chroot",
            "--layers=false",
            "--build-arg",
            &version,
            "--tag",
            reference,
            "--file",
            &file,
            &context,
        ],
    )?;
    let to = format!("docker-archive:{}:{reference}", archive.display());
    buildah(folder, &["push", "--quiet", reference, &to])?;
    Ok(archive)
}

fn buildah(folder: &Path, args: &[&str]) -> anyhow::Result<()> {
    let done = Command::new("buildah")
        .arg("--root")
        .arg(folder.join("store"))
        .arg("--runroot")
        .arg(folder.join("store-run"))
        .args(["--storage-driver", "vfs"])
        .args(args)
        .output()
        .context("run buildah")?;
    ensure!(
        done.status.success(),
        "buildah {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(())
}
