//! The file system of a guest: a cpio archive (format newc) with the first process, the agent and a few
//! modules.

use std::{fmt::Write as _, fs, path::Path};

use super::Parts;

/// Where the agent is in a guest, and in its image.
pub(super) const AGENT: &str = "/manager";
/// The network card and all watchdogs.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_net", "i6300esb", "softdog"];

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const DEVICE: u32 = 0o020_600;

/// Writes the archive.
pub(super) fn write(parts: &Parts, to: &Path) -> anyhow::Result<()> {
    let modules = format!("lib/modules/{}", parts.kernel.release()?);
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "run", "lib", "lib/modules", &modules] {
        archive.add(folder, FOLDER, &[], (0, 0))?;
    }
    archive.add("dev/console", DEVICE, &[], (5, 1))?;
    archive.add("init", PROGRAM, &fs::read(&parts.init)?, (0, 0))?;
    archive.add(
        AGENT.trim_start_matches('/'),
        PROGRAM,
        &fs::read(&parts.agent)?,
        (0, 0),
    )?;
    let mut dependencies = String::new();
    for (name, module) in parts.kernel.modules(&MODULES)? {
        archive.add(
            &format!("{modules}/{name}.ko"),
            FILE,
            &module.content,
            (0, 0),
        )?;
        write!(dependencies, "{name}.ko:")?;
        for need in module.needs {
            write!(dependencies, " {need}.ko")?;
        }
        dependencies.push('\n');
    }
    archive.add(
        &format!("{modules}/modules.dep"),
        FILE,
        dependencies.as_bytes(),
        (0, 0),
    )?;
    archive.add("TRAILER!!!", 0, &[], (0, 0))?;
    Ok(fs::write(to, archive.bytes)?)
}

#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(
        &mut self,
        name: &str,
        mode: u32,
        content: &[u8],
        device: (u32, u32),
    ) -> anyhow::Result<()> {
        self.entries += 1;
        let length = u32::try_from(content.len())?;
        let name_length = u32::try_from(name.len() + 1)?;
        let mut header = "070701".to_owned();
        // Inode, mode, owner, group, links, time, size, device, device of the file, name, checksum.
        for field in [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            length,
            0,
            0,
            device.0,
            device.1,
            name_length,
            0,
        ] {
            write!(header, "{field:08x}")?;
        }
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned() {
        let mut archive = Archive::default();
        archive.add("a", FILE, b"12345", (0, 0)).unwrap();
        // Header 110, name and its end 2, content 5, each part filled up to a multiple of four.
        assert_eq!(archive.bytes.len(), 112 + 8);
        assert!(archive.bytes.starts_with(b"07070100000001000081a4"));
        assert_eq!(archive.bytes.get(112..117).unwrap(), b"12345");
    }
}
