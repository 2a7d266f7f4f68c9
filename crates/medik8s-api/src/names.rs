//! Names that more than one program must spell the same way.
//!
//! # Purpose
//! Labels, annotations, taints, finalizers, conditions, reasons and object names that are part of
//! the contract between the operators, with the original Go operators, and with users. Their
//! sources are the specifications of the operators and of the remediation contract.
//!
//! # Caveats
//! Names that only one operator uses, and nobody outside sees, stay in that operator's crate.

/// Prefix of every event message of NHC and of the remediators (not of NMO).
pub const EVENT_PREFIX: &str = "[remediation] ";

/// The Kubernetes side: well-known names that the operators read or write.
pub mod kubernetes {
    /// Node label: the node is a worker.
    pub const WORKER_ROLE_LABEL: &str = "node-role.kubernetes.io/worker";
    /// Node label: the node belongs to the control plane. The value does not count.
    pub const CONTROL_PLANE_ROLE_LABEL: &str = "node-role.kubernetes.io/control-plane";
    /// Node label: older name of [`CONTROL_PLANE_ROLE_LABEL`]; either of the two counts.
    pub const MASTER_ROLE_LABEL: &str = "node-role.kubernetes.io/master";
    /// Node label: host name, by which an agent leaves itself out of its peers.
    pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
    /// Taint key of a cordoned node.
    pub const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";
    /// Taint keys of a node that is not Ready, or of which nothing is heard.
    pub const LOST_TAINTS: [&str; 2] = [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ];
    /// Taint key that makes Kubernetes delete the pods of a node and detach their volumes.
    pub const OUT_OF_SERVICE_TAINT: &str = "node.kubernetes.io/out-of-service";
    /// Value of [`OUT_OF_SERVICE_TAINT`].
    pub const OUT_OF_SERVICE_TAINT_VALUE: &str = "nodeshutdown";
    /// Node label: external load balancers send the node no traffic.
    pub const EXCLUDE_FROM_LOAD_BALANCERS_LABEL: &str =
        "node.kubernetes.io/exclude-from-external-load-balancers";
    /// Pod annotation: the pod is the mirror of a static pod.
    pub const MIRROR_POD_ANNOTATION: &str = "kubernetes.io/config.mirror";
    /// Namespace of the events about cluster-scoped objects.
    pub const DEFAULT_NAMESPACE: &str = "default";
}

/// The contract between health checkers and remediators.
pub mod contract {
    /// Node label: never remediate the node. Only the value [`TRUE`] counts.
    pub const EXCLUDE_FROM_REMEDIATION_LABEL: &str =
        "remediation.medik8s.io/exclude-from-remediation";
    /// Value of the labels and annotations that say yes.
    pub const TRUE: &str = "true";

    /// Remediation annotation: the node that the remediation is for.
    pub const NODE_NAME_ANNOTATION: &str = "remediation.medik8s.io/node-name";
    /// Remediation annotation: the template that the remediation was created from.
    pub const TEMPLATE_NAME_ANNOTATION: &str = "remediation.medik8s.io/template-name";
    /// Remediation annotation: the health checker tells the remediator to stop. Presence counts;
    /// the value is an RFC 3339 time.
    pub const NHC_TIMED_OUT_ANNOTATION: &str = "remediation.medik8s.io/nhc-timed-out";
    /// Remediation annotation: since when the node is healthy again (RFC 3339, UTC).
    pub const HEALTHY_DELAY_ANNOTATION: &str = "remediation.medik8s.io/healthy-delay";
    /// Remediation annotation: the remediation was reported as older than 48 hours.
    pub const OLD_REMEDIATION_ANNOTATION: &str =
        "nodehealthcheck.medik8s.io/old-remediation-cr-flag";
    /// Value of [`OLD_REMEDIATION_ANNOTATION`].
    pub const OLD_REMEDIATION_ANNOTATION_VALUE: &str = "flagon";
    /// Node annotation: a person ends the healthy delay of the node. Presence counts.
    pub const MANUALLY_CONFIRMED_HEALTHY_ANNOTATION: &str =
        "remediation.medik8s.io/manually-confirmed-healthy";
    /// Template annotation: one health check may use several templates of this kind. Presence
    /// counts.
    pub const MULTIPLE_TEMPLATES_ANNOTATION: &str =
        "remediation.medik8s.io/multiple-templates-support";
    /// Template label: the template that user interfaces offer first.
    pub const DEFAULT_TEMPLATE_LABEL: &str = "remediation.medik8s.io/default-template";
    /// Remediation label: the remediation is for a control-plane node. The value is empty.
    pub const CONTROL_PLANE_NODE_LABEL: &str = "remediation.medik8s.io/isControlPlaneNode";
    /// Remediation label on everything that a health checker created.
    pub const PART_OF_LABEL: &str = "app.kubernetes.io/part-of";
    /// Value of [`PART_OF_LABEL`].
    pub const PART_OF_VALUE: &str = "node-healthcheck-controller";
    /// ClusterRole label: the role is added to what the health checker may do.
    pub const AGGREGATE_LABEL: &str = "rbac.ext-remediation/aggregate-to-ext-remediation";

