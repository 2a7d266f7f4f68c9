//! Restrictions beyond RBAC, each in a file of its own: what the agents may write, and who may talk
//! to whom.

use anyhow::Result;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use medik8s_api::names::snr;
use serde_json::{Value, json};

use super::{file, metadata, pairs};
use crate::operators::{OPERATORS, Operator};
use crate::tree::Tree;
use crate::yaml;

/// Adds the policies to `config/policy/` and `deploy/`.
pub(super) fn generate(tree: &mut Tree) -> Result<()> {
    let mut admission = Vec::new();
    let mut network = Vec::new();
    for operator in OPERATORS {
        admission.extend(admission_policy(operator)?);
        network.extend(network_policies(operator)?);
    }
    for (name, documents) in [
        ("agent-admission-policy", admission),
        ("network-policies", network),
    ] {
        tree.add(format!("config/policy/{name}.yaml"), file(&documents));
        tree.add(format!("deploy/{name}.yaml"), file(&documents));
    }
    Ok(())
}

/// Agents may patch Nodes, which RBAC cannot limit to the own one: this does, and to annotations.
///
/// The API server says in the token's claims on which node its pod is (Kubernetes 1.30 and newer,
/// which also is the first that has this kind).
pub(crate) fn admission_policy(operator: &Operator) -> Result<Vec<String>> {
    if operator.agent.is_none() {
        return Ok(Vec::new());
    }
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": metadata(operator, snr::AGENT_POLICY, false),
        "spec": self_node_remediation::install::policy::spec(operator.namespace),
    });
    yaml::typed::<ValidatingAdmissionPolicy>(&policy)?;
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": metadata(operator, snr::AGENT_POLICY, false),
        "spec": self_node_remediation::install::policy::binding_spec(),
    });
    yaml::typed::<ValidatingAdmissionPolicyBinding>(&binding)?;
    Ok(vec![yaml::document(&policy)?, yaml::document(&binding)?])
}

/// Who may talk to the pods of an operator. Not about whom they may talk to: the address of the API
/// server is another in every cluster, and an operator that is cut off from it is worse than one
/// that could talk to strangers.
pub(crate) fn network_policies(operator: &Operator) -> Result<Vec<String>> {
    let ports = |ports: &[i32]| -> Value {
        ports
            .iter()
            .map(|port| json!({ "port": port, "protocol": "TCP" }))
            .collect()
    };
    let mut policies = vec![json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(operator, &operator.manager(), true),
        "spec": {
            "podSelector": { "matchLabels": pairs(operator.selector) },
            "policyTypes": ["Ingress"],
            // From anywhere: the API server and the kubelet have no labels. Metrics and webhooks ask
            // for TLS; the probes tell nothing.
            "ingress": [{ "ports": ports(&[8081, 8443, 9443]) }],
        },
    })];
    if operator.agent.is_some() {
        let agents = json!({ "matchLabels": {
            snr::AGENT_NAME_LABEL: snr::AGENT_NAME_VALUE,
            snr::AGENT_COMPONENT_LABEL: snr::AGENT_COMPONENT_VALUE,
        } });
        let peer = i32::try_from(medik8s_api::self_node_remediation::defaults::HOST_PORT)?;
        policies.push(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(operator, &operator.name("agent"), true),
            "spec": {
                "podSelector": agents,
                "policyTypes": ["Ingress"],
                "ingress": [
                    {
                        "from": [
                            { "podSelector": agents },
                            { "podSelector": { "matchLabels": pairs(operator.selector) } },
                        ],
                        "ports": ports(&[peer]),
                    },
                    { "ports": ports(&[8081, 8443]) },
                ],
            },
        }));
    }
    policies
        .iter()
        .map(|policy| {
            yaml::typed::<NetworkPolicy>(policy)?;
            yaml::document(policy)
        })
        .collect()
}
