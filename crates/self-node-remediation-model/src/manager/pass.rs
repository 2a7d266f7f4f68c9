//! A pass of the manager over an order, as its plan does it: decide, record, decide again.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use self_node_remediation_core::ids::NodeName;
use self_node_remediation_core::release::{
    self, By, Decision, Hold, OrderTimes, Released, Removal, Seen,
};

use super::{Cluster, Freed, Order, Stage};
use crate::host::Host;
use crate::rules::Rule;
use crate::setup::{NAMES, Setup};
use crate::view::{boot_id, node, uid, wall};

impl Cluster {
    /// A pass of the manager: read, decide, write. What it says.
    pub fn pass(&mut self, setup: &Setup, x: &Host, ready: bool) -> Vec<String> {
        let mut told = Vec::new();
        // Each record leads to another look, as in production; there are fewer than this.
        for _ in 0..8 {
            let Some(order) = self.order.clone() else {
                break;
            };
            let again = match order.stage {
                Stage::Marked => {
                    if order.deleting {
                        self.order = None;
                    }
                    false
                }
                Stage::Ordered => self.follow(setup, &order, ready, &mut told),
                Stage::Released => self.remove(setup, &order, x, ready, &mut told),
            };
            if !again {
                break;
            }
        }
        told
    }

    fn follow(
        &mut self,
        setup: &Setup,
        order: &Order,
        ready: bool,
        told: &mut Vec<String>,
    ) -> bool {
        let facts = self.node(setup, ready);
        let everybody = setup.breaks(Rule::NoQuorum);
        let acknowledged: BTreeSet<NodeName> = (0u8..)
            .zip(NAMES)
            .filter(|(index, _)| everybody || self.acknowledged & (1 << index) != 0)
            .map(|(_, name)| node(name))
            .collect();
        let times = order
            .times
            .as_ref()
            .map(|times| Self::times_as_seen(setup, times, order.assumed));
        let object = order.object();
        let seen = Seen {
            remediation: &object,
            assumed_rebooted: Some(order.assumed),
            times: times.as_ref(),
            node: &facts,
            peers: self.listed(setup),
            acknowledged: &acknowledged,
            asked: true,
            // This manager has looked since long ago, and nothing here is released by the storm guard.
            storm: false,
            calm_since: Timestamp::UNIX_EPOCH,
            watched_since: Timestamp::UNIX_EPOCH,
            guard_wait: Duration::from_hours(1),
            kubelet_seen: None,
        };
        let decision = release::decide(&seen, wall()).unwrap_or(Decision::Hold(Hold::NoTime));
        let Some(order) = &mut self.order else {
            return false;
        };
        match decision {
            Decision::Record(mut new) => {
                if let Some(old) = &order.times {
                    // What was moved for the decision goes back.
                    new.seen = old.seen;
                    if old.quorum.is_some() {
                        new.quorum = old.quorum;
                    }
                    if old.words.is_some() {
                        new.words = old.words;
                    }
                }
                if new.quorum.is_some()
                    && order.times.as_ref().is_none_or(|old| old.quorum.is_none())
                {
                    told.push("the quorum is complete".to_owned());
                }
                order.times = Some(new);
                true
            }
            Decision::Cancel => {
                told.push("takes the order back: the node is up in the boot it was for".to_owned());
                self.order = None;
                self.acknowledged = 0;
                false
            }
            Decision::Release(by) => {
                told.push(format!("releases the workload, by {by}"));
                let boot = boot_id(order.boot);
                let begin = || OrderTimes::begin(uid(order.uid), boot, wall());
                let mut times = order.times.clone().unwrap_or_else(begin);
                times.released = Some(Released { at: wall(), by });
                order.times = Some(times);
                order.stage = Stage::Released;
                true
            }
            Decision::Hold(hold) => {
                told.push(format!("holds: {}", hold_text(&hold)));
                false
            }
            Decision::Wait { .. } | Decision::Ask(_) | Decision::Adopt(_) => false,
        }
    }

    fn remove(
        &mut self,
        setup: &Setup,
        order: &Order,
        x: &Host,
        ready: bool,
        told: &mut Vec<String>,
    ) -> bool {
        let facts = self.node(setup, ready);
        let boot = boot_id(order.boot);
        let renewal = self.terms(setup, ready);
        let times = order.times.as_ref();
        let mut how = release::removal(&facts, Some(&boot), times, true, renewal);
        if setup.breaks(Rule::ForceAfterReboot)
            && let (Removal::Graceful, Some(released)) =
                (&how, times.and_then(|times| times.released))
            && released.by == By::Reboot
        {
            how = Removal::Force(released);
        }
        match how {
            Removal::Force(_) => {
                told.push("deletes the pods of the node by force".to_owned());
                self.freed = Some(if x.up && x.pods {
                    Freed::WhileRunning
                } else {
                    Freed::ByForce
                });
                false
            }
            Removal::Graceful => {
                if ready {
                    told.push("the kubelet of the node ends the pods".to_owned());
                    self.freed = Some(Freed::Gracefully);
                }
                false
            }
            Removal::Renew(terms) => {
                told.push("orders the present boot to end".to_owned());
                let assumed = self.assumed(setup, &terms);
                self.acknowledged = 0;
                if let Some(order) = &mut self.order {
                    order.boot = self.kubelet_boot;
                    order.stage = Stage::Ordered;
                    order.assumed = assumed;
                    order.times = None;
                }
                true
            }
            Removal::Hold(_) => {
                told.push("holds: the node is in a boot that cannot be ordered to end".to_owned());
                false
            }
            Removal::Unreleased => {
                told.push("holds: no release of this boot is recorded".to_owned());
                false
            }
        }
    }
}

fn hold_text(hold: &Hold) -> &'static str {
    match hold {
        Hold::Quorum(_) => "acknowledgements are missing",
        Hold::NotArmed => "the node is not armed",
        Hold::NoBound => "the node has no bound",
        Hold::NoAnnouncement => "the node's announcement is missing",
        Hold::NoBootId => "the node reports no boot ID",
        Hold::Storm => "most others are sick",
        Hold::NoTime => "the order names no time",
        Hold::NoRecordedBoot => "the order names no boot",
        Hold::OldAgentAndDeleted => "an old agent runs",
    }
}
