//! The plan for one health check: what to do now, what to say, and when to look again.
//!
//! ```text
//!   gates ── closed ──▶ finish recovered nodes, keep leases, say why nothing else happens
//!     │
//!    open
//!     ▼
//!   orphans ▶ healthy nodes ▶ thresholds and storm ── held back ──▶ keep leases, say why
//!                                     │
//!                                 enough healthy
//!                                     ▼
//!          per unhealthy node: excluded? ▶ control plane ▶ step of the ladder ▶ create | manage
//! ```
//!
//! # Guarantees
//! * [`plan`] is a function of its arguments. Carrying out its steps and planning again leads to a
//!   plan without steps, unless something else changed.
//! * S2: at most one control-plane node gets its first remediation per plan, and none while another
//!   one has a remediation of any kind.
//! * S3: no [`Step::Create`] while a gate is closed, below the threshold, in a storm, for an
//!   excluded node, or when the ladder is exhausted.
//! * S5: nothing is deleted and no step is given up for a node that is only soon unhealthy.
//! * S8, S9: a step is recorded as timed out only when its annotation is in place or must not be
//!   put; the next step starts only after that record is stored.
//!
//! # Caveats
//! The facts come from caches. What must be certain at the moment of creation (S1, S2, S7, S13) is
//! checked again by the effects, under one lock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use medik8s_api::names::{contract, nhc};
use medik8s_api::remediation::{NodeHealthCheckStatus, UnhealthyNode};
use medik8s_core::time::whole_second;

use crate::check::TemplateRef;
use crate::classify::{self, Class};
use crate::facts::Observed;
use crate::node::{MachineRef, NodeFacts};
use crate::notice::{Announcement, Notice, Notices, Severity, Topic};
use crate::remediation::{Handle, Ownership, Remediation};

mod entries;
mod gate;
mod healthy;
mod ladder;
pub(crate) mod leases;
mod orphans;
mod status;
mod storm;
#[cfg(test)]
mod tests;
mod unhealthy;

pub use gate::Gate;
pub use status::{Standing, broken};

/// How long to wait before asking again when something is in the way.
pub const RETRY: Duration = Duration::from_mins(1);

/// How soon a missing template is looked for again.
pub const TEMPLATE_RETRY: Duration = Duration::from_secs(15);

/// Pause between giving up a step and starting the next.
pub const NEXT_STEP_DELAY: Duration = Duration::from_secs(1);

/// Remediations that are being deleted for longer than this are worth a line in the log.
pub const PENDING_DELETION: Duration = Duration::from_secs(10);

/// Remediations older than this are reported.
pub const OLD_REMEDIATION: Duration = Duration::from_hours(48);

/// What is added to the expected duration of a step to size the node lease.
pub const LEASE_BUFFER: Duration = Duration::from_mins(1);

/// Why a remediation is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removal {
    /// The node is healthy again.
    Recovered,
    /// The node is gone.
    NodeGone,
    /// The node is there, but the health check does not select it any more.
    LeftSelector,
    /// The machine is gone, or the health check does not select it any more.
    MachineGone,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Give back the lease of a node, if it is ours.
    ReleaseLease {
        /// The node.
        node: String,
    },
    /// Delete a remediation of ours.
    Delete {
        /// Which.
        remediation: Handle,
        /// The node that it was for.
        node: String,
        /// Why.
        cause: Removal,
    },
    /// Note on a remediation since when its node is healthy.
    StartHealthyDelay {
        /// Which.
        remediation: Handle,
    },
    /// Take that note back: the node is unhealthy again.
    ClearHealthyDelay {
        /// Which.
        remediation: Handle,
    },
    /// Take the confirmation of its health off a node: it has served its purpose.
    DropConfirmation {
        /// The node.
        node: String,
    },
    /// Keep the lease of a node.
    RenewLease {
        /// The node.
        node: String,
        /// UID of the node.
        node_uid: String,
        /// For how long from now.
        duration: Duration,
    },
    /// Tell a remediator to stop.
    TimeOut {
        /// Which.
        remediation: Handle,
        /// The version that was judged: a remediator that reports success meanwhile must not be
        /// told to stop.
        version: String,
    },
    /// Mark a remediation as reported for its age, and count it.
    ReportOld {
        /// Which.
        remediation: Handle,
        /// Its node.
        node: String,
    },
    /// Create a remediation, after everything was checked again directly.
    Create(Creation),
}

