//! What can happen, when, and how it is told.

use super::{State, World};
use crate::host::Pace;
use crate::manager::Stage;
use crate::rules::Rule;
use crate::setup::{Fault, NAMES};

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "`tell` says what each is")]
pub enum Action {
    Tick,
    KilledAtTick,
    SlowTick,
    XReads(u8),
    XReadsItself(u8),
    NodesChange,
    XNodes,
    XAnnounces { lands: bool, heard: bool },
    LateAnnouncement,
    XAsks(u8, bool),
    Kill,
    Start,
    Hang,
    Freeze,
    Resume,
    Remove,
    RollOut,
    Boot,
    KubeletReports,
    WordsArrive,
    PeerReads(u8),
    SlowList(u8),
    SlowListArrives(u8),
    PeerReboots(u8),
    Delete,
    CreateAgain,
    Order,
    OrderLands,
    Manager { ready: bool },
    Acknowledge(u8, bool),
    NewManager,
}

impl Action {
    /// The fault that it uses up.
    pub(super) const fn fault(self) -> Option<Fault> {
        match self {
            Self::Kill | Self::KilledAtTick => Some(Fault::Kill),
            Self::Hang => Some(Fault::Hang),
            Self::Freeze => Some(Fault::Freeze),
            Self::Remove => Some(Fault::Remove),
            Self::RollOut => Some(Fault::RollOut),
            Self::Boot => Some(Fault::Return),
            Self::SlowList(_) => Some(Fault::SlowList),
            Self::PeerReboots(_) => Some(Fault::PeerReboot),
            Self::Delete => Some(Fault::Delete),
            Self::CreateAgain => Some(Fault::CreateAgain),
            Self::NewManager => Some(Fault::NewManager),
            Self::NodesChange => Some(Fault::NodesChange),
            Self::SlowTick => Some(Fault::SlowClock),
            Self::XAnnounces { lands, heard } if !(lands && heard) => Some(Fault::LostAnnouncement),
            Self::Tick
            | Self::XReads(_)
            | Self::XReadsItself(_)
            | Self::XNodes
            | Self::XAnnounces { .. }
            | Self::LateAnnouncement
            | Self::XAsks(..)
            | Self::Start
            | Self::Resume
            | Self::KubeletReports
            | Self::WordsArrive
            | Self::PeerReads(_)
            | Self::SlowListArrives(_)
            | Self::Order
            | Self::OrderLands
            | Self::Manager { .. }
            | Self::Acknowledge(..) => None,
        }
    }

    /// Whether time passes with it.
    pub const fn is_tick(self) -> bool {
        matches!(self, Self::Tick | Self::KilledAtTick | Self::SlowTick)
    }

    /// Who does what.
    pub fn tell(self) -> (String, String) {
        let peer = |index: u8| {
            let name = NAMES.get(usize::from(index)).copied().unwrap_or("?");
            format!("peer {name}")
        };
        let api = |has: bool| if has { "" } else { " without API" };
        let (who, what) = match self {
            Self::Tick => ("", String::new()),
            Self::KilledAtTick => (
                "x",
                "its agent is killed just before the reset: the closing device pings".to_owned(),
            ),
            Self::SlowTick => ("x", "its clocks lose ten seconds".to_owned()),
            Self::XReads(_) => ("x", "reads the API".to_owned()),
            Self::XReadsItself(_) => (
                "x",
                "its own API server says it is ready, and the list is empty".to_owned(),
            ),
            Self::NodesChange => ("API", "the nodes are others now".to_owned()),
            Self::XNodes => ("x", "lists the nodes".to_owned()),
            Self::XAnnounces {
                lands: true,
                heard: true,
            } => ("x", "announces".to_owned()),
            Self::XAnnounces {
                lands: true,
                heard: false,
            } => (
                "x",
                "announces, but does not hear that it was taken".to_owned(),
            ),
            Self::XAnnounces { lands: false, .. } => (
                "x",
                "announces; the write is under way, and x gives it up".to_owned(),
            ),
            Self::LateAnnouncement => ("API", "the late announcement takes effect".to_owned()),
            Self::XAsks(index, has) => return (peer(index), format!("answers x{}:", api(has))),
            Self::Kill => (
                "x",
                "its agent is killed: the closing device pings".to_owned(),
            ),
            Self::Start => ("x", "its agent starts".to_owned()),
            Self::Hang => ("x", "the decision loop of its agent hangs".to_owned()),
            Self::Freeze => ("x", "its agent stands still".to_owned()),
            Self::Resume => ("x", "its agent goes on".to_owned()),
            Self::Remove => ("x", "its agent's pod is removed".to_owned()),
            Self::RollOut => (
                "x",
                "its agent is replaced by a successor that waits".to_owned(),
            ),
            Self::Boot => ("x", "boots again".to_owned()),
            Self::KubeletReports => (
                "x",
                "its kubelet reports the boot and starts its pods".to_owned(),
            ),
            Self::WordsArrive => ("API", "the last words of x arrive".to_owned()),
            Self::PeerReads(index) => return (peer(index), "reads the API".to_owned()),
            Self::SlowList(index) => return (peer(index), "lists; the answer is slow".to_owned()),
            Self::SlowListArrives(index) => {
                return (peer(index), "the slow answer arrives".to_owned());
            }
            Self::PeerReboots(index) => return (peer(index), "its machine reboots".to_owned()),
            Self::Delete => ("user", "deletes the remediation".to_owned()),
            Self::CreateAgain => ("user", "creates a remediation of the same name".to_owned()),
            Self::Order => (
                "manager",
                "computes the time and sends the order".to_owned(),
            ),
            Self::OrderLands => ("API", "the order is visible".to_owned()),
            Self::Manager { .. } => ("manager", "looks".to_owned()),
            Self::Acknowledge(index, has) => {
                return (peer(index), format!("acknowledges the order{}", api(has)));
            }
            Self::NewManager => ("manager", "another one takes over".to_owned()),
        };
        (who.to_owned(), what)
    }
}

