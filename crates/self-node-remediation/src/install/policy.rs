//! The ValidatingAdmissionPolicy that keeps each agent to its own Node.
//!
//! # Purpose
//! RBAC cannot say "only the own Node", so whoever breaks out of one node could write announcements
//! for others, or taints. The API server knows from the claims of a pod's token on which node the pod
//! runs (Kubernetes 1.30 and newer, where this kind is stable too), and can compare.
//!
//! # Guarantees
//! What an agent may do to its own Node is as narrow: add and change the annotations by which it
//! announces itself, nothing else.

use std::time::Duration;

use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::ObjectReference,
    rbac::v1::ClusterRole,
};
use kube::{Api, Client, Resource};
use medik8s_api::names::snr;
use medik8s_core::backoff::Backoff;
use medik8s_runtime::{
    capabilities::Capability,
    events::Recorder,
    read,
    shutdown::Shutdown,
    write::{Error, Writer},
};
use serde_json::{Value, json};

/// How often the policy is put back to what it should be.
const REFRESH: Duration = Duration::from_mins(10);
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// Event reason: the cluster is too old for the policy.
pub const EVENT_UNPROTECTED: &str = "AgentPolicyUnavailable";

/// Annotations that agents write.
const ANNOTATIONS: [&str; 6] = [
    snr::AGENT_VERSION_ANNOTATION,
    snr::ANNOUNCED_ANNOTATION,
    snr::IS_REBOOT_CAPABLE_ANNOTATION,
    snr::RELAYED_WORDS_ANNOTATION,
    snr::STOPPED_FEEDING_ANNOTATION,
    snr::WATCHDOG_TIMEOUT_ANNOTATION,
];

/// `spec` of the policy for agents in `namespace`.
pub fn spec(namespace: &str) -> Value {
    let user = format!(
        "system:serviceaccount:{namespace}:{}",
        snr::AGENT_SERVICE_ACCOUNT
    );
    let keys = ANNOTATIONS.map(|key| format!("'{key}'")).join(", ");
    let others = |map: &str| {
        format!("object.?metadata.?{map}.orValue({{}}) == oldObject.?metadata.?{map}.orValue({{}})")
    };
    json!({
        // Without an answer the request is refused: announcing nothing is safe, writing to the Node
        // of somebody else is not.
        "failurePolicy": "Fail",
        "matchConditions": [{
            "name": "agent",
            "expression": format!("request.userInfo.username == '{user}'"),
        }],
        "matchConstraints": {
            "resourceRules": [{
                "apiGroups": [""],
                "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE", "DELETE"],
                "resources": ["nodes", "nodes/*"],
            }],
        },
        "variables": [
            {
                "name": "node",
                "expression": "request.userInfo.?extra['authentication.kubernetes.io/node-name'].orValue([''])[0]",
            },
            { "name": "own", "expression": format!("[{keys}]") },
            {
                "name": "before",
                "expression": "oldObject.?metadata.?annotations.orValue({})",
            },
            {
                "name": "after",
                "expression": "object.?metadata.?annotations.orValue({})",
            },
        ],
        "validations": [
            {
                "expression": "request.operation == 'UPDATE' && request.?subResource.orValue('') == ''",
                "message": "an agent of self node remediation may only change annotations of its Node",
                "reason": "Forbidden",
            },
            {
                "expression": "request.operation != 'UPDATE' || object.metadata.name == variables.node",
                "messageExpression": "'the agent on node ' + variables.node + ' may not write to node ' + request.name",
                "message": "an agent may write to its own Node only",
                "reason": "Forbidden",
            },
            {
                "expression": format!(
                    "request.operation != 'UPDATE' || (object.spec == oldObject.spec && {} && \
                     object.?metadata.?finalizers.orValue([]) == oldObject.?metadata.?finalizers.orValue([]) && \
                     object.?metadata.?ownerReferences.orValue([]) == oldObject.?metadata.?ownerReferences.orValue([]))",
                    others("labels"),
                ),
                "message": "an agent of self node remediation may change nothing of its Node but annotations",
                "reason": "Forbidden",
            },
            {
                "expression": "request.operation != 'UPDATE' || \
                    (variables.after.all(key, key in variables.own || \
                    (key in variables.before && variables.before[key] == variables.after[key])) && \
                    variables.before.all(key, key in variables.own || key in variables.after))",
                "message": "an agent of self node remediation may change its own annotations only",
                "reason": "Forbidden",
            },
        ],
    })
}

