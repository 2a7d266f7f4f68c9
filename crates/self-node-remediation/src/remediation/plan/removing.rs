//! Phase Reboot-Completed: the workload is removed.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Taint};
use medik8s_api::names::snr;
use medik8s_api::self_node_remediation::{RemediationStrategy, SelfNodeRemediationConfigSpec};
use medik8s_core::conditions::{Stage, Status};
use medik8s_core::time;
use medik8s_core::workload::{
    self, OutOfService, OutOfServiceRules, OutOfServiceSeen, pods_to_delete_gracefully,
    pods_to_force_delete,
};
use self_node_remediation_core::release::{Released, Removal, removal};

use super::super::error::RemediationError;
use super::super::observe::{NodeSeen, is_agent};
use super::super::tell::{self, Tale};
use super::{Draft, Next, Step, annotation, strategy};

/// How long Kubernetes may take to empty a node with the out-of-service taint (section 8).
const OUT_OF_SERVICE_LIMIT: Duration = Duration::from_mins(1);
/// How often to look whether the kubelet has ended the pods.
const GRACEFUL_POLL: Duration = Duration::from_secs(2);

impl Draft<'_> {
    pub(super) fn remove_workload(
        &mut self,
        node: &NodeSeen,
        config: &SelfNodeRemediationConfigSpec,
    ) -> Result<(), RemediationError> {
        let seen = self.seen;
        let remediation = &seen.remediation;
        if !remediation.is_order() {
            self.hold(
                tell::NO_FINALIZER,
                snr::EVENT_WAITING_FOR_EVIDENCE,
                "finalizer",
            );
            return Ok(());
        }
        if !node.tainted {
            self.step(Step::AddTaint);
            self.plan.next = Next::Again;
            return Ok(());
        }
        let renewal = self.terms(node, config)?;
        let left = self.old_pods().next().is_some();
        let recorded = remediation.boot.as_ref();
        match removal(&node.facts, recorded, seen.times.as_ref(), left, renewal) {
            Removal::Force(released) => self.remove_by_force(node, released),
            Removal::Graceful => self.remove_gracefully(node),
            Removal::Renew(terms) => {
                self.order(&terms)?;
                // After the status, never before it: with the new boot recorded and the old phase, a manager that takes
                // over would believe that this boot has ended.
                self.plan.after.insert(
                    0,
                    Step::Mark {
                        finalizer: false,
                        annotations: [annotation(snr::BOOT_ID_ANNOTATION, &terms.boot)].into(),
                    },
                );
                self.tell(Tale::Renewed);
                Ok(())
            }
            Removal::Hold(missing) => {
                let text = tell::lost_again(missing);
                self.hold(&text, snr::EVENT_WAITING_FOR_EVIDENCE, "lost-again");
                Ok(())
            }
            Removal::Unreleased if remediation.deleting && node.facts.ready == Status::True => {
                self.tell(Tale::Cancelled);
                self.clean_up()
            }
            Removal::Unreleased => {
                self.hold(
                    tell::UNRELEASED,
                    snr::EVENT_WAITING_FOR_EVIDENCE,
                    "unreleased",
                );
                Ok(())
            }
        }
    }

    fn remove_by_force(
        &mut self,
        node: &NodeSeen,
        released: Released,
    ) -> Result<(), RemediationError> {
        match strategy(self.seen) {
            Some(RemediationStrategy::ResourceDeletion) => {
                let name = node.facts.name.as_str();
                let pods = pods_to_force_delete(name, released.at, &self.seen.pods);
                if !pods.is_empty() {
                    self.step(Step::DeletePods { pods, force: true });
                }
                self.finish();
            }
            Some(RemediationStrategy::OutOfServiceTaint | RemediationStrategy::Automatic) => {
                match &node.out_of_service {
                    None => {
                        self.step(Step::AddOutOfService);
                        self.plan.next = Next::Again;
                    }
                    Some(taint) => return self.await_out_of_service(taint, released),
                }
            }
            Some(RemediationStrategy::Other(unknown)) => {
                return Err(RemediationError::UnknownStrategy(unknown));
            }
            // What the cluster can do is not known yet; it is asked for at start.
            None => self.plan.next = Next::After(Duration::from_secs(1)),
        }
        Ok(())
    }

    fn await_out_of_service(
        &mut self,
        taint: &Taint,
        released: Released,
    ) -> Result<(), RemediationError> {
        let seen = self.seen;
        let assumed = self
            .plan
            .status
            .time_assumed_rebooted
            .as_ref()
            .map(|time| time.0);
        let begin = assumed.map_or(released.at, |assumed| assumed.max(released.at));
        let facts = OutOfServiceSeen {
            taint,
            pods: &seen.pods,
            attachments: seen.attachments,
            deadline: time::after(begin, OUT_OF_SERVICE_LIMIT),
            deleting: seen.remediation.deleting,
        };
        match workload::out_of_service(&facts, is_agent, OutOfServiceRules::default(), self.now) {
            OutOfService::Done => {
                self.step(Step::RemoveOutOfService);
                self.finish();
            }
            OutOfService::Wait(wait) => self.plan.next = Next::After(wait),
            OutOfService::GivenUp => {
                self.step(Step::RemoveOutOfService);
                self.tell(Tale::OutOfServiceExpired);
                self.finish();
            }
            OutOfService::Late => {
                let (pods, attachments) = (seen.pods.len(), seen.attachments);
                let left = format!("{pods} pods and {attachments} volume attachments are left");
                return Err(RemediationError::OutOfServiceLate(left));
            }
        }
        Ok(())
    }

    /// The node is in another boot: its kubelet ends the pods, and says so by removing them.
    fn remove_gracefully(&mut self, node: &NodeSeen) -> Result<(), RemediationError> {
        if node.out_of_service.is_some() {
            // It would detach volumes that are mounted again.
            self.step(Step::RemoveOutOfService);
            self.plan.next = Next::Again;
            return Ok(());
        }
        let name = node.facts.name.as_str();
        let pods = pods_to_delete_gracefully(name, self.ordered_at(), &self.seen.pods);
        if !pods.is_empty() {
            self.step(Step::DeletePods { pods, force: false });
        }
        if self.old_pods().next().is_none() {
            self.finish();
            return Ok(());
        }
        // Whoever asked for the remediation takes it back because the node is well: a pod that does not end, though it
        // was told to, is its kubelet's business now. That is no success of the remediation.
        let taken_back = self.seen.remediation.deleting && node.facts.ready == Status::True;
        let is_told = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
        if taken_back && self.old_pods().all(is_told) {
            return self.clean_up();
        }
        self.explain(tell::GRACEFUL);
        self.plan.next = Next::After(GRACEFUL_POLL);
        Ok(())
    }

    fn finish(&mut self) {
        self.phase(snr::PHASE_FENCING_COMPLETED);
        // What the release rested on stays to be read when the events are gone.
        let released = self.seen.times.as_ref().and_then(|times| times.released);
        let message = released.map_or("", |released| tell::released(released.by));
        self.stage(Stage::Finished, snr::REASON_FINISHED_SUCCESSFULLY, message);
        self.plan.after.push(Step::Tell(Tale::WorkloadFreed));
        self.plan.next = if self.seen.remediation.deleting {
            Next::Again
        } else {
            Next::Idle
        };
    }

    /// From when on pods belong to the present boot of a node that came back.
    fn ordered_at(&self) -> Timestamp {
        let created = self.seen.remediation.created;
        self.seen
            .times
            .as_ref()
            .map(|times| times.seen)
            .or(created)
            .unwrap_or(self.now)
    }

    /// Pods that a node in another boot must still end: those that would run elsewhere.
    fn old_pods(&self) -> impl Iterator<Item = &Pod> {
        let ordered = self.ordered_at().as_second();
        self.seen.pods.iter().filter(move |pod| {
            let created = pod.metadata.creation_timestamp.as_ref();
            created.is_some_and(|created| created.0.as_second() < ordered)
                && !workload::is_mirror(pod)
                && !workload::belongs_to_daemon_set(pod)
        })
    }
}
