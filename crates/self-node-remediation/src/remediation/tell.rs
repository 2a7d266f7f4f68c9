//! What people are told: events and condition messages.

use std::time::Duration;

use jiff::Timestamp;
use medik8s_api::names::{contract, snr};
use medik8s_core::go_duration;
use self_node_remediation_core::release::{By, Grounds, Hold, Missing, OrderTimes, Quorum};

/// Message of the condition Disabled.
pub(super) const DISABLED: &str = "there is no SelfNodeRemediationConfig named \
     self-node-remediation-config in the operator's namespace; create one to enable remediation";
/// The node carries the label.
pub(super) const EXCLUDED: &str = "the node is labelled \
     remediation.medik8s.io/exclude-from-remediation=true: nothing is done as long as it is";
/// The order has lost its finalizer.
pub(super) const NO_FINALIZER: &str = "somebody removed the finalizer, which ends the order to \
     reboot: nothing will be freed; delete this remediation";
/// A release is claimed that is not recorded.
pub(super) const UNRELEASED: &str = "the phase says that the node has rebooted, but no proof of it \
     is recorded: nothing will be freed by force; make sure that the node is off or healthy, then \
     delete this remediation";
/// The kubelet of a node that came back ends the pods.
pub(super) const GRACEFUL: &str = "the node has rebooted and is back: its kubelet ends the pods of \
     before, nothing is deleted by force";

/// Something to tell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tale {
    Started,
    Skipped,
    Stopped,
    NodeNotFound,
    CannotStart(Missing),
    TimeAssumed {
        until: Timestamp,
        wait: Duration,
        grounds: Grounds,
    },
    Waiting {
        until: Timestamp,
        by: By,
        text: String,
    },
    Hold {
        text: String,
        reason: &'static str,
        key: &'static str,
    },
    Cancelled,
    Renewed,
    Released(By),
    OutOfServiceExpired,
    WorkloadFreed,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) on_remediation: bool,
    pub(super) on_node: bool,
    /// Told once per key, until something else of the same prefix (up to the colon) was told.
    pub(super) once: Option<String>,
}

impl Event {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason,
            message: message.into(),
            on_remediation: true,
            on_node: false,
            once: None,
        }
    }

    /// An event about the remediation.
    pub(super) fn plain(reason: &'static str, message: &str) -> Self {
        Self::new(reason, message)
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            ..Self::new(reason, message)
        }
    }

    fn once(self, key: impl Into<String>) -> Self {
        Self {
            once: Some(key.into()),
            ..self
        }
    }

    fn on_both(self) -> Self {
        Self {
            on_node: true,
            ..self
        }
    }

    fn on_node_only(self) -> Self {
        Self {
            on_node: true,
            on_remediation: false,
            ..self
        }
    }
}

