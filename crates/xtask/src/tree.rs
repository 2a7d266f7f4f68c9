//! The generated files: written, or compared with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::yaml::HEADER;

/// Folders, below the root of the repository, in which files are generated.
const FOLDERS: &[&str] = &["config", "deploy", "bundle"];

/// Generated files by path below the root of the repository.
#[derive(Default)]
pub(crate) struct Tree(BTreeMap<PathBuf, String>);

impl Tree {
    /// Adds a file.
    pub(crate) fn add(&mut self, path: impl Into<PathBuf>, text: String) {
        self.0.insert(path.into(), text);
    }

    /// Names of the files directly in `folder`.
    pub(crate) fn names_in(&self, folder: &str) -> Vec<String> {
        self.0
            .keys()
            .filter(|path| path.parent() == Some(Path::new(folder)))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect()
    }

    /// Writes all files below `root`, and removes files that an earlier run generated and this one
    /// does not.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        for path in self.left_over(root)? {
            fs::remove_file(root.join(&path))
                .with_context(|| format!("could not remove {}", path.display()))?;
        }
        for (path, text) in &self.0 {
            let target = root.join(path);
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder)
                    .with_context(|| format!("could not create {}", folder.display()))?;
            }
            fs::write(&target, text)
                .with_context(|| format!("could not write {}", path.display()))?;
        }
        Ok(())
    }

    /// Fails, naming the files, unless every file below `root` is what this tree says.
    pub(crate) fn check(&self, root: &Path) -> Result<()> {
        let mut stale = BTreeSet::new();
        for (path, text) in &self.0 {
            if fs::read(root.join(path)).ok().as_deref() != Some(text.as_bytes()) {
                stale.insert(path.clone());
            }
        }
        stale.extend(self.left_over(root)?);
        if !stale.is_empty() {
            let names: Vec<_> = stale
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            bail!(
                "not up to date, run `cargo xtask generate`:\n{}",
                names.join("\n")
            );
        }
        Ok(())
    }

    /// Files below `root` that say they were generated, and that this tree does not have.
    fn left_over(&self, root: &Path) -> Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        for folder in FOLDERS {
            collect(&root.join(folder), &mut found)?;
        }
        let mut left_over = BTreeSet::new();
        for path in found {
            let relative = path.strip_prefix(root)?.to_path_buf();
            let generated = fs::read(&path)?.starts_with(HEADER.as_bytes());
            if generated && !self.0.contains_key(&relative) {
                left_over.insert(relative);
            }
        }
        Ok(left_over)
    }
}

fn collect(folder: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}
