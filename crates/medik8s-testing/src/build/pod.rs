//! Pods.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, Pod, PodCondition, PodIP, PodSpec, PodStatus, Toleration,
    Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use medik8s_api::names::kubernetes::MIRROR_POD_ANNOTATION;
use medik8s_core::conditions::Status;

use super::{MetaExt, meta, owner};

/// A pod that is bound to no node and owned by nobody.
pub fn pod(namespace: &str, name: &str) -> Pod {
    let pod = Pod {
        metadata: meta(name),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "main".to_owned(),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    };
    pod.within(namespace)
}

/// Changes of a pod.
pub trait PodExt: Sized {
    /// Changes the spec.
    #[must_use]
    fn with_spec(self, change: impl FnOnce(&mut PodSpec)) -> Self;

    /// Changes the status.
    #[must_use]
    fn with_status(self, change: impl FnOnce(&mut PodStatus)) -> Self;

    /// Makes an object its controller.
    #[must_use]
    fn controlled_by(self, api_version: &str, kind: &str, name: &str) -> Self;

    /// Makes it the mirror of a static pod.
    #[must_use]
    fn mirror(self) -> Self;

    /// Binds it to a node.
    #[must_use]
    fn on(self, node: &str) -> Self {
        self.with_spec(|pod| pod.node_name = Some(node.to_owned()))
    }

    /// Makes a DaemonSet its controller.
    #[must_use]
    fn of_daemon_set(self, name: &str) -> Self {
        self.controlled_by("apps/v1", "DaemonSet", name)
    }

    /// Sets its phase.
    #[must_use]
    fn phase(self, phase: &str) -> Self {
        self.with_status(|pod| pod.phase = Some(phase.to_owned()))
    }

    /// Makes it run, with a Ready condition.
    #[must_use]
    fn running(self, ready: Status, since: Timestamp) -> Self {
        self.with_status(|pod| {
            pod.phase = Some("Running".to_owned());
            pod.conditions = Some(vec![PodCondition {
                type_: "Ready".to_owned(),
                status: ready.as_str().to_owned(),
                last_transition_time: Some(Time(since)),
                ..PodCondition::default()
            }]);
        })
    }

    /// Sets its address.
    #[must_use]
    fn ip(self, address: &str) -> Self {
        self.with_status(|pod| {
            pod.pod_ip = Some(address.to_owned());
            pod.pod_ips = Some(vec![PodIP {
                ip: address.to_owned(),
            }]);
        })
    }

    /// Gives it an empty directory.
    #[must_use]
    fn with_empty_dir(self) -> Self {
        self.with_spec(|pod| {
            pod.volumes.get_or_insert_default().push(Volume {
                name: "scratch".to_owned(),
                empty_dir: Some(EmptyDirVolumeSource::default()),
                ..Volume::default()
            });
        })
    }

    /// Makes it tolerate every taint.
    #[must_use]
    fn tolerating_everything(self) -> Self {
        self.with_spec(|pod| {
            pod.tolerations.get_or_insert_default().push(Toleration {
                operator: Some("Exists".to_owned()),
                ..Toleration::default()
            });
        })
    }
}

impl PodExt for Pod {
    fn with_spec(mut self, change: impl FnOnce(&mut PodSpec)) -> Self {
        change(self.spec.get_or_insert_default());
        self
    }

    fn with_status(mut self, change: impl FnOnce(&mut PodStatus)) -> Self {
        change(self.status.get_or_insert_default());
        self
    }

    fn controlled_by(self, api_version: &str, kind: &str, name: &str) -> Self {
        self.owned_by(OwnerReference {
            controller: Some(true),
            block_owner_deletion: Some(true),
            ..owner(api_version, kind, name)
        })
    }

    fn mirror(self) -> Self {
        self.annotated(MIRROR_POD_ANNOTATION, "static")
    }
}
