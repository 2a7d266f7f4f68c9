//! Keeps an operator from being uninstalled while it has something open.
//!
//! # Purpose
//! `kubectl delete -f`, `helm uninstall` and a deleted namespace send all deletions at once. With a
//! remediation open, the operator would be gone before its finalizers: the node would keep its taints,
//! and nobody would ever free its workload. So the operator answers a webhook for the deletion of its
//! own installation and refuses it while something is open.
//!
//! # Guarantees
//! * The webhook configuration, which no webhook can protect, has a finalizer while something is open:
//!   its deletion waits, and the refusal stays in force.
//! * What may be deleted is answered once the finalizer is off, or after 4 s: with the next object the last manager may
//!   go, and then nobody would take it off.
//! * Pods that need their rights until their very end ([`Dependents`]) go first: an agent that has lost its
//!   account cannot take its node off the watchdog, and the node would be reset.
//! * Never in the way of repair: when the operator cannot be asked, everything can be deleted.
//! * With nothing open there is no finalizer, and an uninstallation leaves nothing.

use std::{fmt::Debug, sync::Arc, time::Duration};

use k8s_openapi::api::{admissionregistration::v1::ValidatingWebhookConfiguration, core::v1::Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DynamicObject, ListParams},
    core::admission::AdmissionRequest,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    informer::Cache,
    read,
    shutdown::Shutdown,
    webhook::{FailurePolicy, Hook, HookKind, Operation, Server, Verdict},
    write::{Error, Writer},
};

/// How often it is looked whether something is open.
const LOOK: Duration = Duration::from_secs(1);
/// How long a deletion waits for a look at the objects.
const DEADLINE: Duration = Duration::from_secs(4);
/// Every how many looks pods are looked for that somebody asks for and that are there.
const RARELY: u32 = 60;
/// How often it is looked whether the finalizer is off.
const PAUSE: Duration = Duration::from_millis(200);

/// What guards an installation; `xtask` generates the webhook from it.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    /// Name of the webhook.
    pub name: &'static str,
    /// Path on the server.
    pub path: &'static str,
    /// Label of every object of the installation.
    pub label: (&'static str, &'static str),
    /// ValidatingWebhookConfiguration that the webhook is in.
    pub configuration: &'static str,
    /// Finalizer of that configuration while something is open.
    pub finalizer: &'static str,
    /// What to run to see what is open.
    pub look: &'static str,
    /// Pods that have to go before the rest.
    pub dependents: Option<Dependents>,
}

/// Pods that need the installation until they have ended, and its manager to keep it for them.
#[derive(Debug, Clone, Copy)]
pub struct Dependents {
    /// Label selector of the pods.
    pub labels: &'static str,
    /// What would happen, and what to do first.
    pub remedy: &'static str,
}

