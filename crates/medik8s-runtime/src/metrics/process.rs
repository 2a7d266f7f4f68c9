//! The `process_*` series of Prometheus client libraries, read from /proc when asked for.

use nix::unistd::{SysconfVar, sysconf};
use prometheus::{
    Counter, Gauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Reads this process's own figures.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    cpu: Counter,
    resident: Gauge,
    virtual_size: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    start_time: Gauge,
    ticks_per_second: f64,
    page_size: f64,
}

impl ProcessCollector {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| Gauge::with_opts(Opts::new(name, help));
        Ok(Self {
            cpu: Counter::with_opts(Opts::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            ))?,
            resident: gauge(
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
            )?,
            virtual_size: gauge(
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
            )?,
            open_fds: gauge("process_open_fds", "Number of open file descriptors.")?,
            max_fds: gauge(
                "process_max_fds",
                "Maximum number of open file descriptors.",
            )?,
            start_time: gauge(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            )?,
            ticks_per_second: configured(SysconfVar::CLK_TCK, 100.0),
            page_size: configured(SysconfVar::PAGE_SIZE, 4096.0),
        })
    }

    fn read(&self) {
        if let Some(stat) = std::fs::read_to_string("/proc/self/stat")
            .ok()
            .as_deref()
            .and_then(Stat::parse)
        {
            let cpu = stat.ticks / self.ticks_per_second - self.cpu.get();
            if cpu > 0.0 {
                self.cpu.inc_by(cpu);
            }
            self.virtual_size.set(stat.virtual_bytes);
            self.resident.set(stat.resident_pages * self.page_size);
            if let Some(booted) = boot_time() {
                self.start_time
                    .set(booted + stat.start_ticks / self.ticks_per_second);
            }
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // The directory handle that counts is itself one of them.
            let open = u32::try_from(entries.count())
                .unwrap_or(u32::MAX)
                .saturating_sub(1);
            self.open_fds.set(f64::from(open));
        }
        if let Some(limit) = max_fds() {
            self.max_fds.set(limit);
        }
    }
}

/// The fields of `/proc/self/stat` that are needed, see proc_pid_stat(5).
struct Stat {
    ticks: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // Field 2 is the name in parentheses and may hold anything; field 3 follows the last one.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // `field(n)` is field n of the manual page.
        let field = |n: usize| fields.get(n.checked_sub(3)?)?.parse::<f64>().ok();
        Some(Self {
            ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

fn max_fds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn configured(variable: SysconfVar, fallback: f64) -> f64 {
    sysconf(variable)
        .ok()
        .flatten()
        .and_then(|value| u32::try_from(value).ok())
        .map_or(fallback, f64::from)
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = self.cpu.desc();
        for gauge in [
            &self.resident,
            &self.virtual_size,
            &self.open_fds,
            &self.max_fds,
            &self.start_time,
        ] {
            all.extend(gauge.desc());
        }
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        let mut all = self.cpu.collect();
        for gauge in [
            &self.resident,
            &self.virtual_size,
            &self.open_fds,
            &self.max_fds,
            &self.start_time,
        ] {
            all.extend(gauge.collect());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_name_with_spaces_and_parentheses() {
        let text = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 1234 1048576 25 1";
        let stat = Stat::parse(text).unwrap();
        assert!((stat.ticks - 200.0).abs() < f64::EPSILON);
        assert!((stat.start_ticks - 1234.0).abs() < f64::EPSILON);
        assert!((stat.virtual_bytes - 1_048_576.0).abs() < f64::EPSILON);
        assert!((stat.resident_pages - 25.0).abs() < f64::EPSILON);
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let collector = ProcessCollector::new().unwrap();
        collector.read();
        assert!(collector.resident.get() > 0.0);
        assert!(collector.open_fds.get() >= 1.0);
        assert!(collector.start_time.get() > 1e9);
    }
}
