//! The figures of the node health check: reaction, recovery, idle, and what a storm costs.
//!
//! # Method
//! As the originals were measured: requests are counted in the audit log by user, times are between
//! answers in the audit log, CPU time is the sum of `/proc/PID/task/*/schedstat`, memory is
//! `smaps_rollup`. Nodes are kwok's, with their heartbeats; a node is taken from kwok and its Ready is
//! set to Unknown just after a full second. The unhealthy duration is one second.

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use medik8s_api::NodeHealthCheck;
use serde_json::json;
use tokio::time::sleep;

use super::{
    Lab, Manager, REMEDIATIONS, SHIPPED, Start, https, kinds, measure, names, single, with,
};
use crate::{
    audit::{self, Filter, Request},
    scratch, wait,
};

/// How long after the last remediation requests and CPU time still count.
const AFTERMATH: Duration = Duration::from_secs(4);
/// Pause before an idle window, so that the start is over.
const SETTLE: Duration = Duration::from_secs(20);
/// Health checks with disjoint selectors in one of the measurements.
const CHECKS: usize = 100;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Numbers of nodes, ascending.
    pub sizes: Vec<usize>,
    /// Runs of each reaction; the median counts.
    pub runs: usize,
    /// Length of the idle window.
    pub idle: Duration,
}

/// One line of the table.
struct Line {
    what: String,
    original: &'static str,
    goal: &'static str,
    measured: String,
}

/// One reaction or recovery.
#[derive(Debug, Clone, Copy)]
struct Reaction {
    first: f64,
    last: f64,
    requests: usize,
    leader: usize,
    cpu: f64,
}

/// Measures and returns the table, as Markdown.
pub async fn run(program: &Path, plan: &Plan, say: &dyn Fn(&str)) -> anyhow::Result<String> {
    let lab = Lab::start().await?;
    let mut bench = Bench {
        lab: &lab,
        program,
        plan,
        say,
        lines: Vec::new(),
        managers: 0,
        nodes: 0,
        next: 0,
    };
    let done = bench.all().await;
    let table = bench.table();
    lab.cluster.stop().await;
    // What was measured before something failed is worth seeing.
    if done.is_err() {
        say(&table);
    }
    done.map(|()| table)
}

struct Bench<'a> {
    lab: &'a Lab,
    program: &'a Path,
    plan: &'a Plan,
    say: &'a dyn Fn(&str),
    lines: Vec<Line>,
    managers: u16,
    nodes: usize,
    /// The next node that has not failed yet.
    next: usize,
}

const POOL: &str = "bench";