impl Dependents {
    /// Whether there are any; `None` if that is not known.
    async fn are_there(&self, client: &Client) -> Option<bool> {
        let params = ListParams::default().labels(self.labels).limit(1);
        let pods = Api::<Pod>::all(client.clone());
        match tokio::time::timeout(DEADLINE, pods.list(&params)).await {
            Ok(Ok(found)) => Some(!found.items.is_empty()),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

impl Guard {
    /// Seconds that the API server waits.
    pub const TIMEOUT: u32 = 5;

    const fn hook(&self) -> Hook {
        Hook {
            kind: HookKind::Validating,
            name: self.name,
            path: self.path,
            api_group: "",
            api_version: "v1",
            resource: "namespaces",
            operations: &[Operation::Delete],
            failure_policy: FailurePolicy::Ignore,
            timeout_seconds: Some(Self::TIMEOUT),
        }
    }

    /// Answers the webhook: deletions are refused while an object is open.
    #[must_use]
    pub fn route<K>(&self, server: Server, client: &Client, open: fn(&K) -> bool) -> Server
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let guard = *self;
        let objects = Arc::new(Api::<K>::all(client.clone()));
        let client = client.clone();
        server.route(&self.hook(), move |request| {
            let (objects, client) = (Arc::clone(&objects), client.clone());
            async move {
                let patience = tokio::time::sleep(DEADLINE);
                let params = ListParams::default();
                let open = async {
                    match tokio::time::timeout(DEADLINE, objects.list(&params)).await {
                        Ok(Ok(found)) => found.iter().find(|object| open(object)).map(name_of),
                        // The API server answers a deletion and not this: nothing is known, and a
                        // deletion that is refused for no reason helps nobody.
                        Ok(Err(_)) | Err(_) => None,
                    }
                };
                let needed = async {
                    let needed = guard.dependents?;
                    (needed.are_there(&client).await == Some(true)).then_some(needed)
                };
                let (open, needed) = tokio::join!(open, needed);
                if open.is_none() && needed.is_none() {
                    tokio::select! {
                        () = guard.released(&client) => {}
                        () = patience => {}
                    }
                }
                verdict(&request, open, guard.look, needed)
            }
        })
    }

    /// Waits until the finalizer is off, or nothing is known of it.
    async fn released(&self, client: &Client) {
        let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
        while let Ok(Some(found)) = read::get_metadata_opt(&api, self.configuration).await
            && found
                .finalizers()
                .iter()
                .any(|finalizer| finalizer == self.finalizer)
        {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Keeps the finalizer of the webhook configuration until `stop`. `wanted_pods`: whether somebody asks for the
    /// [`Dependents`].
    pub async fn keep<K>(
        &self,
        client: Client,
        writer: Writer,
        cache: Cache<K>,
        open: fn(&K) -> bool,
        wanted_pods: impl Fn() -> bool,
        stop: Shutdown,
    ) where
        K: Send + Sync,
    {
        let reader = client.clone();
        let api = Api::<ValidatingWebhookConfiguration>::all(client);
        let mut kept = None;
        let mut pods = PodsSeen::default();
        loop {
            let mut is_open = cache.list().iter().any(|object| open(object));
            if let Some(dependents) = self.dependents.filter(|_| !is_open) {
                if pods.is_look_due(wanted_pods()) {
                    pods.none = dependents.are_there(&reader).await == Some(false);
                }
                is_open = !pods.none;
            }
            if kept != Some(is_open) {
                match self.put(&api, &writer, is_open).await {
                    Ok(()) => kept = Some(is_open),
                    Err(error) => tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        configuration = self.configuration,
                        "could not guard the installation"
                    ),
                }
            }
            if stop.or_stop(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }

    async fn put(
        &self,
        api: &Api<ValidatingWebhookConfiguration>,
        writer: &Writer,
        is_open: bool,
    ) -> Result<(), Error> {
        let Some(found) = read::get_opt(api, self.configuration).await? else {
            return Ok(());
        };
        let going = found.metadata.deletion_timestamp.is_some();
        let Some(finalizers) = wanted(found.finalizers(), self.finalizer, is_open, going) else {
            return Ok(());
        };
        let patch = json!({"metadata": {
            "finalizers": finalizers,
            "resourceVersion": found.resource_version(),
        }});
        match writer.merge_patch(api, self.configuration, &patch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What is known of the [`Dependents`], without asking the API server at each look.
#[derive(Debug, Default)]
struct PodsSeen {
    /// There are none.
    none: bool,
    /// Somebody asks for them; `None` before the first look.
    wanted: Option<bool>,
    since_look: u32,
}

impl PodsSeen {
    /// Pods come only with the first object that asks for them, and are looked for until they are gone. Where they are
    /// asked for and none is there, no node takes them: then they keep nothing, until one comes.
    fn is_look_due(&mut self, wanted: bool) -> bool {
        let before = self.wanted.replace(wanted);
        if wanted && before == Some(false) {
            (self.none, self.since_look) = (false, 0);
        }
        let due = if before.is_none() {
            true
        } else if wanted {
            self.none || self.since_look >= RARELY
        } else {
            !self.none
        };
        self.since_look = if due { 0 } else { self.since_look + 1 };
        due
    }
}

/// Kind and name of an object of the cache that is open, if there is one.
pub fn first_open<K>(cache: &Cache<K>, open: fn(&K) -> bool) -> Option<String>
where
    K: Resource<DynamicType = ()> + Send + Sync,
{
    let all = cache.list();
    all.iter()
        .find(|object| open(object))
        .map(|object| name_of(&**object))
}

/// The finalizers as they should be; `None` if they are. None can be added to what is going.
fn wanted(finalizers: &[String], own: &str, is_open: bool, going: bool) -> Option<Vec<String>> {
    let has = finalizers.iter().any(|finalizer| finalizer == own);
    if has == is_open || (is_open && going) {
        return None;
    }
    let mut wanted: Vec<String> = finalizers
        .iter()
        .filter(|finalizer| *finalizer != own)
        .cloned()
        .collect();
    if is_open {
        wanted.push(own.to_owned());
    }
    Some(wanted)
}

fn verdict(
    request: &AdmissionRequest<DynamicObject>,
    open: Option<String>,
    look: &str,
    needed: Option<Dependents>,
) -> Verdict {
    match (open, needed) {
        (None, None) => Verdict::allow(),
        (None, Some(needed)) => Verdict::deny(format!(
            "{} {} is still needed: {}",
            request.kind.kind, request.name, needed.remedy,
        )),
        (Some(open), _) => Verdict::deny(format!(
            "{} {} is needed by {open}: without it nobody ends what is open there. \
             Wait until `{look}` shows nothing, or delete what it shows and wait, then try again",
            request.kind.kind, request.name,
        )),
    }
}

fn name_of<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let kind = K::kind(&());
    match object.meta().namespace.as_deref() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

#[cfg(test)]
mod tests {
    use medik8s_testing::fake::FakeApi;

    use super::*;

    const GUARD: Guard = Guard {
        name: "guard.example",
        path: "/guard",
        label: ("app", ""),
        configuration: "own",
        finalizer: "example/open",
        look: "kubectl get nothing",
        dependents: None,
    };

    #[tokio::test(start_paused = true)]
    async fn nothing_may_go_before_the_finalizer_is_off() {
        let fake = FakeApi::new();
        fake.add_kind::<ValidatingWebhookConfiguration>();
        GUARD.released(&fake.client()).await;
        let mut configuration = ValidatingWebhookConfiguration::default();
        configuration.metadata.name = Some(GUARD.configuration.to_owned());
        configuration.metadata.finalizers =
            Some(vec!["other".to_owned(), GUARD.finalizer.to_owned()]);
        fake.put(&configuration);
        let client = fake.client();
        let waiting = tokio::spawn(async move { GUARD.released(&client).await });
        tokio::time::sleep(10 * PAUSE).await;
        assert!(!waiting.is_finished());
        fake.update::<ValidatingWebhookConfiguration>(None, GUARD.configuration, |found| {
            found.metadata.finalizers = Some(vec!["other".to_owned()]);
        });
        waiting.await.unwrap();
    }

    #[test]
    fn pods_are_looked_for_rarely_while_they_are_there_and_wanted() {
        let mut seen = PodsSeen::default();
        // Nothing is known at the start, and nobody asks for them.
        assert!(seen.is_look_due(false));
        seen.none = true;
        assert!(!seen.is_look_due(false));
        // They are asked for, so they come; if none has come after a minute, none is waited for.
        assert!(!seen.is_look_due(true) && !seen.none);
        let looks = (0..RARELY).map(|_| seen.is_look_due(true));
        assert_eq!(looks.filter(|due| *due).count(), 1);
        seen.none = true;
        assert!(seen.is_look_due(true));
        seen.none = false;
        assert!(!seen.is_look_due(true));
        // Nobody asks for them any more: they are looked for until they are gone.
        assert!(seen.is_look_due(false) && seen.is_look_due(false));
        // A manager that starts does not know whether they had time to come.
        assert!(PodsSeen::default().is_look_due(true));
    }

    #[test]
    fn the_finalizer_is_there_exactly_while_something_is_open() {
        let none: [String; 0] = [];
        let ours = ["own".to_owned(), "other".to_owned()];
        assert_eq!(wanted(&none, "own", false, false), None);
        assert_eq!(wanted(&none, "own", true, false), Some(vec!["own".into()]));
        assert_eq!(wanted(&ours, "own", true, false), None);
        assert_eq!(
            wanted(&ours, "own", false, true),
            Some(vec!["other".into()])
        );
        // The API server refuses a new finalizer on an object that is being deleted.
        assert_eq!(wanted(&none, "own", true, true), None);
    }
}
