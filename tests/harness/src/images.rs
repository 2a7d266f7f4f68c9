//! The images of this project as folders of programs.
//!
//! # Purpose
//! The harness runs `/manager` of an image as the file `manager` of a folder. The image of self node
//! remediation holds the agent beside it; here that is the build with the test watchdog, so the
//! files are linked (or copied) into a folder of their own and not found in a build folder by chance.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use crate::kubelet::Images;

/// Image name (last part), program that is its `/manager`.
const MANAGERS: [(&str, &str); 4] = [
    ("node-healthcheck-operator", "node-healthcheck-operator"),
    ("node-maintenance-operator", "node-maintenance-operator"),
    ("self-node-remediation", "self-node-remediation"),
    ("self-node-remediation-operator", "self-node-remediation"),
];
const AGENT: &str = "self-node-remediation-agent";

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Folder of the managers.
    pub managers: PathBuf,
    /// The agent, built with the test watchdog.
    pub agent: PathBuf,
}

impl Programs {
    /// Beside this program, as cargo and make lay them out; the environment variables
    /// `MEDIK8S_PROGRAMS` (folder of the managers) and `MEDIK8S_TEST_AGENT` (file) say otherwise.
    pub fn find() -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let managers = match std::env::var_os("MEDIK8S_PROGRAMS") {
            Some(folder) => PathBuf::from(folder),
            None => own
                .ancestors()
                .skip(1)
                .find(|folder| !folder.ends_with("deps"))
                .context("this program is in no folder")?
                .to_owned(),
        };
        let agent = match std::env::var_os("MEDIK8S_TEST_AGENT") {
            Some(file) => PathBuf::from(file),
            None => managers
                .parent()
                .context("the programs are in no build folder")?
                .join("test-watchdog/debug")
                .join(AGENT),
        };
        Ok(Self { managers, agent })
    }

    /// Lays the images out in `folder`, beside others.
    pub(crate) fn lay_out(&self, folder: &Path, others: Images) -> anyhow::Result<Images> {
        ensure_test_agent(&self.agent)?;
        let mut images = others;
        for (image, program) in MANAGERS {
            let place = folder.join(image);
            fs::create_dir_all(&place)?;
            put(&self.managers.join(program), &place.join("manager"))?;
            if program == "self-node-remediation" {
                put(&self.agent, &place.join(AGENT))?;
            }
            images = images.with(image, place);
        }
        Ok(images)
    }
}

/// The agent of a normal build would look for the real watchdog of this machine.
fn ensure_test_agent(agent: &Path) -> anyhow::Result<()> {
    ensure!(
        has_test_watchdog(agent)?,
        "{} is not built with the test watchdog",
        agent.display()
    );
    Ok(())
}

/// Whether a program carries the marker of the test watchdog.
pub fn has_test_watchdog(program: &Path) -> anyhow::Result<bool> {
    let content = fs::read(program).with_context(|| {
        format!(
            "read {} (`make build` makes the test agent)",
            program.display()
        )
    })?;
    let marker = b"medik8s-test-watchdog";
    Ok(content.windows(marker.len()).any(|part| part == marker))
}

/// A link where the file systems allow it: debug builds are large. To the file itself, since a program
/// that looks beside itself must look in here.
fn put(from: &Path, to: &Path) -> anyhow::Result<()> {
    let from = from
        .canonicalize()
        .with_context(|| format!("{} is missing: `make build` makes it", from.display()))?;
    if fs::hard_link(&from, to).is_err() {
        fs::copy(&from, to).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}
