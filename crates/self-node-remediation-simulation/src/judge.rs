//! What must never be, looked at in every step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::snr;
use medik8s_core::node as node_facts;
use medik8s_testing::fake::FakeApi;
use self_node_remediation_core::budget::{MANAGER_CLOCKS, Timing};
use self_node_remediation_core::order::{Phase, Remediation};
use self_node_remediation_core::table::quorum_of;
use tokio::time::Instant;

use crate::control::{App, PodSeen};
use crate::machine::Machine;
use crate::network::{Network, Place};
use crate::scenario::{Profile, Scenario};
use crate::trace::Trace;

/// Reserve on top of every bound: looking twice a second, five seconds between two passes of the manager,
/// 0.1 % of a clock, the other manager's clock.
const RESERVE: Duration = Duration::from_secs(15);
/// A link that is slower than this may cost an answer.
const SLOW: Duration = Duration::from_millis(300);

/// A promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// No pod is freed while a container of it may run.
    AtMostOne,
    /// No machine is reset without need.
    NoNeedlessReset,
    /// A lost node is freed by the bound that was published.
    Bound,
    /// When everything is mended the cluster becomes whole.
    Heals,
    /// Nothing panics.
    NoPanic,
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// How.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

/// What the judge sees.
pub struct View<'a> {
    /// Everything stored.
    pub api: &'a FakeApi,
    /// Who reaches whom.
    pub net: &'a Network,
    /// Machines.
    pub machines: &'a [Machine],
    /// Replicas of the manager.
    pub managers: usize,
    /// The workload.
    pub apps: &'a [App],
    /// Whether the API server answers.
    pub api_up: bool,
    /// What a right clock on the wall shows.
    pub wall: Timestamp,
}

/// What is known of a machine.
#[derive(Debug, Clone, Copy, Default)]
struct Health {
    /// Since when nothing gives it a reason to be reset.
    fine: Option<Instant>,
    /// The latest moment at which its agent had been able to read the API for a while.
    informed: Option<Instant>,
    /// Since when its agent has been able to read the API.
    reads: Option<Instant>,
    /// When the latest remediation for it was there.
    wanted: Option<Instant>,
}

/// An order under way.
#[derive(Debug, Clone)]
struct Order {
    seen: Instant,
    /// Since when nothing but time is in the way of its release.
    clear: Option<Instant>,
    released: bool,
}

/// The judge.
#[derive(Debug)]
pub struct Judge {
    /// What was found.
    pub violations: Vec<Violation>,
    /// Nodes that have a remediation.
    pub remediations: BTreeSet<String>,
    /// When the run began.
    pub started: Instant,
    /// Limits of the agents.
    pub timing: Option<Timing>,
    watchdog: Duration,
    workers: usize,
    health: BTreeMap<usize, Health>,
    orders: BTreeMap<String, Order>,
    disturbed: Instant,
}

impl Judge {
    /// Has seen nothing yet.
    pub fn new(scenario: &Scenario, now: Instant) -> Self {
        let seconds = match scenario.profile {
            Profile::Fast => 10,
            Profile::Fresh => 20,
        };
        Self {
            violations: Vec::new(),
            remediations: BTreeSet::new(),
            started: now,
            timing: None,
            watchdog: Duration::from_secs(seconds),
            workers: scenario.workers,
            health: BTreeMap::new(),
            orders: BTreeMap::new(),
            disturbed: now,
        }
    }

    /// A promise was broken.
    pub fn accuse(&mut self, trace: &mut Trace, rule: Rule, text: String) {
        trace.say(format!("VIOLATION {rule:?}: {text}"));
        self.violations.push(Violation { rule, text });
    }

    /// A manager was not there: bounds begin anew.
    pub const fn disturbed(&mut self, now: Instant) {
        self.disturbed = now;
    }

    /// Whether an order is under way.
    pub fn has_order(&self) -> bool {
        self.orders.values().any(|order| !order.released)
    }

    /// A machine stopped for another reason than its watchdog.
    pub fn stopped(&mut self, machine: &Machine) {
        self.health.insert(machine.index, Health::default());
    }

    /// The watchdog of a machine fires.
    pub fn reset(&mut self, machine: &Machine, trace: &mut Trace) {
        let health = self
            .health
            .insert(machine.index, Health::default())
            .unwrap_or_default();
        let span = self.timing.map_or(Duration::ZERO, |timing| timing.span());
        let window = span + 2 * self.watchdog + RESERVE;
        let now = Instant::now();
        let wanted = self.remediations.contains(&machine.name);
        trace.say(format!(
            "{} is RESET by its watchdog ({}; its containers: {})",
            machine.name,
            if wanted {
                "a remediation is for it"
            } else {
                "no remediation is for it"
            },
            machine.containers.len(),
        ));
        if !wanted && health.fine.is_some_and(|since| now >= since + window) {
            let text = format!(
                "{} was reset although nothing was wrong with it for {:?}",
                machine.name, window
            );
            self.accuse(trace, Rule::NoNeedlessReset, text);
        }
    }

