//! What to do about the configuration: pure.
//!
//! ```text
//! no configuration, or being deleted   nothing: garbage collection removes the DaemonSet
//! not renderable                       event, keep what runs
//! certificates absent                  create them, go on
//! certificates unusable                event, keep what runs
//! certificates about to expire         replace them, one stage after the other (see `rotation`)
//! an order is in flight                keep the agents as they are, look again
//! DaemonSet of an incompatible form    delete it, then apply
//! otherwise                            apply Service and DaemonSet; mark remediations as possible
//! ```

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Service};
use medik8s_api::{
    SelfNodeRemediation, names::snr, self_node_remediation::SelfNodeRemediationConfig,
};
use medik8s_core::{
    conditions::{self, Status},
    time,
};
use self_node_remediation_core::order::{Phase, Remediation};
use self_node_remediation_core::release::OrderTimes;

use super::daemonset;
use super::rotation::{self, Change, Sets};
use crate::validate;

#[cfg(test)]
mod tests;

/// How long an order may keep a changed configuration from the agents. Beyond it the remediation is
/// stuck for another reason, and keeping the agents old does not help it.
pub const LONGEST_HOLD: Duration = Duration::from_hours(1);
/// How often to look whether the orders are gone.
const HOLD_POLL: Duration = Duration::from_secs(30);
/// How often to look again at certificates that cannot be used.
const CERTIFICATES_POLL: Duration = Duration::from_mins(1);

/// What is known.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// The configuration, unless it is absent.
    pub config: Option<&'a SelfNodeRemediationConfig>,
    /// The agents' DaemonSet, if there is one.
    pub daemon_set: Option<&'a DaemonSet>,
    /// The Secret with the certificates.
    pub certificates: Certificates,
    /// All Secrets with certificates, for their replacement.
    pub sets: &'a Sets,
    /// All remediations.
    pub remediations: Vec<&'a SelfNodeRemediation>,
    /// The operator's namespace.
    pub namespace: &'a str,
    /// Image of the agents.
    pub image: &'a str,
}

/// State of the Secret with the certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificates {
    /// There is none.
    Absent,
    /// Agents can use it.
    Usable,
    /// Agents cannot use it, and why. Replacing it by itself could cut the agents that run from
    /// each other, so a person must decide.
    Unusable(String),
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Create the Secret with new certificates.
    CreateCertificates,
    /// Replace the certificates, one step of it.
    Rotate(Change),
    /// Apply the headless Service.
    ApplyService(Box<Service>),
    /// Delete the DaemonSet of this UID: its form cannot be changed in place.
    DeleteDaemonSet(String),
    /// Apply the DaemonSet.
    ApplyDaemonSet(Box<DaemonSet>),
    /// Tell on the configuration what is wrong: event reason and message.
    Warn(&'static str, String),
    /// The same, of something that is normal for a while.
    WarnIfItLasts(&'static str, String),
    /// Remove the condition Disabled from this remediation: namespace, name, resource version and
    /// the conditions that stay.
    Enable {
        /// Namespace of the remediation.
        namespace: String,
        /// Its name.
        name: String,
        /// The version that was looked at.
        resource_version: String,
        /// The conditions without Disabled.
        conditions: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
    },
}

/// What to do, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Steps; a failed one ends the run.
    pub steps: Vec<Step>,
    /// When to look again although nothing changed.
    pub wake: Option<Duration>,
}

/// Event reason: the configuration cannot be used.
pub const EVENT_UNUSABLE_CONFIG: &str = "ConfigurationUnusable";
/// Event reason: the replacement of the certificates is held up.
pub const EVENT_ROTATION_WAITS: &str = "CertificateRotationWaits";
/// Event reason: the certificates cannot be used.
pub const EVENT_UNUSABLE_CERTIFICATES: &str = "CertificatesUnusable";

