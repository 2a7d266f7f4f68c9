//! The API server's objects, and the manager that decides on them with the production functions.

use std::time::Duration;

use jiff::Timestamp;
use medik8s_core::conditions::Status;
use self_node_remediation_core::announcement::{Announcement, StoppedFeeding};
use self_node_remediation_core::budget;
use self_node_remediation_core::order::{Phase, Remediation};
use self_node_remediation_core::release::{
    self, AgentPods, Missing, Node, OrderTerms, OrderTimes, Peer as ListedPeer,
};

use crate::rules::Rule;
use crate::setup::Setup;
use crate::view::{TICK, View, boot_id, node, wall};

mod pass;

/// The reserve that the searches go without.
const RESERVE: Duration = budget::RELEASE_RESERVE;

/// What the API server holds, and what the manager remembers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// The remediation.
    pub order: Option<Order>,
    /// When the order that is being written says that X counts as rebooted.
    pub write: Option<Timestamp>,
    /// X's announcement on its Node.
    pub announced: Option<Announcement>,
    /// X's last words on its Node.
    pub words: Option<StoppedFeeding>,
    /// An announcement of X that may still take effect.
    pub late: Option<Announcement>,
    /// The boot that X's kubelet reported.
    pub kubelet_boot: u8,
    /// Who has acknowledged, as bits. The manager's memory.
    pub acknowledged: u8,
    /// The node list that is true now, by number.
    pub list: u8,
    /// How it ended.
    pub freed: Option<Freed>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Freed {
    /// By force, and nothing ran.
    ByForce,
    /// By force, while something ran.
    WhileRunning,
    /// By the kubelet of X.
    Gracefully,
}

/// A remediation of X with our finalizer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Order {
    /// Number of its UID.
    pub uid: u8,
    /// How far it is.
    pub stage: Stage,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// Number of the recorded boot.
    pub boot: u8,
    /// `status.timeAssumedRebooted`.
    pub assumed: Timestamp,
    /// What the manager has recorded.
    pub times: Option<OrderTimes>,
}

/// How far a remediation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Finalizer and boot ID are there.
    Marked,
    /// The node is ordered to reboot.
    Ordered,
    /// The workload may be freed.
    Released,
}

impl Order {
    /// As agents see it.
    pub fn view(&self) -> View {
        View {
            uid: self.uid,
            ordered: self.stage != Stage::Marked,
            deleting: self.deleting,
            boot: self.boot,
        }
    }

    fn object(&self) -> Remediation {
        let mut object = self.view().object();
        if self.stage == Stage::Released {
            object.phase = Phase::RebootCompleted;
        }
        object
    }
}

/// Moves a moment back by a step of time, but no further than what is over anyway.
fn earlier(at: &mut Timestamp, oldest: Duration) {
    let oldest = wall().checked_sub(oldest).unwrap_or(*at);
    *at = at.checked_sub(TICK).unwrap_or(*at).max(oldest);
}

/// Older moments are as good as this one.
fn oldest(setup: &Setup) -> Duration {
    let machine = &setup.machine;
    machine.settings.timing.span() + Duration::from_secs(2 * machine.watchdog) + RESERVE + TICK
}

impl Cluster {
    /// A healthy cluster with a fresh remediation of X, which is in its first boot.
    pub fn calm(announced: Option<Announcement>) -> Self {
        Self {
            order: Some(Order {
                uid: 1,
                stage: Stage::Marked,
                deleting: false,
                boot: 1,
                assumed: wall(),
                times: None,
            }),
            write: None,
            announced,
            words: None,
            late: None,
            kubelet_boot: 1,
            acknowledged: 0,
            list: 0,
            freed: None,
        }
    }

