//! What a seed stands for: a cluster, a configuration, and what goes wrong when.

use std::time::Duration;

use crate::network::{ApiMode, Place};
use crate::random::Rng;

/// Nothing goes wrong before: every agent has announced a whole table by then.
pub const CALM: Duration = Duration::from_secs(150);
/// In this time after it things begin to go wrong.
const TROUBLE: u64 = 600;
/// The largest error of a clock, in parts in a million.
const DRIFT: u64 = 1_000;

/// A rule of the simulated world that is broken on purpose, to see that an invariant can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sabotage {
    /// None.
    #[default]
    None,
    /// Watchdogs never reset anything.
    WatchdogNeverFires,
    /// From the end of the calm on the watchdog of one node ignores its feeds.
    WatchdogIgnoresFeeds,
    /// The manager stops for good when the first order is given.
    ManagerStops,
}

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// These directions are cut.
    Cut(&'static str, Vec<(Place, Place)>),
    /// These directions are slower by so much.
    Slow(Vec<(Place, Place)>, Duration),
    /// The API server answers nobody.
    Api(ApiMode),
    /// The agent of a node dies at once.
    KillAgent(usize),
    /// The agent's loop hangs; its feeder lives.
    HangAgent(usize),
    /// A machine restarts by itself.
    Reboot(usize),
    /// A machine loses its power.
    PowerOff(usize),
    /// The kubelet of a node stops; its containers and its agent run on.
    StopKubelet(usize),
    /// A replica of the manager dies at once.
    KillManager(usize),
    /// Somebody deletes a remediation.
    DeleteRemediation,
    /// The configuration changes, so that every agent is replaced.
    RollAgents,
    /// All watches end.
    DropWatches,
}

impl Fault {
    /// Its kind, for counting.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Cut(kind, _) => kind,
            Self::Slow(..) => "slow links",
            Self::Api(ApiMode::Refuses) => "API server refuses",
            Self::Api(ApiMode::Hangs) => "API server hangs",
            Self::Api(ApiMode::Fails | ApiMode::Up) => "API server fails",
            Self::KillAgent(_) => "agent killed",
            Self::HangAgent(_) => "agent hangs",
            Self::Reboot(_) => "machine restarts",
            Self::PowerOff(_) => "machine without power",
            Self::StopKubelet(_) => "kubelet stops",
            Self::KillManager(_) => "manager killed",
            Self::DeleteRemediation => "remediation deleted",
            Self::RollAgents => "DaemonSet roll",
            Self::DropWatches => "watches end",
        }
    }

    /// Whether it goes on until it is mended.
    pub const fn lasts(&self) -> bool {
        matches!(
            self,
            Self::Cut(..)
                | Self::Slow(..)
                | Self::Api(_)
                | Self::PowerOff(_)
                | Self::StopKubelet(_)
        )
    }
}

/// A fault and when it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// From when, since the start.
    pub from: Duration,
    /// Until when.
    pub until: Duration,
    /// What.
    pub fault: Fault,
}

/// Which limits the agents get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// `config/samples/selfnoderemediationconfig-fast.yaml`.
    Fast,
    /// A fresh install.
    Fresh,
}

/// Everything that follows from a seed.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// Workers come first.
    pub workers: usize,
    /// Control-plane nodes.
    pub control_plane: usize,
    /// Replicas of the manager.
    pub managers: usize,
    /// Limits.
    pub profile: Profile,
    /// Whether the agents' certificates are replaced meanwhile.
    pub rotates: bool,
    /// By how much each machine's clock is off, in parts in a million; then each manager's.
    pub drifts: Vec<i32>,
    /// Whether a watchdog that was started cannot be stopped.
    pub nowayout: bool,
    /// How long the health check lets a node be unready.
    pub patience: Duration,
    /// What goes wrong, by its beginning.
    pub incidents: Vec<Incident>,
    /// What is broken on purpose.
    pub sabotage: Sabotage,
}