    /// Condition: the remediator is at work.
    pub const PROCESSING: &str = "Processing";
    /// Condition: the node is fenced and its workload freed.
    pub const SUCCEEDED: &str = "Succeeded";
    /// Condition: the node object will vanish for good.
    pub const PERMANENT_NODE_DELETION_EXPECTED: &str = "PermanentNodeDeletionExpected";
    /// Status of a condition that holds.
    pub const CONDITION_TRUE: &str = "True";
    /// Status of a condition that does not hold.
    pub const CONDITION_FALSE: &str = "False";
    /// Status of a condition that nobody knows.
    pub const CONDITION_UNKNOWN: &str = "Unknown";

    /// Event and condition reason: remediation began.
    pub const REMEDIATION_STARTED: &str = "RemediationStarted";
    /// Event reason: the health checker told the remediator to stop.
    pub const REMEDIATION_STOPPED: &str = "RemediationStopped";
    /// Event reason: remediation ended and its marks are gone.
    pub const REMEDIATION_FINISHED: &str = "RemediationFinished";
    /// Event reason: remediation cannot start.
    pub const REMEDIATION_CANNOT_START: &str = "RemediationCannotStart";
    /// Event reason: remediation is not done, and why.
    pub const REMEDIATION_SKIPPED: &str = "RemediationSkipped";
}

/// The mutual exclusion between operators: one Lease per node.
pub mod lease {
    /// Namespace of the node leases, unless [`NAMESPACE_ENV`] says otherwise.
    pub const NAMESPACE: &str = "medik8s-leases";
    /// Environment variable that overrides [`NAMESPACE`].
    pub const NAMESPACE_ENV: &str = "LEASE_NAMESPACE";
    /// Name of the lease of a node is this, followed by the node's name, in lower case.
    pub const NODE_PREFIX: &str = "node-";
    /// Holder of a lease for maintenance.
    pub const NODE_MAINTENANCE_HOLDER: &str = "node-maintenance";
    /// Holder of a lease for a node health check is this, followed by the health check's name.
    pub const NODE_HEALTH_CHECK_HOLDER_PREFIX: &str = "NodeHealthCheck-";
    /// Holder of a lease for a machine health check is this, followed by the health check's name.
    pub const MACHINE_HEALTH_CHECK_HOLDER_PREFIX: &str = "MachineHealthCheck-";
}

/// OpenShift: names that are read there.
pub mod openshift {
    /// API group of Machines.
    pub const MACHINE_GROUP: &str = "machine.openshift.io";
    /// Groups of Machine kinds, also of the Cluster API, with their versions, newest first.
    pub const MACHINE_VERSIONS: [(&str, &[&str]); 2] = [
        (MACHINE_GROUP, &["v1beta1"]),
        ("cluster.x-k8s.io", &["v1beta2", "v1beta1"]),
    ];
    /// Node annotation: `<namespace>/<name>` of the Machine of the node.
    pub const MACHINE_ANNOTATION: &str = "machine.openshift.io/machine";
    /// Node annotation: configuration that the node has.
    pub const CURRENT_CONFIG_ANNOTATION: &str = "machineconfiguration.openshift.io/currentConfig";
    /// Node annotation: configuration that the node is to get; differs during an upgrade.
    pub const DESIRED_CONFIG_ANNOTATION: &str = "machineconfiguration.openshift.io/desiredConfig";
    /// Namespace of etcd and its guard pods.
    pub const ETCD_NAMESPACE: &str = "openshift-etcd";
    /// Namespace of the Machine API objects.
    pub const MACHINE_API_NAMESPACE: &str = "openshift-machine-api";
    /// MachineHealthCheck annotation: the health check is paused. Presence counts.
    pub const PAUSED_ANNOTATION: &str = "cluster.x-k8s.io/paused";
    /// Group and version whose presence tells that the cluster is OpenShift.
    pub const CONFIG_GROUP_VERSION: &str = "config.openshift.io/v1";
    /// Feature gate: the platform's own MachineHealthCheck controller is off.
    pub const DISABLE_MHC_FEATURE_GATE: &str =
        "MachineAPIOperatorDisableMachineHealthCheckController";
}

