//! Reads what a plan is made from, and performs its steps.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::DaemonSet,
        core::v1::{Secret, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use medik8s_api::{SelfNodeRemediation, SelfNodeRemediationConfig, names::snr};
use medik8s_core::time;
use medik8s_runtime::{
    clock::Clock,
    controller::{Action, Class, Classify},
    events::{self, Recorder},
    informer::Cache,
    read,
    write::{self, Delete, Writer},
};
use self_node_remediation_peer::certificates::{
    CA_FIELD, CERT_FIELD, CertificateSet, CreateError, KEY_FIELD,
};
use serde_json::json;

use super::plan::{self, Certificates, Observed, Plan, Step, with_sources};
use super::rotation::{self, Change, Next, Sets, Stored};
use crate::settings::Settings;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The API server refused or did not answer.
    #[error(transparent)]
    Api(#[from] write::Error),
    /// No certificates could be made.
    #[error("could not make certificates for the agents")]
    Certificates(#[from] CreateError),
}

impl Classify for InstallError {
    fn class(&self) -> Class {
        match self {
            Self::Api(error) => error.class(),
            Self::Certificates(_) => Class::Retry,
        }
    }
}

/// What the controller of the configuration works with.
pub struct Install {
    /// API client.
    pub client: Client,
    /// Writes only while this process leads.
    pub writer: Writer,
    /// Tells the user.
    pub recorder: Recorder,
    /// Time.
    pub clock: Clock,
    /// Own namespace and image.
    pub settings: Settings,
    /// Copy of the configurations in the own namespace.
    pub configs: Cache<SelfNodeRemediationConfig>,
    /// Copy of the agents' DaemonSet.
    pub daemon_sets: Cache<DaemonSet>,
    /// What was told already.
    pub told: Told,
}

/// Warnings of the last looks: each is told once an hour, not at each look.
#[derive(Debug, Default)]
pub struct Told(Mutex<BTreeMap<&'static str, Telling>>);

#[derive(Debug)]
struct Telling {
    message: String,
    next: Timestamp,
}

/// The same warning is told again after this time; what is normal for a while is told for the first time then.
const TELL_EVERY: Duration = Duration::from_hours(1);

impl Told {
    /// Leaves out the warnings that are no news; forgets what is not wrong any more.
    fn keep_news(&self, steps: &mut Vec<Step>, now: Timestamp) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut still = BTreeMap::new();
        steps.retain(|step| {
            let (reason, message, lasting) = match step {
                Step::Warn(reason, message) => (*reason, message, false),
                Step::WarnIfItLasts(reason, message) => (*reason, message, true),
                Step::CreateCertificates
                | Step::Rotate(_)
                | Step::ApplyService(_)
                | Step::DeleteDaemonSet(_)
                | Step::ApplyDaemonSet(_)
                | Step::Enable { .. } => return true,
            };
            let before = told.remove(reason);
            let is_news = match &before {
                Some(before) if lasting => now >= before.next,
                Some(before) => now >= before.next || before.message != *message,
                None => !lasting,
            };
            let next = match before {
                Some(before) if !is_news => before.next,
                Some(_) | None => time::after(now, TELL_EVERY),
            };
            let message = message.clone();
            still.insert(reason, Telling { message, next });
            is_news
        });
        *told = still;
    }
}

impl Install {
    /// One look at everything, and what follows from it.
    pub async fn reconcile(&self) -> Result<Action, InstallError> {
        let namespace = self.settings.namespace.as_str();
        let config = self.configs.get(Some(namespace), snr::CONFIG_NAME);
        let daemon_set = self.daemon_sets.get(Some(namespace), snr::DAEMON_SET_NAME);
        let (certificates, sets, remediations) = if config.is_some() {
            let (certificates, sets) = self.certificates().await?;
            // Last, and not from the watch: an order that it has not shown yet keeps the agents as they are, too.
            let api = Api::<SelfNodeRemediation>::all(self.client.clone());
            let remediations = read::list_all(&api, &ListParams::default()).await?;
            (certificates, sets, remediations)
        } else {
            (Certificates::Usable, Sets::default(), Vec::new())
        };
        let seen = Observed {
            config: config.as_deref(),
            daemon_set: daemon_set.as_deref(),
            certificates,
            sets: &sets,
            remediations: remediations.iter().collect(),
            namespace,
            image: &self.settings.image,
        };
        let now = self.clock.now();
        let Plan { mut steps, wake } = plan::plan(&seen, now);
        self.told.keep_news(&mut steps, now);
        for step in steps {
            self.perform(step, config.as_deref()).await?;
        }
        Ok(Action::after_if(wake))
    }

    async fn certificates(&self) -> Result<(Certificates, Sets), InstallError> {
        let mut sets = read_sets(&self.client, &self.settings.namespace).await?;
        let Some(main) = sets.main else {
            return Ok((Certificates::Absent, sets.others));
        };
        let usable = main.and_then(|stored| {
            let validity = stored.set.validate(self.clock.now());
            validity
                .map(|validity| (stored, validity.first_expiry))
                .map_err(|error| with_sources(&error))
        });
        Ok(match usable {
            Ok((stored, first_expiry)) => {
                sets.others.main = Some(stored);
                sets.others.first_expiry = Some(first_expiry);
                (Certificates::Usable, sets.others)
            }
            Err(why) => (Certificates::Unusable(why), sets.others),
        })
    }

    async fn rotate(&self, change: Change) -> Result<(), InstallError> {
        let namespace = self.settings.namespace.as_str();
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let new = match change {
            Change::CreateNext { old_ca_pem } => {
                let new = CertificateSet::create(self.clock.now())?;
                let set = rotation::next_set(&old_ca_pem, &new);
                let mut stored = secret(&set, rotation::NEXT_SECRET, namespace);
                let new_ca = ByteString(new.ca_pem.into_bytes());
                stored
                    .data
                    .get_or_insert_default()
                    .insert(NEW_CA_FIELD.to_owned(), new_ca);
                stored
            }
            Change::Create { secret: name, set } => secret(&set, name, namespace),
            Change::Delete { secret, uid } => {
                self.writer.delete(&api, secret, &Delete::uid(uid)).await?;
                tracing::info!(secret, "certificates of an earlier stage deleted");
                return Ok(());
            }
        };
        self.writer.create_once(&api, &new).await?;
        tracing::info!(secret = %new.name_any(), "certificates for the next stage stored");
        Ok(())
    }

    async fn perform(
        &self,
        step: Step,
        config: Option<&SelfNodeRemediationConfig>,
    ) -> Result<(), InstallError> {
        let namespace = self.settings.namespace.as_str();
        match step {
            Step::CreateCertificates => {
                let set = CertificateSet::create(self.clock.now())?;
                let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
                let stored = secret(&set, snr::CERTIFICATES_SECRET, namespace);
                self.writer.create_once(&api, &stored).await?;
                tracing::info!(secret = snr::CERTIFICATES_SECRET, "certificates created");
            }
            Step::Rotate(change) => self.rotate(change).await?,
            Step::ApplyService(service) => {
                let api = Api::<Service>::namespaced(self.client.clone(), namespace);
                self.writer
                    .apply(&api, &service.name_any(), &*service)
                    .await?;
            }
            Step::DeleteDaemonSet(uid) => {
                let api = Api::<DaemonSet>::namespaced(self.client.clone(), namespace);
                let delete = Delete::uid(uid).background();
                self.writer
                    .delete(&api, snr::DAEMON_SET_NAME, &delete)
                    .await?;
            }
            Step::ApplyDaemonSet(set) => {
                let api = Api::<DaemonSet>::namespaced(self.client.clone(), namespace);
                self.writer.apply(&api, snr::DAEMON_SET_NAME, &*set).await?;
            }
            Step::Warn(reason, message) | Step::WarnIfItLasts(reason, message) => {
                if let Some(config) = config {
                    self.recorder
                        .warning(&events::reference(config), reason, &message);
                }
            }
            Step::Enable {
                namespace,
                name,
                resource_version,
                conditions,
            } => {
                let api = Api::<SelfNodeRemediation>::namespaced(self.client.clone(), &namespace);
                let status = json!({ "conditions": conditions });
                self.writer
                    .merge_patch_status(&api, &name, &status, Some(&resource_version))
                    .await?;
            }
        }
        Ok(())
    }
}

/// The Secret for a set, in the form of the original: immutable, without an owner, so that it
/// outlives the configuration.
fn secret(set: &CertificateSet, name: &str, namespace: &str) -> Secret {
    let entry = |field: &str, text: &str| (field.to_owned(), ByteString(text.as_bytes().to_vec()));
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        immutable: Some(true),
        data: Some(BTreeMap::from([
            entry(CA_FIELD, &set.ca_pem),
            entry(CERT_FIELD, &set.cert_pem),
            entry(KEY_FIELD, &set.key_pem),
        ])),
        ..Secret::default()
    }
}

/// Key of the Secret of stage 2: the new CA alone.
const NEW_CA_FIELD: &str = "newCaPem";

/// The Secrets with certificates.
struct Found {
    /// The one of the original's name: what it holds, or what is wrong with it.
    main: Option<Result<Stored, String>>,
    /// Those of a replacement that is under way.
    others: Sets,
}

async fn read_sets(client: &Client, namespace: &str) -> Result<Found, write::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let stored = |secret: &Secret| {
        certificate_set(secret).map(|set| Stored {
            uid: secret.metadata.uid.clone().unwrap_or_default(),
            set,
        })
    };
    let main = read::get_opt(&api, snr::CERTIFICATES_SECRET).await?;
    let both = read::get_opt(&api, rotation::BOTH_SECRET).await?;
    let next = read::get_opt(&api, rotation::NEXT_SECRET).await?;
    let others = Sets {
        main: None,
        first_expiry: None,
        both: both.and_then(|secret| stored(&secret).ok()),
        next: next.and_then(|secret| {
            Some(Next {
                stored: stored(&secret).ok()?,
                new_ca_pem: field(&secret, NEW_CA_FIELD).ok()?,
            })
        }),
    };
    Ok(Found {
        main: main.map(|secret| stored(&secret)),
        others,
    })
}

