//! The status that a plan ends in.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use medik8s_api::names::nhc;
use medik8s_api::remediation::NodeHealthCheckStatus;
use medik8s_core::conditions::{self, NewCondition, Refresh, Status};

use super::gate::REASON_INVALID_SPEC;
use super::{Draft, Gate, Plan, RETRY, TEMPLATE_RETRY, stored_time};
use crate::check::Problem;
use crate::notice::{Announcement, Notices};
use crate::remediation::Handle;
use crate::storm::StormState;

/// How many nodes `status.reason` names one by one.
const NAMED_NODES: usize = 4;

/// How things stand with a node that is not simply healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A rule will match unless the condition changes.
    Soon {
        /// Condition, as `type=status`.
        condition: String,
        /// When it matches.
        until: Timestamp,
    },
    /// A rule matches, and nothing (new) is done about it.
    Held {
        /// Condition, as `type=status`.
        condition: String,
        /// Why, if it is not what holds back all nodes.
        why: Option<String>,
        /// A remediation that goes on.
        running: Option<Handle>,
    },
    /// A remediation is about to be created.
    Creating {
        /// The step.
        step: String,
    },
    /// A remediation is at work.
    Running {
        /// Which.
        remediation: Handle,
        /// Its step.
        step: String,
        /// How long it may take.
        until: Option<Timestamp>,
    },
    /// A remediation was told to stop.
    GivenUp {
        /// Which.
        remediation: Handle,
    },
    /// No step is left.
    Exhausted,
    /// The node is healthy, its remediation is kept.
    Delayed {
        /// Until when; `None` is until a person confirms.
        until: Option<Timestamp>,
    },
    /// A remediation is about to be deleted.
    Deleting {
        /// Which.
        remediation: Handle,
    },
    /// A remediation waits for its finalizers.
    AwaitingDeletion {
        /// Which.
        remediation: Handle,
        /// Since when.
        since: Timestamp,
        /// Whether that is long.
        overdue: bool,
    },
    /// The node is healthy; whether a remediation is left cannot be seen.
    Unseen,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Soon { condition, until } => {
                write!(
                    f,
                    "has {condition}, which counts as unhealthy from {until:.0} on"
                )
            }
            Self::Held {
                condition,
                why,
                running,
            } => {
                write!(f, "is unhealthy ({condition})")?;
                if let Some(why) = why {
                    write!(f, " but not remediated: {why}")?;
                }
                running
                    .iter()
                    .try_for_each(|running| write!(f, ", {running} goes on"))
            }
            Self::Creating { step } => write!(f, "is unhealthy, next is {step}"),
            Self::Running {
                step,
                until: Some(until),
                ..
            } => {
                write!(f, "is being remediated by {step} until {until:.0}")
            }
            Self::Running {
                step, until: None, ..
            } => write!(f, "is being remediated by {step}"),
            Self::GivenUp { remediation } => write!(f, "{remediation} did not help in time"),
            Self::Exhausted => f.write_str("is unhealthy and no template is left"),
            Self::Delayed { until: Some(until) } => {
                write!(
                    f,
                    "is healthy again, its remediation is kept until {until:.0}"
                )
            }
            Self::Delayed { until: None } => write!(
                f,
                "is healthy again, its remediation is kept until the node is annotated with {}",
                medik8s_api::names::contract::MANUALLY_CONFIRMED_HEALTHY_ANNOTATION
            ),
            Self::Deleting { remediation } => {
                write!(f, "is healthy again, {remediation} is deleted")
            }
            Self::AwaitingDeletion {
                remediation, since, ..
            } => {
                write!(f, "{remediation} is being deleted since {since:.0}")
            }
            Self::Unseen => f.write_str("is healthy, but its remediation cannot be read"),
        }
    }
}

