//! The admission webhooks: which they are, and how a review becomes a verdict.

use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use kube::{ResourceExt, api::DynamicObject, core::admission::AdmissionRequest};
use medik8s_api::{
    SelfNodeRemediation, SelfNodeRemediationConfig, SelfNodeRemediationTemplate, names::snr,
};
use medik8s_core::version::ServerVersion;
use medik8s_runtime::{
    capabilities::Capability,
    guard::{Dependents, Guard},
    webhook::{Decoded, FailurePolicy, Hook, HookKind, Operation, Server, Verdict, decode},
};
use serde_json::json;

use crate::validate::{self, MULTIPLE_TEMPLATES_MARK, Review};

const GROUP: &str = "self-node-remediation.medik8s.io";
const VERSION: &str = "v1alpha1";
const CREATE_UPDATE: &[Operation] = &[Operation::Create, Operation::Update];

const REMEDIATION: Hook = Hook {
    kind: HookKind::Validating,
    name: "vselfnoderemediation.kb.io",
    path: "/validate-self-node-remediation-medik8s-io-v1alpha1-selfnoderemediation",
    api_group: GROUP,
    api_version: VERSION,
    resource: "selfnoderemediations",
    operations: CREATE_UPDATE,
    // A remediation must be possible while the manager is away.
    failure_policy: FailurePolicy::Ignore,
    timeout_seconds: None,
};
const CONFIG: Hook = Hook {
    kind: HookKind::Validating,
    name: "vselfnoderemediationconfig.kb.io",
    path: "/validate-self-node-remediation-medik8s-io-v1alpha1-selfnoderemediationconfig",
    api_group: GROUP,
    api_version: VERSION,
    resource: "selfnoderemediationconfigs",
    operations: &[Operation::Create, Operation::Update, Operation::Delete],
    failure_policy: FailurePolicy::Fail,
    timeout_seconds: None,
};
const TEMPLATE: Hook = Hook {
    kind: HookKind::Validating,
    name: "vselfnoderemediationtemplate.kb.io",
    path: "/validate-self-node-remediation-medik8s-io-v1alpha1-selfnoderemediationtemplate",
    api_group: GROUP,
    api_version: VERSION,
    resource: "selfnoderemediationtemplates",
    operations: CREATE_UPDATE,
    failure_policy: FailurePolicy::Fail,
    timeout_seconds: None,
};
const TEMPLATE_MARK: Hook = Hook {
    kind: HookKind::Mutating,
    name: "mselfnoderemediationtemplate.kb.io",
    path: "/mutate-self-node-remediation-medik8s-io-v1alpha1-selfnoderemediationtemplate",
    api_group: GROUP,
    api_version: VERSION,
    resource: "selfnoderemediationtemplates",
    operations: CREATE_UPDATE,
    failure_policy: FailurePolicy::Fail,
    timeout_seconds: None,
};

/// Refuses the deletion of the installation while a remediation is open.
pub const GUARD: Guard = Guard {
    name: "guard.self-node-remediation.medik8s.io",
    path: "/guard-self-node-remediation",
    label: ("self-node-remediation-operator", ""),
    configuration: "self-node-remediation-validating-webhook-configuration",
    finalizer: "self-node-remediation.medik8s.io/open-remediation",
    look: "kubectl get selfnoderemediations -A",
    dependents: Some(Dependents {
        labels: snr::AGENT_SELECTOR,
        remedy: "agents run, and without it they could not take their nodes off the watchdogs: all \
                 nodes would be reset. First run `kubectl delete selfnoderemediationconfigs --all -A`, \
                 wait until the agents are gone, then try again",
    }),
};

/// Whether a remediation was begun and is not ended.
pub fn is_open(remediation: &SelfNodeRemediation) -> bool {
    remediation
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == snr::FINALIZER)
}

/// All of them; the manifests are generated from this.
pub fn webhooks() -> &'static [Hook] {
    &[REMEDIATION, CONFIG, TEMPLATE, TEMPLATE_MARK]
}

/// Answers all of them.
pub fn routes(server: Server, capability: &Capability, namespace: &str) -> Server {
    let version = |capability: &Capability| capability.current().map(|found| found.version);
    let (for_remediations, for_templates) = (capability.clone(), capability.clone());
    let namespace = namespace.to_owned();
    server
        .route(&REMEDIATION, move |request| {
            let verdict = remediation(&request, version(&for_remediations));
            async move { verdict }
        })
        .route(&CONFIG, move |request| {
            let verdict = config(&request, &namespace);
            async move { verdict }
        })
        .route(&TEMPLATE, move |request| {
            let verdict = template(&request, version(&for_templates));
            async move { verdict }
        })
        .route(&TEMPLATE_MARK, |request| {
            let verdict = mark(&request);
            async move { verdict }
        })
}

type Request = AdmissionRequest<DynamicObject>;

fn remediation(request: &Request, server: Option<ServerVersion>) -> Verdict {
    judged::<SelfNodeRemediation>(request, |object| {
        validate::strategy(object.spec.remediation_strategy.as_ref(), server)
    })
}

fn template(request: &Request, server: Option<ServerVersion>) -> Verdict {
    judged::<SelfNodeRemediationTemplate>(request, |object| {
        validate::strategy(
            object.spec.template.spec.remediation_strategy.as_ref(),
            server,
        )
    })
}

fn config(request: &Request, own_namespace: &str) -> Verdict {
    match decode::<SelfNodeRemediationConfig>(request) {
        Ok(Decoded::Create(new)) => answer(validate::create_config(&new, own_namespace)),
        // What is stored already may be labelled, released and repaired in other fields.
        Ok(Decoded::Update {
            old: Some(old),
            new,
        }) if old.spec == new.spec => Verdict::allow(),
        Ok(Decoded::Update { new, .. }) => answer(validate::config(&new.spec)),
        Ok(Decoded::Delete(_)) => {
            let namespace = request.namespace.as_deref().unwrap_or_default();
            answer(validate::delete_config(
                &request.name,
                namespace,
                own_namespace,
            ))
        }
        Err(verdict) => verdict,
    }
}

fn mark(request: &Request) -> Verdict {
    judged_with::<SelfNodeRemediationTemplate>(request, |object| {
        if !validate::needs_multiple_templates_mark(object) {
            return Verdict::allow();
        }
        let (name, value) = MULTIPLE_TEMPLATES_MARK;
        let add = |tokens: &[&str], value| {
            let path = PointerBuf::from_tokens(tokens.iter().copied());
            PatchOperation::Add(AddOperation { path, value })
        };
        Verdict::patch(Patch(vec![if object.metadata.annotations.is_some() {
            add(&["metadata", "annotations", name], json!(value))
        } else {
            add(&["metadata", "annotations"], json!({ name: value }))
        }]))
    })
}

fn judged<K: serde::de::DeserializeOwned>(
    request: &Request,
    rule: impl FnOnce(&K) -> Review,
) -> Verdict {
    judged_with(request, |object| answer(rule(object)))
}

fn judged_with<K: serde::de::DeserializeOwned>(
    request: &Request,
    rule: impl FnOnce(&K) -> Verdict,
) -> Verdict {
    match decode::<K>(request) {
        Ok(Decoded::Create(new)) => rule(&new),
        Ok(Decoded::Update { new, .. }) => rule(&new),
        Ok(Decoded::Delete(_)) => Verdict::allow(),
        Err(verdict) => verdict,
    }
}

fn answer(review: Review) -> Verdict {
    let verdict = review.denial().map_or_else(Verdict::allow, Verdict::deny);
    review.warnings.into_iter().fold(verdict, Verdict::warn)
}
