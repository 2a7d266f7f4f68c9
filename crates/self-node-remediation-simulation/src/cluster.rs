//! A whole cluster and its course of time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use medik8s_api::SelfNodeRemediationConfig;
use medik8s_api::names::snr;
use medik8s_core::conditions::Status;
use medik8s_runtime::clock::Clock;
use medik8s_testing::build::{self, MetaExt as _, NodeExt as _};
use medik8s_testing::fake::FakeApi;
use self_node_remediation::install::defaults;
use self_node_remediation_core::budget::Timing;
use self_node_remediation_peer::CertificateSet;
use tokio::time::Instant;

use crate::control::{App, Control, store};
use crate::judge::{Judge, Rule, Violation};
use crate::machine::{Machine, Power, WATCHDOG_DEFAULT};
use crate::network::{ApiMode, Network};
use crate::port;
use crate::process::{self, Manager, NAMESPACE};
use crate::random::Rng;
use crate::rollout::Template;
use crate::scenario::{CALM, Profile, Sabotage, Scenario};
use crate::trace::Trace;
use crate::watchdog::Dog;

/// How often everything but the processes under test is looked at.
const TICK: Duration = Duration::from_millis(500);
/// After everything is mended the cluster must be whole again within this time.
const HEALING: Duration = Duration::from_mins(20);
/// How long the whole cluster is watched at least after that.
const AFTERWARDS: Duration = Duration::from_mins(2);
/// How long a manager's pod takes to be started again.
const MANAGER_RESTART: Duration = Duration::from_secs(3);
/// Requests are counted this often.
const BOOKKEEPING: Duration = Duration::from_secs(20);

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Rules that were broken.
    pub violations: Vec<Violation>,
    /// Simulated time.
    pub length: Duration,
    /// Hash of the whole course.
    pub hash: u64,
    /// The story.
    pub lines: Vec<String>,
    /// Counts.
    pub counts: BTreeMap<&'static str, u64>,
}

/// A replica of the manager.
#[derive(Debug)]
pub struct Replica {
    /// Its clock.
    pub clock: Clock,
    /// Its process.
    pub process: Option<Manager>,
    /// When it is started again.
    pub starts: Instant,
    /// How often it was started.
    pub life: u64,
}

/// A cluster.
pub struct Cluster {
    pub(crate) scenario: Scenario,
    pub(crate) api: FakeApi,
    pub(crate) net: Network,
    pub(crate) rng: Rng,
    pub(crate) machines: Vec<Machine>,
    pub(crate) managers: Vec<Replica>,
    pub(crate) control: Control,
    pub(crate) template: Option<Template>,
    pub(crate) judge: Judge,
    pub(crate) trace: Trace,
    pub(crate) clock: Clock,
    pub(crate) next_address: u32,
    pub(crate) rolls: Instant,
    booked: Instant,
}

/// Runs a scenario. `folder` is where machines keep their files.
pub async fn run(scenario: Scenario, folder: PathBuf) -> anyhow::Result<Outcome> {
    let mut cluster = Cluster::new(scenario, &folder)?;
    let mended = cluster.trace_start() + cluster.scenario.mended().max(CALM);
    let mut whole = None;
    loop {
        cluster.tick().await?;
        let now = Instant::now();
        if now >= mended {
            let missing = cluster.missing();
            whole = missing.is_none().then(|| whole.unwrap_or(now));
            if whole.is_some_and(|since| now >= since + AFTERWARDS) {
                break;
            }
            if let Some(missing) = missing.filter(|_| now >= mended + HEALING) {
                let text = format!("after everything was mended: {missing}");
                cluster.judge.accuse(&mut cluster.trace, Rule::Heals, text);
            }
        }
        if !cluster.judge.violations.is_empty() {
            break;
        }
        tokio::time::sleep_until(cluster.next()).await;
    }
    cluster.book();
    let connections = cluster.net.connections();
    cluster
        .trace
        .count("connections between peers", connections);
    Ok(Outcome {
        violations: cluster.judge.violations,
        length: cluster.trace.now(),
        hash: cluster.trace.hash(),
        counts: BTreeMap::new(),
        lines: Vec::new(),
    }
    .with(cluster.trace))
}

impl Outcome {
    fn with(self, trace: Trace) -> Self {
        let (lines, counts) = trace.into_parts();
        Self {
            lines,
            counts,
            ..self
        }
    }
}

