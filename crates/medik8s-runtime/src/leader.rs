//! Leader election on a Lease.
//!
//! # Purpose
//! Of several replicas, and of an original manager and ours during an upgrade, at most one acts.
//! Object, fields and timing are those of client-go's election (k8s.io/client-go/tools/
//! leaderelection): lease 15 s, renew deadline 10 s, retry 2 s. Ours renews every 5 s only.
//!
//! # Guarantees
//! [`Leadership::remaining`] is positive only while the last renewal that the server confirmed was
//! *sent* less than the renew deadline ago, on this machine's boot clock. Others take over no
//! earlier than a lease duration after they saw that renewal, so 5 s lie between.
//! When the lease is lost [`Elector::run`] returns an error, which ends the process. On a clean
//! stop the lease is given back, after everything that writes has stopped (it runs as a service of
//! [`crate::process::Process`]).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use medik8s_core::leader::{Decision, Election};
use tokio::sync::watch;

pub use medik8s_core::leader::Params;

use crate::{
    clock::Clock, error::Error, metrics::Metrics, read, shutdown::Shutdown, write::Writer,
};

/// How long giving the lease back may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Who elects, and with which Lease.
#[derive(Clone)]
pub struct Settings {
    /// Client without retry ([`crate::client::Profile::NoRetry`]).
    pub client: Client,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who we are, see [`identity`].
    pub identity: String,
    /// Field manager, the binary's name.
    pub field_manager: &'static str,
    /// Time.
    pub clock: Clock,
    /// Where `leader_election_master_status` is.
    pub metrics: Metrics,
    /// Timing; `Params::default()` outside tests.
    pub params: Params,
}

/// `<hostname>_<random UUID>`, as client-go's users build it.
pub fn identity() -> String {
    format!("{}_{}", identity_host(), random_uuid())
}

/// The name of this machine; in a pod, the pod's name.
pub(crate) fn identity_host() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// A version 4 UUID (RFC 9562).
fn random_uuid() -> String {
    let random =
        (rand::random::<u128>() & !(0xf000 << 64) & !(0b11 << 62)) | (0x4000 << 64) | (0b10 << 62);
    let hex = format!("{random:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

/// Whether we are the leader, for everybody who acts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leadership {
    clock: Clock,
    /// Boot time until which the lease is provably ours.
    until: watch::Receiver<Option<Duration>>,
}

/// The lease is not provably ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the leader")]
pub struct NotLeader;

impl Leadership {
    /// For a process that acts without an election (`--leader-elect=false`).
    pub fn always(clock: Clock) -> Self {
        Self {
            clock,
            until: watch::Sender::new(Some(Duration::MAX)).subscribe(),
        }
    }

    /// A handle whose lease the test holds.
    #[cfg(test)]
    pub(crate) fn for_tests(clock: Clock) -> (Self, watch::Sender<Option<Duration>>) {
        let sender = watch::Sender::new(None);
        (
            Self {
                clock,
                until: sender.subscribe(),
            },
            sender,
        )
    }

    /// How long the lease is provably ours; `None` if it is not. Ask right before each effect that
    /// cannot be taken back ([`Writer::gated`] does).
    pub fn remaining(&self) -> Option<Duration> {
        let until = (*self.until.borrow())?;
        until
            .checked_sub(self.clock.boottime())
            .filter(|remaining| !remaining.is_zero())
    }

    /// Whether the lease is provably ours now.
    pub fn is_leader(&self) -> bool {
        self.remaining().is_some()
    }

    /// Fails when the lease is not provably ours now.
    pub fn check(&self) -> Result<(), NotLeader> {
        if self.is_leader() {
            Ok(())
        } else {
            Err(NotLeader)
        }
    }

    /// Boot time until which the lease is provably ours, if it is.
    pub fn valid_until(&self) -> Option<Duration> {
        self.remaining().and_then(|_| *self.until.borrow())
    }

    /// Returns when the lease is not provably ours any more; renewals count.
    pub async fn ended(&self) {
        while let Some(remaining) = self.remaining() {
            tokio::time::sleep(remaining).await;
        }
    }

    /// Waits until we are the leader; false when stopped first.
    pub async fn acquired(&self, stop: &Shutdown) -> bool {
        let mut until = self.until.clone();
        let leading = stop.or_stop(async move { until.wait_for(Option::is_some).await.is_ok() });
        match leading.await {
            Some(true) => true,
            // The elector is gone, which ends the process; do not act meanwhile.
            Some(false) => {
                stop.triggered().await;
                false
            }
            None => false,
        }
    }
}

/// Why the election ended the process.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// Not renewed in time, or somebody else has it.
    #[error("lost the leader lease {namespace}/{name}: {why}")]
    Lost {
        /// Namespace of the Lease.
        namespace: String,
        /// Name of the Lease.
        name: String,
        /// What happened.
        why: String,
    },
}

/// Takes, keeps and gives back the lease. Run it as a service.
pub struct Elector {
    settings: Settings,
    api: Api<Lease>,
    writer: Writer,
    until: watch::Sender<Option<Duration>>,
    election: Election,
}

