//! What a process uses, from `/proc`.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// CPU time of all threads of a process.
pub(crate) fn cpu(pid: i32) -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds = text
            .split_whitespace()
            .next()
            .context("an empty schedstat")?
            .parse()?;
        sum += Duration::from_nanos(nanoseconds);
    }
    Ok(sum)
}

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Its share of all resident pages.
    pub(crate) pss: u64,
    /// Resident pages that belong to no file.
    pub(crate) anonymous: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

/// Memory of a process now.
pub(crate) fn memory(pid: i32) -> anyhow::Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Memory {
        pss: field(&rollup, "Pss:")?,
        anonymous: field(&rollup, "Anonymous:")?,
        peak: field(&status, "VmHWM:")?,
    })
}

fn field(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .with_context(|| format!("no {name} in /proc"))?;
    let number = line.split_whitespace().next().context("no number")?;
    Ok(number.parse()?)
}