/// A remediation to create.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Creation {
    /// The node; empty for a machine that has none.
    pub node: String,
    /// The machine, if a MachineHealthCheck asks; the remediation is named after it then.
    pub machine: Option<MachineRef>,
    /// The template.
    pub template: TemplateRef,
    /// For how long the node lease is needed.
    pub lease: Duration,
    /// Whether the node belongs to the control plane.
    pub control_plane: bool,
    /// Whether the time that the lease may be held begins anew.
    pub first: bool,
}

impl Creation {
    /// What is to be remediated: the machine, or else the node.
    pub fn subject(&self) -> &str {
        self.machine
            .as_ref()
            .map_or(self.node.as_str(), |machine| machine.name.as_str())
    }
}

/// What to do, to say and to store.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Steps, in this order.
    pub steps: Vec<Step>,
    /// The status as it should be.
    pub status: NodeHealthCheckStatus,
    /// Changes to tell when the status is stored.
    pub announcements: Vec<Announcement>,
    /// What is worth saying as long as it is true.
    pub notices: Notices,
    /// How things stand, per node.
    pub standings: BTreeMap<String, Standing>,
    /// When to look again.
    pub wake: Option<Timestamp>,
    /// Whether a remediation is held back because of another control-plane node.
    pub waits_for_control_plane: bool,
    /// Whether the facts were too incomplete to act: the caller reports an error and retries.
    pub incomplete: Option<String>,
}

/// Makes the plan.
pub fn plan(seen: &Observed, now: Timestamp) -> Plan {
    let mut draft = Draft::new(seen, now);
    let judged = draft.judge();
    let gate = Gate::of(seen, &judged);
    draft.tell_polled();
    draft.handle_orphans();
    draft.handle_unselected_leases();
    let mut healthy = 0_usize;
    for (node, class) in &judged {
        match class {
            Class::NotMatching => healthy += usize::from(draft.handle_healthy(node)),
            Class::Soon {
                type_,
                status,
                until,
            } => {
                draft.handle_soon(node, type_, status, *until);
            }
            Class::Matching { .. } => {}
        }
    }
    let matching = judged.iter().filter_map(|(node, class)| match class {
        Class::Matching { type_, status } => Some((*node, type_.as_str(), status.as_str())),
        Class::Soon { .. } | Class::NotMatching => None,
    });
    draft.handle_unhealthy(matching.collect(), &gate, healthy);
    draft.finish(&gate, healthy)
}

/// A plan in the making.
struct Draft<'a> {
    seen: &'a Observed,
    now: Timestamp,
    steps: Vec<Step>,
    announcements: Vec<Announcement>,
    notices: Notices,
    standings: BTreeMap<String, Standing>,
    wake: Option<Timestamp>,
    waits_for_control_plane: bool,
    /// Entries of the stored status.
    stored: BTreeMap<&'a str, &'a UnhealthyNode>,
    /// Entries of the new status.
    entries: BTreeMap<String, UnhealthyNode>,
    /// Own remediations by the node that they are for. Not by their name where that differs, as
    /// the original does: the annotation says for which node, and another node's recovery must not
    /// end it.
    own: BTreeMap<&'a str, Vec<&'a Remediation>>,
    /// Names of the selected nodes.
    selected: BTreeSet<&'a str>,
    /// Why nothing new is remediated, for all nodes alike.
    held_back: Option<String>,
    /// What the storm's conditions become; `None` leaves them.
    storm: Option<crate::storm::StormState>,
}

impl<'a> Draft<'a> {
    fn new(seen: &'a Observed, now: Timestamp) -> Self {
        let mut own: BTreeMap<&str, Vec<&Remediation>> = BTreeMap::new();
        for remediation in &seen.remediations {
            if remediation.ownership(&seen.owner) == Ownership::Ours {
                own.entry(remediation.node()).or_default().push(remediation);
            }
        }
        Self {
            seen,
            now,
            steps: Vec::new(),
            announcements: Vec::new(),
            notices: Notices::new(),
            standings: BTreeMap::new(),
            wake: None,
            waits_for_control_plane: false,
            stored: seen
                .status
                .unhealthy_nodes
                .iter()
                .flatten()
                .map(|entry| (entry.name.as_str(), entry))
                .collect(),
            entries: BTreeMap::new(),
            own,
            selected: seen.nodes.iter().map(|node| node.name.as_str()).collect(),
            held_back: None,
            storm: None,
        }
    }

