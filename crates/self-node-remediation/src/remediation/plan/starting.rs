//! Phase absent: from the creation of the remediation to the order.

use medik8s_api::names::snr;
use medik8s_api::self_node_remediation::SelfNodeRemediationConfigSpec;
use self_node_remediation_core::budget::{self, Timing};
use self_node_remediation_core::release::{self, Grounds, OrderTerms};

use super::super::error::RemediationError;
use super::super::observe::NodeSeen;
use super::super::tell::{self, Tale};
use super::{Draft, Next, Step, api_time, order_annotations, user_wait};

impl Draft<'_> {
    pub(super) fn start(
        &mut self,
        node: &NodeSeen,
        config: &SelfNodeRemediationConfigSpec,
    ) -> Result<(), RemediationError> {
        let remediation = &self.seen.remediation;
        if remediation.deleting {
            // Without the finalizer nothing was begun; with it, nothing was ordered.
            return self.clean_up();
        }
        let Some(terms) = self.order_terms(node, config)? else {
            return Ok(());
        };
        let recorded = remediation.boot.as_ref();
        if !remediation.finalizer || recorded.is_none() {
            // Peers say "unhealthy" from now on, so the node may reset itself before the order: the boot to end is
            // recorded here, or the order would be for the next one.
            let boot = recorded.unwrap_or(&terms.boot).as_str();
            if !remediation.finalizer {
                self.tell(Tale::Started);
            }
            self.step(Step::Mark {
                finalizer: !remediation.finalizer,
                annotations: order_annotations(boot, node.facts.name.as_str()),
            });
            self.plan.next = Next::Again;
        } else if !node.tainted {
            self.step(Step::AddTaint);
            self.plan.next = Next::Again;
        } else {
            self.order(&terms)?;
        }
        Ok(())
    }

    /// Writes the order: phase and time in one status.
    pub(super) fn order(&mut self, terms: &OrderTerms) -> Result<(), RemediationError> {
        let until = budget::assumed_rebooted(self.now, terms.wait)?;
        // Once written it is never moved earlier (section 23); a status from before may have a later one.
        let known = self
            .plan
            .status
            .time_assumed_rebooted
            .as_ref()
            .map(|time| time.0);
        let until = known.map_or(until, |known| known.max(until));
        self.plan.status.time_assumed_rebooted = Some(api_time(until));
        self.phase(snr::PHASE_PRE_REBOOT_COMPLETED);
        self.explain(&tell::ordered(until, terms.grounds));
        self.plan.is_order = true;
        self.plan.after.push(Step::Tell(Tale::TimeAssumed {
            until,
            wait: terms.wait,
            grounds: terms.grounds,
        }));
        self.plan.next = Next::Again;
        Ok(())
    }

    /// What the order is given with; without a precondition the pass reports what is missing.
    fn order_terms(
        &mut self,
        node: &NodeSeen,
        config: &SelfNodeRemediationConfigSpec,
    ) -> Result<Option<OrderTerms>, RemediationError> {
        let timing = Timing::of(config)?;
        let facts = &node.facts;
        if let Some(boot) = &self.seen.remediation.boot
            && facts.has_rebooted_since(boot)
        {
            // The node was reset before it was ordered to. The order is for the boot that has ended: it costs nobody a
            // second reboot, and the next pass sees the proof.
            let wait = timing.old_agent_wait(
                self.seen.workers,
                None,
                facts.control_plane,
                user_wait(config),
            )?;
            return Ok(Some(OrderTerms {
                boot: boot.clone(),
                wait,
                grounds: Grounds::Evidence,
            }));
        }
        match self.terms(node, config)? {
            Ok(terms) => Ok(Some(terms)),
            Err(missing) => {
                self.explain(&tell::cannot_start(missing));
                self.tell(Tale::CannotStart(missing));
                self.plan.error = Some(RemediationError::CannotStart(tell::cannot_start(missing)));
                Ok(None)
            }
        }
    }

    /// The precondition of an order for the boot that the node is in.
    pub(super) fn terms(
        &self,
        node: &NodeSeen,
        config: &SelfNodeRemediationConfigSpec,
    ) -> Result<Result<OrderTerms, release::Missing>, RemediationError> {
        let timing = Timing::of(config)?;
        Ok(release::terms(
            &node.facts,
            &timing,
            &node.pod_timings,
            self.seen.workers,
            user_wait(config),
        )?)
    }
}
