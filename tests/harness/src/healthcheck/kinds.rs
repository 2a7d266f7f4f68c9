//! Kinds of remediators and platforms, as minimal CRDs, with the roles that come with them.

use kube::api::ApiResource;
use serde_json::{Value, json};

use super::REMEDIATIONS;

/// Namespace of Machines.
pub const MACHINES: &str = "openshift-machine-api";

/// A kind.
fn kind(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// Self node remediation.
pub fn self_node_remediation() -> ApiResource {
    let group = "self-node-remediation.medik8s.io";
    kind(
        group,
        "v1alpha1",
        "SelfNodeRemediation",
        "selfnoderemediations",
    )
}

/// Remediation by fence agents.
pub fn fence_agents_remediation() -> ApiResource {
    let group = "fence-agents-remediation.medik8s.io";
    kind(
        group,
        "v1alpha1",
        "FenceAgentsRemediation",
        "fenceagentsremediations",
    )
}

/// Remediation by deletion of the machine.
pub fn machine_deletion_remediation() -> ApiResource {
    let group = "machine-deletion-remediation.medik8s.io";
    kind(
        group,
        "v1alpha1",
        "MachineDeletionRemediation",
        "machinedeletionremediations",
    )
}

/// Metal3's remediation, which is not ours.
pub fn metal3() -> ApiResource {
    let group = "infrastructure.cluster.x-k8s.io";
    kind(group, "v1beta1", "Metal3Remediation", "metal3remediations")
}

/// A third party's remediation, of which nothing in this repository knows.
pub fn third_party() -> ApiResource {
    kind("fencing.acme.example", "v1", "AcmeFence", "acmefences")
}

/// One that nobody has given the health checker any right to.
pub fn forbidden() -> ApiResource {
    kind(
        "fencing.forbidden.example",
        "v1",
        "ForbiddenFence",
        "forbiddenfences",
    )
}

/// A Machine of OpenShift.
pub fn machine() -> ApiResource {
    kind("machine.openshift.io", "v1beta1", "Machine", "machines")
}

/// A MachineHealthCheck of OpenShift.
pub fn machine_health_check() -> ApiResource {
    kind(
        "machine.openshift.io",
        "v1beta1",
        "MachineHealthCheck",
        "machinehealthchecks",
    )
}

/// The template kind of a remediation kind.
pub fn template_of(remediation: &ApiResource) -> ApiResource {
    let plural = remediation
        .plural
        .strip_suffix('s')
        .unwrap_or(&remediation.plural);
    ApiResource {
        kind: format!("{}Template", remediation.kind),
        plural: format!("{plural}templates"),
        ..remediation.clone()
    }
}

/// A reference to a template, as a health check has it.
pub fn reference(remediation: &ApiResource, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": remediation.api_version, "kind": format!("{}Template", remediation.kind),
        "namespace": namespace, "name": name,
    })
}

/// A template. `many` says that several templates of its kind may be used for a node.
pub fn template(
    remediation: &ApiResource,
    namespace: &str,
    name: &str,
    many: bool,
    spec: &Value,
) -> Value {
    let annotations = if many {
        json!({"remediation.medik8s.io/multiple-templates-support": "true"})
    } else {
        json!({})
    };
    json!({
        "apiVersion": remediation.api_version, "kind": format!("{}Template", remediation.kind),
        "metadata": {"namespace": namespace, "name": name, "annotations": annotations},
        "spec": {"template": {"spec": spec}},
    })
}

