//! Rule tables from which `xtask` generates Roles and ClusterRoles.
//!
//! # Purpose
//! Each operator lists what it may do in one `rbac.rs`, with the reason beside each rule. What this
//! crate itself needs (Events, leases, token reviews, webhook certificates) is listed here once, so
//! that a table refers to it instead of repeating it.
//!
//! # Guarantees
//! Everything is `const`: a table has no code that could make it differ between two runs.

/// One RBAC rule together with the reason it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// API groups; `""` is the core group.
    pub api_groups: &'static [&'static str],
    /// Resources in plural form, with subresources as `pods/eviction`.
    pub resources: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Object names the rule is restricted to; empty for all names.
    pub resource_names: &'static [&'static str],
    /// Paths that are not resources, such as `/metrics`.
    pub non_resource_urls: &'static [&'static str],
    /// Why the operator needs this. Printed as a comment in the generated manifest.
    pub why: &'static str,
}

impl Rule {
    /// A rule for API resources.
    pub const fn new(
        api_groups: &'static [&'static str],
        resources: &'static [&'static str],
        verbs: &'static [&'static str],
        why: &'static str,
    ) -> Self {
        Self {
            api_groups,
            resources,
            verbs,
            resource_names: &[],
            non_resource_urls: &[],
            why,
        }
    }

    /// The same rule restricted to objects of these names.
    #[must_use]
    pub const fn named(self, resource_names: &'static [&'static str]) -> Self {
        Self {
            resource_names,
            ..self
        }
    }

    /// A rule for paths that are not resources.
    pub const fn url(
        non_resource_urls: &'static [&'static str],
        verbs: &'static [&'static str],
        why: &'static str,
    ) -> Self {
        Self {
            api_groups: &[],
            resources: &[],
            verbs,
            resource_names: &[],
            non_resource_urls,
            why,
        }
    }
}

/// Permissions that no test on a real control plane uses, and why they are there all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untested {
    /// API groups.
    pub api_groups: &'static [&'static str],
    /// Resources.
    pub resources: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Why the operator has them.
    pub why: &'static str,
}

impl Untested {
    /// Every verb on every resource of every group.
    pub const fn new(
        api_groups: &'static [&'static str],
        resources: &'static [&'static str],
        verbs: &'static [&'static str],
        why: &'static str,
    ) -> Self {
        Self {
            api_groups,
            resources,
            verbs,
            why,
        }
    }
}

/// All rules of one service account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleSet {
    /// Rules of the ClusterRole.
    pub cluster: &'static [&'static [Rule]],
    /// Rules of the Role in the operator's own namespace.
    pub own_namespace: &'static [&'static [Rule]],
    /// Rules of Roles in other, fixed namespaces.
    pub namespaces: &'static [(&'static str, &'static [&'static [Rule]])],
    /// What of all this no test uses.
    pub untested: &'static [&'static [Untested]],
}

/// Writing Events (`events::Recorder`). Cluster-wide, because Events of cluster-scoped objects live
/// in namespace `default` and those of others in their object's namespace.
pub const EVENTS: &[Rule] = &[Rule::new(
    &[""],
    &["events"],
    &["create", "patch"],
    "reports what it does as Events in the namespace of the object",
)];

/// Deciding who may read `/metrics` (`metrics::serve`).
pub const METRICS_AUTH: &[Rule] = &[
    Rule::new(
        &["authentication.k8s.io"],
        &["tokenreviews"],
        &["create"],
        "finds out who asks for /metrics",
    ),
    Rule::new(
        &["authorization.k8s.io"],
        &["subjectaccessreviews"],
        &["create"],
        "asks whether that identity may read /metrics",
    ),
];

/// Recognising readers of `/metrics` by their client certificate (`metrics::client_ca`); in namespace
/// [`crate::metrics::client_ca::NAMESPACE`].
pub const CLIENT_CA: &[Rule] = &[Rule::new(
    &[""],
    &["configmaps"],
    &["list", "watch"],
    "reads the cluster's client CA, by which readers of /metrics are recognised (OpenShift)",
)
.named(&[crate::metrics::client_ca::CONFIG_MAP])];

/// Reading `/metrics`; for the ClusterRole that is given to Prometheus, not for the operator.
pub const METRICS_READER: &[Rule] = &[Rule::url(
    &["/metrics"],
    &["get"],
    "may read the metrics endpoint",
)];

/// The leader lease (`leader`); in the operator's own namespace.
pub const LEADER_LEASE: &[Rule] = &[Rule::new(
    &["coordination.k8s.io"],
    &["leases"],
    &["get", "create", "update"],
    "leader election",
)];

/// Node leases (`node_lease`): cluster-wide, since OLM cannot ship a Role for a namespace that the
/// operator creates itself.
pub const NODE_LEASES: &[Rule] = &[
    Rule::new(
        &["coordination.k8s.io"],
        &["leases"],
        &["get", "create", "update", "delete"],
        "takes and gives back the lease that keeps operators off each other's nodes",
    ),
    Rule::new(
        &[""],
        &["namespaces"],
        &["get", "create"],
        "creates the namespace of node leases",
    ),
];

/// Self-managed webhook certificates (`webhook::certificates`): making the Secret, in the operator's own
/// namespace. RBAC cannot restrict a creation to a name.
pub const WEBHOOK_SECRET_CREATE: Rule = Rule::new(
    &[""],
    &["secrets"],
    &["create"],
    "makes the Secret with the webhook's CA and serving certificate, shared by all replicas",
);

/// Self-managed webhook certificates: the Secret once it is there. Use with [`Rule::named`]: other
/// operators keep their secrets in the same namespace.
pub const WEBHOOK_SECRET: Rule = Rule::new(
    &[""],
    &["secrets"],
    &["get", "update"],
    "reads and renews the webhook's CA and serving certificate",
);

/// Of [`WEBHOOK_SECRET`].
pub const UNTESTED_WEBHOOK_SECRET: &[Untested] = &[Untested::new(
    &[""],
    &["secrets"],
    &["update"],
    "renews the webhook's certificate before it runs out, which takes longer than any test",
)];

/// OpenShift's TLS profile (`tls::openshift`).
pub const TLS_PROFILE: &[Rule] = &[Rule::new(
    &["config.openshift.io"],
    &["apiservers"],
    &["list", "watch"],
    "serves metrics and webhooks with the cluster's TLS profile (OpenShift)",
)];

/// Self-managed webhook certificates. Use with [`Rule::named`] and the operator's own
/// ValidatingWebhookConfigurations.
pub const VALIDATING_CONFIGURATIONS: Rule = Rule::new(
    &["admissionregistration.k8s.io"],
    &["validatingwebhookconfigurations"],
    &["get", "list", "watch", "patch"],
    "writes the CA of its own certificate into its own webhook configuration",
);

/// Self-managed webhook certificates. Use with [`Rule::named`] and the operator's own
/// MutatingWebhookConfigurations.
pub const MUTATING_CONFIGURATIONS: Rule = Rule::new(
    &["admissionregistration.k8s.io"],
    &["mutatingwebhookconfigurations"],
    &["get", "list", "watch", "patch"],
    "writes the CA of its own certificate into its own webhook configuration",
);
