//! Replacing the agents' certificates before they expire, in stages: pure.
//!
//! ```text
//!            Secret that the agents mount     certificate   trusted CAs
//!            …-certificates                   old           old
//!  stage 1   …-certificates-both              old           old, new
//!  stage 2   …-certificates-next              new           old, new
//!  stage 3   …-certificates (made anew)       new           new
//! ```
//!
//! # Guarantees
//! * At no moment do two agents run that do not accept each other: CA and certificate never change in one stage, and a
//!   stage begins only when every agent runs with the one before. Otherwise an API outage in between would look like
//!   isolation on every node, and all of them would reset themselves.
//! * No stage begins while there is a remediation.
//! * A process that dies between any two steps is continued by the next one: what is to come is stored before what is
//!   goes. The Secret of the original's name is only ever replaced when nobody mounts it.
//!
//! # Caveats
//! Each stage has a Secret of its own name. A kubelet never reads an immutable Secret again as long as some pod on its
//! node uses that name, and the roll-out lets two agents overlap: the successor would get the old content.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use medik8s_api::names::snr;
use medik8s_core::time;
use self_node_remediation_peer::CertificateSet;

#[cfg(test)]
mod tests;

/// The Secret of stage 1.
pub const BOTH_SECRET: &str = "self-node-remediation-certificates-both";
/// The Secret of stage 2.
pub const NEXT_SECRET: &str = "self-node-remediation-certificates-next";
/// Certificates are replaced when one of them expires within this time.
const DUE: Duration = Duration::from_hours(365 * 24);
/// How often to look while a rotation is under way.
const POLL: Duration = Duration::from_secs(30);
/// How often to look otherwise.
const REST: Duration = Duration::from_hours(12);

/// A stored set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// UID of its Secret.
    pub uid: String,
    /// What it holds.
    pub set: CertificateSet,
}

/// The set of stage 2, with what only stage 3 needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// As it is mounted: both CAs.
    pub stored: Stored,
    /// The new CA alone.
    pub new_ca_pem: String,
}

/// The Secrets as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sets {
    /// The one of the original's name.
    pub main: Option<Stored>,
    /// First end of a certificate in it.
    pub first_expiry: Option<Timestamp>,
    /// Stage 1.
    pub both: Option<Stored>,
    /// Stage 2.
    pub next: Option<Next>,
}

impl Sets {
    /// The set by which everybody can be spoken to at this stage; `None`: there is none at all.
    pub fn for_the_manager(&self) -> Option<&CertificateSet> {
        let next = self.next.as_ref().map(|next| &next.stored);
        let stored = if self.is_old(self.main.as_ref()) {
            self.both.as_ref().or(self.main.as_ref())
        } else {
            next.or(self.main.as_ref()).or(self.both.as_ref())
        };
        stored.map(|stored| &stored.set)
    }

    /// Whether this set has the certificate that is to be replaced.
    fn is_old(&self, stored: Option<&Stored>) -> bool {
        let new = self.next.as_ref().map(|next| &next.stored.set.cert_pem);
        stored.is_some_and(|stored| Some(&stored.set.cert_pem) != new)
    }
}

/// What is done about the Secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make a new CA and certificate and store them for stage 2.
    CreateNext {
        /// The CAs that are trusted now.
        old_ca_pem: String,
    },
    /// Store a set.
    Create {
        /// Name of the Secret.
        secret: &'static str,
        /// What it holds.
        set: CertificateSet,
    },
    /// Delete a Secret that nobody mounts.
    Delete {
        /// Its name.
        secret: &'static str,
        /// The UID it must have.
        uid: String,
    },
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The Secret that agents mount.
    pub mount: &'static str,
    /// What to do about the Secrets.
    pub change: Option<Change>,
    /// When to look again.
    pub wake: Duration,
    /// What the next stage waits for, as a part of a sentence.
    pub waits_for: Option<String>,
}