impl Draft<'_> {
    /// Completes the plan.
    pub(super) fn finish(mut self, gate: &Gate, healthy: usize) -> Plan {
        let (shown_observed, shown_healthy) = if gate.hides_counters() {
            (0, 0)
        } else {
            (self.seen.nodes.len(), healthy)
        };
        let mut status = self.seen.status.clone();
        status.observed_nodes = i64::try_from(shown_observed).ok();
        status.healthy_nodes = i64::try_from(shown_healthy).ok();
        status.in_flight_remediations = None;
        status.unhealthy_nodes =
            (!self.entries.is_empty()).then(|| self.entries.values().cloned().collect());
        let disabled = match gate {
            Gate::Disabled { reason, message } => Some((*reason, message.clone())),
            Gate::Open | Gate::Unknown(_) | Gate::Upgrading(_) | Gate::Paused(_) => None,
        };
        match gate {
            // Not being able to read says nothing about the template.
            Gate::Unknown(_) => {}
            Gate::Disabled { .. } | Gate::Open | Gate::Upgrading(_) | Gate::Paused(_) => {
                let generation = self.seen.check.generation;
                self.announcements.extend(set_disabled(
                    &mut status,
                    disabled.as_ref(),
                    generation,
                    self.now,
                ));
            }
        }
        if let Some(storm) = self.storm {
            set_storm(&mut status, storm, self.seen.check.generation, self.now);
        }
        match gate {
            Gate::Disabled { reason, .. } if *reason == nhc::REASON_TEMPLATE_NOT_FOUND => {
                self.wake_in(TEMPLATE_RETRY);
            }
            Gate::Disabled { reason, .. } if *reason == nhc::REASON_CONFLICTING_MHC => {}
            Gate::Disabled { .. } | Gate::Upgrading(_) => self.wake_in(RETRY),
            Gate::Unknown(_) => self.wake_in(TEMPLATE_RETRY),
            Gate::Open | Gate::Paused(_) => {}
        }
        let details = self.details(gate);
        set_phase(&mut status, &self.seen.check.pause_requests, &details);
        touch(&mut status, &self.seen.status, self.now);
        let incomplete = match gate {
            Gate::Unknown(why) => Some(why.clone()),
            Gate::Open | Gate::Disabled { .. } | Gate::Upgrading(_) | Gate::Paused(_) => None,
        };
        Plan {
            steps: self.steps,
            status,
            announcements: self.announcements,
            notices: self.notices,
            standings: self.standings,
            wake: self.wake,
            waits_for_control_plane: self.waits_for_control_plane,
            incomplete,
        }
    }

    /// What `status.reason` says beyond the phase: what is seen, what is waited for, until when.
    fn details(&self, gate: &Gate) -> String {
        let polled = self.seen.polled_kinds.iter();
        let mut parts: Vec<String> = polled
            .map(|(kind, what)| format!("{kind}: {what}"))
            .collect();
        let is_held = |standing: &Standing| matches!(standing, Standing::Held { why: None, .. });
        if let Some(why) = &self.held_back {
            let held: Vec<&str> = self
                .standings
                .iter()
                .filter(|(_, standing)| is_held(standing))
                .map(|(node, _)| node.as_str())
                .collect();
            if !held.is_empty() {
                let nodes = listed(&held);
                // The phase of these two says why already.
                let why = match gate {
                    Gate::Disabled { .. } | Gate::Paused(_) => String::new(),
                    Gate::Open | Gate::Unknown(_) | Gate::Upgrading(_) => format!(": {why}"),
                };
                parts.push(format!("not remediating {nodes}{why}"));
            }
        }
        let mut single = self
            .standings
            .iter()
            .filter(|(_, standing)| !is_held(standing));
        parts.extend(
            single
                .by_ref()
                .take(NAMED_NODES)
                .map(|(node, standing)| format!("{node}: {standing}")),
        );
        let more = single.count();
        if more > 0 {
            parts.push(format!("and {more} more"));
        }
        parts.join("; ")
    }
}

/// The first few names of a list.
fn listed(names: &[&str]) -> String {
    let shown: Vec<&str> = names.iter().copied().take(NAMED_NODES).collect();
    let more = names.len() - shown.len();
    if more == 0 {
        shown.join(", ")
    } else {
        format!("{} and {more} more", shown.join(", "))
    }
}