/// A CRD that accepts everything.
pub fn definition(kind: &ApiResource, namespaced: bool) -> Value {
    let scope = if namespaced { "Namespaced" } else { "Cluster" };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", kind.plural, kind.group),
            // For groups that are reserved for Kubernetes' own projects.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": kind.group, "scope": scope,
            "names": {"kind": kind.kind, "plural": kind.plural,
                "singular": kind.kind.to_lowercase(), "listKind": format!("{}List", kind.kind)},
            "versions": [{
                "name": kind.version, "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

/// The role that a remediator brings along, by which a health checker may use its kinds.
pub fn role(remediation: &ApiResource, verbs: &[&str]) -> Value {
    let template = template_of(remediation);
    let reads: Vec<&&str> = verbs
        .iter()
        .filter(|verb| ["get", "list", "watch"].contains(verb))
        .collect();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {
            "name": format!("{}-ext-remediation", remediation.plural),
            "labels": {"rbac.ext-remediation/aggregate-to-ext-remediation": "true"},
        },
        "rules": [
            {"apiGroups": [remediation.group], "resources": [template.plural], "verbs": reads},
            {"apiGroups": [remediation.group], "resources": [remediation.plural], "verbs": verbs},
        ],
    })
}

/// What the contract asks for.
pub const ALL_VERBS: &[&str] = &[
    "get", "list", "watch", "create", "update", "patch", "delete",
];

/// Documents of a manifest, in the order given.
pub fn manifest(documents: &[Value]) -> String {
    documents
        .iter()
        .map(|one| format!("---\n{one}\n"))
        .collect::<Vec<_>>()
        .concat()
}

/// Roles and templates of the family's other remediators.
pub(super) fn remediators_own() -> String {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": REMEDIATIONS}});
    let (snr, far, mdr) = (
        self_node_remediation(),
        fence_agents_remediation(),
        machine_deletion_remediation(),
    );
    let agent = json!({"agent": "fence_ipmilan", "sharedparameters": {"--action": "reboot"}});
    manifest(&[
        namespace,
        account("reader"),
        account("stranger"),
        reader(),
        role(&far, ALL_VERBS),
        role(&mdr, ALL_VERBS),
        template(&snr, REMEDIATIONS, "reboot", true, &json!({})),
        template(&snr, REMEDIATIONS, "again", true, &json!({})),
        template(&far, REMEDIATIONS, "fence", true, &agent),
        template(&mdr, REMEDIATIONS, "replace", false, &json!({})),
    ])
}

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": REMEDIATIONS}})
}

/// Lets the account `reader` read metrics.
fn reader() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "reads-metrics"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "node-healthcheck-metrics-reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": REMEDIATIONS}],
    })
}

/// Group and version, kind, plural, namespaced.
const OPENSHIFT: [(&str, &str, &str, bool); 12] = [
    (
        "config.openshift.io/v1",
        "ClusterVersion",
        "clusterversions",
        false,
    ),
    (
        "config.openshift.io/v1",
        "FeatureGate",
        "featuregates",
        false,
    ),
    (
        "config.openshift.io/v1",
        "Infrastructure",
        "infrastructures",
        false,
    ),
    ("config.openshift.io/v1", "APIServer", "apiservers", false),
    ("machine.openshift.io/v1beta1", "Machine", "machines", true),
    (
        "machine.openshift.io/v1beta1",
        "MachineSet",
        "machinesets",
        true,
    ),
    (
        "machine.openshift.io/v1beta1",
        "MachineHealthCheck",
        "machinehealthchecks",
        true,
    ),
    (
        "console.openshift.io/v1",
        "ConsolePlugin",
        "consoleplugins",
        false,
    ),
    (
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        "servicemonitors",
        true,
    ),
    (
        "infrastructure.cluster.x-k8s.io/v1beta1",
        "Metal3RemediationTemplate",
        "metal3remediationtemplates",
        true,
    ),
    (
        "infrastructure.cluster.x-k8s.io/v1beta1",
        "Metal3Remediation",
        "metal3remediations",
        true,
    ),
    (
        "machine.openshift.io/v1",
        "ControlPlaneMachineSet",
        "controlplanemachinesets",
        true,
    ),
];

/// The kinds of OpenShift that the health checker uses, its namespaces, and metal3 with its role.
pub fn openshift() -> Vec<Value> {
    let mut documents: Vec<Value> = OPENSHIFT
        .iter()
        .filter_map(|(api_version, name, plural, namespaced)| {
            let (group, version) = api_version.split_once('/')?;
            Some(definition(&kind(group, version, name, plural), *namespaced))
        })
        .collect();
    for name in [MACHINES, "openshift-etcd"] {
        documents
            .push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }
    documents.push(role(&metal3(), ALL_VERBS));
    documents
}

/// The objects by which OpenShift says what it is; after [`openshift`].
pub fn openshift_objects() -> Vec<Value> {
    vec![
        json!({"apiVersion": "config.openshift.io/v1", "kind": "Infrastructure",
            "metadata": {"name": "cluster"}, "status": {"controlPlaneTopology": "HighlyAvailable"}}),
        json!({"apiVersion": "config.openshift.io/v1", "kind": "ClusterVersion",
            "metadata": {"name": "version"}}),
        json!({"apiVersion": "config.openshift.io/v1", "kind": "FeatureGate",
            "metadata": {"name": "cluster"}}),
    ]
}