/// Decides. `quiet`: there is no remediation.
pub fn decide(
    sets: &Sets,
    daemon_set: Option<&DaemonSet>,
    quiet: bool,
    now: Timestamp,
) -> Rotation {
    let mounted = daemon_set.map_or(snr::CERTIFICATES_SECRET, mounted);
    let may_begin = quiet && daemon_set.is_none_or(is_settled);
    let blocked = || (!may_begin).then(|| obstacle(daemon_set, quiet));
    let stay = |mount, change: Option<Change>| Rotation {
        mount,
        waits_for: blocked().filter(|_| change.is_none()),
        change,
        wake: POLL,
    };
    let Some(next) = &sets.next else {
        let due = sets
            .first_expiry
            .is_some_and(|expiry| expiry <= time::after(now, DUE));
        let begin = sets.main.as_ref().filter(|_| due && may_begin);
        return Rotation {
            mount: snr::CERTIFICATES_SECRET,
            change: begin.map(|main| Change::CreateNext {
                old_ca_pem: main.set.ca_pem.clone(),
            }),
            wake: if due { POLL } else { REST },
            waits_for: blocked().filter(|_| due),
        };
    };
    let Some(main) = &sets.main else {
        // Gone between two steps of ours, or by somebody's hand: whoever mounts it next must be accepted by those who
        // run, so it becomes new only after stage 2.
        let set = match &sets.both {
            Some(both) if mounted != NEXT_SECRET => both.set.clone(),
            Some(_) | None => last(next),
        };
        return stay(
            mounted,
            Some(Change::Create {
                secret: snr::CERTIFICATES_SECRET,
                set,
            }),
        );
    };
    if !sets.is_old(Some(main)) {
        let settled = mounted == snr::CERTIFICATES_SECRET && may_begin;
        let leftover = sets
            .both
            .as_ref()
            .map_or((NEXT_SECRET, &next.stored.uid), |both| {
                (BOTH_SECRET, &both.uid)
            });
        let change = settled.then(|| Change::Delete {
            secret: leftover.0,
            uid: leftover.1.clone(),
        });
        return stay(snr::CERTIFICATES_SECRET, change);
    }
    if sets.both.is_none() {
        let set = CertificateSet {
            ca_pem: next.stored.set.ca_pem.clone(),
            ..main.set.clone()
        };
        return stay(
            mounted,
            Some(Change::Create {
                secret: BOTH_SECRET,
                set,
            }),
        );
    }
    if !may_begin {
        return stay(mounted, None);
    }
    match mounted {
        BOTH_SECRET => stay(NEXT_SECRET, None),
        NEXT_SECRET => stay(
            NEXT_SECRET,
            Some(Change::Delete {
                secret: snr::CERTIFICATES_SECRET,
                uid: main.uid.clone(),
            }),
        ),
        _ => stay(BOTH_SECRET, None),
    }
}

/// Why no stage may begin.
fn obstacle(daemon_set: Option<&DaemonSet>, quiet: bool) -> String {
    if !quiet {
        return "all remediations to end (kubectl get snr -A)".to_owned();
    }
    let status = daemon_set.and_then(|set| set.status.as_ref());
    let count = |of: fn(&DaemonSetStatus) -> i32| status.map_or(0, of);
    format!(
        "all agents to run as configured and to be ready: of {} that are wanted, {} are up to date and {} ready \
         (kubectl get pods -A -o wide -l {})",
        count(|status| status.desired_number_scheduled),
        count(|status| status.updated_number_scheduled.unwrap_or(0)),
        count(|status| status.number_ready),
        snr::AGENT_SELECTOR,
    )
}

/// The set of stage 3.
fn last(next: &Next) -> CertificateSet {
    CertificateSet {
        ca_pem: next.new_ca_pem.clone(),
        ..next.stored.set.clone()
    }
}

/// The set of stage 2, from a new one.
pub fn next_set(old_ca_pem: &str, new: &CertificateSet) -> CertificateSet {
    CertificateSet {
        ca_pem: format!("{}\n{}", old_ca_pem.trim_end(), new.ca_pem),
        ..new.clone()
    }
}

/// The Secret that the agents of this DaemonSet mount.
fn mounted(set: &DaemonSet) -> &'static str {
    let volumes = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref())
        .and_then(|pod| pod.volumes.as_ref());
    let name = volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref())
        .find_map(|name| {
            [BOTH_SECRET, NEXT_SECRET]
                .into_iter()
                .find(|known| *known == name)
        });
    name.unwrap_or(snr::CERTIFICATES_SECRET)
}

/// Whether every agent runs as the DaemonSet says, and is ready.
fn is_settled(set: &DaemonSet) -> bool {
    let Some(status) = &set.status else {
        return false;
    };
    let desired = status.desired_number_scheduled;
    status.observed_generation >= set.metadata.generation
        && status.updated_number_scheduled.unwrap_or(0) == desired
        && status.current_number_scheduled == desired
        && status.number_ready == desired
}