/// Node health check operator.
pub mod nhc {
    /// Lease of the leader election.
    pub const LEADER_ELECTION_ID: &str = "e1f13584.medik8s.io";
    /// Source of the events about node health checks.
    pub const EVENT_SOURCE: &str = "NodeHealthCheck";
    /// Source of the events about machine health checks.
    pub const MHC_EVENT_SOURCE: &str = "MachineHealthCheck";
    /// Name of the aggregated ClusterRole and of its binding.
    pub const AGGREGATION_ROLE: &str = "node-healthcheck-operator-aggregation";
    /// ServiceAccount of the manager.
    pub const SERVICE_ACCOUNT: &str = "node-healthcheck-controller-manager";

    /// Condition: the health check does nothing, and why.
    pub const DISABLED: &str = "Disabled";
    /// Condition: too few nodes are healthy, remediation is held back.
    pub const STORM_ACTIVE: &str = "StormActive";
    /// Condition: enough nodes are healthy again, but not yet for long enough.
    pub const STORM_COOLDOWN_ACTIVE: &str = "StormCooldownActive";

    /// Reason of [`DISABLED`]: a MachineHealthCheck watches nodes as well.
    pub const REASON_CONFLICTING_MHC: &str = "ConflictingMachineHealthCheckDetected";
    /// Reason of [`DISABLED`]: a template, its kind or its namespace is missing.
    pub const REASON_TEMPLATE_NOT_FOUND: &str = "RemediationTemplateNotFound";
    /// Reason of [`DISABLED`]: a template is unusable.
    pub const REASON_TEMPLATE_INVALID: &str = "RemediationTemplateInvalid";
    /// Reason of [`DISABLED`] = False.
    pub const REASON_ENABLED: &str = "NodeHealthCheckEnabled";
    /// Reason of [`STORM_ACTIVE`] and [`STORM_COOLDOWN_ACTIVE`].
    pub const REASON_THRESHOLD_CHANGE: &str = "HealthyNodeThresholdChange";

    /// Phase: see the condition [`DISABLED`].
    pub const PHASE_DISABLED: &str = "Disabled";
    /// Phase: somebody paused the health check.
    pub const PHASE_PAUSED: &str = "Paused";
    /// Phase: at least one node is being remediated.
    pub const PHASE_REMEDIATING: &str = "Remediating";
    /// Phase: nothing to do.
    pub const PHASE_ENABLED: &str = "Enabled";

    /// Event reason: the health check was disabled.
    pub const EVENT_DISABLED: &str = "Disabled";
    /// Event reason: the health check was enabled.
    pub const EVENT_ENABLED: &str = "Enabled";
    /// Event reason: a node matches an unhealthy condition.
    pub const EVENT_DETECTED_UNHEALTHY: &str = "DetectedUnhealthy";
    /// Event reason: the exclude label of a node has an empty value.
    pub const EVENT_INVALID_NODE_LABEL: &str = "InvalidNodeLabel";
    /// Event reason: a remediation object was created.
    pub const EVENT_REMEDIATION_CREATED: &str = "RemediationCreated";
    /// Event reason: a remediation object was deleted.
    pub const EVENT_REMEDIATION_REMOVED: &str = "RemediationRemoved";
    /// Event reason: all steps have timed out.
    pub const EVENT_NO_TEMPLATE_LEFT: &str = "NoTemplateLeft";
    /// Event reason: too few nodes are healthy.
    pub const EVENT_STORM_STARTED: &str = "StormRecoveryStarted";
    /// Event reason: enough nodes are healthy again, the pause starts.
    pub const EVENT_STORM_COOLDOWN_STARTED: &str = "StormRecoveryCooldownStarted";
    /// Event reason: the pause is over.
    pub const EVENT_STORM_ENDED: &str = "StormRecoveryEnded";
}

