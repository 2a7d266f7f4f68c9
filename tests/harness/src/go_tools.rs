//! Tools that the slower suites need, built from Go modules like the control plane: helm, promtool,
//! the operator lifecycle manager.
//!
//! # Guarantees
//! As [`crate::tools`]: kept outside the clone by content, a broken build leaves nothing that looks
//! finished, two builds at once do not disturb each other.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, ensure};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

use crate::tools;

/// Programs of one Go module below `tests/`.
#[derive(Debug, Clone, Copy)]
pub struct Module {
    /// Folder of the module below `tests/`.
    pub folder: &'static str,
    /// Package and name of each program.
    pub programs: &'static [(&'static str, &'static str)],
    /// Build tags.
    pub tags: &'static str,
}

/// The package manager of charts.
pub const HELM: Module = Module {
    folder: "cluster/helm",
    programs: &[("helm.sh/helm/v4/cmd/helm", "helm")],
    tags: "",
};

/// Checks and tests alerting rules.
pub const PROMTOOL: Module = Module {
    folder: "cluster/promtool",
    programs: &[("github.com/prometheus/prometheus/cmd/promtool", "promtool")],
    tags: "",
};

/// containerd with what it starts, and the program that runs in the pods of real nodes.
pub const CONTAINERD: Module = Module {
    folder: "containerd",
    programs: &[
        (
            "github.com/containerd/containerd/v2/cmd/containerd",
            "containerd",
        ),
        (
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "containerd-shim-runc-v2",
        ),
        ("github.com/containerd/containerd/v2/cmd/ctr", "ctr"),
        (
            "github.com/containernetworking/plugins/plugins/main/bridge",
            "bridge",
        ),
        (
            "github.com/containernetworking/plugins/plugins/main/loopback",
            "loopback",
        ),
        (
            "github.com/containernetworking/plugins/plugins/ipam/host-local",
            "host-local",
        ),
        (".", "workload"),
    ],
    tags: "no_btrfs no_devmapper no_zfs",
};

/// OLM's two operators, the catalog server and the bundle validators.
pub const OLM: Module = Module {
    folder: "olm",
    programs: &[
        (
            "github.com/operator-framework/operator-lifecycle-manager/cmd/olm",
            "olm",
        ),
        (
            "github.com/operator-framework/operator-lifecycle-manager/cmd/catalog",
            "catalog",
        ),
        (
            "github.com/operator-framework/operator-registry/cmd/opm",
            "opm",
        ),
        (".", "bundle-check"),
    ],
    tags: "containers_image_openpgp json1 exclude_graphdriver_btrfs exclude_graphdriver_devicemapper",
};

/// The tests of operator-sdk's scorecard.
pub const SCORECARD: Module = Module {
    folder: "olm/scorecard",
    programs: &[(
        "github.com/operator-framework/operator-sdk/images/scorecard-test",
        "scorecard-test",
    )],
    tags: "containers_image_openpgp",
};

impl Module {
    /// Folder with the programs, built now if they are not there.
    pub fn ready(&self) -> anyhow::Result<PathBuf> {
        let source = tools::repository().join("tests").join(self.folder);
        let go = tools::find("go").context(
            "Go is missing: this suite builds its tools from Go modules with Go 1.26 or newer; \
             install it from https://go.dev/dl/",
        )?;
        let name = self.folder.replace('/', "-");
        let cache = tools::cache_folder()?.join("go-tools");
        let key = self.key(&source);
        let done = cache.join(format!("{name}-{key}"));
        if done.is_dir() {
            return Ok(done);
        }
        fs::create_dir_all(&cache)?;
        let lock = File::create(cache.join(format!("{name}.lock")))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .context("wait for another build of the same tools")?;
        if done.is_dir() {
            return Ok(done);
        }
        tools::say(&format!(
            "building {name} with Go into {} (once; some minutes)",
            done.display()
        ));
        let aside = cache.join(format!("{name}-{key}.unfinished"));
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::create_dir_all(&aside)?;
        for (package, program) in self.programs {
            let status = Command::new(&go)
                .args([
                    "build",
                    "-trimpath",
                    "-ldflags",
                    "-s -w",
                    "-tags",
                    self.tags,
                    "-o",
                ])
                .arg(aside.join(program))
                .arg(package)
                .current_dir(&source)
                .envs(tools::BUILD_ENVIRONMENT)
                .status()
                .context("run go build")?;
            ensure!(status.success(), "go build of {program} failed: {status}");
        }
        fs::rename(&aside, &done)?;
        Ok(done)
    }

    fn key(&self, source: &std::path::Path) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{self:?}"));
        for file in ["go.mod", "go.sum", "main.go"] {
            let content = fs::read(source.join(file)).unwrap_or_default();
            hash.update(format!("{file} {}\n", content.len()));
            hash.update(content);
        }
        hash.finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .concat()
    }
}

/// Folder of a Go module in the module cache, for files beside its code.
pub fn module_folder(module: &Module, path: &str) -> anyhow::Result<PathBuf> {
    let source = tools::repository().join("tests").join(module.folder);
    let go = tools::find("go").context("Go is missing")?;
    let told = Command::new(go)
        .args(["list", "-m", "-f", "{{.Dir}}", path])
        .current_dir(source)
        .envs(tools::BUILD_ENVIRONMENT)
        .output()
        .context("run go list")?;
    ensure!(
        told.status.success(),
        "go list of {path}: {}",
        String::from_utf8_lossy(&told.stderr)
    );
    Ok(PathBuf::from(String::from_utf8(told.stdout)?.trim()))
}
