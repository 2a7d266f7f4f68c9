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

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::Lease,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::{
    clock::Clock, error::Error, metrics::Metrics, read, shutdown::Shutdown, write::Writer,
};

mod decide;

pub use decide::{Claim, Observation, claim};

/// Timing of the election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long others respect a lease that is not renewed.
    pub lease_duration: Duration,
    /// How long we act without a confirmed renewal.
    pub renew_deadline: Duration,
    /// How often the lease is renewed.
    pub renew_period: Duration,
    /// How long to wait after a failed renewal, and between two looks at somebody else's lease.
    pub retry_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            renew_period: Duration::from_secs(5),
            retry_period: Duration::from_secs(2),
        }
    }
}

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
    /// Timing; [`Timing::default`] outside tests.
    pub timing: Timing,
}

/// `<hostname>_<random UUID>`, as client-go's users build it.
pub fn identity() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned());
    format!("{host}_{}", random_uuid())
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
    let writer = Writer::new(settings.field_manager);
    (
        leadership,
        Elector {
            settings,
            api,
            writer,
            until,
        },
    )
}

/// The outcome of one attempt.
enum Attempt {
    /// Ours; the lease as the server stored it.
    Held(Box<Lease>),
    /// Somebody else's.
    Foreign,
}

impl Elector {
    /// Runs until `stop`; gives the lease back then. Ends with an error when the lease is lost.
    pub async fn run(self, stop: Shutdown) -> Result<(), LeaderError> {
        let Some((lease, confirmed)) = self.acquire(&stop).await else {
            return Ok(());
        };
        let lease = self.hold(lease, confirmed, &stop).await;
        self.until.send_replace(None);
        self.settings.metrics.leader(&self.settings.name, false);
        let lease = lease?;
        self.release(lease).await;
        Ok(())
    }

    /// Tries until it works; `None` when stopped first. The time is when the request was sent.
    async fn acquire(&self, stop: &Shutdown) -> Option<(Lease, Duration)> {
        let Settings {
            namespace,
            name,
            identity,
            timing,
            clock,
            ..
        } = &self.settings;
        tracing::info!(namespace, name, identity, "waiting for the leader lease");
        let mut seen: Option<Observation> = None;
        let mut holder = None;
        loop {
            let sent = clock.boottime();
            let attempt = self.attempt(&mut seen, timing.renew_deadline);
            match stop.or_stop(attempt).await? {
                Ok(Attempt::Held(lease)) => {
                    tracing::info!(namespace, name, identity, "became leader");
                    self.confirm(sent);
                    return Some((*lease, sent));
                }
                Ok(Attempt::Foreign) => {
                    let current = seen.as_ref().map(|seen| seen.holder().to_owned());
                    if current != holder {
                        tracing::info!(namespace, name, holder = current, "another replica leads");
                        holder = current;
                    }
                }
                Err(error) => tracing::warn!(
                    namespace,
                    name,
                    class = %error.class(),
                    error = &error as &dyn std::error::Error,
                    "could not try for the leader lease"
                ),
            }
            stop.or_stop(tokio::time::sleep(jittered(timing.retry_period)))
                .await?;
        }
    }

    /// Renews until `stop`. `confirmed` is when the last renewal known to have worked was sent.
    async fn hold(
        &self,
        mut lease: Lease,
        mut confirmed: Duration,
        stop: &Shutdown,
    ) -> Result<Lease, LeaderError> {
        let Settings { timing, clock, .. } = &self.settings;
        let mut wait = timing.renew_period;
        let mut last_failure = None;
        loop {
            if stop.or_stop(tokio::time::sleep(wait)).await.is_none() {
                return Ok(lease);
            }
            let sent = clock.boottime();
            let left = (confirmed + timing.renew_deadline).saturating_sub(sent);
            if left.is_zero() {
                return Err(self.lost(last_failure.unwrap_or_else(|| {
                    "this process did not run for longer than the renew deadline".to_owned()
                })));
            }
            match tokio::time::timeout(left, self.renew(&lease, left)).await {
                Ok(Ok(Attempt::Held(renewed))) => {
                    lease = *renewed;
                    confirmed = sent;
                    self.confirm(sent);
                    wait = timing.renew_period;
                    last_failure = None;
                }
                Ok(Ok(Attempt::Foreign)) => {
                    return Err(self.lost("somebody else holds it".to_owned()));
                }
                Ok(Err(error)) => {
                    tracing::warn!(
                        class = %error.class(),
                        error = &error as &dyn std::error::Error,
                        "could not renew the leader lease"
                    );
                    last_failure = Some(format!("could not renew it in time ({error})"));
                    let left = (confirmed + timing.renew_deadline).saturating_sub(clock.boottime());
                    wait = timing.retry_period.min(left);
                }
                Err(_) => {
                    return Err(self.lost("could not renew it in time (no answer)".to_owned()));
                }
            }
        }
    }

