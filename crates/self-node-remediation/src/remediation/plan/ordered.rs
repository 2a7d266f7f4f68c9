//! Phase Pre-Reboot-Completed: from the order to the release.

use std::time::Duration;

use medik8s_api::names::snr;
use medik8s_api::self_node_remediation::SelfNodeRemediationConfigSpec;
use medik8s_core::time;
use self_node_remediation_core::budget::{self, Timing};
use self_node_remediation_core::release::{self, By, Decision, OrderTimes, Released, Seen};

use super::super::error::RemediationError;
use super::super::observe::NodeSeen;
use super::super::tell::{self, Tale};
use super::{Draft, Next, Step, annotation, order_annotations, user_wait};

/// How often to look while something other than time is waited for, and at the other nodes in mixed operation.
pub(super) const HOLD_POLL: Duration = Duration::from_secs(5);
/// How often to look while time is waited for. The watch of the node wakes earlier.
const WAIT_POLL: Duration = Duration::from_secs(10);

impl Draft<'_> {
    pub(super) fn follow_order(
        &mut self,
        node: &NodeSeen,
        config: &SelfNodeRemediationConfigSpec,
    ) -> Result<(), RemediationError> {
        let seen = self.seen;
        if !seen.remediation.is_order() {
            self.hold(
                tell::NO_FINALIZER,
                snr::EVENT_WAITING_FOR_EVIDENCE,
                "finalizer",
            );
            return Ok(());
        }
        let status = seen.object.status.as_ref();
        let facts = Seen {
            remediation: &seen.remediation,
            assumed_rebooted: status
                .and_then(|status| status.time_assumed_rebooted.as_ref())
                .map(|time| time.0),
            times: seen.times.as_ref(),
            node: &node.facts,
            peers: &seen.peers,
            acknowledged: &seen.acknowledged,
            asked: seen.asked,
            storm: seen.storm,
            calm_since: seen.calm_since,
            watched_since: seen.watched_since,
            guard_wait: self.guard_wait(node, config)?,
            kubelet_seen: seen.kubelet_seen,
        };
        match release::decide(&facts, self.now)? {
            Decision::Record(times) => self.record(&times),
            Decision::Adopt(boot) => {
                self.step(Step::Mark {
                    finalizer: false,
                    annotations: order_annotations(boot.as_str(), node.facts.name.as_str()),
                });
                self.plan.next = Next::Again;
            }
            Decision::Cancel => {
                self.tell(Tale::Cancelled);
                return self.clean_up();
            }
            Decision::Ask(quorum) => {
                if let Some(times) = &seen.times {
                    self.step(Step::Ask {
                        times: times.clone(),
                        quorum: Box::new(quorum),
                    });
                }
                self.plan.next = Next::Again;
            }
            Decision::Release(by) => self.release(node, by),
            Decision::Wait { until, by } => {
                let text = tell::waiting(until, by, seen.times.as_ref());
                self.explain(&text);
                self.tell(Tale::Waiting { until, by, text });
                let poll = match by {
                    By::GuardedTime => HOLD_POLL,
                    By::Time | By::Reboot | By::LastWords => WAIT_POLL,
                };
                self.plan.next = Next::After(time::until(until, self.now).min(poll));
            }
            Decision::Hold(hold) => {
                let (reason, key) = tell::hold_reason(&hold);
                self.hold(&tell::hold(&hold), reason, key);
            }
        }
        Ok(())
    }

    /// Says what is waited for, once per kind of thing, and looks again soon. Nothing skips this.
    pub(super) fn hold(&mut self, text: &str, reason: &'static str, key: &'static str) {
        self.explain(text);
        self.tell(Tale::Hold {
            text: text.to_owned(),
            reason,
            key,
        });
        self.plan.next = Next::After(HOLD_POLL);
    }

    fn record(&mut self, times: &OrderTimes) {
        self.step(Step::Mark {
            finalizer: false,
            annotations: [annotation(snr::ORDER_TIMES_ANNOTATION, times)].into(),
        });
        self.plan.next = Next::Again;
    }

    /// The commit: the node was read consistently in this pass, and both writes carry the version of the remediation
    /// that was read in it.
    fn release(&mut self, node: &NodeSeen, by: By) {
        self.plan.next = Next::Again;
        if !node.tainted {
            self.step(Step::AddTaint);
            return;
        }
        let Some(boot) = self.seen.remediation.boot.clone() else {
            return;
        };
        let begin = || OrderTimes::begin(self.seen.remediation.uid.clone(), boot, self.now);
        let mut times = self.seen.times.clone().unwrap_or_else(begin);
        times.released = Some(Released { at: self.now, by });
        self.record(&times);
        self.step(Step::Released(by));
        self.phase(snr::PHASE_REBOOT_COMPLETED);
        self.explain(tell::released(by));
        self.plan.after.push(Step::Tell(Tale::Released(by)));
    }

    /// D as the storm guard counts it.
    fn guard_wait(
        &self,
        node: &NodeSeen,
        config: &SelfNodeRemediationConfigSpec,
    ) -> Result<Duration, RemediationError> {
        let (timing, user) = (Timing::of(config)?, user_wait(config));
        Ok(match &node.facts.announced {
            Some(announced) if node.facts.announces() => {
                let bound = announced.bound.unwrap_or_else(|| timing.announced_span());
                budget::announced_wait(bound, announced.wd, user)?
            }
            Some(_) | None => release::old_agent_wait(
                &node.facts,
                &timing,
                &node.pod_timings,
                self.seen.workers,
                user,
            )?,
        })
    }
}
