//! The DaemonSet of the agents and the Service by which they find each other, as typed data.
//!
//! # Guarantees
//! - Nothing of the configuration is put into text that is parsed again.
//! - Only what agents must know is rendered: `safeTimeToAssumeNodeRebootedSeconds` is not, so that
//!   changing it restarts no agent.
//! - Name, selector and labels are those of the original (an existing DaemonSet is updated in
//!   place, its selector is immutable).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet},
        core::v1::{
            Affinity, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
            HostPathVolumeSource, NodeAffinity, NodeSelector, NodeSelectorRequirement,
            NodeSelectorTerm, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec,
            Probe, ResourceRequirements, SecretVolumeSource, SecurityContext, Service, ServicePort,
            ServiceSpec, Toleration, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use kube::Resource;
use medik8s_api::{
    names::{
        contract::{EXCLUDE_FROM_REMEDIATION_LABEL, TRUE},
        kubernetes::{CONTROL_PLANE_ROLE_LABEL, MASTER_ROLE_LABEL},
        snr,
    },
    self_node_remediation::{SelfNodeRemediationConfig, SelfNodeRemediationConfigSpec, defaults},
    value::GoDuration,
};
use self_node_remediation_core::budget;

#[cfg(test)]
mod tests;

/// Where the agent finds the certificates; the default of its flag `--certificates-dir`.
pub const CERTIFICATES_DIR: &str = "/etc/self-node-remediation/certificates";
/// Port of the agent's probes.
const PROBE_PORT: i32 = 8081;
/// Name of the peer port, also in the EndpointSlices of the Service.
const PEER_PORT: &str = "self-n-r-port";

/// Why a configuration cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A duration or count is not usable.
    #[error("spec.{0}")]
    Limit(#[from] budget::BudgetError),
    /// A duration is longer than the agents can be told.
    #[error("spec.{0} is too long")]
    TooLong(&'static str),
    /// A port that does not exist.
    #[error("spec.hostPort must be between 1 and 65535, not {0}")]
    Port(i64),
    /// A count that is negative or absurd.
    #[error("spec.minPeersForRemediation is out of range: {0}")]
    MinPeers(i64),
}

/// Selector and labels of the agent pods.
pub fn agent_labels() -> BTreeMap<String, String> {
    BTreeMap::from([
        (
            snr::AGENT_NAME_LABEL.to_owned(),
            snr::AGENT_NAME_VALUE.to_owned(),
        ),
        (
            snr::AGENT_COMPONENT_LABEL.to_owned(),
            snr::AGENT_COMPONENT_VALUE.to_owned(),
        ),
    ])
}

/// The DaemonSet for a configuration. `image` is that of manager and agents, `certificates` the Secret that agents
/// mount.
pub fn daemon_set(
    config: &SelfNodeRemediationConfig,
    namespace: &str,
    image: &str,
    certificates: &str,
) -> Result<DaemonSet, Unusable> {
    let spec = &config.spec;
    let port = peer_port(spec)?;
    Ok(DaemonSet {
        metadata: ObjectMeta {
            name: Some(snr::DAEMON_SET_NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(pairs([("k8s-app", "self-node-remediation")])),
            annotations: Some(pairs([(
                snr::FORCE_DELETION_REVISION_ANNOTATION,
                snr::FORCE_DELETION_REVISION,
            )])),
            owner_references: owner(config).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(DaemonSetSpec {
            selector: LabelSelector {
                match_labels: Some(agent_labels()),
                ..LabelSelector::default()
            },
            // The successor starts beside the running agent and waits for its lock, so that the
            // watchdog of the node is never without a feeder for longer than the hand-over.
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(agent_labels()),
                    annotations: Some(pairs([(
                        snr::AGENT_POD_MARKER_ANNOTATION,
                        snr::AGENT_POD_MARKER,
                    )])),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(spec, image, port, certificates)?),
            },
            ..DaemonSetSpec::default()
        }),
        status: None,
    })
}

/// The headless Service over the agent pods. Addresses of pods that are not ready are published
/// too: a standby or starting agent must be known before its node needs peers.
pub fn service(config: &SelfNodeRemediationConfig, namespace: &str) -> Result<Service, Unusable> {
    let port = peer_port(&config.spec)?;
    Ok(Service {
        metadata: ObjectMeta {
            name: Some(snr::AGENT_SERVICE.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(agent_labels()),
            owner_references: owner(config).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(agent_labels()),
            publish_not_ready_addresses: Some(true),
            ip_family_policy: Some("PreferDualStack".to_owned()),
            ports: Some(vec![ServicePort {
                name: Some(PEER_PORT.to_owned()),
                port,
                target_port: Some(IntOrString::Int(port)),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    })
}

/// The TCP port of the agents' peer service.
pub fn peer_port(spec: &SelfNodeRemediationConfigSpec) -> Result<i32, Unusable> {
    let port = spec.host_port.unwrap_or(defaults::HOST_PORT);
    u16::try_from(port)
        .ok()
        .filter(|port| *port > 0)
        .map(i32::from)
        .ok_or(Unusable::Port(port))
}

fn owner(config: &SelfNodeRemediationConfig) -> Option<OwnerReference> {
    let owner = config.controller_owner_ref(&())?;
    Some(OwnerReference {
        block_owner_deletion: Some(true),
        ..owner
    })
}

fn pod(
    spec: &SelfNodeRemediationConfigSpec,
    image: &str,
    port: i32,
    certificates: &str,
) -> Result<PodSpec, Unusable> {
    Ok(PodSpec {
        service_account_name: Some(snr::AGENT_SERVICE_ACCOUNT.to_owned()),
        priority_class_name: Some("system-node-critical".to_owned()),
        // The agent reaches its host through /proc/1/root.
        host_pid: Some(true),
        dns_policy: Some("ClusterFirst".to_owned()),
        termination_grace_period_seconds: Some(10),
        security_context: Some(PodSecurityContext {
            run_as_user: Some(0),
            ..PodSecurityContext::default()
        }),
        affinity: Some(affinity(spec)),
        tolerations: Some(tolerations(spec)),
        volumes: Some(vec![
            Volume {
                name: "devices".to_owned(),
                host_path: Some(HostPathVolumeSource {
                    path: "/dev".to_owned(),
                    type_: Some("Directory".to_owned()),
                }),
                ..Volume::default()
            },
            Volume {
                name: "certificates".to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(certificates.to_owned()),
                    default_mode: Some(0o400),
                    optional: Some(false),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            },
        ]),
        containers: vec![Container {
            name: "manager".to_owned(),
            image: Some(image.to_owned()),
            image_pull_policy: Some("IfNotPresent".to_owned()),
            command: Some(vec!["/manager".to_owned()]),
            args: Some(vec!["--is-manager=false".to_owned()]),
            env: Some(environment(spec, port)?),
            ports: Some(vec![ContainerPort {
                name: Some(PEER_PORT.to_owned()),
                container_port: port,
                protocol: Some("TCP".to_owned()),
                ..ContainerPort::default()
            }]),
            volume_mounts: Some(vec![
                VolumeMount {
                    name: "devices".to_owned(),
                    mount_path: "/dev".to_owned(),
                    ..VolumeMount::default()
                },
                VolumeMount {
                    name: "certificates".to_owned(),
                    mount_path: CERTIFICATES_DIR.to_owned(),
                    read_only: Some(true),
                    ..VolumeMount::default()
                },
            ]),
            security_context: Some(SecurityContext {
                privileged: Some(true),
                read_only_root_filesystem: Some(true),
                ..SecurityContext::default()
            }),
            resources: Some(ResourceRequirements {
                requests: Some(BTreeMap::from([
                    ("cpu".to_owned(), Quantity("20m".to_owned())),
                    ("memory".to_owned(), Quantity("60Mi".to_owned())),
                ])),
                ..ResourceRequirements::default()
            }),
            startup_probe: Some(Probe {
                period_seconds: Some(5),
                failure_threshold: Some(12),
                ..probe("/healthz")
            }),
            // Only "the process' own loop is alive": restarting agents because the API is away
            // would leave nodes unguarded exactly when it matters.
            liveness_probe: Some(Probe {
                period_seconds: Some(20),
                ..probe("/healthz")
            }),
            readiness_probe: Some(Probe {
                initial_delay_seconds: Some(5),
                period_seconds: Some(10),
                ..probe("/readyz")
            }),
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        }],
        ..PodSpec::default()
    })
}

fn affinity(spec: &SelfNodeRemediationConfigSpec) -> Affinity {
    let excluded = NodeSelectorRequirement {
        key: EXCLUDE_FROM_REMEDIATION_LABEL.to_owned(),
        operator: "NotIn".to_owned(),
        values: Some(vec![TRUE.to_owned()]),
    };
    let custom = spec.custom_ds_node_selector_requirements.iter().flatten();
    let mut all = vec![excluded.clone()];
    all.extend(
        custom
            .filter(|requirement| **requirement != excluded)
            .cloned(),
    );
    Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: vec![NodeSelectorTerm {
                    match_expressions: Some(all),
                    match_fields: None,
                }],
            }),
            preferred_during_scheduling_ignored_during_execution: None,
        }),
        ..Affinity::default()
    }
}

fn tolerations(spec: &SelfNodeRemediationConfigSpec) -> Vec<Toleration> {
    let built_in = [
        snr::REMEDIATION_TAINT,
        MASTER_ROLE_LABEL,
        CONTROL_PLANE_ROLE_LABEL,
    ]
    .map(|key| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..Toleration::default()
    });
    let custom = spec.custom_ds_tolerations.iter().flatten();
    let mut all = built_in.to_vec();
    all.extend(
        custom
            .filter(|toleration| !built_in.contains(toleration))
            .cloned(),
    );
    all
}

fn environment(spec: &SelfNodeRemediationConfigSpec, port: i32) -> Result<Vec<EnvVar>, Unusable> {
    let watchdog_path = spec
        .watchdog_file_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or(defaults::WATCHDOG_FILE_PATH);
    let threshold = budget::Limits::of(spec)?.max_api_error_threshold;
    let min_peers = spec
        .min_peers_for_remediation
        .unwrap_or(defaults::MIN_PEERS_FOR_REMEDIATION);
    let min_peers = u32::try_from(min_peers).map_err(|_negative| Unusable::MinPeers(min_peers))?;
    let software_reboot = spec
        .is_software_reboot_enabled
        .unwrap_or(defaults::IS_SOFTWARE_REBOOT_ENABLED);

    let mut all = vec![
        field("MY_NODE_NAME", "spec.nodeName"),
        field("POD_NAME", "metadata.name"),
        field("DEPLOYMENT_NAMESPACE", "metadata.namespace"),
        value("WATCHDOG_PATH", watchdog_path),
    ];
    for (name, field, set, default) in [
        (
            "PEER_API_SERVER_TIMEOUT",
            "peerApiServerTimeout",
            &spec.peer_api_server_timeout,
            defaults::PEER_API_SERVER_TIMEOUT,
        ),
        (
            "API_CHECK_INTERVAL",
            "apiCheckInterval",
            &spec.api_check_interval,
            defaults::API_CHECK_INTERVAL,
        ),
        (
            "PEER_UPDATE_INTERVAL",
            "peerUpdateInterval",
            &spec.peer_update_interval,
            defaults::PEER_UPDATE_INTERVAL,
        ),
        (
            "API_SERVER_TIMEOUT",
            "apiServerTimeout",
            &spec.api_server_timeout,
            defaults::API_SERVER_TIMEOUT,
        ),
        (
            "PEER_DIAL_TIMEOUT",
            "peerDialTimeout",
            &spec.peer_dial_timeout,
            defaults::PEER_DIAL_TIMEOUT,
        ),
        (
            "PEER_REQUEST_TIMEOUT",
            "peerRequestTimeout",
            &spec.peer_request_timeout,
            defaults::PEER_REQUEST_TIMEOUT,
        ),
    ] {
        all.push(value(name, &nanoseconds(field, set.as_ref(), default)?));
    }
    if let Some(timeout) = &spec.watchdog_timeout {
        all.push(value(
            "WATCHDOG_TIMEOUT",
            &nanoseconds("watchdogTimeout", Some(timeout), "")?,
        ));
    }
    all.extend([
        value("MAX_API_ERROR_THRESHOLD", &threshold.to_string()),
        value("HOST_PORT", &port.to_string()),
        value("MIN_PEERS_FOR_REMEDIATION", &min_peers.to_string()),
        value(
            "IS_SOFTWARE_REBOOT_ENABLED",
            if software_reboot { "true" } else { "false" },
        ),
        value(
            "END_POINT_HEALTH_CHECK_URL",
            spec.endpoint_health_check_url
                .as_deref()
                .unwrap_or_default(),
        ),
    ]);
    Ok(all)
}

/// The agents read integer nanoseconds, as those of the original do.
fn nanoseconds(
    field: &'static str,
    set: Option<&GoDuration>,
    default: &str,
) -> Result<String, Unusable> {
    let duration = budget::duration(field, set, default)?;
    i64::try_from(duration.as_nanos())
        .map(|nanoseconds| nanoseconds.to_string())
        .map_err(|_overflow| Unusable::TooLong(field))
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(PROBE_PORT),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                api_version: Some("v1".to_owned()),
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}