/// Makes an election: the handle to ask, and the task that works on it.
pub fn elector(settings: Settings) -> (Leadership, Elector) {
    let until = watch::Sender::new(None);
    let leadership = Leadership {
        clock: settings.clock.clone(),
        until: until.subscribe(),
    };
    settings.metrics.leader(&settings.name, false);
    let api = Api::namespaced(settings.client.clone(), &settings.namespace);
    let election = Election::new(
        &*settings.namespace,
        &*settings.name,
        &*settings.identity,
        settings.params,
    );
    let writer = Writer::new(settings.field_manager);
    (
        leadership,
        Elector {
            settings,
            api,
            writer,
            until,
            election,
        },
    )
}

impl Elector {
    /// Runs until `stop`; gives the lease back then. Ends with an error when the lease is lost.
    pub async fn run(mut self, stop: Shutdown) -> Result<(), LeaderError> {
        let Settings {
            namespace,
            name,
            identity,
            clock,
            metrics,
            ..
        } = self.settings.clone();
        tracing::info!(namespace, name, identity, "waiting for the leader lease");
        let mut holder = None;
        let mut last_failure = None;
        loop {
            let decision = self.election.decide(clock.boottime(), clock.now());
            if decision == Decision::Lost {
                self.until.send_replace(None);
                metrics.leader(&name, false);
                let why = last_failure.unwrap_or_else(|| match self.election.holder() {
                    Some(other) if other != identity => format!("{other} holds it"),
                    Some(_) | None => "it was not renewed in time".to_owned(),
                });
                return Err(LeaderError::Lost {
                    namespace,
                    name,
                    why,
                });
            }
            let Some(done) = stop.or_stop(Box::pin(self.step(decision))).await else {
                break;
            };
            match done {
                Ok(()) => last_failure = None,
                Err(error) => {
                    tracing::warn!(
                        namespace,
                        name,
                        class = %error.class(),
                        error = &error as &dyn std::error::Error,
                        "could not look at or renew the leader lease"
                    );
                    self.election.failed(clock.boottime());
                    last_failure = Some(format!("{error} in time"));
                }
            }
            self.announce();
            let current = self.election.holder().map(str::to_owned);
            if current != holder {
                let leading = self.election.leads(clock.boottime());
                tracing::info!(
                    namespace,
                    name,
                    holder = current,
                    leading,
                    "leader lease changed"
                );
                holder = current;
            }
        }
        // From here on nobody may act: the writers are stopped, and the lease goes to others.
        self.until.send_replace(None);
        metrics.leader(&name, false);
        self.release().await;
        Ok(())
    }

    /// Does what was decided. A request in flight never outlives the renew deadline.
    async fn step(&mut self, decision: Decision) -> Result<(), Error> {
        let clock = self.settings.clock.clone();
        let sent = clock.boottime();
        // No single request may use up the whole renew deadline; client-go uses half of it, too.
        let half = self.settings.params.renew_deadline / 2;
        let limit = self
            .election
            .deadline()
            .map_or(half, |until| until.saturating_sub(sent).min(half));
        let writer = self.writer.clone().with_deadline(limit);
        match decision {
            // Never acted upon: `run` returns first.
            Decision::Lost => Ok(()),
            Decision::Wait(until) => {
                tokio::time::sleep(until.saturating_sub(sent)).await;
                Ok(())
            }
            Decision::Read => {
                let read = read::get_within(&self.api, &self.settings.name, limit).await;
                let found = match read {
                    Ok(lease) => Some(lease),
                    Err(error) if error.is_not_found() => None,
                    Err(error) => return Err(error),
                };
                self.election.saw(found, clock.boottime());
                Ok(())
            }
            Decision::Create(lease) => {
                let stored = writer.create(&self.api, &lease).await?;
                self.election.wrote(stored, sent, clock.boottime());
                Ok(())
            }
            Decision::Replace(lease) => {
                let stored = writer.replace(&self.api, &lease).await?;
                self.election.wrote(stored, sent, clock.boottime());
                Ok(())
            }
        }
    }

    /// Tells the handles until when they may act.
    fn announce(&self) {
        let leads = self.election.leads(self.settings.clock.boottime());
        let until = if leads {
            self.election.deadline()
        } else {
            None
        };
        self.until.send_if_modified(|current| {
            let changed = *current != until;
            *current = until;
            changed
        });
        self.settings.metrics.leader(&self.settings.name, leads);
    }

    /// Gives the lease back, so that another replica need not wait for it to run out.
    async fn release(&self) {
        let Settings { clock, name, .. } = &self.settings;
        let Some(lease) = self.election.release(clock.boottime(), clock.now()) else {
            return;
        };
        let writer = self.writer.clone().with_deadline(RELEASE_LIMIT);
        match writer.replace(&self.api, &lease).await {
            Ok(_) => tracing::info!(name, "released the leader lease"),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not release the leader lease; it runs out by itself"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