/// The set by which the manager can speak to all agents, or what is wrong.
pub async fn manager_set(
    client: &Client,
    namespace: &str,
) -> Result<CertificateSet, ManagerSetError> {
    let found = read_sets(client, namespace).await?;
    let mut sets = found.others;
    match found.main {
        Some(Ok(stored)) => sets.main = Some(stored),
        Some(Err(why)) => return Err(ManagerSetError::Unusable(why)),
        None => {}
    }
    sets.for_the_manager()
        .cloned()
        .ok_or_else(|| ManagerSetError::Unusable("it is missing".to_owned()))
}

/// Why the manager has no certificates.
#[derive(Debug, thiserror::Error)]
pub enum ManagerSetError {
    /// The API server refused or did not answer.
    #[error(transparent)]
    Api(#[from] write::Error),
    /// What is stored cannot be used.
    #[error("{0}")]
    Unusable(String),
}

fn field(secret: &Secret, name: &str) -> Result<String, String> {
    let bytes = secret
        .data
        .as_ref()
        .and_then(|data| data.get(name))
        .ok_or_else(|| format!("the key {name} is missing"))?;
    String::from_utf8(bytes.0.clone()).map_err(|_binary| format!("the key {name} is not PEM"))
}

/// The set that a Secret holds, or what is wrong with it.
pub fn certificate_set(secret: &Secret) -> Result<CertificateSet, String> {
    Ok(CertificateSet {
        ca_pem: field(secret, CA_FIELD)?,
        cert_pem: field(secret, CERT_FIELD)?,
        key_pem: field(secret, KEY_FIELD)?,
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn warnings_are_told_once_an_hour_and_what_is_normal_for_a_while_after_one() {
        let told = Told::default();
        let start = Timestamp::UNIX_EPOCH;
        let warn = |message: &str| Step::Warn("Unusable", message.to_owned());
        let lasting = |message: &str| Step::WarnIfItLasts("Waits", message.to_owned());
        let said = |minutes: u64, steps: &[Step]| {
            let mut steps = steps.to_vec();
            told.keep_news(&mut steps, time::after(start, Duration::from_mins(minutes)));
            steps
        };
        assert_eq!(said(0, &[warn("a"), lasting("1 of 3")]), [warn("a")]);
        assert_eq!(said(1, &[warn("a"), lasting("2 of 3")]), []);
        assert_eq!(said(2, &[warn("b"), lasting("2 of 3")]), [warn("b")]);
        let all = [warn("b"), lasting("2 of 3")];
        assert_eq!(said(60, &all), [lasting("2 of 3")]);
        assert_eq!(said(62, &all), [warn("b")]);
        assert_eq!(said(120, &all), [lasting("2 of 3")]);
        // Mended meanwhile.
        assert_eq!(said(121, &[]), []);
        assert_eq!(said(122, &all), [warn("b")]);
    }

    #[test]
    fn what_is_stored_can_be_used() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let set = CertificateSet::create(now).unwrap();
        let stored = secret(&set, snr::CERTIFICATES_SECRET, "snr");
        assert_eq!(stored.immutable, Some(true));
        assert_eq!(certificate_set(&stored), Ok(set));
    }

    #[test]
    fn a_missing_key_is_named() {
        let mut stored = Secret::default();
        assert!(certificate_set(&stored).unwrap_err().contains("caPem"));
        stored.data = Some(BTreeMap::from([(
            "caPem".to_owned(),
            ByteString(vec![0xff]),
        )]));
        assert!(certificate_set(&stored).unwrap_err().contains("not PEM"));
    }
}
