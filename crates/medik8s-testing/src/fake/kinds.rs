//! Kinds that the server knows.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authn, authorization::v1 as authz,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
    events::v1 as events, policy::v1 as policy, rbac::v1 as rbac, storage::v1 as storage,
};
use kube::Resource;
use medik8s_api as medik8s;
use serde_json::Value;

use super::state::State;

/// A kind.
#[expect(clippy::struct_field_names, reason = "the API calls it kind")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Group and version, `v1` for the core group.
    pub(crate) api_version: String,
    /// Kind.
    pub(crate) kind: String,
    /// Name in paths.
    pub(crate) plural: String,
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
}

impl Kind {
    pub(crate) fn new(api_version: &str, kind: &str, plural: &str, namespaced: bool) -> Self {
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            namespaced,
        }
    }

    pub(crate) fn of<K: Resource<DynamicType = ()>>() -> Self {
        // The scope is a type without a value; its name is the only thing to ask.
        let namespaced = std::any::type_name::<K::Scope>().ends_with("NamespaceResourceScope");
        Self::new(
            &K::api_version(&()),
            &K::kind(&()),
            &K::plural(&()),
            namespaced,
        )
    }

    /// Group; empty for the core group.
    pub(crate) fn group(&self) -> &str {
        self.api_version
            .split_once('/')
            .map_or("", |(group, _)| group)
    }

    /// Version without group.
    pub(crate) fn version(&self) -> &str {
        self.api_version
            .split_once('/')
            .map_or(&self.api_version, |(_, version)| version)
    }

    /// Resource with its group, as messages name it.
    pub(crate) fn resource(&self) -> String {
        match self.group() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Whether a status sent with the object itself is ignored.
    pub(crate) fn has_status(&self) -> bool {
        !matches!(
            self.kind.as_str(),
            "Event" | "Lease" | "Secret" | "ConfigMap"
        )
    }
}

/// All known kinds, by group and version, and name in paths.
#[derive(Debug, Default)]
pub(crate) struct Kinds(BTreeMap<(String, String), Kind>);

impl Kinds {
    pub(crate) fn add(&mut self, kind: Kind) {
        self.0
            .insert((kind.api_version.clone(), kind.plural.clone()), kind);
    }

    pub(crate) fn remove(&mut self, kind: &Kind) {
        self.0
            .remove(&(kind.api_version.clone(), kind.plural.clone()));
    }

    pub(crate) fn by_plural(&self, api_version: &str, plural: &str) -> Option<&Kind> {
        self.0.get(&(api_version.to_owned(), plural.to_owned()))
    }

    pub(crate) fn named(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.0
            .values()
            .find(|known| known.api_version == api_version && known.kind == kind)
    }

    pub(crate) fn of_object(&self, object: &Value) -> Option<&Kind> {
        self.named(
            object.get("apiVersion")?.as_str()?,
            object.get("kind")?.as_str()?,
        )
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Kind> {
        self.0.values()
    }
}

pub(crate) fn builtin() -> Kinds {
    let mut kinds = Kinds::default();
    kinds.add(Kind::of::<core::ConfigMap>());
    kinds.add(Kind::of::<core::Event>());
    kinds.add(Kind::of::<core::Namespace>());
    kinds.add(Kind::of::<core::Node>());
    kinds.add(Kind::of::<core::Pod>());
    kinds.add(Kind::of::<core::Secret>());
    kinds.add(Kind::of::<core::Service>());
    kinds.add(Kind::of::<core::ServiceAccount>());
    kinds.add(Kind::of::<apps::DaemonSet>());
    kinds.add(Kind::of::<apps::Deployment>());
    kinds.add(Kind::of::<apps::ReplicaSet>());
    kinds.add(Kind::of::<authn::TokenReview>());
    kinds.add(Kind::of::<authz::SubjectAccessReview>());
    kinds.add(Kind::of::<coordination::Lease>());
    kinds.add(Kind::of::<discovery::EndpointSlice>());
    kinds.add(Kind::of::<events::Event>());
    kinds.add(Kind::of::<policy::PodDisruptionBudget>());
    kinds.add(Kind::of::<rbac::ClusterRole>());
    kinds.add(Kind::of::<rbac::ClusterRoleBinding>());
    kinds.add(Kind::of::<storage::VolumeAttachment>());
    kinds.add(Kind::new(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        false,
    ));
    kinds.add(Kind::new(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        false,
    ));
    kinds.add(Kind::new(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        false,
    ));
    kinds
}

pub(crate) fn add_medik8s(state: &mut State) {
    let kinds = &mut state.kinds;
    kinds.add(Kind::of::<medik8s::NodeHealthCheck>());
    kinds.add(Kind::of::<medik8s::NodeMaintenance>());
    kinds.add(Kind::of::<medik8s::SelfNodeRemediation>());
    kinds.add(Kind::of::<medik8s::SelfNodeRemediationConfig>());
    kinds.add(Kind::of::<medik8s::SelfNodeRemediationTemplate>());
    kinds.add(Kind::of::<medik8s::FenceAgentsRemediation>());
    kinds.add(Kind::of::<medik8s::FenceAgentsRemediationTemplate>());
    kinds.add(Kind::of::<medik8s::MachineDeletionRemediation>());
    kinds.add(Kind::of::<medik8s::MachineDeletionRemediationTemplate>());
    kinds.add(Kind::of::<medik8s::StorageBasedRemediation>());
    kinds.add(Kind::of::<medik8s::StorageBasedRemediationConfig>());
    kinds.add(Kind::of::<medik8s::StorageBasedRemediationTemplate>());
    kinds.add(Kind::of::<medik8s::CustomizedUserRemediation>());
    kinds.add(Kind::of::<medik8s::CustomizedUserRemediationConfig>());
    kinds.add(Kind::of::<medik8s::CustomizedUserRemediationTemplate>());
    kinds.add(Kind::of::<medik8s::MeatwareRemediation>());
    kinds.add(Kind::of::<medik8s::MeatwareRemediationTemplate>());
}
