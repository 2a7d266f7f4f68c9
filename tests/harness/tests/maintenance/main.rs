//! Node maintenance on a real control plane, as its manual tells users to do it, and in everything
//! that can get in its way.
//!
//! The scenarios run side by side, each on a node of its own. `-- --slow` adds those that need
//! minutes; `-- NAME` runs only scenarios whose name contains NAME.
//!
//! The MUST NOT list of the operator and the scenario that shows each rule on the real API server
//! (the searches over all orders of events are unit tests of the operator):
//!
//! | MUST NOT | Scenario |
//! |---|---|
//! | touch the node before holding the lease | `waits for a health checker`, `manual` (order of requests) |
//! | evict without lease, after cancellation or deletion | `deleted in the middle`, `lease stolen` |
//! | delete pods, force, shorten grace, ignore budgets | `rights`, `manual`, `stuck in termination`, `budget` |
//! | evict DaemonSet and mirror pods, or another incarnation | `manual`, `another incarnation` |
//! | remove foreign taints, labels, cordons | `manual` |
//! | hand back while another maintenance names the node | `two for one node` |
//! | hand back because of API errors | unit tests |
//! | cordon again while being deleted | `deleted in the middle` |
//! | finalizer before the clean-up | `manual` (order of requests) |
//! | success while a pod is there | `manual`, `bound just before` |
//! | delete a foreign lease | `waits for a health checker`, `lease stolen` |

#![expect(
    clippy::disallowed_methods,
    reason = "plays the user and the cluster: its clock and its writes are not the product's"
)]
#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]

use std::{
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, stream::FuturesUnordered};
use medik8s_harness::{
    Cluster, Options, child, images::Programs, kubelet::Images, machine::NodeSpec,
};

mod drains;
mod lab;
mod leases;
mod life;
mod manual;
mod slow;
mod webhook;

use lab::Lab;

/// Workers of the cluster; each scenario takes one, and the last one is for pods that go on elsewhere.
const WORKERS: usize = 24;

type Scenario<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;
/// Name, and what to do with the node it gets.
type Entry = (&'static str, for<'a> fn(&'a Lab, String) -> Scenario<'a>);

macro_rules! scenario {
    ($name:literal, $function:path) => {
        ($name, |lab, node| Box::pin($function(lab, node)))
    };
}

/// Side by side.
const TOGETHER: &[Entry] = &[
    scenario!("manual", manual::from_begin_to_end),
    scenario!("rights", manual::rights),
    scenario!("admission", manual::admission),
    scenario!("budget", drains::budget_that_opens),
    scenario!("budget deleted", drains::budget_that_is_deleted),
    scenario!("live migration", drains::live_migration),
    scenario!("namespace terminating", drains::namespace_terminating),
    scenario!("late pods", drains::late_pods),
    scenario!("stuck in termination", drains::stuck_in_termination),
    scenario!("another incarnation", drains::another_incarnation),
    scenario!("bound just before", drains::bound_just_before),
    scenario!(
        "waits for a health checker",
        leases::waits_for_a_health_checker
    ),
    scenario!("node registers again", life::node_registers_again),
    scenario!("deleted in the middle", life::deleted_in_the_middle),
    scenario!("uncordoned by hand", life::uncordoned_by_hand),
    scenario!("reason changes", life::reason_changes),
];

/// One after the other, when the others are done: they disturb the operator.
const ALONE: &[Entry] = &[
    scenario!("two for one node", life::two_for_one_node),
    scenario!("quiet", life::quiet),
    scenario!("own node", life::own_node),
];

/// Side by side, for minutes.
const SLOW: &[Entry] = &[
    scenario!("timeline of a worker", slow::timeline_of_a_worker),
    scenario!("budget of a minute", slow::budget_of_a_minute),
    scenario!("lease stolen", leases::stolen),
    scenario!("lease comes back", leases::comes_back),
];

/// One after the other, for minutes.
const SLOW_ALONE: &[Entry] = &[
    scenario!("ten nodes at once", slow::ten_nodes_at_once),
    scenario!("killed at every write", slow::killed_at_every_write),
    scenario!("quiet for two minutes", slow::quiet_for_two_minutes),
];

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_slow = words.iter().any(|word| word == "--slow");
    let wanted: Vec<String> = words
        .into_iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    medik8s_harness::run(async || {
        let image = tempfile::tempdir()?;
        let manager = Programs::find()?.managers.join("node-maintenance-operator");
        let manager = manager
            .canonicalize()
            .with_context(|| format!("{}: `make build` makes it", manager.display()))?;
        std::os::unix::fs::symlink(manager, image.path().join("manager"))?;
        let workers = (1..=WORKERS).map(|number| NodeSpec::worker(format!("worker-{number}")));
        let cluster = Cluster::start(Options {
            nodes: std::iter::once(NodeSpec::control_plane("control-plane-1"))
                .chain(workers)
                .collect(),
            images: Images::default().with("node-maintenance-operator", image.path()),
            fast_controllers: true,
            ..Options::default()
        })
        .await?;
        let mut lab = Lab::new(cluster);
        let done = suite(&lab, is_slow, &wanted).await;
        if done.is_err() {
            println!("logs: {}/logs", lab.cluster.keep_files().display());
        }
        lab.cluster.stop().await;
        done
    })
}

async fn suite(lab: &Lab, is_slow: bool, wanted: &[String]) -> anyhow::Result<()> {
    let begin = Instant::now();
    lab.install().await?;
    println!("operator at work after {:.1?}", begin.elapsed());
    let mut workers = (1..=WORKERS).map(|number| format!("worker-{number}"));
    let mut tally = Tally::default();
    let (together, alone) = if is_slow {
        (SLOW, SLOW_ALONE)
    } else {
        (TOGETHER, ALONE)
    };
    let is_wanted = |entry: &&Entry| {
        wanted.is_empty() || wanted.iter().any(|word| entry.0.contains(word.as_str()))
    };
    let mut running = FuturesUnordered::new();
    for (name, scenario) in together.iter().filter(is_wanted) {
        let node = workers.next().context("too few workers")?;
        running.push(async move { (*name, Instant::now(), scenario(lab, node).await) });
    }
    while let Some((name, since, outcome)) = running.next().await {
        tally.add(name, since, outcome);
    }
    drop(running);
    for (name, scenario) in alone.iter().filter(is_wanted) {
        let node = workers.next().context("too few workers")?;
        let since = Instant::now();
        tally.add(name, since, scenario(lab, node).await);
    }
    lab.must_not_delete_pods()?;
    tally.verdict()
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    fn add(&mut self, name: &str, since: Instant, outcome: anyhow::Result<()>) {
        let took = since.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {name} ({took:.1} s)");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED  {name} ({took:.1} s): {error:#}");
            }
        }
    }

    fn verdict(&self) -> anyhow::Result<()> {
        println!(
            "maintenance: {} passed, {} failed",
            self.passed, self.failed
        );
        if self.failed > 0 {
            bail!("{} scenarios of maintenance failed", self.failed);
        }
        Ok(())
    }
}

/// A little more than a status needs to be written.
const SOON: Duration = Duration::from_secs(5);