    /// One renewal: a PUT on what we wrote last; what the server has if that fails.
    async fn renew(&self, lease: &Lease, within: Duration) -> Result<Attempt, Error> {
        let now = self.settings.clock.now();
        let renewed = decide::renewed(lease, &self.settings.identity, self.settings.timing, now);
        let writer = self
            .writer
            .clone()
            .with_deadline(within.min(self.request_limit()));
        match writer.replace(&self.api, &renewed).await {
            Ok(stored) => return Ok(Attempt::Held(Box::new(stored))),
            Err(error) if error.is_conflict() || error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        // A lost answer to our own renewal, or somebody touched the object.
        let mut seen = None;
        self.attempt(&mut seen, within).await
    }

    /// Reads the lease and takes, renews or leaves it.
    async fn attempt(
        &self,
        seen: &mut Option<Observation>,
        within: Duration,
    ) -> Result<Attempt, Error> {
        let Settings {
            identity,
            timing,
            clock,
            ..
        } = &self.settings;
        let limit = within.min(self.request_limit());
        let found = match read::get_within(&self.api, &self.settings.name, limit).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let observed = Observation::update(seen.take(), found.as_ref(), clock.boottime());
        let decided = claim(observed.as_ref(), identity, *timing, clock.boottime());
        *seen = observed;
        let writer = self.writer.clone().with_deadline(limit);
        let stored = match (decided, found) {
            (Claim::Wait, _) => return Ok(Attempt::Foreign),
            (Claim::Create, _) | (Claim::Take | Claim::Renew, None) => {
                writer.create(&self.api, &self.new_lease()).await?
            }
            (Claim::Take, Some(lease)) => {
                let taken = decide::taken(&lease, identity, *timing, clock.now());
                writer.replace(&self.api, &taken).await?
            }
            (Claim::Renew, Some(lease)) => {
                let renewed = decide::renewed(&lease, identity, *timing, clock.now());
                writer.replace(&self.api, &renewed).await?
            }
        };
        Ok(Attempt::Held(Box::new(stored)))
    }

    fn new_lease(&self) -> Lease {
        let Settings {
            namespace,
            name,
            identity,
            timing,
            clock,
            ..
        } = &self.settings;
        let empty = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        };
        decide::created(&empty, identity, *timing, clock.now())
    }

    /// Gives the lease back, so that another replica need not wait for it to run out.
    async fn release(&self, lease: Lease) {
        let released = decide::released(&lease, self.settings.clock.now());
        let writer = self.writer.clone().with_deadline(Duration::from_secs(2));
        match writer.replace(&self.api, &released).await {
            Ok(_) => tracing::info!(name = self.settings.name, "released the leader lease"),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not release the leader lease; it runs out by itself"
            ),
        }
    }

    /// No single request may use up the whole renew deadline (client-go uses half of it, too).
    fn request_limit(&self) -> Duration {
        self.settings.timing.renew_deadline / 2
    }

    fn confirm(&self, sent: Duration) {
        self.until
            .send_replace(Some(sent + self.settings.timing.renew_deadline));
        self.settings.metrics.leader(&self.settings.name, true);
    }

    fn lost(&self, why: String) -> LeaderError {
        let Settings {
            namespace, name, ..
        } = &self.settings;
        LeaderError::Lost {
            namespace: namespace.clone(),
            name: name.clone(),
            why,
        }
    }
}

/// Between one and 2.2 times the period, as client-go's jitter factor of 1.2 gives, so that
/// replicas do not ask in step.
fn jittered(period: Duration) -> Duration {
    period.mul_f64(1.0 + rand::random::<f64>() * 0.2)
}

fn micro_time(now: Timestamp) -> MicroTime {
    MicroTime(now)
}

#[cfg(test)]
mod tests;