    /// Judges the selected nodes. What a MachineHealthCheck looks after counts as healthy.
    fn judge(&self) -> Vec<(&'a NodeFacts, Class)> {
        let seen = self.seen;
        seen.nodes
            .iter()
            .map(|node| {
                let class = classify::classify(&seen.check.rules, &node.conditions, self.now);
                let ignored = matches!(class, Class::Matching { .. })
                    && seen.cluster.machine_health_checks.look_after(node);
                (
                    node.as_ref(),
                    if ignored { Class::NotMatching } else { class },
                )
            })
            .collect()
    }

    /// Own remediations for a node.
    fn own(&self, node: &str) -> Vec<&'a Remediation> {
        self.own.get(node).cloned().unwrap_or_default()
    }

    /// Looks again at `at`; a moment that has passed is one second from now, so that a fact which
    /// does not change in spite of us cannot make us spin.
    fn wake_at(&mut self, at: Timestamp) {
        let at = if at > self.now {
            at
        } else {
            medik8s_core::time::after(self.now, NEXT_STEP_DELAY)
        };
        self.wake = Some(self.wake.map_or(at, |earlier| earlier.min(at)));
    }

    fn wake_in(&mut self, wait: Duration) {
        self.wake_at(medik8s_core::time::after(self.now, wait));
    }

    fn step(&mut self, step: Step) {
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }

    fn notice(
        &mut self,
        reason: &'static str,
        subject: &str,
        severity: Severity,
        message: impl Into<String>,
    ) {
        let topic = Topic {
            reason,
            subject: subject.to_owned(),
        };
        self.notices.insert(
            topic,
            Notice {
                severity,
                message: message.into(),
            },
        );
    }

    /// A warning that remediation is skipped.
    fn skipped(&mut self, subject: &str, message: impl Into<String>) {
        self.notice(
            contract::REMEDIATION_SKIPPED,
            subject,
            Severity::Warning,
            message,
        );
    }

    /// Tells of kinds that may not be watched: everything about them is noticed late.
    fn tell_polled(&mut self) {
        let seen = self.seen;
        for (kind, what) in &seen.polled_kinds {
            let message = format!("{kind}: {what}");
            self.notice(
                REASON_POLLING,
                &kind.to_string(),
                Severity::Warning,
                message,
            );
        }
    }

    fn handle_soon(&mut self, node: &'a NodeFacts, type_: &str, status: &str, until: Timestamp) {
        self.wake_at(until);
        let own = self.own(&node.name);
        if !own.is_empty() || self.stored.contains_key(node.name.as_str()) {
            self.track(node.name.as_str(), &own);
            self.clear_healthy_delay(&own);
            self.keep_lease(node, &own);
        }
        self.standings.insert(
            node.name.clone(),
            Standing::Soon {
                condition: format!("{type_}={status}"),
                until,
            },
        );
    }

    /// Keeps a node in the status, with an entry for each of its remediations.
    fn track(&mut self, node: &str, own: &[&Remediation]) {
        let stored = self.stored.get(node).copied();
        let entry = entries::unhealthy(node, stored, own, self.seen, self.now);
        self.entries.insert(node.to_owned(), entry);
    }

    fn clear_healthy_delay(&mut self, own: &[&Remediation]) {
        for remediation in own {
            if remediation.healthy_delay.is_some() && remediation.deleting_since.is_none() {
                self.step(Step::ClearHealthyDelay {
                    remediation: remediation.handle(),
                });
            }
        }
    }

    /// Gives back the lease of a node for which no remediation of ours is seen. While a kind cannot be
    /// seen at all, one may be there that the status does not name yet.
    fn release_unneeded_lease(&mut self, node: &str) {
        if self.seen.unknown_kinds.is_empty() {
            self.release_lease(node);
        }
    }

    fn release_lease(&mut self, node: &str) {
        if self.seen.leases.contains_key(node) {
            self.step(Step::ReleaseLease {
                node: node.to_owned(),
            });
        }
    }
}

/// The time as the API stores it.
fn stored_time(time: Timestamp) -> Time {
    whole_second(time)
}

/// How a step is named in messages.
fn named(template: &TemplateRef) -> String {
    format!(
        "{} (template {})",
        template.remediation_kind().kind,
        template.name
    )
}

/// Event reason: a kind may not be watched.
const REASON_POLLING: &str = "PollingInsteadOfWatching";

/// The reasons under which plans speak, for the ledger and its tests.
pub const REASONS: &[&str] = &[
    contract::REMEDIATION_SKIPPED,
    nhc::EVENT_DETECTED_UNHEALTHY,
    nhc::EVENT_INVALID_NODE_LABEL,
    nhc::EVENT_NO_TEMPLATE_LEFT,
    REASON_POLLING,
];