impl Tale {
    /// The event for it.
    pub(super) fn event(&self) -> Event {
        match self {
            Self::Started => {
                Event::new(contract::REMEDIATION_STARTED, "Remediation started").once("started:")
            }
            Self::Skipped => Event::new(contract::REMEDIATION_SKIPPED, EXCLUDED).once("skipped:"),
            Self::Stopped => Event::new(
                contract::REMEDIATION_STOPPED,
                "NHC added the timed-out annotation, remediation will be stopped",
            ),
            Self::NodeNotFound => Event::warning(
                contract::REMEDIATION_CANNOT_START,
                "Could not get remediation target Node",
            ),
            Self::CannotStart(missing) => {
                Event::warning(contract::REMEDIATION_CANNOT_START, cannot_start(*missing))
                    .once(format!("cannot-start:{missing:?}"))
            }
            Self::TimeAssumed {
                until,
                wait,
                grounds,
            } => {
                let wait = go_duration::format_unsigned(*wait);
                let text = format!("{} ({wait})", ordered(*until, *grounds));
                Event::new(snr::EVENT_UPDATE_TIME_ASSUMED_REBOOTED, text)
            }
            Self::Waiting { until, by, text } => {
                Event::new("WaitingForReboot", text.clone()).once(format!("wait:{until} {by}"))
            }
            Self::Hold { text, reason, key } => Event::warning(reason, text.clone())
                .on_both()
                .once(format!("hold:{key}")),
            Self::Cancelled => Event::new(
                "RemediationCancelled",
                "the remediation was deleted while the node is up in the boot that it was \
                 ordered to end: nothing was freed",
            ),
            Self::Renewed => Event::warning(
                "OrderRenewed",
                "the node came back and was lost again: it is ordered to reboot once more",
            )
            .on_both(),
            Self::Released(by) => Event::new("RebootConfirmed", released(*by)).on_both(),
            Self::OutOfServiceExpired => Event::warning(
                snr::EVENT_OUT_OF_SERVICE_EXPIRED,
                "the out-of-service taint did not empty the node in time and was removed, because \
                 the node is healthy again",
            )
            .on_node_only(),
            Self::WorkloadFreed => Event::new(
                snr::EVENT_DELETE_RESOURCES,
                "the workload of the node is freed",
            )
            .on_node_only(),
        }
    }
}

/// Why the node cannot be ordered to reboot.
pub(super) fn cannot_start(missing: Missing) -> String {
    format!("the node is not capable to reboot itself: {missing}")
}

/// The order as the conditions say it.
pub(super) fn ordered(until: Timestamp, grounds: Grounds) -> String {
    let follows = match grounds {
        Grounds::Announced => {
            format!("it counts as rebooted from {until} on, by the bound that its agent announced")
        }
        Grounds::OldAgent => format!(
            "it counts as rebooted from {until} on, by the bound of an agent that announces nothing"
        ),
        Grounds::Evidence => {
            "time frees nothing, its workload is freed when it is seen in another boot".to_owned()
        }
    };
    format!("the node is ordered to reboot; {follows}")
}

/// What time is waited for.
pub(super) fn waiting(until: Timestamp, by: By, times: Option<&OrderTimes>) -> String {
    let seen = times.map(|times| times.seen);
    let because = match (by, seen, times.and_then(|times| times.quorum)) {
        (By::LastWords, ..) => {
            "its agent stopped feeding the watchdog, which resets it within twice its timeout"
                .to_owned()
        }
        (By::GuardedTime, Some(seen), _) => format!(
            "it was ordered to reboot at {seen} and most other workers were healthy since; agents \
             of an earlier version cannot acknowledge the order, so a short failure of the control \
             plane could have gone unseen"
        ),
        (_, Some(seen), Some(quorum)) if times.and_then(|times| times.wd) == Some(0) => format!(
            "it was ordered to reboot at {seen}, enough of its peers have acknowledged that at \
             {quorum}, and its agent reboots it by software within {} s; it has no watchdog, so a \
             machine that hangs is not covered",
            times.and_then(|times| times.bound).unwrap_or_default(),
        ),
        (_, Some(seen), Some(quorum)) => format!(
            "it was ordered to reboot at {seen}, enough of its peers have acknowledged that at \
             {quorum}, and its agent resets it within {} s and twice its watchdog timeout of {} s",
            times.and_then(|times| times.bound).unwrap_or_default(),
            times.and_then(|times| times.wd).unwrap_or_default(),
        ),
        (_, _, None) | (_, None, _) => "it was ordered to reboot".to_owned(),
    };
    format!("the workload of the node will be free at {until}, because {because}")
}

/// On what the workload was released.
pub(super) const fn released(by: By) -> &'static str {
    match by {
        By::Time => {
            "the time has passed within which its agent resets the node, counted from order and \
             acknowledgements; a new boot was not seen yet"
        }
        By::GuardedTime => {
            "the time has passed within which an agent of an earlier version resets the node, and \
             most other workers were healthy all the while; a new boot was not seen yet"
        }
        By::Reboot => "the node was seen in another boot: its pods are ended by its kubelet only",
        By::LastWords => {
            "the agent stopped feeding the watchdog and said so, and its timeout has passed twice"
        }
    }
}

