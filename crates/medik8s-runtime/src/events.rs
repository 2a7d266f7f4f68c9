//! Events that `kubectl describe` shows.
//!
//! # Purpose
//! Tells people what an operator does, on the object it does it to: core/v1 Events in the object's
//! namespace, or in `default` for cluster-scoped objects.
//!
//! # Guarantees
//! Recording never waits and never fails: an Event that cannot be written is logged and counted.
//! The same Event again raises `count` and `lastTimestamp` of the first one. An object gets at most
//! 25 Events of a reason at once and one more every 5 minutes. (client-go's spam filter counts all
//! reasons together: the reports of many nodes hide the one Event that says why nothing is done.)

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Client, Resource};
use tokio::sync::mpsc;

use crate::{clock::Clock, metrics::Metrics, shutdown::Shutdown, write::Writer};

mod correlate;
mod sink;

pub use sink::Sink;

/// What health checkers and remediators put before every message.
pub const REMEDIATION_PREFIX: &str = "[remediation] ";

/// Events that wait to be written; more are dropped.
const WAITING: usize = 512;

/// `type` of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// As expected.
    Normal,
    /// Somebody should look.
    Warning,
}

impl Type {
    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    regarding: ObjectReference,
    r#type: Type,
    reason: String,
    message: String,
}

/// Records Events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Told>,
    prefix: &'static str,
    metrics: Metrics,
}

/// Makes a recorder and the task that writes what it records. `component` is what
/// `kubectl describe` shows as the source; `client` should not retry by itself.
pub fn recorder(
    client: Client,
    component: &str,
    writer: Writer,
    clock: Clock,
    metrics: &Metrics,
) -> (Recorder, Sink) {
    let (queue, waiting) = mpsc::channel(WAITING);
    let sink = Sink::new(client, component, writer, clock, metrics.clone(), waiting);
    (
        Recorder {
            queue,
            prefix: "",
            metrics: metrics.clone(),
        },
        sink,
    )
}

impl Recorder {
    /// The same recorder, with a prefix before every message.
    #[must_use]
    pub fn prefixed(&self, prefix: &'static str) -> Self {
        Self {
            prefix,
            ..self.clone()
        }
    }

    /// Records that something went as expected.
    pub fn normal(&self, regarding: &ObjectReference, reason: &str, message: &str) {
        self.record(regarding, Type::Normal, reason, message);
    }

    /// Records that somebody should look.
    pub fn warning(&self, regarding: &ObjectReference, reason: &str, message: &str) {
        self.record(regarding, Type::Warning, reason, message);
    }

    /// Records an Event.
    pub fn record(&self, regarding: &ObjectReference, kind: Type, reason: &str, message: &str) {
        let told = Told {
            regarding: regarding.clone(),
            r#type: kind,
            reason: reason.to_owned(),
            message: cut(format!("{}{message}", self.prefix)),
        };
        if let Err(error) = self.queue.try_send(told) {
            let why = match error {
                mpsc::error::TrySendError::Full(_) => "queue_full",
                mpsc::error::TrySendError::Closed(_) => "stopped",
            };
            self.metrics.event_dropped(why);
            tracing::warn!(reason, message, why, "Event not recorded");
        }
    }
}

/// The longest note the API accepts (1,024 bytes).
fn cut(mut message: String) -> String {
    const LONGEST: usize = 1024;
    if message.len() > LONGEST {
        let end = (0..=LONGEST - 3)
            .rev()
            .find(|at| message.is_char_boundary(*at))
            .unwrap_or(0);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

/// A reference to an object with a Rust type.
pub fn reference<K>(object: &K) -> ObjectReference
where
    K: Resource,
    K::DynamicType: Default,
{
    ObjectReference {
        resource_version: object.meta().resource_version.clone(),
        ..object.object_ref(&K::DynamicType::default())
    }
}

/// A reference made of its parts, for objects whose kind is only known at run time.
pub fn reference_to(
    api_version: &str,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    uid: Option<&str>,
) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}

/// How long the writing of waiting Events may take after the stop.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

impl Sink {
    /// Writes Events until `stop`, then what still waits.
    pub async fn run(mut self, stop: Shutdown) -> anyhow::Result<()> {
        let mut unfinished = None;
        while let Some(told) = stop.or_stop(self.next()).await {
            let Some(told) = told else {
                // Nobody can record any more; that is no reason to end before the process does.
                stop.triggered().await;
                break;
            };
            if stop.or_stop(self.write(&told)).await.is_none() {
                // Perhaps it was written, perhaps not: twice is better than never.
                unfinished = Some(told);
                break;
            }
        }
        let flush = async {
            if let Some(told) = unfinished {
                self.write_once(&told).await;
            }
            while let Some(told) = self.waiting_now() {
                self.write_once(&told).await;
            }
        };
        if tokio::time::timeout(FLUSH_LIMIT, flush).await.is_err() {
            tracing::warn!("not all Events were written before the end");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
