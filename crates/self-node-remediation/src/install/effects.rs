//! Reads what a plan is made from, and performs its steps.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::DaemonSet,
        core::v1::{Secret, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, ResourceExt};
use medik8s_api::{SelfNodeRemediation, SelfNodeRemediationConfig, names::snr};
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

use super::plan::{self, Certificates, Observed, Plan, Step};
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
    /// Copy of all remediations.
    pub remediations: Cache<SelfNodeRemediation>,
}

impl Install {
    /// One look at everything, and what follows from it.
    pub async fn reconcile(&self) -> Result<Action, InstallError> {
        let namespace = self.settings.namespace.as_str();
        let config = self.configs.get(Some(namespace), snr::CONFIG_NAME);
        let daemon_set = self.daemon_sets.get(Some(namespace), snr::DAEMON_SET_NAME);
        let remediations = self.remediations.list();
        let certificates = match &config {
            Some(_) => self.certificates().await?,
            None => Certificates::Usable,
        };
        let seen = Observed {
            config: config.as_deref(),
            daemon_set: daemon_set.as_deref(),
            certificates,
            remediations: remediations.iter().map(AsRef::as_ref).collect(),
            namespace,
            image: &self.settings.image,
        };
        let Plan { steps, wake } = plan::plan(&seen, self.clock.now());
        for step in steps {
            self.perform(step, config.as_deref()).await?;
        }
        Ok(Action::after_if(wake))
    }

    async fn certificates(&self) -> Result<Certificates, InstallError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let Some(secret) = read::get_opt(&secrets, snr::CERTIFICATES_SECRET).await? else {
            return Ok(Certificates::Absent);
        };
        let usable = certificate_set(&secret).and_then(|set| {
            set.validate(self.clock.now())
                .map_err(|error| error.to_string())
        });
        Ok(match usable {
            Ok(_validity) => Certificates::Usable,
            Err(why) => Certificates::Unusable(why),
        })
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
                self.writer
                    .create_once(&api, &secret(&set, namespace))
                    .await?;
                tracing::info!(secret = snr::CERTIFICATES_SECRET, "certificates created");
            }
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
            Step::Warn(reason, message) => {
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
fn secret(set: &CertificateSet, namespace: &str) -> Secret {
    let entry = |field: &str, text: &str| (field.to_owned(), ByteString(text.as_bytes().to_vec()));
    Secret {
        metadata: ObjectMeta {
            name: Some(snr::CERTIFICATES_SECRET.to_owned()),
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

/// The set that a Secret holds, or what is wrong with it.
pub fn certificate_set(secret: &Secret) -> Result<CertificateSet, String> {
    let field = |name: &str| -> Result<String, String> {
        let bytes = secret
            .data
            .as_ref()
            .and_then(|data| data.get(name))
            .ok_or_else(|| format!("the key {name} is missing"))?;
        String::from_utf8(bytes.0.clone()).map_err(|_binary| format!("the key {name} is not PEM"))
    };
    Ok(CertificateSet {
        ca_pem: field(CA_FIELD)?,
        cert_pem: field(CERT_FIELD)?,
        key_pem: field(KEY_FIELD)?,
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_is_stored_can_be_used() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let set = CertificateSet::create(now).unwrap();
        let stored = secret(&set, "snr");
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