    /// Looks at everything once.
    pub fn look(&mut self, view: &View<'_>, trace: &mut Trace) {
        let now = Instant::now();
        self.look_at_workload(view, trace);
        self.look_at_orders(view, now, trace);
        self.look_at_machines(view, now);
    }

    /// Every container that runs has its pod.
    fn look_at_workload(&mut self, view: &View<'_>, trace: &mut Trace) {
        for app in view.apps {
            let running: Vec<_> = view
                .machines
                .iter()
                .filter_map(|machine| Some((machine, machine.containers.get(&app.index)?)))
                .collect();
            if running.is_empty() {
                continue;
            }
            let pod = PodSeen::read(view.api, &app.name);
            for (machine, container) in &running {
                if pod.as_ref().is_none_or(|pod| pod.uid != container.uid) {
                    let text = format!("{} was freed while it runs on {}", app.name, machine.name);
                    self.accuse(trace, Rule::AtMostOne, text);
                }
            }
            if running.len() > 1 {
                let text = format!("{} runs {} times", app.name, running.len());
                self.accuse(trace, Rule::AtMostOne, text);
            }
        }
    }

    fn look_at_orders(&mut self, view: &View<'_>, now: Instant, trace: &mut Trace) {
        let stored = view.api.list::<SelfNodeRemediation>();
        self.remediations.clear();
        let mut current = BTreeSet::new();
        for object in &stored {
            let Some(remediation) = Remediation::parse(object) else {
                continue;
            };
            let Some(node) = remediation.target.node() else {
                continue;
            };
            self.remediations.insert(node.to_string());
            let Some(machine) = view.machines.iter().find(|m| m.name == node.as_str()) else {
                continue;
            };
            self.health.entry(machine.index).or_default().wanted = Some(now);
            let boot = remediation
                .boot
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            let times = object.metadata.annotations.as_ref();
            let times = times.and_then(|all| all.get(snr::ORDER_TIMES_ANNOTATION));
            let key = format!("{} {boot}", remediation.uid);
            let assumed = object
                .status
                .as_ref()
                .and_then(|s| s.time_assumed_rebooted.clone());
            match remediation.phase {
                Phase::PreRebootCompleted => {
                    current.insert(key.clone());
                    if !self.orders.contains_key(&key) {
                        trace.say(format!("{node} is ordered to reboot (boot {boot})"));
                        trace.count("orders", 1);
                        let order = Order {
                            seen: now,
                            clear: None,
                            released: false,
                        };
                        self.orders.insert(key.clone(), order);
                    }
                    trace.mix(times.map_or("", |_| "times"));
                    let clear = self.only_time_is_missing(view, machine, &boot);
                    let limit = self.limit();
                    let Some(order) = self.orders.get_mut(&key) else {
                        continue;
                    };
                    order.clear = clear.then(|| order.clear.unwrap_or(now));
                    // The time that was published counts as well, when it is later.
                    let published = assumed.is_none_or(|at| moment(view, at.0) <= now);
                    let late = order.clear.is_some_and(|since| now > since + limit);
                    if late && published && !order.released {
                        order.released = true;
                        let text =
                            format!("{node} is not freed {limit:?} after nothing was missing");
                        self.accuse(trace, Rule::Bound, text);
                    }
                }
                Phase::RebootCompleted | Phase::FencingCompleted => {
                    current.insert(key.clone());
                    if let Some(order) = self.orders.get_mut(&key)
                        && !order.released
                    {
                        order.released = true;
                        let took = now - order.seen;
                        let clear = order.clear.map(|since| now - since);
                        trace.say(format!("{node} is released {took:?} after its order"));
                        let published = assumed.map(|at| moment(view, at.0));
                        // The manager's clock may be ahead by a few seconds.
                        if published.is_some_and(|at| now + MANAGER_CLOCKS < at) {
                            trace.count("releases by evidence", 1);
                        } else {
                            trace.count("releases by time", 1);
                            trace.largest("worst release by time, ms", millis(took));
                            let late = clear.unwrap_or_default();
                            trace.largest("worst since nothing was missing, ms", millis(late));
                            let over = published
                                .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
                            trace.largest("worst after the published time, ms", millis(over));
                        }
                    }
                }
                Phase::Started | Phase::Unknown(_) => {}
            }
        }
        self.orders.retain(|key, _| current.contains(key));
    }

    /// From nothing but time being missing to the release.
    fn limit(&self) -> Duration {
        let span = self.timing.map_or(Duration::ZERO, |timing| timing.span());
        let bound = span
            + self.watchdog
            + Duration::from_secs(30).max(self.watchdog + Duration::from_secs(10));
        bound + RESERVE
    }

