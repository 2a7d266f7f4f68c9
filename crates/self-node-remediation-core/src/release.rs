//! When the manager may free the workload of a node that it ordered to reboot.
//!
//! # Purpose
//! fencing-safety sections 4 to 6 from the manager's side: the precondition of an order ([`terms`]), the acknowledgement
//! quorum, the times, the commit check and the evidence ([`decide`]).
//!
//! # Guarantees
//! * The workload is released by time only after the quorum (or, in mixed operation, the storm guard), not before
//!   max(timeAssumedRebooted, t_k + span + 2 Wd + 10 s), and only while kubelet and agent still speak of the boot that the
//!   order is for, armed and bound.
//! * Whatever is not known holds. No timeout skips a hold.
//!
//! # Caveats
//! [`Node`] must come from a consistent read that was made **after** the order was visible, in the same pass: the agent
//! announces and then reads, the manager orders and then reads, so one of the two sees the other.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use medik8s_core::conditions::Status;

use crate::announcement::{Announcement, StoppedFeeding};
use crate::budget::{self, BudgetError, Timing};
use crate::ids::{BootId, NodeName};
use crate::order::Remediation;
use crate::table::{Electorate, ListedNode, is_strict_majority, members, quorum_of};

#[cfg(test)]
mod tests;
mod times;

pub use times::{By, OrderTimes, Released};

/// The node in question, from one consistent read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its Ready condition. Unknown: the kubelet is not heard any more.
    pub ready: Status,
    /// The boot that its kubelet reported last.
    pub kubelet_boot: Option<BootId>,
    /// What its agent announced, if that can be read.
    pub announced: Option<Announcement>,
    /// Annotation is-reboot-capable is `true`.
    pub reboot_capable: bool,
    /// Annotation watchdog-timeout, if it is a number.
    pub published_watchdog: Option<Duration>,
    /// The agent's last words.
    pub last_words: Option<StoppedFeeding>,
    /// Whether its labels make it a control-plane node.
    pub control_plane: bool,
    /// The agent pods on it.
    pub agent: AgentPods,
}

/// Who guards a node, by the agent pods that are bound to it and have not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentPods {
    /// None is there.
    None,
    /// All carry our marker.
    Ours,
    /// At least one does not, and it runs: it may be an agent that announces nothing.
    Old,
    /// At least one does not, and it has not been started: nobody guards the node.
    Unstarted,
}

impl Node {
    /// Whether the agent announces: our marker on all pods, or no pod any more but an announcement for this boot.
    pub fn announces(&self) -> bool {
        match self.agent {
            AgentPods::Ours => true,
            AgentPods::Old | AgentPods::Unstarted => false,
            AgentPods::None => {
                let boot = self.announced.as_ref().map(|said| &said.boot);
                boot.is_some() && boot == self.kubelet_boot.as_ref()
            }
        }
    }

    /// E1: kubelet or agent speak of another boot than this one. An announcement next to an old agent's pod is a
    /// remainder of an earlier version and says nothing.
    pub fn has_rebooted_since(&self, recorded: &BootId) -> bool {
        let agent = self
            .announced
            .as_ref()
            .filter(|_| self.announces())
            .map(|said| &said.boot);
        self.kubelet_boot
            .iter()
            .chain(agent)
            .any(|boot| boot != recorded)
    }
}

/// Why a node cannot be ordered to reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// No agent pod.
    Agent,
    /// The kubelet has not reported a boot ID.
    BootId,
    /// The agent says that it cannot reboot the node.
    RebootCapability,
    /// The agent has not announced its bound, or something unreadable.
    Announcement,
    /// The agent announced a bound in another boot only.
    AnnouncementOfThisBoot,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => {
                "no agent pod runs on it; check the DaemonSet's tolerations and node selector"
            }
            Self::BootId => "its kubelet has not reported a boot ID",
            Self::RebootCapability => {
                "its agent cannot reboot it; give it a watchdog, or set isSoftwareRebootEnabled"
            }
            Self::Announcement => {
                "its agent has not announced its bound; see the log of the agent pod on it"
            }
            Self::AnnouncementOfThisBoot => {
                "its agent was not in contact with the API server since it booted"
            }
        })
    }
}

/// What an order is given with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OrderTerms {
    /// The boot that it is for.
    pub boot: BootId,
    /// D: how long until the node counts as rebooted.
    pub wait: Duration,
    /// What the wait says.
    pub grounds: Grounds,
}