/// Reason of the event, and the kind of thing that is waited for.
pub(super) const fn hold_reason(hold: &Hold) -> (&'static str, &'static str) {
    match hold {
        Hold::Quorum(_) => (snr::EVENT_WAITING_FOR_QUORUM, "quorum"),
        Hold::NotArmed => (snr::EVENT_WAITING_FOR_EVIDENCE, "not-armed"),
        Hold::NoBound => (snr::EVENT_WAITING_FOR_EVIDENCE, "no-bound"),
        Hold::NoAnnouncement => (snr::EVENT_WAITING_FOR_EVIDENCE, "no-announcement"),
        Hold::NoBootId => (snr::EVENT_WAITING_FOR_EVIDENCE, "no-boot-id"),
        Hold::Storm => (snr::EVENT_WAITING_FOR_EVIDENCE, "storm"),
        Hold::NoTime => (snr::EVENT_WAITING_FOR_EVIDENCE, "no-time"),
        Hold::NoRecordedBoot => (snr::EVENT_WAITING_FOR_EVIDENCE, "no-recorded-boot"),
        Hold::OldAgentAndDeleted => (snr::EVENT_WAITING_FOR_EVIDENCE, "old-agent-deleted"),
    }
}

/// What is waited for that time does not bring.
pub(super) fn hold(hold: &Hold) -> String {
    let evidence = "the workload is freed only when the node is seen in another boot";
    match hold {
        Hold::Quorum(quorum) => {
            format!(
                "waiting for peers to acknowledge the order: {}; as long as most peers of the node \
                 may still keep it up, time frees nothing (check the agent pods and \
                 NetworkPolicies)",
                counts(quorum)
            )
        }
        Hold::NotArmed => format!(
            "the agent of the node says that nothing resets it (no watchdog, software reboot \
             disabled, or its agent was removed); {evidence}"
        ),
        Hold::NoBound => format!(
            "the node has too few peers to reset itself when it is cut off \
             (minPeersForRemediation); {evidence}"
        ),
        Hold::NoAnnouncement => {
            format!("the announcement of the node's agent is gone; {evidence}")
        }
        Hold::NoBootId => "the kubelet of the node reports no boot ID any more".to_owned(),
        Hold::Storm => format!(
            "most other workers are not Ready or not heard, so the control plane may be the cause; \
             the time of the node begins anew when they are back, or {evidence}"
        ),
        Hold::NoTime => "the order has no time from which the node counts as rebooted".to_owned(),
        Hold::NoRecordedBoot => format!(
            "the order was given by a manager of an earlier version that did not record the boot \
             of the node; {evidence}, or delete this remediation when the node is healthy"
        ),
        Hold::OldAgentAndDeleted => format!(
            "the remediation was deleted while the node runs an agent of an earlier version, which \
             takes that for the end of the order; {evidence}"
        ),
    }
}

fn counts(quorum: &Quorum) -> String {
    let mut parts = Vec::new();
    for (votes, what) in [
        (&quorum.workers, "workers"),
        (&quorum.control_plane, "control-plane nodes"),
    ] {
        if votes.table > 0 {
            parts.push(format!(
                "{} of {} needed {what} (it knows {}, {} can be asked)",
                votes.got.len(),
                votes.needed(),
                votes.table,
                votes.members.len(),
            ));
        }
    }
    parts.join(", ")
}

/// The node came back, was lost again, and cannot be ordered to reboot in its present boot.
pub(super) fn lost_again(missing: Missing) -> String {
    format!(
        "the node came back in another boot and its kubelet was lost again; it cannot be ordered \
         to reboot: {missing}; nothing is freed before its kubelet is heard again"
    )
}