/// Self node remediation: manager and agent.
pub mod snr {
    /// Finalizer on the remediation.
    pub const FINALIZER: &str = "self-node-remediation.medik8s.io/snr-finalizer";
    /// Name of the one configuration that is used.
    pub const CONFIG_NAME: &str = "self-node-remediation-config";
    /// Name of the template that the manager creates, with strategy Automatic.
    pub const DEFAULT_TEMPLATE_NAME: &str = "self-node-remediation-automatic-strategy-template";
    /// Name of the second template that the manager creates, which published manuals use.
    pub const RESOURCE_DELETION_TEMPLATE_NAME: &str =
        "self-node-remediation-resource-deletion-template";
    /// Name of the DaemonSet of the agents.
    pub const DAEMON_SET_NAME: &str = "self-node-remediation-ds";
    /// Secret with the certificates of the agents.
    pub const CERTIFICATES_SECRET: &str = "self-node-remediation-certificates";
    /// ServiceAccount of the manager.
    pub const MANAGER_SERVICE_ACCOUNT: &str = "self-node-remediation-controller-manager";
    /// ServiceAccount of the agents.
    pub const AGENT_SERVICE_ACCOUNT: &str = "self-node-remediation-agent";
    /// ValidatingAdmissionPolicy, and its binding, that keeps the agents to their own Node.
    pub const AGENT_POLICY: &str = "self-node-remediation-agent";
    /// ClusterRole by which the health checker gets our kinds.
    pub const EXT_REMEDIATION_ROLE: &str = "self-node-remediation-ext-remediation";
    /// Headless Service over the agent pods, whose EndpointSlices tell the agents their peers.
    pub const AGENT_SERVICE: &str = "self-node-remediation-agent";
    /// Lease of the leader election.
    pub const LEADER_ELECTION_ID: &str = "547f6cb6.medik8s.io";
    /// Source of the events about remediations.
    pub const EVENT_SOURCE: &str = "SelfNodeRemediation";
    /// Source of the events of the agent's connection check.
    pub const AGENT_EVENT_SOURCE: &str = "ApiConnectivityCheck";

    /// Label of the agent pods, with [`AGENT_NAME_VALUE`].
    pub const AGENT_NAME_LABEL: &str = "app.kubernetes.io/name";
    /// Value of [`AGENT_NAME_LABEL`].
    pub const AGENT_NAME_VALUE: &str = "self-node-remediation";
    /// Label of the agent pods, with [`AGENT_COMPONENT_VALUE`].
    pub const AGENT_COMPONENT_LABEL: &str = "app.kubernetes.io/component";
    /// Value of [`AGENT_COMPONENT_LABEL`].
    pub const AGENT_COMPONENT_VALUE: &str = "agent";
    /// Selects the agent pods by both labels.
    pub const AGENT_SELECTOR: &str =
        "app.kubernetes.io/name=self-node-remediation,app.kubernetes.io/component=agent";

    /// DaemonSet annotation: a different value makes the manager re-create the DaemonSet.
    pub const FORCE_DELETION_REVISION_ANNOTATION: &str = "snr.medik8s.io/force-deletion-revision";
    /// Value of [`FORCE_DELETION_REVISION_ANNOTATION`].
    pub const FORCE_DELETION_REVISION: &str = "1";

    /// Taint key that keeps new pods off a node in remediation: no value, effect `NoSchedule`.
    pub const REMEDIATION_TAINT: &str = "remediation.medik8s.io/self-node-remediation";
    /// Taint key of releases up to 0.11, removed on cleanup: [`LEGACY_TAINT_VALUE`], `NoExecute`.
    pub const LEGACY_TAINT: &str = "medik8s.io/remediation";
    /// Value of [`LEGACY_TAINT`].
    pub const LEGACY_TAINT_VALUE: &str = "self-node-remediation";

