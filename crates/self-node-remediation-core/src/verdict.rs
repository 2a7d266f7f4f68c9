//! What a node without API may conclude from the answers of its peers.
//!
//! # Purpose
//! The tables of SelfNodeRemediation sections 14 (W1 to W8) and 17, as overruled by fencing-safety section 3: a verdict
//! is a proof that extends the permit, or a reason to fence at once, or nothing. Isolation is nothing: the permit then
//! runs out by itself at V, which leaves all of V for an answer.
//!
//! # Guarantees
//! * Only Unhealthy of a peer fences at once. "API error" and silence never do (section 23).
//! * Without strict majority, "API error" proves nothing, whatever the number of rounds (H4).
//! * A control-plane node that reaches its peers proves nothing by that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::agent::Shift;
use crate::budget::NO_RESPONSE_GRACE;
use crate::ids::NodeName;
use crate::permit::{Outage, PeerHealthy, Proof};
use crate::table::{Role, Table, is_strict_majority};
use crate::time::BootInstant;

#[cfg(test)]
mod tests;

/// What a peer said. An answer with an unknown status counts as silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Said {
    /// A live list has no remediation for us; with the moment when it was asked.
    Healthy {
        /// When the request was sent.
        sent: BootInstant,
    },
    /// There is a remediation for us.
    Unhealthy,
    /// The peer has no API either.
    ApiError,
    /// No answer: no address, no connection, an error, no time left.
    Silent,
}

impl Said {
    pub(crate) fn shift(&mut self, shift: Shift) {
        match self {
            Self::Healthy { sent } => *sent = shift.moment(*sent),
            Self::Unhealthy | Self::ApiError | Self::Silent => {}
        }
    }
}

/// The answers of one round, by node.
pub type Answers = BTreeMap<NodeName, Said>;

/// Electorates in force: the announced table, and while another is being announced that one as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Electorates<'a> {
    /// The table whose announcement is in force.
    pub announced: &'a Table,
    /// The table that may be in force already.
    pub pending: Option<&'a Table>,
}

impl Electorates<'_> {
    /// Whether a strict majority of both tables says so. One vote per name; who is in no table has none.
    fn most_say_api_error(
        &self,
        answers: &Answers,
        electorate: fn(&Table) -> &BTreeSet<NodeName>,
    ) -> bool {
        let most_of = |table: &Table| {
            let members = electorate(table);
            let says = |node: &&NodeName| answers.get(*node) == Some(&Said::ApiError);
            is_strict_majority(members.iter().filter(says).count(), members.len())
        };
        most_of(self.announced) && self.pending.is_none_or(most_of)
    }
}

/// What the worker peers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Workers {
    /// W1: too few failed checks, nobody asked.
    BelowThreshold,
    /// W2: fewer known workers than minPeersForRemediation.
    TooFew,
    /// W3: no other worker is known, and none is required.
    Nobody,
    /// W4: a worker says Healthy.
    Healthy(BootInstant),
    /// W5: a worker says Unhealthy.
    Unhealthy,
    /// W6: most workers have no API.
    Outage,
    /// W7: nothing decisive, for longer than the grace.
    Isolated,
    /// W8: nothing decisive yet.
    Grace,
}

/// A peer round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round<'a> {
    /// When it was started.
    pub started: BootInstant,
    /// Whether the worker part takes place (not below the threshold).
    pub full: bool,
    /// Whether all have answered or the time is over.
    pub ended: bool,
    /// What was said so far.
    pub answers: &'a Answers,
    /// Diagnostics of a control-plane node, once they are done.
    pub diagnostics: Option<bool>,
    /// How long ago the latest proof was.
    pub since_proof: Duration,
}

/// What follows for the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A proof that extends the permit.
    Proved(Proof),
    /// A peer knows of a remediation: fence.
    Unhealthy,
    /// Nothing.
    Open,
}