/// What follows from the wait of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grounds {
    /// The agent announced that it resets the node within it.
    Announced,
    /// The agent announces nothing: the bound is computed from its settings.
    OldAgent,
    /// Nothing: the agent announced no bound, or the node has rebooted already. Evidence frees the node.
    Evidence,
}

/// The precondition of an order. `boot`: the boot recorded with the finalizer, if that was done already.
pub fn terms(
    node: &Node,
    timing: &Timing,
    others: &[Timing],
    workers: usize,
    user: Option<Duration>,
) -> Result<Result<OrderTerms, Missing>, BudgetError> {
    if matches!(node.agent, AgentPods::None | AgentPods::Unstarted) {
        return Ok(Err(Missing::Agent));
    }
    if !node.reboot_capable {
        return Ok(Err(Missing::RebootCapability));
    }
    let Some(boot) = node.kubelet_boot.clone() else {
        return Ok(Err(Missing::BootId));
    };
    if node.agent == AgentPods::Old {
        return Ok(Ok(OrderTerms {
            boot,
            wait: old_agent_wait(node, timing, others, workers, user)?,
            grounds: Grounds::OldAgent,
        }));
    }
    let Some(announced) = &node.announced else {
        return Ok(Err(Missing::Announcement));
    };
    if announced.boot != boot {
        return Ok(Err(Missing::AnnouncementOfThisBoot));
    }
    if !announced.armed {
        return Ok(Err(Missing::RebootCapability));
    }
    // Without a bound the node is never freed by time; the order still goes out, and evidence may free it.
    let bound = announced.bound.unwrap_or_else(|| timing.announced_span());
    let wait = budget::announced_wait(bound, announced.wd, user)?;
    let grounds = match announced.bound {
        Some(_) => Grounds::Announced,
        None => Grounds::Evidence,
    };
    Ok(Ok(OrderTerms {
        boot,
        wait,
        grounds,
    }))
}

/// D of a node with an old agent: the largest over all settings that the agent may run with (`others`: those in the
/// environment of its pod), because a changed configuration reaches it only by a roll-out.
pub fn old_agent_wait(
    node: &Node,
    timing: &Timing,
    others: &[Timing],
    workers: usize,
    user: Option<Duration>,
) -> Result<Duration, BudgetError> {
    let mut wait = Duration::ZERO;
    for timing in others.iter().chain([timing]) {
        let one =
            timing.old_agent_wait(workers, node.published_watchdog, node.control_plane, user)?;
        wait = wait.max(one);
    }
    Ok(wait)
}

/// How the other workers are, for the storm guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Others {
    /// P: how many there are.
    pub workers: usize,
    /// How many are not Ready, or have a Lease older than twice its duration.
    pub sick: usize,
}

impl Others {
    /// Whether so many are sick that the control plane may be the cause.
    pub const fn is_storm(&self) -> bool {
        is_strict_majority(self.sick, self.workers)
    }
}

/// A node that may have to acknowledge.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Its metadata.
    pub listed: ListedNode,
    /// It carries our agent-version: its agent can acknowledge.
    pub our_agent: bool,
}

/// Everything that a decision is made from.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// The remediation, which is an order.
    pub remediation: &'a Remediation,
    /// `status.timeAssumedRebooted`.
    pub assumed_rebooted: Option<Timestamp>,
    /// What was recorded for this UID and boot.
    pub times: Option<&'a OrderTimes>,
    /// The node, read consistently after the order was visible.
    pub node: &'a Node,
    /// All nodes.
    pub peers: &'a [Peer],
    /// Who has acknowledged this very order, in this manager's life.
    pub acknowledged: &'a BTreeSet<NodeName>,
    /// Whether the members that had not acknowledged were asked in this pass.
    pub asked: bool,
    /// Whether so many other workers are sick that the control plane may be the cause.
    pub storm: bool,
    /// t_s: the last check with a storm, or the first check of this manager.
    pub calm_since: Timestamp,
    /// Since when this very manager has looked at the order, without a gap in which another could have.
    pub watched_since: Timestamp,
    /// D, for the storm guard.
    pub guard_wait: Duration,
    /// The kubelet's Lease was last renewed then.
    pub kubelet_seen: Option<Timestamp>,
}