impl Cluster {
    fn new(scenario: Scenario, folder: &std::path::Path) -> anyhow::Result<Self> {
        let now = Instant::now();
        let wall = today()?;
        let mut rng = Rng::new(scenario.seed ^ 0xc1_05_7e_12);
        let net = Network::new(Rng::new(rng.draw()));
        let api = FakeApi::with_medik8s_kinds();
        api.keep_terminating_pods();
        let clock = Clock::with_tokio(wall);
        let server = clock.clone();
        api.follow_clock(move || server.now());
        let drift = |index: usize| scenario.drifts.get(index).copied().unwrap_or_default();
        let kubelets = port::certificate(wall)?;
        let mut machines = Vec::new();
        for index in 0..scenario.nodes() {
            let clock = Clock::with_tokio_drifting(wall, drift(index));
            let root = folder.join(index.to_string());
            let dog = Dog::new(WATCHDOG_DEFAULT, scenario.nowayout);
            let control_plane = index >= scenario.workers;
            let tls = Arc::clone(&kubelets);
            let mut machine = Machine::new(index, control_plane, clock, root, dog, tls);
            machine.boot(&net).context("no folder for a machine")?;
            machines.push(machine);
        }
        let managers = (0..scenario.managers)
            .map(|index| {
                let drift = drift(scenario.nodes() + index);
                // Their clocks differ as well; less than five seconds over the whole run.
                let ahead = Duration::from_millis(rng.between(0, 2_500));
                let wall = wall.checked_add(ahead).unwrap_or(wall);
                Replica {
                    clock: Clock::with_tokio_drifting(wall, drift),
                    process: None,
                    starts: now,
                    life: 0,
                }
            })
            .collect();
        let mut cluster = Self {
            control: Control::new(&scenario, now, &mut rng),
            judge: Judge::new(&scenario, now),
            scenario,
            api,
            net,
            rng,
            machines,
            managers,
            template: None,
            trace: Trace::default(),
            clock,
            next_address: 0,
            rolls: now,
            booked: now,
        };
        cluster.install(wall)?;
        Ok(cluster)
    }

    fn install(&mut self, wall: Timestamp) -> anyhow::Result<()> {
        let scenario = &self.scenario;
        self.trace.say(format!(
            "seed {}: {} workers, {} control-plane nodes, {} managers, {:?}{}{}",
            scenario.seed,
            scenario.workers,
            scenario.control_plane,
            scenario.managers,
            scenario.profile,
            if scenario.rotates {
                ", certificates are replaced"
            } else {
                ""
            },
            if scenario.nowayout { ", nowayout" } else { "" },
        ));
        let hour = Duration::from_hours(1);
        let created = wall
            .checked_sub(hour)
            .context("the clock stands at its beginning")?;
        for machine in &self.machines {
            let node = build::node(&machine.name).created(created);
            let node = if machine.control_plane {
                node.control_plane()
            } else {
                node.worker()
            };
            self.net.add_host(machine.host(), machine.place());
            let address = machine.host().to_string();
            let node = node.internal_ip(&address).not_ready(Status::Unknown, wall);
            self.api.put(&node);
        }
        let mut config = defaults::config(NAMESPACE);
        // The machine that runs the simulation is not to be reset, whatever happens.
        config.spec.is_software_reboot_enabled = Some(false);
        if self.scenario.profile == Profile::Fast {
            let spec = &mut config.spec;
            spec.api_check_interval = Some("3s".into());
            spec.api_server_timeout = Some("2s".into());
            spec.max_api_error_threshold = Some(3);
            spec.peer_dial_timeout = Some("1s".into());
            spec.peer_request_timeout = Some("4s".into());
            spec.watchdog_timeout = Some("10s".into());
        }
        self.judge.timing = Some(Timing::of(&config.spec)?);
        self.api.put(&config);
        if self.scenario.rotates {
            let years = Duration::from_hours(24 * 365 * 9 + 24 * 180);
            let made = wall
                .checked_sub(years)
                .context("the clock stands at its beginning")?;
            store(&self.api, &CertificateSet::create(made)?);
        }
        for index in 0..self.scenario.workers {
            self.control.apps.push(App::new(index));
        }
        Ok(())
    }

    fn trace_start(&self) -> Instant {
        Instant::now() - self.trace.now()
    }

    /// When something is to be looked at next.
    fn next(&self) -> Instant {
        let tick = Instant::now() + TICK;
        let dogs = self
            .machines
            .iter()
            .filter_map(|machine| machine.dog.deadline());
        dogs.min().map_or(tick, |deadline| tick.min(deadline))
    }

