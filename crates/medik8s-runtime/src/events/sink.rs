//! Writes recorded Events.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Event, EventSource},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client};
use medik8s_core::time::whole_second;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    Told,
    correlate::{Correlator, Same, Verdict, Written},
};
use crate::{
    clock::Clock,
    error::{Class, Error},
    leader::identity_host,
    metrics::Metrics,
    write::Writer,
};

/// Pauses between attempts to write one Event.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
const DEADLINE: Duration = Duration::from_secs(5);

/// The task that writes Events. Run it as a service.
pub struct Sink {
    client: Client,
    component: String,
    instance: String,
    writer: Writer,
    clock: Clock,
    metrics: Metrics,
    waiting: mpsc::Receiver<Told>,
    correlator: Correlator,
}

impl Sink {
    pub(super) fn new(
        client: Client,
        component: &str,
        writer: Writer,
        clock: Clock,
        metrics: Metrics,
        waiting: mpsc::Receiver<Told>,
    ) -> Self {
        Self {
            client,
            component: component.to_owned(),
            instance: identity_host(),
            writer: writer.with_deadline(DEADLINE),
            clock,
            metrics,
            waiting,
            correlator: Correlator::default(),
        }
    }

    pub(super) async fn next(&mut self) -> Option<Told> {
        self.waiting.recv().await
    }

    pub(super) fn waiting_now(&mut self) -> Option<Told> {
        self.waiting.try_recv().ok()
    }

    /// Writes with a few attempts.
    pub(super) async fn write(&mut self, told: &Told) {
        self.write_with(told, &PAUSES).await;
    }

    /// Writes with one attempt.
    pub(super) async fn write_once(&mut self, told: &Told) {
        self.write_with(told, &[]).await;
    }

    async fn write_with(&mut self, told: &Told, pauses: &[Duration]) {
        // Once for each Event, however many attempts it takes: an attempt must not count as spam.
        let mut seen = match self
            .correlator
            .judge(&Same::of(told), self.clock.boottime())
        {
            Verdict::Spam => {
                self.metrics.event_dropped("spam");
                tracing::debug!(
                    reason = told.reason,
                    message = told.message,
                    "too many Events"
                );
                return;
            }
            Verdict::Again(seen) => Some(seen),
            Verdict::New => None,
        };
        let mut pauses = pauses.iter();
        loop {
            match self.attempt(told, &mut seen).await {
                Ok(()) => return,
                Err(error) => match pauses.next() {
                    Some(pause) if error.class() == Class::Retry => {
                        tokio::time::sleep(*pause).await;
                    }
                    Some(_) | None => return self.give_up(told, &error),
                },
            }
        }
    }

    fn give_up(&self, told: &Told, error: &Error) {
        self.metrics.event_dropped("write_failed");
        tracing::warn!(
            reason = told.reason,
            message = told.message,
            kind = told.regarding.kind,
            name = told.regarding.name,
            class = %error.class(),
            error = error as &dyn std::error::Error,
            "could not write Event"
        );
    }

    async fn attempt(&mut self, told: &Told, seen: &mut Option<Written>) -> Result<(), Error> {
        let written = match seen {
            Some(known) => match self.count(known).await {
                Ok(written) => written,
                // It ran out of the server's time to live.
                Err(error) if error.is_not_found() => {
                    self.correlator.forget(&Same::of(told));
                    *seen = None;
                    self.create(told).await?
                }
                Err(error) => return Err(error),
            },
            None => self.create(told).await?,
        };
        self.correlator
            .remember(Same::of(told), written, self.clock.boottime());
        Ok(())
    }

    async fn count(&self, seen: &Written) -> Result<Written, Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &seen.namespace);
        let count = seen.count.saturating_add(1);
        let patch = json!({"count": count, "lastTimestamp": whole_second(self.clock.now())});
        self.writer.merge_patch(&api, &seen.name, &patch).await?;
        Ok(Written {
            count,
            ..seen.clone()
        })
    }

    async fn create(&self, told: &Told) -> Result<Written, Error> {
        let event = self.event(told, rand::random());
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        self.writer.create(&api, &event).await?;
        Ok(Written {
            namespace,
            name,
            count: 1,
        })
    }

    fn event(&self, told: &Told, unique: u64) -> Event {
        // Cluster-scoped objects have their Events in `default`, as client-go does it.
        let namespace = told
            .regarding
            .namespace
            .clone()
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        // 253 characters at most; a dot and 16 hexadecimal digits follow.
        let name: String = told
            .regarding
            .name
            .iter()
            .flat_map(|name| name.chars())
            .take(253 - 17)
            .collect();
        let now = whole_second(self.clock.now());
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{unique:016x}")),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: told.regarding.clone(),
            type_: Some(told.r#type.as_str().to_owned()),
            reason: Some(told.reason.clone()),
            message: Some(told.message.clone()),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: None,
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.instance.clone()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Event::default()
        }
    }
}