/// The worker part. `None`: not decided yet.
pub fn workers(
    round: &Round<'_>,
    electorates: Electorates<'_>,
    min_peers: usize,
) -> Option<Workers> {
    if !round.full {
        return Some(Workers::BelowThreshold);
    }
    let known = electorates.announced.workers.len();
    if known < min_peers {
        return Some(Workers::TooFew);
    }
    if known == 0 {
        return Some(Workers::Nobody);
    }
    let is_worker = |node: &NodeName| {
        electorates.announced.workers.contains(node)
            || electorates
                .pending
                .is_some_and(|table| table.workers.contains(node))
    };
    let said = || {
        round
            .answers
            .iter()
            .filter(|(node, _)| is_worker(node))
            .map(|(_, said)| *said)
    };
    let healthy = said().find_map(|said| match said {
        Said::Healthy { sent } => Some(sent),
        Said::Unhealthy | Said::ApiError | Said::Silent => None,
    });
    if let Some(sent) = healthy {
        Some(Workers::Healthy(sent))
    } else if said().any(|said| said == Said::Unhealthy) {
        Some(Workers::Unhealthy)
    } else if electorates.most_say_api_error(round.answers, |table| &table.workers) {
        Some(Workers::Outage)
    } else if !round.ended {
        None
    } else if round.since_proof > NO_RESPONSE_GRACE {
        Some(Workers::Isolated)
    } else {
        Some(Workers::Grace)
    }
}

/// What follows for a node of this role.
pub fn verdict(
    round: &Round<'_>,
    electorates: Electorates<'_>,
    min_peers: usize,
    role: Role,
) -> Verdict {
    let workers = workers(round, electorates, min_peers);
    let outage = Verdict::Proved(Proof::Outage(Outage::in_round(round.started)));
    if !role.control_plane {
        return match workers {
            Some(Workers::Healthy(sent)) => proved_healthy(sent),
            Some(Workers::Unhealthy) => Verdict::Unhealthy,
            Some(Workers::Outage) => outage,
            None
            | Some(
                Workers::BelowThreshold
                | Workers::TooFew
                | Workers::Nobody
                | Workers::Isolated
                | Workers::Grace,
            ) => Verdict::Open,
        };
    }
    let control_plane = control_plane(round.answers, electorates);
    match (control_plane, workers) {
        (ControlPlane::Unhealthy, _) => Verdict::Unhealthy,
        (_, Some(Workers::Healthy(sent))) | (ControlPlane::Healthy(sent), _) => {
            proved_healthy(sent)
        }
        (_, Some(Workers::Unhealthy)) => Verdict::Unhealthy,
        (_, Some(Workers::Outage)) if round.diagnostics == Some(true) => outage,
        (ControlPlane::Outage, Some(Workers::TooFew | Workers::Nobody | Workers::Isolated))
            if round.diagnostics == Some(true) =>
        {
            outage
        }
        (ControlPlane::Outage | ControlPlane::Open, _) => Verdict::Open,
    }
}

const fn proved_healthy(sent: BootInstant) -> Verdict {
    Verdict::Proved(Proof::PeerHealthy(PeerHealthy::asked_at(sent)))
}

enum ControlPlane {
    Unhealthy,
    Healthy(BootInstant),
    Outage,
    Open,
}

fn control_plane(answers: &Answers, electorates: Electorates<'_>) -> ControlPlane {
    let is_member = |node: &NodeName| {
        electorates.announced.control_plane.contains(node)
            || electorates
                .pending
                .is_some_and(|table| table.control_plane.contains(node))
    };
    let mut healthy = None;
    for (_, said) in answers.iter().filter(|(node, _)| is_member(node)) {
        match said {
            Said::Unhealthy => return ControlPlane::Unhealthy,
            Said::Healthy { sent } => healthy = Some(*sent),
            Said::ApiError | Said::Silent => {}
        }
    }
    if let Some(sent) = healthy {
        ControlPlane::Healthy(sent)
    } else if electorates.most_say_api_error(answers, |table| &table.control_plane) {
        ControlPlane::Outage
    } else {
        ControlPlane::Open
    }
}