/// What to do about an order in phase Pre-Reboot-Completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Record these times, then decide again.
    Record(OrderTimes),
    /// Record the boot that an order of an old manager is for, then decide again.
    Adopt(BootId),
    /// Take the order back: nothing of the node was freed, and nothing will be.
    Cancel,
    /// Ask these for acknowledgement until the quorum is complete, then decide again.
    Ask(Quorum),
    /// Free the workload.
    Release(By),
    /// Wait until then.
    Wait {
        /// Until when.
        until: Timestamp,
        /// What releases then.
        by: By,
    },
    /// Wait for something that time does not bring.
    Hold(Hold),
}

/// Why time alone does not release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Acknowledgements are missing.
    Quorum(Quorum),
    /// Not armed.
    NotArmed,
    /// bound=none.
    NoBound,
    /// The announcement is gone or unreadable.
    NoAnnouncement,
    /// The kubelet reports no boot ID.
    NoBootId,
    /// Most other workers are sick (mixed operation).
    Storm,
    /// The order names no time.
    NoTime,
    /// The order names no boot, and the kubelet was heard after it was given.
    NoRecordedBoot,
    /// The remediation was deleted while an old agent runs: it ends its order with that.
    OldAgentAndDeleted,
}

/// Acknowledgements, needed and got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    /// Among the workers of the announced table.
    pub workers: Votes,
    /// Among the control-plane nodes of the announced table.
    pub control_plane: Votes,
}

/// Acknowledgements of one electorate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Votes {
    /// |T|.
    pub table: usize,
    /// Members as the manager counts them.
    pub members: BTreeSet<NodeName>,
    /// Members that have acknowledged.
    pub got: BTreeSet<NodeName>,
}

impl Votes {
    /// How many are needed.
    pub const fn needed(&self) -> usize {
        quorum_of(self.table)
    }

    /// Whether enough have acknowledged.
    pub fn is_complete(&self) -> bool {
        self.got.len() >= self.needed()
    }

    /// Whom to ask still.
    pub fn open(&self) -> impl Iterator<Item = &NodeName> {
        self.members.difference(&self.got)
    }
}

impl Quorum {
    /// Whether each table that is not empty has acknowledged.
    pub fn is_complete(&self) -> bool {
        self.workers.is_complete() && self.control_plane.is_complete()
    }

    /// Takes in an acknowledgement; whoever is no member does not count.
    pub fn acknowledge(&mut self, node: &NodeName) {
        for votes in [&mut self.workers, &mut self.control_plane] {
            if votes.members.contains(node) {
                votes.got.insert(node.clone());
            }
        }
    }

    fn of(
        announced: &Announcement,
        node: &NodeName,
        peers: &[Peer],
        acknowledged: &BTreeSet<NodeName>,
    ) -> Self {
        let listed: Vec<ListedNode> = peers.iter().map(|peer| peer.listed.clone()).collect();
        let votes = |electorate, table: u32| {
            let members = members(&listed, node, electorate, announced.stamp);
            let got = members.intersection(acknowledged).cloned().collect();
            Votes {
                table: usize::try_from(table).unwrap_or(usize::MAX),
                members,
                got,
            }
        };
        Self {
            workers: votes(Electorate::Workers, announced.workers),
            control_plane: votes(Electorate::ControlPlane, announced.cp),
        }
    }

    /// Whether so few members run our agent that a quorum cannot come (mixed operation).
    fn cannot_come(&self, peers: &[Peer]) -> bool {
        let old: BTreeSet<&NodeName> = peers
            .iter()
            .filter(|peer| !peer.our_agent)
            .map(|peer| &peer.listed.name)
            .collect();
        [&self.workers, &self.control_plane]
            .into_iter()
            .any(|votes| {
                let old = votes
                    .members
                    .iter()
                    .filter(|member| old.contains(member))
                    .count();
                is_strict_majority(old, votes.table)
            })
    }
}