    /// Whether the node is lost, every manager works, and half of the node's peers can be asked.
    fn only_time_is_missing(&self, view: &View<'_>, machine: &Machine, boot: &str) -> bool {
        let node: Option<Node> = view.api.get(None, &machine.name);
        let told = node
            .as_ref()
            .and_then(|node| node_facts::boot_id(node).map(str::to_owned));
        let lost = !machine.is_on() || !view.net.has_api(machine.place());
        let managers: Vec<Place> = (0..view.managers).map(Place::Manager).collect();
        let work = view.api_up
            && Instant::now() >= self.disturbed + Duration::from_secs(30)
            && managers.iter().all(|manager| {
                view.net.has_api(*manager)
                    && view.net.slowness(*manager, Place::Api) < SLOW
                    && view.net.slowness(Place::Api, *manager) < SLOW
            });
        let asked = view.machines.iter().filter(|peer| {
            !peer.control_plane
                && peer.index != machine.index
                && peer.is_on()
                && peer.has_agent()
                && view.net.has_api(peer.place())
                && self.is_informed_since(peer.index, self.started)
                && managers.iter().all(|manager| {
                    view.net.joined(*manager, peer.place())
                        && !is_slow(view, *manager, peer.place())
                })
        });
        let table = self.workers - usize::from(!machine.control_plane);
        // A control-plane node has a second electorate: all of it must be fine then.
        let second = !machine.control_plane
            || view
                .machines
                .iter()
                .filter(|peer| peer.control_plane)
                .all(|peer| {
                    peer.index == machine.index
                        || (peer.is_on()
                            && peer.has_agent()
                            && view.net.has_api(peer.place())
                            && managers.iter().all(|m| view.net.joined(*m, peer.place())))
                });
        lost && work && second && asked.count() >= quorum_of(table) && told.as_deref() == Some(boot)
    }

    fn is_informed_since(&self, machine: usize, since: Instant) -> bool {
        let informed = self.health.get(&machine).and_then(|health| health.informed);
        informed.is_some_and(|at| at >= since)
    }

    fn look_at_machines(&mut self, view: &View<'_>, now: Instant) {
        let period = self
            .timing
            .map_or(Duration::ZERO, |timing| timing.check_period());
        for machine in view.machines {
            let place = machine.place();
            let reads = machine.is_on()
                && machine.has_agent()
                && view.net.has_api(place)
                && !is_slow(view, place, Place::Api);
            let health = self.health.entry(machine.index).or_default();
            health.reads = reads.then(|| health.reads.unwrap_or(now));
            if health
                .reads
                .is_some_and(|since| now >= since + 2 * period + SLOW)
            {
                health.informed = Some(now);
            }
        }
        for machine in view.machines {
            let fine = self.is_fine(view, machine);
            let health = self.health.entry(machine.index).or_default();
            health.fine = fine.then(|| health.fine.unwrap_or(now));
        }
    }

    /// Whether nothing is a reason for this machine to be reset: it reads the API, or most of its peers are
    /// as cut off from the API as it is and say so.
    fn is_fine(&self, view: &View<'_>, machine: &Machine) -> bool {
        let Some(health) = self.health.get(&machine.index) else {
            return false;
        };
        let place = machine.place();
        if self.remediations.contains(&machine.name) || !machine.is_on() || !machine.has_agent() {
            return false;
        }
        if health.reads.is_some() {
            return true;
        }
        // A control-plane node looks at its kubelet as well.
        if machine.control_plane && machine.kubelet_stopped {
            return false;
        }
        // What knew of a remediation may abstain until it has read that it is gone.
        let since = health.wanted.unwrap_or(self.started);
        // An agent whose pod was made after this machine lost the API cannot be found by it.
        let known = health.informed.unwrap_or(self.started);
        let voters = view.machines.iter().filter(|peer| {
            let at = peer.place();
            let found = peer
                .agents
                .iter()
                .any(|pod| pod.works() && pod.created <= known);
            !peer.control_plane
                && peer.index != machine.index
                && peer.is_on()
                && found
                && view.net.joined(place, at)
                && !is_slow(view, place, at)
                && !is_slow(view, at, Place::Api)
                && self.is_informed_since(peer.index, since)
        });
        let table = self.workers - usize::from(!machine.control_plane);
        table > 0
            && self.is_informed_since(machine.index, self.started)
            && voters.count() * 2 > table
    }
}

fn is_slow(view: &View<'_>, one: Place, other: Place) -> bool {
    view.net.slowness(one, other) >= SLOW || view.net.slowness(other, one) >= SLOW
}

/// When a right clock on the wall shows this.
fn moment(view: &View<'_>, at: Timestamp) -> Instant {
    let ahead = at.duration_since(view.wall);
    let far = ahead.unsigned_abs();
    if ahead.is_negative() {
        Instant::now().checked_sub(far).unwrap_or_else(Instant::now)
    } else {
        Instant::now() + far
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