    /// Node annotation of the agent: whether the node can reboot itself, `true` or `false`.
    pub const IS_REBOOT_CAPABLE_ANNOTATION: &str =
        "is-reboot-capable.self-node-remediation.medik8s.io";
    /// Node annotation of the agent: watchdog timeout in whole seconds, rounded up.
    pub const WATCHDOG_TIMEOUT_ANNOTATION: &str =
        "self-node-remediation.medik8s.io/watchdog-timeout";
    /// Node annotation of the agent: its version. Any non-empty value marks an agent of this
    /// project, whose announcement can be trusted; agents of the original do not set it.
    pub const AGENT_VERSION_ANNOTATION: &str = "self-node-remediation.medik8s.io/agent-version";
    /// Node annotation of the agent: by when it would have reset the node, in the form
    /// `boot=<id> armed=<bool> wd=<s> bound=<s|none> workers=<n> cp=<n> stamp=<date>`.
    pub const ANNOUNCED_ANNOTATION: &str = "self-node-remediation.medik8s.io/announced";
    /// Node annotation of the agent, its last words: `<boot id>/<timeout s>`. Written only after
    /// the feeding of an armed watchdog has stopped for good.
    pub const STOPPED_FEEDING_ANNOTATION: &str = "self-node-remediation.medik8s.io/stopped-feeding";
    /// Node annotation of our agent: last words of other nodes that could not write them themselves
    /// (`<node>=<boot id>/<timeout s>`, separated by blanks).
    pub const RELAYED_WORDS_ANNOTATION: &str =
        "self-node-remediation.medik8s.io/relayed-stopped-feeding";

    /// Remediation annotation of the manager: boot ID that the node had when the finalizer was
    /// added. The order to reboot is for this boot only.
    pub const BOOT_ID_ANNOTATION: &str = "self-node-remediation.medik8s.io/boot-id";
    /// Remediation annotation of the manager: the moments from which the release is counted, in
    /// the form `uid=<remediation uid> boot=<id> seen=<RFC 3339> quorum=<RFC 3339>`: when the order
    /// was first known to be in place, and when enough peers had acknowledged it. `quorum` is
    /// absent until then. Another UID or boot makes the whole annotation void.
    pub const ORDER_TIMES_ANNOTATION: &str = "self-node-remediation.medik8s.io/order-times";
    /// Pod annotation in the DaemonSet's pod template: the pod runs an agent of this project that
    /// announces its bound. The value is the version of the announcement's form.
    pub const AGENT_POD_MARKER_ANNOTATION: &str =
        "self-node-remediation.medik8s.io/announces-bound";
    /// Value of [`AGENT_POD_MARKER_ANNOTATION`].
    pub const AGENT_POD_MARKER: &str = "1";

    /// Phase that the original writes in no release but reads: same as absent.
    pub const PHASE_FENCING_STARTED: &str = "Fencing-Started";
    /// Phase: the node is ordered to reboot.
    pub const PHASE_PRE_REBOOT_COMPLETED: &str = "Pre-Reboot-Completed";
    /// Phase: the node has rebooted or is proven off.
    pub const PHASE_REBOOT_COMPLETED: &str = "Reboot-Completed";
    /// Phase: the workload is freed.
    pub const PHASE_FENCING_COMPLETED: &str = "Fencing-Completed";

    /// Condition: there is no configuration, so that nothing is done.
    pub const DISABLED: &str = "Disabled";
    /// Reason of [`DISABLED`].
    pub const REASON_CONFIGURATION_NOT_FOUND: &str = "ConfigurationNotFound";
    /// Reason: the workload of the node is freed.
    pub const REASON_FINISHED_SUCCESSFULLY: &str = "RemediationFinishedSuccessfully";
    /// Reason: the health checker told the remediator to stop.
    pub const REASON_TIMEOUT_BY_NHC: &str = "RemediationTimeoutByNHC";
    /// Reason: there is no such node.
    pub const REASON_NODE_NOT_FOUND: &str = "RemediationSkippedNodeNotFound";

    /// Event reason: the finalizer was added.
    pub const EVENT_ADD_FINALIZER: &str = "AddFinalizer";
    /// Event reason: the finalizer was removed.
    pub const EVENT_REMOVE_FINALIZER: &str = "RemoveFinalizer";
    /// Event reason: the safe time was computed.
    pub const EVENT_UPDATE_TIME_ASSUMED_REBOOTED: &str = "UpdateTimeAssumedRebooted";
    /// Event reason: [`REMEDIATION_TAINT`] was added.
    pub const EVENT_ADD_NO_SCHEDULE_TAINT: &str = "AddNoScheduleTaint";
    /// Event reason: [`REMEDIATION_TAINT`] was removed.
    pub const EVENT_REMOVE_NO_SCHEDULE_TAINT: &str = "RemoveNoScheduleTaint";
    /// Event reason: the out-of-service taint was added.
    pub const EVENT_ADD_OUT_OF_SERVICE: &str = "AddOutOfService";
    /// Event reason: the out-of-service taint was removed.
    pub const EVENT_REMOVE_OUT_OF_SERVICE: &str = "RemoveOutOfService";
    /// Event reason: the out-of-service taint was removed because it expired.
    pub const EVENT_OUT_OF_SERVICE_EXPIRED: &str = "OutOfServiceTimestampExpired";
    /// Event reason: the workload is freed.
    pub const EVENT_DELETE_RESOURCES: &str = "DeleteResources";
    /// Event reason: the agent is about to reboot its node.
    pub const EVENT_NODE_REBOOT: &str = "NodeReboot";
    /// Event reason: the agent raised peerRequestTimeout.
    pub const EVENT_PEER_TIMEOUT_ADJUSTED: &str = "PeerTimeoutAdjusted";
    /// Event reason: the release waits for acknowledgements of peers.
    pub const EVENT_WAITING_FOR_QUORUM: &str = "WaitingForQuorum";
    /// Event reason: the release waits for evidence that the node is off.
    pub const EVENT_WAITING_FOR_EVIDENCE: &str = "WaitingForEvidence";
}

