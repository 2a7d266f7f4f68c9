//! Debian's kernel: taken out of its package into the cache, never installed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use crate::tools;

/// Debian's name for "the newest kernel for ordinary machines"; the cloud kernel has no i6300esb.
const PACKAGE: &str = "linux-image-amd64";

/// A kernel and its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    folder: PathBuf,
}

/// A module: its file, and the names of the modules that it needs, all of them, nearest first.
#[derive(Debug)]
pub(super) struct Module {
    pub content: Vec<u8>,
    pub needs: Vec<String>,
}

impl Kernel {
    /// The kernel in the cache; fetched by apt-get if it is not there.
    pub fn ready() -> anyhow::Result<Self> {
        let folder = tools::cache_folder()?.join("guest-kernel");
        let kernel = Self { folder };
        if !kernel.folder.exists() {
            kernel.fetch().context("fetch a Debian kernel for guests")?;
        }
        Ok(kernel)
    }

    fn fetch(&self) -> anyhow::Result<()> {
        let cache = self.folder.parent().context("no cache folder")?;
        fs::create_dir_all(cache)?;
        let aside = tempfile::Builder::new()
            .prefix("guest-kernel-")
            .tempdir_in(cache)?;
        let depends = run(Command::new("apt-cache").args(["depends", PACKAGE]))?;
        let image = depends
            .split_whitespace()
            .find(|word| word.starts_with("linux-image-") && *word != PACKAGE)
            .with_context(|| format!("{PACKAGE} is not known to apt: {depends}"))?;
        run(Command::new("apt-get")
            .args(["download", "--quiet", image])
            .current_dir(aside.path()))?;
        let package = only_file(aside.path(), ".deb")?;
        let unpacked = Self {
            folder: aside.path().join("unpacked"),
        };
        run(Command::new("dpkg-deb")
            .arg("-x")
            .args([&package, &unpacked.folder]))?;
        unpacked.image()?;
        fs::rename(&unpacked.folder, &self.folder)?;
        Ok(())
    }

    /// The kernel itself.
    pub(super) fn image(&self) -> anyhow::Result<PathBuf> {
        only_file(&self.folder.join("boot"), "vmlinuz-")
    }

    /// Its release, as `uname -r` says it.
    pub fn release(&self) -> anyhow::Result<String> {
        let image = self.image()?;
        let name = image.file_name().and_then(|name| name.to_str());
        let release = name.and_then(|name| name.strip_prefix("vmlinuz-"));
        Ok(release.context("a kernel without release")?.to_owned())
    }

    /// Modules by name, with everything they need.
    pub(super) fn modules(&self, wanted: &[&str]) -> anyhow::Result<BTreeMap<String, Module>> {
        let mut files = BTreeMap::new();
        collect(&self.folder.join("lib/modules"), &mut files)?;
        let mut found = BTreeMap::new();
        let mut left: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        while let Some(name) = left.pop() {
            if found.contains_key(&name) {
                continue;
            }
            let file = files
                .get(&name)
                .with_context(|| format!("the kernel has no module {name}"))?;
            let content = content(file)?;
            let needs = depends(&content);
            left.extend(needs.iter().cloned());
            found.insert(name, Module { content, needs });
        }
        let direct: BTreeMap<String, Vec<String>> = found
            .iter()
            .map(|(name, module)| (name.clone(), module.needs.clone()))
            .collect();
        for (name, module) in &mut found {
            module.needs = all_needs(name, &direct);
        }
        Ok(found)
    }
}

/// What a module needs directly or not; each stands before what it needs itself, as in modules.dep.
fn all_needs(name: &str, direct: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    fn visit<'a>(
        name: &'a str,
        direct: &'a BTreeMap<String, Vec<String>>,
        seen: &mut BTreeSet<&'a str>,
        order: &mut Vec<String>,
    ) {
        if seen.insert(name) {
            for need in direct.get(name).into_iter().flatten() {
                visit(need, direct, seen, order);
            }
            order.push(name.to_owned());
        }
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    visit(name, direct, &mut seen, &mut order);
    order.pop();
    order.reverse();
    order
}

/// `depends=a,b` of the module's information section.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|part| part == KEY) else {
        return Vec::new();
    };
    let rest = module.get(at + KEY.len()..).unwrap_or_default();
    let value = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            collect(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Of the plain module, however the package holds it.
fn content(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "xz") {
        let done = Command::new("xz").arg("-dc").arg(file).output()?;
        ensure!(done.status.success(), "xz cannot unpack {}", file.display());
        return Ok(done.stdout);
    }
    Ok(fs::read(file)?)
}

fn only_file(folder: &Path, part: &str) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains(part) {
            return Ok(entry.path());
        }
    }
    bail!("there is no {part} in {}", folder.display())
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_read_from_the_module() {
        assert_eq!(
            depends(b"x\0depends=virtio_ring,net-failover\0y"),
            ["virtio_ring", "net_failover"]
        );
        assert!(depends(b"x\0depends=\0y").is_empty());
        assert!(depends(b"no section").is_empty());
    }

    #[test]
    fn needs_stand_before_what_they_need() {
        let direct = [
            ("net", vec!["failover_net", "ring"]),
            ("failover_net", vec!["failover"]),
            ("failover", vec![]),
            ("ring", vec![]),
        ];
        let direct = direct
            .map(|(name, needs)| {
                (
                    name.to_owned(),
                    needs.into_iter().map(str::to_owned).collect(),
                )
            })
            .into();
        assert_eq!(
            all_needs("net", &direct),
            ["ring", "failover_net", "failover"]
        );
    }
}