/// Decides.
pub fn plan(seen: &Observed<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(config) = seen
        .config
        .filter(|config| config.metadata.deletion_timestamp.is_none())
    else {
        return plan;
    };
    let service = daemonset::service(config, seen.namespace);
    let quiet = seen.remediations.is_empty();
    let rotation = rotation::decide(seen.sets, seen.daemon_set, quiet, now);
    let wanted = daemonset::daemon_set(config, seen.namespace, seen.image, rotation.mount);
    let (service, wanted) = match (service, wanted) {
        (Ok(service), Ok(wanted)) => (service, wanted),
        (Err(error), _) | (_, Err(error)) => {
            let text = with_sources(&error);
            plan.steps.push(Step::Warn(
                EVENT_UNUSABLE_CONFIG,
                format!("the agents keep their present settings, because {text}"),
            ));
            return plan;
        }
    };
    let adjusted = validate::peer_timeout_warning(&config.spec);
    plan.steps
        .extend(adjusted.map(|text| Step::Warn(snr::EVENT_PEER_TIMEOUT_ADJUSTED, text)));
    if let (Some(waits_for), Some(expiry)) = (&rotation.waits_for, seen.sets.first_expiry) {
        plan.steps.push(Step::WarnIfItLasts(
            EVENT_ROTATION_WAITS,
            format!(
                "the agents' certificates expire at {expiry}; their replacement waits for {waits_for}"
            ),
        ));
    }
    match &seen.certificates {
        Certificates::Usable => {
            plan.steps.extend(rotation.change.map(Step::Rotate));
            plan.wake = Some(rotation.wake);
        }
        // Lost in the middle of a replacement: other ones than those that are under way would cut the agents off from
        // each other.
        Certificates::Absent if rotation.change.is_some() => {
            plan.steps.extend(rotation.change.map(Step::Rotate));
            plan.wake = Some(rotation.wake);
        }
        Certificates::Absent => plan.steps.push(Step::CreateCertificates),
        Certificates::Unusable(why) => {
            plan.steps.push(Step::Warn(
                EVENT_UNUSABLE_CERTIFICATES,
                format!(
                    "the Secret {} cannot be used by agents: {why}; delete it to have a new one \
                     made",
                    snr::CERTIFICATES_SECRET
                ),
            ));
            plan.wake = Some(CERTIFICATES_POLL);
            return plan;
        }
    }
    plan.steps.push(Step::ApplyService(Box::new(service)));
    match seen.daemon_set {
        Some(_) if an_order_is_in_flight(&seen.remediations, now) => plan.wake = Some(HOLD_POLL),
        Some(set) if !same_form(set) => {
            plan.steps.push(Step::DeleteDaemonSet(
                set.metadata.uid.clone().unwrap_or_default(),
            ));
            plan.steps.push(Step::ApplyDaemonSet(Box::new(wanted)));
        }
        Some(_) | None => plan.steps.push(Step::ApplyDaemonSet(Box::new(wanted))),
    }
    plan.steps.extend(
        seen.remediations
            .iter()
            .filter_map(|remediation| enable(remediation)),
    );
    plan
}

/// Whether agents must stay as they are: from an order to its release, but not for longer than an
/// hour.
fn an_order_is_in_flight(remediations: &[&SelfNodeRemediation], now: Timestamp) -> bool {
    remediations.iter().any(|object| {
        Remediation::parse(object).is_some_and(|remediation| {
            remediation.is_order()
                && remediation.phase == Phase::PreRebootCompleted
                && longest_hold(object, &remediation).is_none_or(|end| now < end)
        })
    })
}

/// An hour from when the order was seen in place. Until that is recorded, which comes next, its own time stands in; what
/// another manager made without a time counts from its creation.
fn longest_hold(object: &SelfNodeRemediation, order: &Remediation) -> Option<Timestamp> {
    let hour_from = |from| time::after(from, LONGEST_HOLD);
    let status = object.status.as_ref();
    let assumed = status.and_then(|status| status.time_assumed_rebooted.as_ref());
    let recorded = OrderTimes::of(object, order).map(|times| hour_from(times.seen));
    recorded
        .or_else(|| assumed.map(|assumed| assumed.0))
        .or_else(|| order.created.map(hour_from))
}

fn same_form(set: &DaemonSet) -> bool {
    set.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(snr::FORCE_DELETION_REVISION_ANNOTATION))
        .is_some_and(|revision| revision == snr::FORCE_DELETION_REVISION)
}

fn enable(remediation: &SelfNodeRemediation) -> Option<Step> {
    let conditions = remediation.status.as_ref()?.conditions.as_ref()?;
    if !conditions::is(conditions, snr::DISABLED, Status::True) {
        return None;
    }
    let mut conditions = conditions.clone();
    conditions::remove(&mut conditions, snr::DISABLED);
    Some(Step::Enable {
        namespace: remediation.metadata.namespace.clone().unwrap_or_default(),
        name: remediation.metadata.name.clone().unwrap_or_default(),
        resource_version: remediation
            .metadata
            .resource_version
            .clone()
            .unwrap_or_default(),
        conditions,
    })
}

/// An error with its causes in one line.
pub(super) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