/// Sets condition `Disabled`; returns what to tell if that is a change.
fn set_disabled(
    status: &mut NodeHealthCheckStatus,
    disabled: Option<&(&'static str, String)>,
    generation: i64,
    now: Timestamp,
) -> Option<Announcement> {
    let list = status.conditions.get_or_insert_default();
    let before = conditions::get(list, nhc::DISABLED).cloned();
    let (holds, reason, message) = match disabled {
        Some((reason, message)) => (Status::True, *reason, message.as_str()),
        None => (
            Status::False,
            nhc::REASON_ENABLED,
            "No issues found, NodeHealthCheck is enabled",
        ),
    };
    let new = NewCondition {
        type_: nhc::DISABLED,
        status: holds,
        reason,
        message,
        observed_generation: Some(generation),
    };
    conditions::set(list, &new, Refresh::Always, now);
    let changed = before.is_none_or(|before| {
        before.status != holds.as_str()
            || (holds == Status::True && (before.reason != reason || before.message != message))
    });
    changed.then(|| match disabled {
        Some((reason, message)) => Announcement::warning(
            nhc::EVENT_DISABLED,
            format!("Disabling NHC. Reason: {reason}, Message: {message}"),
        ),
        None => Announcement::normal(nhc::EVENT_ENABLED, message),
    })
}

/// Sets the conditions of storm recovery. They appear with the first storm.
fn set_storm(
    status: &mut NodeHealthCheckStatus,
    storm: StormState,
    generation: i64,
    now: Timestamp,
) {
    let list = status.conditions.get_or_insert_default();
    let known = [nhc::STORM_ACTIVE, nhc::STORM_COOLDOWN_ACTIVE]
        .iter()
        .any(|type_| conditions::get(list, type_).is_some());
    if !known && !storm.active {
        return;
    }
    for (type_, holds, message) in [
        (
            nhc::STORM_ACTIVE,
            storm.active,
            if storm.active {
                "too few nodes were healthy, new remediations are held back"
            } else {
                "enough nodes are healthy"
            },
        ),
        (
            nhc::STORM_COOLDOWN_ACTIVE,
            storm.cooldown_since.is_some(),
            if storm.cooldown_since.is_some() {
                "enough nodes are healthy again, but not yet for long enough"
            } else {
                "no cooldown is running"
            },
        ),
    ] {
        let new = NewCondition {
            type_,
            status: Status::from(holds),
            reason: nhc::REASON_THRESHOLD_CHANGE,
            message,
            observed_generation: Some(generation),
        };
        conditions::set(list, &new, Refresh::WithStatus, now);
    }
}

/// Computes phase and reason. The reason begins as users know it; details follow.
fn set_phase(status: &mut NodeHealthCheckStatus, pause_requests: &[String], details: &str) {
    let list = status.conditions.as_deref().unwrap_or_default();
    let disabled = conditions::get(list, nhc::DISABLED)
        .filter(|condition| Status::parse(&condition.status) == Status::True);
    let remediating = status
        .unhealthy_nodes
        .iter()
        .flatten()
        .filter(|node| {
            node.remediations
                .as_ref()
                .is_some_and(|list| !list.is_empty())
        })
        .count();
    let (phase, reason) = if let Some(disabled) = disabled {
        let reason = format!("NHC is disabled: {}: {}", disabled.reason, disabled.message);
        (nhc::PHASE_DISABLED, reason)
    } else if !pause_requests.is_empty() {
        (
            nhc::PHASE_PAUSED,
            format!("NHC is paused: {}", pause_requests.join(",")),
        )
    } else if remediating > 0 {
        (
            nhc::PHASE_REMEDIATING,
            format!("NHC is remediating {remediating} nodes"),
        )
    } else {
        (
            nhc::PHASE_ENABLED,
            "NHC is enabled, no ongoing remediation".to_owned(),
        )
    };
    status.phase = Some(phase.to_owned());
    status.reason = Some(if details.is_empty() {
        reason
    } else {
        format!("{reason}; {details}")
    });
}

/// Sets the update time if anything else differs, and leaves it otherwise.
fn touch(status: &mut NodeHealthCheckStatus, stored: &NodeHealthCheckStatus, now: Timestamp) {
    status.last_update_time.clone_from(&stored.last_update_time);
    if *status != *stored {
        status.last_update_time = Some(stored_time(now));
    }
}

/// The plan for a health check that cannot be understood: nothing is done, and it says so.
pub fn broken(
    stored: &NodeHealthCheckStatus,
    pause_requests: &[String],
    problem: &Problem,
    generation: i64,
    now: Timestamp,
) -> Plan {
    let mut status = stored.clone();
    status.observed_nodes = Some(0);
    status.healthy_nodes = Some(0);
    let disabled = (REASON_INVALID_SPEC, problem.to_string());
    let announcements = set_disabled(&mut status, Some(&disabled), generation, now)
        .into_iter()
        .collect();
    set_phase(&mut status, pause_requests, "");
    touch(&mut status, stored, now);
    Plan {
        steps: Vec::new(),
        status,
        announcements,
        notices: Notices::new(),
        standings: BTreeMap::new(),
        wake: None,
        waits_for_control_plane: false,
        incomplete: None,
    }
}