/// `spec` of the binding.
pub fn binding_spec() -> Value {
    json!({
        "policyName": snr::AGENT_POLICY,
        "validationActions": ["Deny"],
    })
}

/// Keeps the policy where nobody else does.
pub struct Keeper {
    /// API client.
    pub client: Client,
    /// Writes only while this process leads.
    pub writer: Writer,
    /// Tells the user.
    pub recorder: Recorder,
    /// What the cluster offers.
    pub capability: Capability,
    /// Namespace of the agents.
    pub namespace: String,
    /// Whether OLM installed the operator: manifests and chart hold the policy, a bundle cannot.
    pub under_olm: bool,
}

impl Keeper {
    /// Works until `stop`.
    pub async fn run(self, stop: Shutdown) -> anyhow::Result<()> {
        let Some(found) = self.capability.known(&stop).await else {
            return Ok(());
        };
        if !found.version.has_admission_policies() {
            let config = ObjectReference {
                api_version: Some("self-node-remediation.medik8s.io/v1alpha1".to_owned()),
                kind: Some("SelfNodeRemediationConfig".to_owned()),
                name: Some(snr::CONFIG_NAME.to_owned()),
                namespace: Some(self.namespace.clone()),
                ..ObjectReference::default()
            };
            self.recorder.normal(
                &config,
                EVENT_UNPROTECTED,
                "Kubernetes older than 1.30 cannot keep agents to their own Node: one that is \
                 broken into could write to the Nodes of others",
            );
        }
        let mut failures = 0_u32;
        loop {
            let wanted = self.under_olm
                && self
                    .capability
                    .current()
                    .is_some_and(|found| found.version.has_admission_policies());
            let mut pause = REFRESH;
            if wanted && let Err(error) = self.apply().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    policy = snr::AGENT_POLICY,
                    "could not apply the policy that keeps agents to their own Node"
                );
                pause = RETRY.delay(failures, 0.0);
                failures = failures.saturating_add(1);
            } else {
                failures = 0;
            }
            if stop.or_stop(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn apply(&self) -> Result<(), Error> {
        let roles = Api::<ClusterRole>::all(self.client.clone());
        // Goes with the installation: OLM removes the role.
        let owner = read::get_opt(&roles, snr::EXT_REMEDIATION_ROLE)
            .await?
            .and_then(|role| role.owner_ref(&()));
        let object = |kind: &str, spec: Value| {
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": kind,
                "metadata": { "name": snr::AGENT_POLICY, "ownerReferences": owner.iter().collect::<Vec<_>>() },
                "spec": spec,
            })
        };
        let policies = Api::<ValidatingAdmissionPolicy>::all(self.client.clone());
        let policy = object("ValidatingAdmissionPolicy", spec(&self.namespace));
        self.writer
            .apply(&policies, snr::AGENT_POLICY, &policy)
            .await?;
        let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(self.client.clone());
        let binding = object("ValidatingAdmissionPolicyBinding", binding_spec());
        self.writer
            .apply(&bindings, snr::AGENT_POLICY, &binding)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_about_the_agents_of_its_namespace_only() {
        let spec = spec("somewhere").to_string();
        assert!(spec.contains("system:serviceaccount:somewhere:self-node-remediation-agent"));
        for annotation in ANNOTATIONS {
            assert!(spec.contains(annotation));
        }
    }
}