/// Decides about an order in phase Pre-Reboot-Completed.
pub fn decide(seen: &Seen<'_>, now: Timestamp) -> Result<Decision, BudgetError> {
    let (remediation, node) = (seen.remediation, seen.node);
    let Some(recorded) = &remediation.boot else {
        // An old manager's order that is not wanted any more: nothing was freed on it, and nothing will be.
        return Ok(if remediation.deleting && node.ready == Status::True {
            Decision::Cancel
        } else {
            adopt(seen)
        });
    };
    if node.has_rebooted_since(recorded) {
        return Ok(Decision::Release(By::Reboot));
    }
    if node.kubelet_boot.is_none() {
        return Ok(Decision::Hold(Hold::NoBootId));
    }
    if remediation.deleting && node.ready == Status::True {
        return Ok(Decision::Cancel);
    }
    if seen.assumed_rebooted.is_none() {
        return Ok(Decision::Hold(Hold::NoTime));
    }
    let Some(times) = seen.times else {
        let begin = OrderTimes::begin(remediation.uid.clone(), recorded.clone(), now);
        return Ok(Decision::Record(begin.with_bound(node.announced.as_ref())));
    };
    let words = match last_words(seen, recorded, times, now)? {
        Some(decision @ (Decision::Record(_) | Decision::Release(_))) => return Ok(decision),
        other => other,
    };
    // Ordered on an announcement. If that is gone together with the pod of the agent, nobody says what the agent does.
    let was_announced = times.bound.is_some() && node.agent == AgentPods::None;
    let by_time = if node.announces() || was_announced {
        by_announcement(seen, recorded, times, now)?
    } else if node.agent == AgentPods::Unstarted {
        Decision::Hold(Hold::NoAnnouncement)
    } else if remediation.deleting {
        Decision::Hold(Hold::OldAgentAndDeleted)
    } else {
        guarded(seen, times, now)
    };
    Ok(match (words, by_time) {
        (_, decision @ (Decision::Record(_) | Decision::Release(_) | Decision::Ask(_))) => decision,
        (Some(words), _) => words,
        (None, by_time) => by_time,
    })
}

/// An order of an old manager names no boot. If the kubelet was not heard since the remediation was created, what it
/// reported last is the boot that the order was for.
fn adopt(seen: &Seen<'_>) -> Decision {
    let heard_after = match (seen.kubelet_seen, seen.remediation.created) {
        (Some(heard), Some(created)) => heard >= created,
        (None, _) | (_, None) => true,
    };
    match &seen.node.kubelet_boot {
        Some(boot) if !heard_after => Decision::Adopt(boot.clone()),
        Some(_) | None => Decision::Hold(Hold::NoRecordedBoot),
    }
}

/// E2: the agent's last words for the recorded boot.
fn last_words(
    seen: &Seen<'_>,
    recorded: &BootId,
    times: &OrderTimes,
    now: Timestamp,
) -> Result<Option<Decision>, BudgetError> {
    let Some(words) = seen
        .node
        .last_words
        .as_ref()
        .filter(|words| words.boot == *recorded)
    else {
        return Ok(None);
    };
    let Some(first_sight) = times.words else {
        let times = OrderTimes {
            words: Some(now),
            ..times.clone()
        };
        return Ok(Some(Decision::Record(times)));
    };
    // Whatever this manager recorded itself is not older than its own first look.
    let by_another = first_sight < seen.watched_since;
    let wait = budget::after_last_words(words.timeout, by_another)?;
    let until = later(first_sight, wait)?;
    let by = By::LastWords;
    Ok(Some(if now < until {
        Decision::Wait { until, by }
    } else {
        Decision::Release(by)
    }))
}

/// The rule for a node that announces.
fn by_announcement(
    seen: &Seen<'_>,
    recorded: &BootId,
    times: &OrderTimes,
    now: Timestamp,
) -> Result<Decision, BudgetError> {
    let Some(announced) = seen.node.announced.as_ref() else {
        return Ok(Decision::Hold(Hold::NoAnnouncement));
    };
    if announced.boot != *recorded {
        // Unreachable after the check for E1, and harmless if that is ever changed.
        return Ok(Decision::Hold(Hold::NoAnnouncement));
    }
    if !announced.armed {
        return Ok(Decision::Hold(Hold::NotArmed));
    }
    let Some(bound) = announced.bound else {
        return Ok(Decision::Hold(Hold::NoBound));
    };
    // Not larger than used: a larger announcement is used from here on, which can only postpone.
    let (used_bound, used_wd) = (times.bound.unwrap_or(0), times.wd.unwrap_or(0));
    if bound > used_bound || announced.wd > used_wd {
        return Ok(Decision::Record(times.clone().with_bound(Some(announced))));
    }
    let quorum = Quorum::of(announced, &seen.node.name, seen.peers, seen.acknowledged);
    let since = match times.quorum {
        Some(since) => since,
        None if quorum.is_complete() => {
            let quorum = Some(now.max(times.seen));
            return Ok(Decision::Record(OrderTimes {
                quorum,
                ..times.clone()
            }));
        }
        None if quorum.cannot_come(seen.peers) => return Ok(guarded(seen, times, now)),
        None if !seen.asked => return Ok(Decision::Ask(quorum)),
        None => return Ok(Decision::Hold(Hold::Quorum(quorum))),
    };
    let until = later(since, budget::after_quorum(used_bound, used_wd)?)?
        .max(seen.assumed_rebooted.unwrap_or(Timestamp::MAX));
    Ok(release_at(until, By::Time, now))
}

