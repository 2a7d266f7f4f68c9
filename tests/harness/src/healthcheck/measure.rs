//! What a process costs, as the kernel counts it.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;

/// CPU time of all threads that are alive, to the nanosecond.
pub fn cpu(pid: i32) -> anyhow::Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let file = task?.path().join("schedstat");
        let text = fs::read_to_string(&file)?;
        let spent: u64 = text.split(' ').next().context("empty schedstat")?.parse()?;
        total += spent;
    }
    Ok(Duration::from_nanos(total))
}

/// Memory of a process, in MiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// Its share of all pages that it uses.
    pub proportional: f64,
    /// What it has allocated itself.
    pub anonymous: f64,
    /// The most that it ever had resident.
    pub peak: f64,
}

/// Memory of a process.
pub fn memory(pid: i32) -> anyhow::Result<Memory> {
    let rollup = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&rollup).context(rollup)?;
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    Ok(Memory {
        proportional: field(&rollup, "Pss:")?,
        anonymous: field(&rollup, "Anonymous:")?,
        peak: field(&status, "VmHWM:")?,
    })
}

/// A field in kB, as MiB.
fn field(text: &str, name: &str) -> anyhow::Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: f64 = kilobytes.with_context(|| format!("no {name}"))?.parse()?;
    Ok(kilobytes / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_measured() {
        let own = nix::unistd::Pid::this().as_raw();
        let before = cpu(own).unwrap();
        let mut sum = 0_u64;
        while cpu(own).unwrap() <= before {
            sum = sum.wrapping_add(1);
        }
        let memory = memory(own).unwrap();
        assert!(
            memory.proportional > 0.1 && memory.anonymous > 0.1,
            "{memory:?}"
        );
        assert!(memory.peak >= memory.anonymous);
        let two = field("Pss:   2048 kB\n", "Pss:").unwrap();
        assert!((two - 2.0).abs() < 1e-9, "{two}");
    }
}
