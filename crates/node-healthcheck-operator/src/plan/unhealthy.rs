//! Nodes that a rule matches.

use jiff::Timestamp;
use medik8s_api::names::nhc;
use medik8s_core::node::Exclusion;
use medik8s_core::time::after;

use super::{
    Creation, Draft, Gate, LEASE_BUFFER, NEXT_STEP_DELAY, OLD_REMEDIATION, RETRY, Standing, Step,
    entries, ladder, leases, named, stored_time,
};
use crate::check::Rung;
use crate::facts::Refusal;
use crate::node::NodeFacts;
use crate::notice::Severity;
use crate::remediation::{Ownership, Remediation};

impl<'a> Draft<'a> {
    /// Handles all nodes that a rule matches, in the order of their names.
    pub(super) fn handle_unhealthy(
        &mut self,
        nodes: Vec<(&'a NodeFacts, &str, &str)>,
        gate: &Gate,
        healthy: usize,
    ) {
        // A storm comes and goes also while nothing would be remediated. What is not known says
        // nothing about it.
        let brake = match gate {
            Gate::Open | Gate::Disabled { .. } | Gate::Upgrading(_) | Gate::Paused(_) => {
                self.apply_threshold(healthy)
            }
            Gate::Unknown(_) => None,
        };
        self.held_back = match (gate, &brake) {
            (Gate::Open, None) => None,
            (Gate::Open, Some(brake)) => Some(brake.why.clone()),
            (Gate::Disabled { message, .. }, _) => Some(message.clone()),
            (Gate::Unknown(why), _) => Some(why.clone()),
            (Gate::Upgrading(why), _) => Some(format!("the cluster is being upgraded: {why}")),
            (Gate::Paused(requests), _) => Some(format!("paused: {}", requests.join(","))),
        };
        self.announce_gate(gate);
        if *gate == Gate::Open
            && let Some(brake) = brake
            && !nodes.is_empty()
        {
            self.skipped("", brake.message);
        }
        let mut control_plane_planned = None;
        for (node, type_, status) in nodes {
            let own = self.own(&node.name);
            let condition = format!("{type_}={status}");
            if *gate == Gate::Open || !own.is_empty() || self.is_tracked(node) {
                self.track(&node.name, &own);
            }
            self.announce_unhealthy(node, type_, status, &own);
            self.clear_healthy_delay(&own);
            self.report_old(node, &own);
            if self.held_back.is_some() {
                self.keep_lease(node, &own);
                let standing = held(&condition, &own, None);
                self.standings.insert(node.name.clone(), standing);
                continue;
            }
            match node.exclusion() {
                Exclusion::Excluded => {
                    self.skipped(
                        &node.name,
                        format!(
                            "Skipped remediation of node {} because it is excluded by its label",
                            node.name
                        ),
                    );
                    self.keep_lease(node, &own);
                    let why = Some("it is excluded by its label".to_owned());
                    let standing = held(&condition, &own, why);
                    self.standings.insert(node.name.clone(), standing);
                    continue;
                }
                Exclusion::EmptyLabel => self.notice(
                    nhc::EVENT_INVALID_NODE_LABEL,
                    &node.name,
                    Severity::Warning,
                    format!(
                        "Node {} has the label {} without a value, which does not exclude it: the \
                         value must be true",
                        node.name,
                        medik8s_api::names::contract::EXCLUDE_FROM_REMEDIATION_LABEL
                    ),
                ),
                Exclusion::None => {}
            }
            let standing = self.remediate(node, &condition, &own, &mut control_plane_planned);
            self.standings.insert(node.name.clone(), standing);
        }
    }

    fn is_tracked(&self, node: &NodeFacts) -> bool {
        self.stored.contains_key(node.name.as_str())
    }

    fn announce_gate(&mut self, gate: &Gate) {
        match gate {
            Gate::Upgrading(why) => self.notice(
                medik8s_api::names::contract::REMEDIATION_SKIPPED,
                "",
                Severity::Normal,
                format!("Postponed potential remediations because the cluster is upgrading: {why}"),
            ),
            Gate::Paused(requests) => self.notice(
                medik8s_api::names::contract::REMEDIATION_SKIPPED,
                "",
                Severity::Normal,
                format!(
                    "Skipped remediation because of pause requests: {}",
                    requests.join(",")
                ),
            ),
            Gate::Unknown(why) => {
                self.skipped("", format!("Postponed potential remediations: {why}"));
            }
            Gate::Open | Gate::Disabled { .. } => {}
        }
    }

    fn announce_unhealthy(
        &mut self,
        node: &NodeFacts,
        type_: &str,
        status: &str,
        own: &[&Remediation],
    ) {
        let stored = self.stored.get(node.name.as_str());
        let under_way = !own.is_empty()
            || stored.is_some_and(|entry| entry.remediations.iter().flatten().next().is_some());
        if !under_way {
            self.notice(
                nhc::EVENT_DETECTED_UNHEALTHY,
                &node.name,
                Severity::Normal,
                format!(
                    "Node matches unhealthy condition. Node {:?}, condition type {type_:?}, \
                     condition status {status:?}",
                    node.name
                ),
            );
        }
    }

    fn report_old(&mut self, node: &NodeFacts, own: &[&Remediation]) {
        for remediation in own {
            if remediation.reported_old || remediation.deleting_since.is_some() {
                continue;
            }
            let due = after(remediation.created, OLD_REMEDIATION);
            if self.now >= due {
                self.step(Step::ReportOld {
                    remediation: remediation.handle(),
                    node: node.name.clone(),
                });
            } else {
                self.wake_at(due);
            }
        }
    }

    /// Remediates one node: the next thing that its ladder asks for.
    fn remediate(
        &mut self,
        node: &'a NodeFacts,
        condition: &str,
        own: &[&'a Remediation],
        control_plane_planned: &mut Option<String>,
    ) -> Standing {
        self.tell_passed_over(node);
        let Some(rung) = self.current_rung(node) else {
            self.notice(
                nhc::EVENT_NO_TEMPLATE_LEFT,
                &node.name,
                Severity::Warning,
                format!(
                    "Remediation of node {} has not helped: no template is left",
                    node.name
                ),
            );
            return Standing::Exhausted;
        };
        let existing = self.existing(node, rung);
        let ours = existing
            .iter()
            .find(|remediation| remediation.ownership(&self.seen.owner) == Ownership::Ours);
        match (ours, existing.first()) {
            (Some(remediation), _) => self.manage(node, rung, remediation),
            (None, Some(other)) => {
                let why = match other.ownership(&self.seen.owner) {
                    Ownership::Predecessor => {
                        format!(
                            "{} of an earlier health check is being removed",
                            other.handle()
                        )
                    }
                    Ownership::Ours | Ownership::Other => {
                        format!("{} of somebody else exists already", other.handle())
                    }
                };
                held(condition, own, Some(why))
            }
            (None, None) => self.propose(node, rung, condition, own, control_plane_planned),
        }
    }

    /// The other control-plane node that is being remediated, if that forbids to remediate this one.
    ///
    /// A node that is being remediated already goes on: forbidding it would stall both. Only by a
    /// remediation for which that was asked before, which its label says.
    fn other_control_plane_node(&self, node: &NodeFacts, planned: Option<&str>) -> Option<String> {
        if !node.is_control_plane() {
            return None;
        }
        let busy = &self.seen.control_plane.remediated;
        if busy.get(&node.name) == Some(&true) {
            return None;
        }
        busy.keys()
            .map(String::as_str)
            .chain(planned)
            .find(|other| *other != node.name)
            .map(ToOwned::to_owned)
    }

    /// All remediations of the step for the node, also those that are being deleted.
    fn existing(&self, node: &NodeFacts, rung: &Rung) -> Vec<&'a Remediation> {
        let seen = self.seen;
        seen.remediations
            .iter()
            .filter(|remediation| {
                remediation.node() == node.name && remediation.is_from(&rung.template)
            })
            .map(AsRef::as_ref)
            .collect()
    }

    /// Looks after a remediation that exists.
    fn manage(
        &mut self,
        node: &'a NodeFacts,
        rung: &'a Rung,
        remediation: &'a Remediation,
    ) -> Standing {
        if let Some(since) = remediation.deleting_since {
            self.renew_lease(node, rung);
            return Standing::AwaitingDeletion {
                remediation: remediation.handle(),
                since,
                overdue: self.now >= after(since, super::PENDING_DELETION),
            };
        }
        let stored = self.stored.get(node.name.as_str()).copied();
        let entry = entries::of_uid(stored, &remediation.uid);
        if entry.is_some_and(|entry| entry.timed_out.is_some()) {
            // Only a single template stays the step after it was given up.
            self.release_overdue_lease(node, rung);
            return Standing::GivenUp {
                remediation: remediation.handle(),
            };
        }
        if remediation.timed_out.is_some() {
            self.release_overdue_lease(node, rung);
            return self.give_up(node, remediation);
        }
        let started = entry.map_or(remediation.created, |entry| entry.started.0);
        let until = rung.timeout.map(|timeout| after(started, timeout));
        if let Some(until) = until {
            if self.now >= until || remediation.has_failed() {
                return self.give_up(node, remediation);
            }
            self.wake_at(until);
        }
        if let Some(overdue) = self.overdue(node, rung) {
            if self.now > overdue {
                return self.give_up(node, remediation);
            }
            self.wake_at(after(overdue, std::time::Duration::from_millis(1)));
            self.renew_lease(node, rung);
        }
        Standing::Running {
            remediation: remediation.handle(),
            step: named(&rung.template),
            until,
        }
    }

    /// Gives back the lease of a remediation that was given up since it held the lease for too long,
    /// and that no step follows.
    ///
    /// Not before it is told to stop: the lease alone says that it is overdue.
    fn release_overdue_lease(&mut self, node: &NodeFacts, rung: &Rung) {
        let overdue = self.overdue(node, rung).is_some_and(|at| self.now > at);
        if overdue && !self.seen.check.escalating {
            self.release_lease(&node.name);
        }
    }

    /// From when on the remediation of a node has held its lease for too long.
    fn overdue(&self, node: &NodeFacts, rung: &Rung) -> Option<Timestamp> {
        leases::overdue_from(self.seen.leases.get(&node.name)?, rung)
    }

    /// Ends a step: first the annotation, then (in the next plan) the record of it. A remediator
    /// that has succeeded is not told to stop.
    fn give_up(&mut self, node: &NodeFacts, remediation: &Remediation) -> Standing {
        self.wake_in(NEXT_STEP_DELAY);
        if remediation.timed_out.is_none() && !remediation.has_succeeded() {
            self.step(Step::TimeOut {
                remediation: remediation.handle(),
                version: remediation.resource_version.clone(),
            });
        } else if let Some(entry) = self.entries.get_mut(&node.name) {
            let list = entry.remediations.iter_mut().flatten();
            for entry in list {
                if entry.resource.uid.as_deref() == Some(&remediation.uid) {
                    entry.timed_out.get_or_insert_with(|| stored_time(self.now));
                }
            }
        }
        Standing::GivenUp {
            remediation: remediation.handle(),
        }
    }

    /// Proposes to create a remediation.
    fn propose(
        &mut self,
        node: &'a NodeFacts,
        rung: &Rung,
        condition: &str,
        own: &[&Remediation],
        control_plane_planned: &mut Option<String>,
    ) -> Standing {
        if let Some(other) = self.other_control_plane_node(node, control_plane_planned.as_deref()) {
            let why = Refusal::ControlPlaneBusy(other);
            self.refuse(node, &why, after(self.now, RETRY));
            self.waits_for_control_plane = true;
            return held(condition, own, Some(why.to_string()));
        }
        // Of an escalating ladder such a step is passed over.
        if let Some(why) = ladder::no_machine(node, &rung.template) {
            let why = Refusal::NoMachine(why);
            self.refuse(node, &why, after(self.now, RETRY));
            return held(condition, own, Some(why.to_string()));
        }
        if let Some(refused) = self.seen.refusals.get(&node.name)
            && refused.template == rung.template
            && self.now < refused.retry_at
        {
            let refused = refused.clone();
            self.refuse(node, &refused.why, refused.retry_at);
            return held(condition, own, Some(refused.why.to_string()));
        }
        let control_plane = node.is_control_plane();
        if control_plane && let Some(why) = self.quorum_forbids(node) {
            let why = Refusal::Quorum(why);
            self.refuse(node, &why, after(self.now, RETRY));
            return held(condition, own, Some(why.to_string()));
        }
        if control_plane {
            *control_plane_planned = Some(node.name.clone());
        }
        self.step(Step::Create(Creation {
            node: node.name.clone(),
            machine: None,
            template: rung.template.clone(),
            lease: rung.expected().saturating_add(LEASE_BUFFER),
            control_plane,
            first: self.begins_anew(node, rung, own),
        }));
        Standing::Creating {
            step: named(&rung.template),
        }
    }

    /// Whether the time of the lease begins with a new remediation: that of a new incident does. What
    /// is only being deleted belongs to one that is over. The next step of an incident that was
    /// paused or held back for long would be overdue at once otherwise.
    fn begins_anew(&self, node: &NodeFacts, rung: &Rung, own: &[&Remediation]) -> bool {
        own.iter().all(|one| one.deleting_since.is_some())
            || self.overdue(node, rung).is_some_and(|at| self.now > at)
    }

    /// Off OpenShift nobody guards etcd. If asked to, spare a control-plane node that still serves
    /// when the others alone are no majority.
    fn quorum_forbids(&self, node: &NodeFacts) -> Option<String> {
        let (cluster, control_plane) = (&self.seen.cluster, &self.seen.control_plane);
        if !cluster.guard_quorum || cluster.openshift || !node.is_ready() {
            return None;
        }
        let others = control_plane
            .ready
            .iter()
            .filter(|other| **other != node.name)
            .count();
        let majority = control_plane.total / 2 + 1;
        (others < majority).then(|| {
            format!(
                "it is ready, and only {others} others of {} are",
                control_plane.total
            )
        })
    }

    /// Notes why a node is not remediated, and when that is looked at again.
    fn refuse(&mut self, node: &NodeFacts, why: &Refusal, retry_at: Timestamp) {
        self.wake_at(retry_at);
        if why.is_announced() {
            // Failures are repeated sooner at first.
            let failed = matches!(why, Refusal::Failed(_));
            let when = if failed { "soon" } else { "in a minute" };
            self.skipped(
                &node.name,
                format!(
                    "Skipped remediation of node {} because {why}; trying again {when}",
                    node.name
                ),
            );
        }
    }
}

/// A node for which nothing (new) is done.
fn held(condition: &str, own: &[&Remediation], why: Option<String>) -> Standing {
    Standing::Held {
        condition: condition.to_owned(),
        why,
        running: own.first().map(|remediation| remediation.handle()),
    }
}