/// Remediators of later releases: what other operators must know of them.
pub mod remediators {
    /// Taint key of fence agents remediation: no value, effect `NoSchedule`.
    pub const FENCE_AGENTS_TAINT: &str = "remediation.medik8s.io/fence-agents-remediation";
    /// Taint key of meatware remediation: no value, effect `NoSchedule`.
    pub const MEATWARE_TAINT: &str = "remediation.medik8s.io/meatware-remediation";
    /// Finalizer of fence agents remediation.
    pub const FENCE_AGENTS_FINALIZER: &str = "fence-agents-remediation.medik8s.io/far-finalizer";
    /// Finalizer of meatware remediation.
    pub const MEATWARE_FINALIZER: &str = "meatware-remediation.medik8s.io/finalizer";
    /// Finalizer of storage based remediation.
    pub const STORAGE_BASED_FINALIZER: &str = "medik8s.io/sbr-remediation-finalizer";
    /// Finalizer of customized user remediation.
    pub const CUSTOMIZED_USER_FINALIZER: &str = "customized-user-remediation.medik8s.io/finalizer";
}

/// Node maintenance operator.
pub mod nmo {
    /// Finalizer on the maintenance; not domain-qualified, as the original has it.
    pub const FINALIZER: &str = "foregroundDeleteNodeMaintenance";
    /// Taint key of a node that is being drained: no value, effect `NoSchedule`.
    pub const DRAIN_TAINT: &str = "medik8s.io/drain";
    /// Lease of the leader election.
    pub const LEADER_ELECTION_ID: &str = "135b1886.medik8s.io";
    /// Source of the events.
    pub const EVENT_SOURCE: &str = "NodeMaintenance";

    /// Maintenance annotation: what the node was like before, as JSON.
    pub const PREVIOUS_NODE_STATE_ANNOTATION: &str =
        "nodemaintenance.medik8s.io/previous-node-state";
    /// Maintenance annotation: with value `true`, a cordon that was there before is kept.
    pub const RESTORE_CORDON_ANNOTATION: &str = "nodemaintenance.medik8s.io/restore-cordon";
    /// Maintenance annotation: with value `true`, the node is taken out of external load balancers
    /// as well.
    pub const EXCLUDE_FROM_LOAD_BALANCERS_ANNOTATION: &str =
        "nodemaintenance.medik8s.io/exclude-from-load-balancers";

    /// Phase: the node is being drained.
    pub const PHASE_RUNNING: &str = "Running";
    /// Phase: nothing is left to evict.
    pub const PHASE_SUCCEEDED: &str = "Succeeded";
    /// Phase: the maintenance could not be carried out.
    pub const PHASE_FAILED: &str = "Failed";
    /// Condition: nothing is left to evict.
    pub const DRAINED: &str = "Drained";

    /// Event reason: the finalizer was added.
    pub const EVENT_BEGIN: &str = "BeginMaintenance";
    /// Event reason: see phase Failed.
    pub const EVENT_FAILED: &str = "FailedMaintenance";
    /// Event reason: see phase Succeeded.
    pub const EVENT_SUCCEEDED: &str = "SucceedMaintenance";
    /// Event reason, on the Node: the node was handed back.
    pub const EVENT_UNCORDON: &str = "UncordonNode";
    /// Event reason: the finalizer was removed.
    pub const EVENT_REMOVED: &str = "RemovedMaintenance";
    /// Event reason: the same pod has blocked the drain for long.
    pub const EVENT_DRAIN_BLOCKED: &str = "DrainBlocked";
}
