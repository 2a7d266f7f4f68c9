//! Programs that the harness needs: found on the machine, or built from `tests/cluster` with Go.
//!
//! # Purpose
//! The control plane is built once per content into a cache outside the clone:
//! `${XDG_CACHE_HOME:-~/.cache}/medik8s/cluster/<sha256 of everything that goes in>/`. The environment
//! variable `MEDIK8S_KUBERNETES` chooses an older minor, such as `1.33`, that has a module file beside
//! the usual one.
//!
//! # Guarantees
//! * Two builds at once do not disturb each other (lock), a broken build leaves nothing behind that
//!   looks finished (build aside, then rename).
//! * The key covers the Go version, the module files, the sources and the flags.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

/// The programs of a control plane.
#[derive(Debug, Clone)]
pub struct Tools {
    folder: PathBuf,
    version: String,
}

impl Tools {
    /// The cached programs, built now if they are not there.
    pub fn ready() -> anyhow::Result<Self> {
        let source = source();
        let go = go()?;
        let modules = module_file(&source)?;
        let version = kubernetes_version(&source.join(KUBERNETES).join(&modules))?;
        let key = key(&source, &go, &modules, &version)?;
        let cache = cache_folder()?.join("cluster");
        let tools = Self {
            folder: cache.join(&key),
            version,
        };
        if tools.folder.is_dir() {
            return Ok(tools);
        }
        fs::create_dir_all(&cache)?;
        let lock = File::create(cache.join("lock"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .context("wait for another build of the control plane")?;
        if !tools.folder.is_dir() {
            let aside = cache.join(format!("{key}.unfinished"));
            tools.build(&source, &go, &modules, &aside)?;
        }
        Ok(tools)
    }

    /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kubectl by first
    /// argument.
    pub fn cluster(&self) -> PathBuf {
        self.folder.join("cluster")
    }

    /// kubectl of the same version.
    pub fn kubectl(&self) -> PathBuf {
        self.folder.join("kubectl")
    }

    /// The simulator of nodes.
    pub fn kwok(&self) -> PathBuf {
        self.folder.join("kwok")
    }

    /// Folder of the programs, for a search path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Version of Kubernetes, such as `v1.36.3`.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn build(&self, source: &Path, go: &Path, modules: &str, aside: &Path) -> anyhow::Result<()> {
        say(&format!(
            "building Kubernetes {} and kwok with Go into {} (once; about 7 minutes on two cores)",
            self.version,
            self.folder.display()
        ));
        if aside.exists() {
            fs::remove_dir_all(aside)?;
        }
        fs::create_dir_all(aside)?;
        for (module, package, program) in PROGRAMS {
            let modules = if module == KUBERNETES {
                modules
            } else {
                MODULES
            };
            let status = Command::new(go)
                .args([
                    "build",
                    "-modfile",
                    modules,
                    "-trimpath",
                    "-ldflags",
                    &linker_flags(&self.version),
                    "-o",
                ])
                .arg(aside.join(program))
                .arg(package)
                .current_dir(source.join(module))
                .envs(BUILD_ENVIRONMENT)
                .status()
                .context("run go build")?;
            ensure!(status.success(), "go build of {program} failed: {status}");
        }
        std::os::unix::fs::symlink("cluster", aside.join("kubectl"))?;
        fs::rename(aside, &self.folder)?;
        Ok(())
    }
}

const KUBERNETES: &str = "kubernetes";
const MODULES: &str = "go.mod";

/// Module folder, package, program.
const PROGRAMS: [(&str, &str, &str); 2] = [
    (KUBERNETES, ".", "cluster"),
    ("kwok", "sigs.k8s.io/kwok/cmd/kwok", "kwok"),
];

/// Static binaries that do not depend on where the clone is.
pub(crate) const BUILD_ENVIRONMENT: [(&str, &str); 3] = [
    ("CGO_ENABLED", "0"),
    ("GOWORK", "off"),
    ("GOFLAGS", "-buildvcs=false"),
];

/// A program on the search path or in the system folders, which are not on every user's path.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster")
}

fn go() -> anyhow::Result<PathBuf> {
    find("go").context(
        "Go is missing: the control plane is built from its modules with Go 1.26 or newer; \
         install it from https://go.dev/dl/",
    )
}

/// Folder of what this project keeps outside the clone.
pub(crate) fn cache_folder() -> anyhow::Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => std::env::home_dir()
            .context("neither XDG_CACHE_HOME nor HOME is set")?
            .join(".cache"),
    };
    Ok(base.join("medik8s"))
}

/// Name of the module file of the Kubernetes that is asked for.
fn module_file(source: &Path) -> anyhow::Result<String> {
    let Some(minor) = std::env::var_os("MEDIK8S_KUBERNETES").filter(|minor| !minor.is_empty())
    else {
        return Ok(MODULES.to_owned());
    };
    let file = format!("go-{}.mod", minor.display());
    let place = source.join(KUBERNETES).join(&file);
    ensure!(
        place.is_file(),
        "MEDIK8S_KUBERNETES={}: there is no {}",
        minor.display(),
        place.display()
    );
    Ok(file)
}

/// One home for the version: the module file.
fn kubernetes_version(modules: &Path) -> anyhow::Result<String> {
    let module = fs::read_to_string(modules)?;
    module
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .map(|version| version.trim().to_owned())
        .with_context(|| format!("{} requires no k8s.io/kubernetes", modules.display()))
}

/// Without the stamps the server answers `v0.0.0-master` to `/version`, which programs read.
fn linker_flags(version: &str) -> String {
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let mut flags = "-s -w".to_owned();
    for package in [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ] {
        for (name, value) in [
            ("gitVersion", version),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
        ] {
            flags = format!("{flags} -X {package}.{name}={value}");
        }
    }
    flags
}

fn key(source: &Path, go: &Path, modules: &str, version: &str) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    let told = Command::new(go)
        .arg("version")
        .current_dir(source)
        .output()
        .context("run go")?;
    if !told.status.success() {
        bail!(
            "`go version` failed: {}",
            String::from_utf8_lossy(&told.stderr)
        );
    }
    hash.update(&told.stdout);
    hash.update(linker_flags(version));
    for (name, value) in BUILD_ENVIRONMENT {
        hash.update(format!("{name}={value}\n"));
    }
    for file in [
        format!("kubernetes/{modules}"),
        format!("kubernetes/{}", modules.replace(".mod", ".sum")),
        "kubernetes/main.go".to_owned(),
        "kwok/go.mod".to_owned(),
        "kwok/go.sum".to_owned(),
    ] {
        let content = fs::read(source.join(&file)).with_context(|| format!("read {file}"))?;
        hash.update(format!("{file} {}\n", content.len()));
        hash.update(content);
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .concat())
}

#[expect(
    clippy::print_stderr,
    reason = "the user waits minutes and has to know why"
)]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