impl Bench<'_> {
    async fn all(&mut self) -> anyhow::Result<()> {
        let size = std::fs::metadata(self.program)?.len();
        self.add("binary", "77 MB", "15 MB", format!("{:.1} MB", mega(size)));
        for index in 0..self.plan.sizes.len() {
            let size = self.plan.sizes.get(index).copied().unwrap_or_default();
            self.grow(size).await?;
            if index == 0 {
                self.start_times().await?;
            }
            self.size(size).await?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        what: impl Into<String>,
        original: &'static str,
        goal: &'static str,
        measured: String,
    ) {
        let what = what.into();
        (self.say)(&format!("{what}: {measured}"));
        self.lines.push(Line {
            what,
            original,
            goal,
            measured,
        });
    }

    fn table(&self) -> String {
        let mut text = "| | original | goal | here |\n|---|---|---|---|\n".to_owned();
        for line in &self.lines {
            // Writing to a String cannot fail.
            let _written = writeln!(
                text,
                "| {} | {} | {} | {} |",
                line.what, line.original, line.goal, line.measured
            );
        }
        text
    }

    /// Nodes `bench-1` to `bench-<size>`.
    async fn grow(&mut self, size: usize) -> anyhow::Result<()> {
        (self.say)(&format!("growing to {size} nodes"));
        let new: Vec<String> = names(POOL, size).split_off(self.nodes);
        self.lab.add_nodes(POOL, &new, "worker").await?;
        self.nodes = size;
        Ok(())
    }

    async fn start_times(&mut self) -> anyhow::Result<()> {
        let mut times = Vec::new();
        for _ in 0..3 {
            let cluster = &self.lab.cluster;
            let took =
                scratch::time_to_controllers(cluster, &SHIPPED, self.program, "nodehealthcheck");
            times.push(took.await?.as_secs_f64());
        }
        let nodes = self.nodes;
        self.add(
            format!("{nodes} nodes: start until controllers run"),
            "0.26 s",
            "0.15 s",
            format!("{:.2} s", median(&times)),
        );
        Ok(())
    }

    /// Everything at one number of nodes.
    async fn size(&mut self, size: usize) -> anyhow::Result<()> {
        let two = size >= 3000;
        self.put_checks(if two { 2 } else { 1 }).await?;
        self.managers += 1;
        let manager = self
            .lab
            .manager(self.program, self.managers, &Start::default())
            .await?;
        manager.leads(Duration::from_secs(30)).await?;
        self.quiet().await?;
        self.idle(&manager, size, two).await?;
        let small = size < 100;
        let many = 20;
        let (one, all) = self.reactions(&manager, 1).await?;
        let goals = match size {
            50 => ["2.47 s, 117 requests", "1.2 s", "0.27 s", ""],
            1000 => [
                "16-29 s, 2,020 requests, 1.0-1.8 CPU s",
                "1.3 s, 12 requests, 0.05 CPU s",
                "5.8 s",
                "0.5 s",
            ],
            _ => ["", "", "", ""],
        };
        self.reaction(
            format!("{size} nodes: 1 fails, until its remediation"),
            goals[0],
            goals[1],
            &one,
            false,
        );
        self.reaction(
            format!("{size} nodes: 1 recovers, until its remediation is deleted"),
            goals[2],
            goals[3],
            &all,
            true,
        );
        let (failed, recovered) = self.reactions(&manager, many).await?;
        let goals = match size {
            50 => ["2.44 s, 225 requests", "", "1.40 s", ""],
            1000 => [
                "17-18 s, 2,290 requests",
                "2.0 s, 240 requests",
                "36 s",
                "1.5 s",
            ],
            _ => ["", "", "", ""],
        };
        self.reaction(
            format!("{size} nodes: {many} fail, until the last remediation"),
            goals[0],
            goals[1],
            &failed,
            true,
        );
        self.reaction(
            format!("{size} nodes: {many} recover, until the last is deleted"),
            goals[2],
            goals[3],
            &recovered,
            true,
        );
        if size == 1000 {
            self.storms(&manager).await?;
        }
        let memory = measure::memory(manager.process.id())?;
        self.add(
            format!("{size} nodes: PSS after all of this, peak RSS"),
            if size == 1000 { "107 MiB, 95 MiB" } else { "" },
            "",
            format!("{:.1} MiB, {:.1} MiB", memory.proportional, memory.peak),
        );
        if !small && !two {
            self.disjoint(&manager).await?;
        }
        self.remove_checks().await?;
        manager.process.stop(Duration::from_secs(10)).await;
        Ok(())
    }

    async fn put_checks(&self, count: usize) -> anyhow::Result<()> {
        let template = kinds::reference(&kinds::self_node_remediation(), REMEDIATIONS, "reboot");
        for number in 0..count {
            let mut spec = single(POOL, json!("51%"), template.clone());
            if number > 0 {
                // Over the same nodes, for a condition that none of them has.
                let rules = json!([{"type": "DiskPressure", "status": "True", "duration": "1s"}]);
                spec = with(spec, "unhealthyConditions", rules);
            }
            self.lab.put_check(&check(number), spec).await?;
        }
        Ok(())
    }

    async fn remove_checks(&self) -> anyhow::Result<()> {
        let checks: Api<NodeHealthCheck> = Api::all(self.lab.cluster.admin());
        checks
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await?;
        wait::until(
            "all health checks to be gone",
            Duration::from_secs(30),
            async || {
                Ok(checks
                    .list(&ListParams::default())
                    .await?
                    .items
                    .is_empty()
                    .then_some(()))
            },
        )
        .await
    }

    /// Waits until the first health check has seen that all nodes are healthy.
    async fn quiet(&self) -> anyhow::Result<()> {
        let all = i64::try_from(self.nodes)?;
        let limit = Duration::from_mins(2);
        self.lab
            .reason(&check(0), limit, |status| status.healthy_nodes == Some(all))
            .await?;
        sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    async fn idle(&mut self, manager: &Manager, size: usize, two: bool) -> anyhow::Result<()> {
        sleep(SETTLE).await;
        let pid = manager.process.id();
        let (from, before) = (Timestamp::now(), measure::cpu(pid)?);
        sleep(self.plan.idle).await;
        let (until, after) = (Timestamp::now(), measure::cpu(pid)?);
        let memory = measure::memory(pid)?;
        let minutes = self.plan.idle.as_secs_f64() / 60.0;
        let requests = count(&self.requests()?, from, until);
        let (original, goal) = match (size, two) {
            (50, _) => ("0.14 CPU s, 67 MiB, 17 MiB, 29.9", "12 MiB"),
            (1000, _) => (
                "1.1 CPU s, 85 MiB, 34 MiB, 29.9",
                "0.15 CPU s, 20 MiB, 8 MiB, 15",
            ),
            (_, true) => ("", "PSS 40 MiB"),
            (_, false) => ("", ""),
        };
        let what = if two {
            "two health checks"
        } else {
            "one health check"
        };
        self.add(
            format!("{size} nodes, {what}, idle: per minute CPU and requests; PSS, anonymous"),
            original,
            goal,
            format!(
                "{:.3} CPU s, {:.1} requests; {:.1} MiB, {:.1} MiB",
                after.saturating_sub(before).as_secs_f64() / minutes,
                as_f64(requests) / minutes,
                memory.proportional,
                memory.anonymous
            ),
        );
        Ok(())
    }

    /// Lets so many nodes fail and recover, as often as planned.
    async fn reactions(
        &mut self,
        manager: &Manager,
        failing: usize,
    ) -> anyhow::Result<(Vec<Reaction>, Vec<Reaction>)> {
        let (mut failed, mut recovered) = (Vec::new(), Vec::new());
        for _ in 0..self.plan.runs {
            let nodes = self.pick(failing);
            failed.push(self.fail(manager, &nodes).await?);
            recovered.push(self.recover(manager, &nodes).await?);
            self.quiet().await?;
        }
        Ok((failed, recovered))
    }

    fn pick(&mut self, count: usize) -> Vec<String> {
        let picked = (self.next..self.next + count).map(|index| index % self.nodes + 1);
        let picked = picked.map(|number| format!("{POOL}-{number}")).collect();
        self.next += count;
        picked
    }

    async fn fail(&self, manager: &Manager, nodes: &[String]) -> anyhow::Result<Reaction> {
        let pid = manager.process.id();
        let before = measure::cpu(pid)?;
        let from = self.lab.break_nodes(nodes, "Unknown", true).await?;
        let kind = kinds::self_node_remediation();
        self.lab
            .remediated(&kind, nodes, nodes.len(), Duration::from_mins(2))
            .await?;
        sleep(AFTERMATH).await;
        let cpu = measure::cpu(pid)?.saturating_sub(before).as_secs_f64();
        self.reaction_of(from, "create", &kind.plural, cpu, nodes)
    }

    async fn recover(&self, manager: &Manager, nodes: &[String]) -> anyhow::Result<Reaction> {
        let pid = manager.process.id();
        let before = measure::cpu(pid)?;
        let from = self.lab.heal_nodes(nodes).await?;
        let kind = kinds::self_node_remediation();
        self.lab
            .remediated(&kind, nodes, 0, Duration::from_mins(2))
            .await?;
        sleep(AFTERMATH).await;
        let cpu = measure::cpu(pid)?.saturating_sub(before).as_secs_f64();
        self.reaction_of(from, "delete", &kind.plural, cpu, nodes)
    }

    /// From the first answer to a change of a node to the first and last answer to the manager.
    fn reaction_of(
        &self,
        from: Timestamp,
        verb: &str,
        resource: &str,
        cpu: f64,
        nodes: &[String],
    ) -> anyhow::Result<Reaction> {
        let requests = self.requests()?;
        let changed = requests
            .iter()
            .filter(|one| one.resource == "nodes/status" && one.user == "admin" && one.at >= from)
            .filter(|one| nodes.contains(&one.name))
            .map(|one| one.answered)
            .min()
            .context("no node was changed")?;
        let user = SHIPPED.user();
        let mut answered: Vec<Timestamp> = requests
            .iter()
            .filter(|one| one.user == user && one.verb == verb && one.resource == resource)
            .filter(|one| one.at >= from && one.code < 300)
            .map(|one| one.answered)
            .collect();
        answered.sort();
        ensure!(
            answered.len() == nodes.len(),
            "{} {verb} for {} nodes",
            answered.len(),
            nodes.len()
        );
        let since = |at: Option<&Timestamp>| at.map(|at| at.duration_since(changed).as_secs_f64());
        let last = *answered.last().context("none")?;
        let until = last.checked_add(AFTERMATH)?;
        let own = |one: &&Request| one.user == user && one.at >= from && one.at < until;
        let leader = |one: &&Request| one.resource == "leases" && one.name.contains("medik8s.io");
        Ok(Reaction {
            first: since(answered.first()).context("none")?,
            last: since(answered.last()).context("none")?,
            requests: requests
                .iter()
                .filter(own)
                .filter(|one| !leader(one))
                .count(),
            leader: requests.iter().filter(own).filter(leader).count(),
            cpu,
        })
    }

    fn reaction(
        &mut self,
        what: String,
        original: &'static str,
        goal: &'static str,
        runs: &[Reaction],
        last: bool,
    ) {
        let times: Vec<f64> = runs
            .iter()
            .map(|run| if last { run.last } else { run.first })
            .collect();
        let of = |value: fn(&Reaction) -> f64| -> f64 {
            median(&runs.iter().map(value).collect::<Vec<_>>())
        };
        let measured = format!(
            "{:.2} s, {:.0} requests (+{:.0} of the leader lease), {:.3} CPU s",
            median(&times),
            of(|run| as_f64(run.requests)),
            of(|run| as_f64(run.leader)),
            of(|run| run.cpu),
        );
        self.add(what, original, goal, measured);
    }

    /// What a storm costs is proportional to the failing nodes.
    async fn storms(&mut self, manager: &Manager) -> anyhow::Result<()> {
        for failing in [10, 30, 100] {
            let nodes = self.pick(failing);
            let run = self.fail(manager, &nodes).await?;
            let per_node = as_f64(run.requests) / as_f64(failing);
            self.add(
                format!("1000 nodes: {failing} fail at once"),
                "nodes x failing",
                "proportional",
                format!(
                    "{:.2} s, {} requests ({per_node:.1} per failing node), {:.3} CPU s",
                    run.last, run.requests, run.cpu
                ),
            );
            self.recover(manager, &nodes).await?;
            self.quiet().await?;
        }
        Ok(())
    }

    /// A hundred health checks over disjoint nodes: a change of one node is the business of one.
    async fn disjoint(&mut self, manager: &Manager) -> anyhow::Result<()> {
        self.remove_checks().await?;
        let template = kinds::reference(&kinds::self_node_remediation(), REMEDIATIONS, "reboot");
        let per_check = self.nodes / CHECKS;
        for number in 0..CHECKS {
            let own: Vec<String> = (1..=per_check)
                .map(|index| format!("{POOL}-{}", number * per_check + index))
                .collect();
            let patch = json!({"metadata": {"labels": {"slice": number.to_string()}}});
            self.lab.patch_nodes(&own, &patch).await?;
            let selector = json!({"matchLabels": {"slice": number.to_string()}});
            let spec = with(
                single(POOL, json!(0), template.clone()),
                "selector",
                selector,
            );
            self.lab.put_check(&check(number), spec).await?;
        }
        let healthy = i64::try_from(per_check)?;
        for number in 0..CHECKS {
            let limit = Duration::from_secs(30);
            let all = |status: &medik8s_api::remediation::NodeHealthCheckStatus| {
                status.healthy_nodes == Some(healthy)
            };
            self.lab.reason(&check(number), limit, all).await?;
        }
        sleep(Duration::from_secs(5)).await;
        let passes = self.passes(manager).await?;
        let node = vec![format!("{POOL}-1")];
        let run = self.fail(manager, &node).await?;
        let passes = self.passes(manager).await? - passes;
        self.add(
            format!(
                "{} nodes, {CHECKS} health checks with {per_check} each: 1 node fails",
                self.nodes
            ),
            "",
            "only the one that selects it",
            format!(
                "{:.2} s, {passes} passes in all, {} requests, {:.3} CPU s",
                run.first, run.requests, run.cpu
            ),
        );
        self.recover(manager, &node).await?;
        Ok(())
    }

    /// How many passes the health checks had so far.
    async fn passes(&self, manager: &Manager) -> anyhow::Result<u64> {
        let cluster = &self.lab.cluster;
        let token = cluster
            .kubectl(&["create", "token", "reader", "-n", REMEDIATIONS])
            .await?;
        let (_, text) = https::get(manager.metrics, "/metrics", Some(token.trim()), None).await?;
        let name = "controller_runtime_reconcile_total{controller=\"nodehealthcheck\"";
        let lines = text.lines().filter(|line| line.starts_with(name));
        Ok(lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum())
    }

    fn requests(&self) -> anyhow::Result<Vec<Request>> {
        audit::read(&self.lab.cluster.audit_log())
    }
}

fn check(number: usize) -> String {
    format!("bench-{number}")
}

fn count(requests: &[Request], from: Timestamp, until: Timestamp) -> usize {
    let user = SHIPPED.user();
    let filter = Filter {
        user: Some(&user),
        verb: None,
        resource: None,
        from,
        until,
    };
    audit::count(requests, filter)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn as_f64(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "a file is not that large")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