impl Scenario {
    /// The scenario of a seed; `nodes`: with so many nodes.
    pub fn of(seed: u64, nodes: Option<usize>) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let size = match rng.between(1, 100) {
            1..=55 => rng.between(5, 8),
            56..=90 => rng.between(8, 16),
            91..=98 => rng.between(16, 30),
            _ => rng.between(30, 50),
        };
        let size = nodes.unwrap_or_else(|| index(size));
        let control_plane = if size >= 5 && rng.percent(40) { 3 } else { 0 };
        let workers = size.saturating_sub(control_plane).max(1);
        let managers = index(rng.between(1, 2));
        let drift = |rng: &mut Rng| {
            let off = i32::try_from(rng.between(0, DRIFT)).unwrap_or_default();
            if rng.percent(50) { off } else { -off }
        };
        let mut scenario = Self {
            seed,
            workers,
            control_plane,
            managers,
            profile: if rng.percent(70) {
                Profile::Fast
            } else {
                Profile::Fresh
            },
            rotates: size <= 12 && rng.percent(15),
            drifts: (0..size + managers).map(|_| drift(&mut rng)).collect(),
            nowayout: rng.percent(30),
            patience: Duration::from_secs(rng.between(5, 60)),
            incidents: Vec::new(),
            sabotage: Sabotage::None,
        };
        scenario.incidents = Plot {
            scenario: &scenario,
            rng,
        }
        .incidents();
        scenario
    }

    /// The same cluster with other trouble.
    #[must_use]
    pub fn with(self, sabotage: Sabotage, incidents: Vec<Incident>) -> Self {
        Self {
            incidents,
            sabotage,
            ..self
        }
    }

    /// All nodes.
    pub const fn nodes(&self) -> usize {
        self.workers + self.control_plane
    }

    fn others(&self, place: Place) -> Vec<Place> {
        let mut all = self.places();
        all.retain(|other| *other != place);
        all
    }

    /// A node reaches nobody, and nobody reaches it.
    pub fn cut_off(&self, node: usize) -> Fault {
        let place = Place::Node(node);
        let all = self.others(place).into_iter();
        let cuts = all.flat_map(|other| both(place, other)).collect();
        Fault::Cut("node cut off", cuts)
    }

    /// A node does not reach the API server any more, nor the other way round.
    pub fn cut_from_api(&self, node: usize) -> Fault {
        let cuts = both(Place::Node(node), Place::Api).to_vec();
        Fault::Cut("node cut from the API", cuts)
    }

    /// When the last fault is mended.
    pub fn mended(&self) -> Duration {
        let ends = self.incidents.iter().map(|incident| incident.until);
        ends.max().unwrap_or(CALM)
    }

    /// Every place that something can be cut from.
    pub fn places(&self) -> Vec<Place> {
        let nodes = (0..self.nodes()).map(Place::Node);
        let managers = (0..self.managers).map(Place::Manager);
        nodes.chain(managers).chain([Place::Api]).collect()
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn both(one: Place, other: Place) -> [(Place, Place); 2] {
    [(one, other), (other, one)]
}

struct Plot<'a> {
    scenario: &'a Scenario,
    rng: Rng,
}