impl World {
    /// What can happen in a state. What changes nothing, or cannot end in a broken promise, is left out.
    pub(super) fn possible(&self, state: State, into: &mut Vec<Action>) {
        let (host, cluster, left) = (self.host(state), self.cluster(state), state.left);
        if cluster.freed.is_some() {
            return;
        }
        let comes_back = left.has(Fault::Return);
        if !host.up && !comes_back {
            // Nothing of it runs, and nothing ever will.
            return;
        }
        if cluster.order.is_none() && !left.has(Fault::CreateAgain) && cluster.write.is_none() {
            return;
        }
        let mut fault = |fault: Fault, action: Action| {
            if left.has(fault) {
                into.push(action);
            }
        };
        if cluster.write.is_none() || left.has(Fault::Late) {
            fault(Fault::SlowClock, Action::SlowTick);
            if host.pace().is_some() && host.armed() {
                fault(Fault::Kill, Action::KilledAtTick);
            }
        }
        match host.pace() {
            Some(Pace::Runs) => {
                fault(Fault::Kill, Action::Kill);
                fault(Fault::Hang, Action::Hang);
                fault(Fault::Freeze, Action::Freeze);
                fault(Fault::Remove, Action::Remove);
                fault(Fault::RollOut, Action::RollOut);
            }
            Some(Pace::LoopHangs | Pace::Frozen) => {
                fault(Fault::Kill, Action::Kill);
                into.push(Action::Resume);
            }
            None if host.up => into.push(Action::Start),
            None => fault(Fault::Return, Action::Boot),
        }
        if cluster.write.is_none() || left.has(Fault::Late) {
            into.push(Action::Tick);
        }
        self.of_x(state, into);
        for peer in 0..self.setup().peers {
            into.push(Action::PeerReads(peer));
            if self.peer(state, peer).is_reading() {
                into.push(Action::SlowListArrives(peer));
            } else if left.has(Fault::SlowList) {
                into.push(Action::SlowList(peer));
            }
            if left.has(Fault::PeerReboot) {
                into.push(Action::PeerReboots(peer));
            }
        }
        self.of_manager(state, into);
    }

    fn of_x(&self, state: State, into: &mut Vec<Action>) {
        let (host, cluster, left) = (self.host(state), self.cluster(state), state.left);
        if host.decides() {
            for (index, _) in (0u8..).zip(&host.asked.reads) {
                into.push(Action::XReads(index));
                if self.setup().breaks(Rule::LocalApiCounts) {
                    into.push(Action::XReadsItself(index));
                }
            }
            if host.asked.nodes || host.list != cluster.list {
                into.push(Action::XNodes);
            }
            if host.asked.announcement.is_some() {
                for (lands, heard) in [(true, true), (true, false), (false, false)] {
                    let action = Action::XAnnounces { lands, heard };
                    if action.fault().is_none_or(|fault| left.has(fault)) {
                        into.push(action);
                    }
                }
            }
            for peer in 0..self.setup().peers {
                if host.asked.peers & (1 << peer) != 0 {
                    into.push(Action::XAsks(peer, true));
                    into.push(Action::XAsks(peer, false));
                }
            }
        }
        if host.asked.words.is_some() {
            into.push(Action::WordsArrive);
        }
        if cluster.late.is_some() {
            into.push(Action::LateAnnouncement);
        }
        if host.up && cluster.kubelet_boot != host.boot {
            into.push(Action::KubeletReports);
        }
    }

    fn of_manager(&self, state: State, into: &mut Vec<Action>) {
        let (host, cluster, left) = (self.host(state), self.cluster(state), state.left);
        if cluster.write.is_some() {
            into.push(Action::OrderLands);
        }
        let Some(order) = &cluster.order else {
            if left.has(Fault::CreateAgain) {
                into.push(Action::CreateAgain);
            }
            return;
        };
        if left.has(Fault::Delete) && !order.deleting {
            into.push(Action::Delete);
        }
        if cluster.write.is_none() && order.stage == Stage::Marked {
            into.push(Action::Order);
        }
        let elsewhere = cluster.kubelet_boot != order.boot || host.boot != order.boot;
        if order.stage != Stage::Marked || order.deleting {
            into.push(Action::Manager { ready: false });
            if host.up && (order.deleting || elsewhere) {
                into.push(Action::Manager { ready: true });
            }
        }
        for peer in 0..self.setup().peers {
            into.push(Action::Acknowledge(peer, true));
            into.push(Action::Acknowledge(peer, false));
        }
        if left.has(Fault::NodesChange) {
            into.push(Action::NodesChange);
        }
        if left.has(Fault::NewManager) && cluster.acknowledged != 0 {
            into.push(Action::NewManager);
        }
    }
}