/// Whether enough members of the announced table have acknowledged.
pub fn has_quorum(node: &Node, peers: &[Peer], acknowledged: &BTreeSet<NodeName>) -> bool {
    node.announced.as_ref().is_some_and(|announced| {
        Quorum::of(announced, &node.name, peers, acknowledged).is_complete()
    })
}

/// Whether the storm guard decides about the release by time, not a quorum (mixed operation): only then the state of all
/// other workers has to be looked at.
pub fn needs_guard(node: &Node, peers: &[Peer]) -> bool {
    let nobody = BTreeSet::new();
    !node.announces()
        || node.announced.as_ref().is_some_and(|announced| {
            Quorum::of(announced, &node.name, peers, &nobody).cannot_come(peers)
        })
}

/// Mixed operation: the storm guard (fencing-safety 4 ii).
fn guarded(seen: &Seen<'_>, times: &OrderTimes, now: Timestamp) -> Decision {
    if seen.storm {
        return Decision::Hold(Hold::Storm);
    }
    let until = times
        .seen
        .max(seen.calm_since)
        .checked_add(seen.guard_wait)
        .unwrap_or(Timestamp::MAX)
        .max(seen.assumed_rebooted.unwrap_or(Timestamp::MAX));
    release_at(until, By::GuardedTime, now)
}

fn release_at(until: Timestamp, by: By, now: Timestamp) -> Decision {
    if now < until {
        Decision::Wait { until, by }
    } else {
        Decision::Release(by)
    }
}

fn later(moment: Timestamp, by: Duration) -> Result<Timestamp, BudgetError> {
    moment.checked_add(by).map_err(|_| BudgetError::TooLong)
}

/// How the workload of a released node may be removed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Removal {
    /// By force, or by the out-of-service taint: nothing of the recorded boot runs any more, and no later boot is known.
    Force(Released),
    /// Only by graceful deletion which the kubelet confirms: the node is in another boot (E1).
    Graceful,
    /// The node came back in another boot and its kubelet was lost again: order that boot to end.
    Renew(OrderTerms),
    /// As before, but this boot cannot be ordered to end, so nothing is removed.
    Hold(Missing),
    /// No release of this boot is recorded, so nothing is removed.
    Unreleased,
}

/// Decides how to remove the workload, before each round of removal. `left`: pods remain. `times`: what was recorded
/// for this UID and boot.
pub fn removal(
    node: &Node,
    recorded: Option<&BootId>,
    times: Option<&OrderTimes>,
    left: bool,
    renewal: Result<OrderTerms, Missing>,
) -> Removal {
    let Some(recorded) = recorded else {
        return Removal::Unreleased;
    };
    if !node.has_rebooted_since(recorded) {
        let released = times
            .filter(|times| times.boot == *recorded)
            .and_then(|times| times.released);
        return match released {
            // A reboot that was seen once and is not seen now proves nothing about what runs.
            Some(released) if node.kubelet_boot.is_some() && released.by != By::Reboot => {
                Removal::Force(released)
            }
            Some(_) | None => Removal::Unreleased,
        };
    }
    // A kubelet that has just started is not Ready yet, but it is heard.
    if node.ready != Status::Unknown || !left {
        return Removal::Graceful;
    }
    match renewal {
        Ok(terms) if terms.grounds != Grounds::OldAgent && terms.boot != *recorded => {
            Removal::Renew(terms)
        }
        Ok(_) => Removal::Hold(Missing::AnnouncementOfThisBoot),
        Err(missing) => Removal::Hold(missing),
    }
}