impl Plot<'_> {
    fn incidents(mut self) -> Vec<Incident> {
        let mut all = Vec::new();
        match self.rng.between(1, 10) {
            // An outage for everybody, with something harmless in the middle.
            1 | 2 => {
                let (from, length) = (self.moment(), self.rng.between(20, 400));
                let fault = self.outage();
                all.push(incident(from, length, fault));
                if self.rng.percent(60) {
                    let inside = from + self.rng.between(0, length);
                    let fault = self.harmless();
                    all.push(incident(inside, 0, fault));
                }
            }
            // One node is lost for long: its workload must be freed in time.
            3 | 4 => {
                let node = self.node();
                let (from, length) = (self.moment(), self.rng.between(250, 500));
                let fault = match self.rng.between(1, 4) {
                    1 => Fault::PowerOff(node),
                    2 => self.cut_off(node),
                    3 => self.cut_from_api(node),
                    _ => self.one_way(node),
                };
                all.push(incident(from, length, fault));
            }
            // Whatever comes.
            _ => {
                for _ in 0..self.rng.between(1, 6) {
                    let fault = self.anything();
                    let length = if fault.lasts() {
                        self.rng.between(5, 300)
                    } else {
                        0
                    };
                    let from = self.moment();
                    all.push(incident(from, length, fault));
                }
            }
        }
        all.sort_by_key(|incident| incident.from);
        all
    }

    fn moment(&mut self) -> u64 {
        CALM.as_secs() + self.rng.between(0, TROUBLE)
    }

    fn node(&mut self) -> usize {
        index(self.rng.between(0, self.scenario.nodes() as u64 - 1))
    }

    fn manager(&mut self) -> usize {
        index(self.rng.between(0, self.scenario.managers as u64 - 1))
    }

    fn outage(&mut self) -> Fault {
        match self.rng.between(1, 4) {
            1 => Fault::Api(ApiMode::Refuses),
            2 => Fault::Api(ApiMode::Hangs),
            3 => Fault::Api(ApiMode::Fails),
            _ => Fault::Cut("API cut from all", {
                let all = self.scenario.others(Place::Api).into_iter();
                all.flat_map(|place| both(place, Place::Api)).collect()
            }),
        }
    }

    fn cut_off(&self, node: usize) -> Fault {
        self.scenario.cut_off(node)
    }

    fn cut_from_api(&self, node: usize) -> Fault {
        self.scenario.cut_from_api(node)
    }

    fn one_way(&mut self, node: usize) -> Fault {
        let place = Place::Node(node);
        let out = self.rng.percent(50);
        let others = if self.rng.percent(50) {
            self.scenario.others(place)
        } else {
            vec![Place::Api]
        };
        let way = |other| if out { (place, other) } else { (other, place) };
        Fault::Cut(
            "cut in one direction",
            others.into_iter().map(way).collect(),
        )
    }

    fn agents_cut(&mut self) -> Fault {
        let place = Place::Node(self.node());
        let mut others = self.scenario.others(place);
        others.retain(|other| *other != Place::Api);
        let cuts = others.into_iter().flat_map(|other| both(place, other));
        Fault::Cut("agent network cut", cuts.collect())
    }

    /// Some nodes on one side, the others, the API server and the managers on the other.
    fn split(&mut self) -> Fault {
        let nodes = self.scenario.nodes();
        let count = index(self.rng.between(2, (nodes as u64 / 2).max(2)));
        let apart: Vec<usize> = (0..count).map(|_| self.node()).collect();
        let is_apart = |place: &Place| matches!(place, Place::Node(node) if apart.contains(node));
        let (one, other): (Vec<Place>, Vec<Place>) =
            self.scenario.places().iter().partition(|p| is_apart(p));
        let pairs = one
            .iter()
            .flat_map(|here| other.iter().flat_map(|there| both(*here, *there)));
        Fault::Cut("network split", pairs.collect())
    }

    fn manager_cut(&mut self) -> Fault {
        let place = Place::Manager(self.manager());
        if self.rng.percent(50) {
            let cuts = both(place, Place::Api).to_vec();
            return Fault::Cut("manager cut from the API", cuts);
        }
        let nodes = (0..self.scenario.nodes()).map(Place::Node);
        let cuts = nodes.flat_map(|node| both(place, node)).collect();
        Fault::Cut("manager cut from the agents", cuts)
    }

    fn some_without_api(&mut self) -> Fault {
        let count = self.rng.between(2, self.scenario.nodes() as u64);
        let nodes = (0..count).map(|_| self.node()).collect::<Vec<_>>();
        let cuts = nodes
            .into_iter()
            .flat_map(|node| both(Place::Node(node), Place::Api));
        Fault::Cut("API cut from some", cuts.collect())
    }

    fn slow(&mut self) -> Fault {
        let place = Place::Node(self.node());
        let by = Duration::from_millis(self.rng.between(100, 4_000));
        let all = self.scenario.others(place).into_iter();
        Fault::Slow(all.flat_map(|other| both(place, other)).collect(), by)
    }

    /// Nothing that may cost a node its reset, also not during an outage.
    fn harmless(&mut self) -> Fault {
        match self.rng.between(1, 3) {
            1 => Fault::KillManager(self.manager()),
            2 => Fault::DropWatches,
            _ => Fault::KillAgent(self.node()),
        }
    }

    fn anything(&mut self) -> Fault {
        match self.rng.between(1, 20) {
            1 => self.outage(),
            2 | 3 => {
                let node = self.node();
                self.cut_off(node)
            }
            4 => {
                let node = self.node();
                self.cut_from_api(node)
            }
            5 => self.agents_cut(),
            6 | 7 => {
                let node = self.node();
                self.one_way(node)
            }
            8 => self.split(),
            9 => self.some_without_api(),
            10 => self.manager_cut(),
            11 => self.slow(),
            12 => Fault::KillAgent(self.node()),
            13 => Fault::HangAgent(self.node()),
            14 => Fault::Reboot(self.node()),
            15 => Fault::PowerOff(self.node()),
            16 => Fault::StopKubelet(self.node()),
            17 => Fault::KillManager(self.manager()),
            18 => Fault::DeleteRemediation,
            19 => Fault::RollAgents,
            _ => self.harmless(),
        }
    }
}

/// A fault from a second on, for so many seconds.
pub fn incident(from: u64, length: u64, fault: Fault) -> Incident {
    Incident {
        from: Duration::from_secs(from),
        until: Duration::from_secs(from + length),
        fault,
    }
}