    /// All nodes as the manager lists them now.
    fn listed<'a>(&self, setup: &'a Setup) -> &'a [ListedPeer] {
        &setup.listed[usize::from(self.list)]
    }

    /// What a list shows.
    pub fn view(&self) -> Option<View> {
        self.order.as_ref().map(Order::view)
    }

    /// A step of time.
    pub fn tick(&mut self, setup: &Setup) {
        let oldest = oldest(setup);
        if let Some(write) = &mut self.write {
            earlier(write, oldest);
        }
        let Some(order) = &mut self.order else { return };
        earlier(&mut order.assumed, Duration::ZERO);
        if let Some(times) = &mut order.times {
            // When the order was first seen counts only as long as there is no quorum, and never lies ahead.
            if let Some(quorum) = &mut times.quorum {
                earlier(quorum, oldest);
            }
            if let Some(words) = &mut times.words {
                earlier(words, oldest);
            }
        }
    }

    /// The Node of X. `ready`: its kubelet is heard.
    fn node(&self, setup: &Setup, ready: bool) -> Node {
        let mut announced = self.announced.clone();
        if let Some(said) = &mut announced {
            if setup.breaks(Rule::WatchdogAnnouncedAsZero) {
                said.wd = 0;
            }
            if setup.breaks(Rule::FreedWithoutBound) {
                said.bound = Some(setup.machine.settings.timing.announced_span());
            }
            if setup.breaks(Rule::QuorumOfPresentNodes) {
                said.stamp = wall()
                    .checked_add(Duration::from_hours(1))
                    .unwrap_or(said.stamp);
                said.workers = u32::try_from(self.listed(setup).len()).unwrap_or(u32::MAX);
            }
        }
        let mut kubelet_boot = self.kubelet_boot;
        if setup.breaks(Rule::NoBootCheck)
            && let Some(order) = &self.order
        {
            kubelet_boot = order.boot;
            if let Some(said) = &mut announced {
                said.boot = boot_id(order.boot);
            }
        }
        Node {
            name: node("x"),
            ready: if ready { Status::True } else { Status::Unknown },
            kubelet_boot: Some(boot_id(kubelet_boot)),
            announced,
            reboot_capable: true,
            published_watchdog: None,
            last_words: self.words.clone(),
            control_plane: setup.machine.role.control_plane,
            agent: AgentPods::Ours,
        }
    }

    fn terms(&self, setup: &Setup, ready: bool) -> Result<OrderTerms, Missing> {
        let node = self.node(setup, ready);
        let timing = &setup.machine.settings.timing;
        release::terms(&node, timing, &[], self.listed(setup).len(), None)
            .unwrap_or(Err(Missing::Announcement))
    }

    /// When X counts as rebooted if it is ordered to now.
    fn assumed(&self, setup: &Setup, terms: &OrderTerms) -> Timestamp {
        let mut wait = terms.wait;
        if !setup.reserve
            && let Some(said) = &self.node(setup, false).announced
        {
            let watchdogs = if setup.breaks(Rule::WatchdogCountedOnce) {
                1
            } else {
                2
            };
            wait = Duration::from_secs(said.bound.unwrap_or(0) + watchdogs * said.wd);
        }
        budget::assumed_rebooted(wall(), wait).unwrap_or(Timestamp::MAX)
    }

    /// The manager computes the order and sends its write.
    pub fn compute_order(&mut self, setup: &Setup) {
        let Some(order) = &self.order else { return };
        if order.stage != Stage::Marked || order.deleting || self.write.is_some() {
            return;
        }
        let node = self.node(setup, false);
        if node.has_rebooted_since(&boot_id(order.boot)) {
            // The order is for the boot that has ended; the next pass sees the proof.
            self.write = Some(wall());
        } else if let Ok(terms) = self.terms(setup, false) {
            self.write = Some(self.assumed(setup, &terms));
        }
    }

    /// The order's write takes effect.
    pub fn order_lands(&mut self) -> bool {
        let (Some(until), Some(order)) = (self.write.take(), &mut self.order) else {
            return false;
        };
        order.stage = Stage::Ordered;
        order.assumed = until.max(wall());
        true
    }

    fn times_as_seen(setup: &Setup, times: &OrderTimes, assumed: Timestamp) -> OrderTimes {
        let mut seen = times.clone();
        if setup.breaks(Rule::CountedFromComputing) {
            let wait = Duration::from_secs(times.bound.unwrap_or(0) + 2 * times.wd.unwrap_or(0));
            let computed = assumed.checked_sub(wait).unwrap_or(assumed);
            seen.seen = seen.seen.min(computed);
            seen.quorum = seen.quorum.map(|quorum| quorum.min(computed));
        }
        if !setup.reserve {
            let mut less = RESERVE;
            if setup.breaks(Rule::WatchdogCountedOnce) {
                less += Duration::from_secs(times.wd.unwrap_or(0));
            }
            seen.quorum = seen.quorum.map(|at| at.checked_sub(less).unwrap_or(at));
            let two = Duration::from_secs(2);
            seen.words = seen.words.map(|at| at.checked_sub(two).unwrap_or(at));
        }
        seen
    }

    /// Somebody creates a remediation of the same name, and the manager marks it.
    pub fn create(&mut self, setup: &Setup) {
        if self.order.is_some() || self.terms(setup, false).is_err() {
            return;
        }
        self.order = Some(Order {
            uid: 2,
            stage: Stage::Marked,
            deleting: false,
            boot: self.kubelet_boot,
            assumed: wall(),
            times: None,
        });
        self.acknowledged = 0;
    }
}