    async fn tick(&mut self) -> anyhow::Result<()> {
        self.power()?;
        self.incidents();
        let now = Instant::now();
        let mut agents = self.machines.iter().flat_map(|machine| &machine.agents);
        if agents.any(|pod| pod.hangs == Some(now)) {
            process::settle().await;
        }
        self.run_managers().await;
        if self.net.api() == ApiMode::Up {
            self.control_plane();
            self.roll_out();
        } else {
            self.control.api_down();
        }
        self.kubelets().await?;
        self.look();
        if Instant::now() >= self.booked + BOOKKEEPING {
            self.book();
        }
        Ok(())
    }

    /// Watchdogs fire, machines boot.
    fn power(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        for index in 0..self.machines.len() {
            let Some(machine) = self.machines.get_mut(index) else {
                continue;
            };
            match machine.power {
                Power::Off(Some(boots)) if now >= boots => {
                    machine.boot(&self.net)?;
                    self.trace.say(format!("{} has booted", machine.name));
                }
                Power::On(_) if machine.dog.deadline().is_some_and(|at| now >= at) => {
                    if self.scenario.sabotage == Sabotage::WatchdogNeverFires {
                        continue;
                    }
                    self.judge.reset(machine, &mut self.trace);
                    let boots = now + Duration::from_secs(self.rng.between(20, 60));
                    machine.stop(&self.net, Some(boots));
                    self.trace.count("resets by watchdog", 1);
                }
                Power::On(_) | Power::Off(_) => {}
            }
        }
        Ok(())
    }

    async fn run_managers(&mut self) {
        let now = Instant::now();
        for (index, replica) in self.managers.iter_mut().enumerate() {
            if let Some(process) = &mut replica.process
                && let Some(why) = process.ended().await
            {
                self.trace.say(format!("manager {index} ended: {why}"));
                if why.contains("panic") {
                    self.judge.accuse(&mut self.trace, Rule::NoPanic, why);
                }
                self.judge.disturbed(now);
                replica.process = None;
                replica.starts = now + MANAGER_RESTART;
            }
            if replica.process.is_none() && now >= replica.starts {
                replica.life += 1;
                let (api, net, clock) = (&self.api, &self.net, &replica.clock);
                replica.process = Some(Manager::start(index, replica.life, api, net, clock));
            }
        }
    }

    /// Counts requests and mixes them into the hash.
    fn book(&mut self) {
        self.booked = Instant::now();
        let requests = self.api.requests();
        self.api.clear_requests();
        self.trace.count("API requests", requests.len() as u64);
        // Names of events carry the time of day.
        for request in requests.iter().filter(|one| !one.path.contains("/events")) {
            let text = format!("{} {request}", request.client);
            // The wall clock differs from day to day; everything else is the same.
            self.trace.mix(text.split(" {").next().unwrap_or_default());
        }
    }

    /// What the cluster lacks to be whole, if anything.
    fn missing(&self) -> Option<String> {
        for machine in &self.machines {
            if !self.control.is_ready(machine.index) {
                return Some(format!("{} is not Ready", machine.name));
            }
            if !machine.has_agent() {
                return Some(format!("no agent runs on {}", machine.name));
            }
            let node: Option<k8s_openapi::api::core::v1::Node> = self.api.get(None, &machine.name);
            let taints = node.and_then(|node| node.spec?.taints).unwrap_or_default();
            if let Some(taint) = taints.first() {
                return Some(format!("{} has the taint {}", machine.name, taint.key));
            }
        }
        if let Some(left) = self.judge.remediations.first() {
            return Some(format!("there is a remediation for {left}"));
        }
        let runs = |app: usize| {
            let on = self.machines.iter();
            on.filter(|machine| machine.containers.contains_key(&app))
                .count()
        };
        let idle = self.control.apps.iter().find(|app| runs(app.index) != 1);
        idle.map(|app| format!("{} runs {} times", app.name, runs(app.index)))
    }

    pub(crate) fn config(&self) -> Option<SelfNodeRemediationConfig> {
        self.api.get(Some(NAMESPACE), snr::CONFIG_NAME)
    }
}

/// The beginning of this day: certificates are judged by the real clock, everything else must not depend
/// on when it is run.
#[expect(
    clippy::disallowed_methods,
    reason = "certificates are judged by the real clock"
)]
fn today() -> anyhow::Result<Timestamp> {
    let now = Timestamp::now().as_second();
    Ok(Timestamp::from_second(now - now.rem_euclid(86_400))?)
}
