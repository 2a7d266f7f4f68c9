//! What is installed for each operator: the facts from which its manifests are made.
//!
//! Names, selectors, arguments and environment are those of the original operators, so that ours
//! takes an existing installation over in place. A Deployment's selector is immutable: it must
//! never change.

use medik8s_runtime::guard::Guard;
use medik8s_runtime::rbac::{Rule, RuleSet};
use medik8s_runtime::webhook::Hook;

/// Where the images of the operators are.
pub(crate) const REGISTRY: &str = "ghcr.io/medik8s";

/// Version of the operators, their images, the chart and the bundles.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One operator.
#[derive(Clone, Copy)]
pub(crate) struct Operator {
    /// Name of the package: of the image, of the file in `deploy/` and of the OLM package.
    pub(crate) package: &'static str,
    /// Its part of the Helm chart's values.
    pub(crate) chart_key: &'static str,
    /// What the names of its objects begin with.
    pub(crate) prefix: &'static str,
    /// Namespace of an installation without OLM.
    pub(crate) namespace: &'static str,
    /// Pod Security level of that namespace.
    pub(crate) pod_security: &'static str,
    /// Labels on every object.
    pub(crate) labels: &'static [(&'static str, &'static str)],
    /// The Deployment's selector. Must never change.
    pub(crate) selector: &'static [(&'static str, &'static str)],
    /// Replicas; two are spread over nodes.
    pub(crate) replicas: i32,
    /// Arguments of `/manager`.
    pub(crate) args: &'static [&'static str],
    /// Environment of the manager.
    pub(crate) env: &'static [(&'static str, Env)],
    /// CPU and memory that the manager asks for.
    pub(crate) requests: (&'static str, &'static str),
    /// CPU and memory that the manager gets at most.
    pub(crate) limits: Option<(&'static str, &'static str)>,
    /// Seconds from SIGTERM to SIGKILL.
    pub(crate) termination_grace_period: i64,
    /// API groups whose kinds the operator brings along.
    pub(crate) groups: &'static [&'static str],
    /// Name of the ClusterRole for authenticating readers of the metrics.
    pub(crate) metrics_auth_role: &'static str,
    /// What the manager may do.
    pub(crate) rules: fn() -> RuleSet,
    /// What the manager may do besides where OLM installs it.
    pub(crate) olm_rules: &'static [Rule],
    /// A second ServiceAccount with rules of its own.
    pub(crate) agent: Option<Agent>,
    /// How the operator takes part in remediation.
    pub(crate) remediation: Remediation,
    /// Admission webhooks.
    pub(crate) webhooks: fn() -> &'static [Hook],
    /// The webhook that keeps it from being uninstalled at the wrong time.
    pub(crate) guard: Option<&'static Guard>,
}

/// The account of an operator's agents.
#[derive(Clone, Copy)]
pub(crate) struct Agent {
    /// Its name.
    pub(crate) service_account: &'static str,
    /// What the agents may do.
    pub(crate) rules: fn() -> RuleSet,
}

/// Where the value of an environment variable comes from.
#[derive(Clone, Copy)]
pub(crate) enum Env {
    /// A field of the pod.
    Field(&'static str),
    /// The image of the operator.
    Image,
}

/// How an operator takes part in remediation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remediation {
    /// It creates remediations of any kind: what remediators grant by label is given to it.
    Creates,
    /// It carries out remediations of this kind (plural), and grants their creation by label.
    CarriesOut {
        /// API group.
        group: &'static str,
        /// Plural of the remediation kind.
        remediations: &'static str,
        /// Plural of the template kind.
        templates: &'static str,
    },
    /// It has nothing to do with remediation.
    None,
}

impl Operator {
    /// A name that begins with the operator's prefix.
    pub(crate) fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.prefix)
    }

    /// Name of the Deployment, and of the manager's ServiceAccount.
    pub(crate) fn manager(&self) -> String {
        self.name("controller-manager")
    }

    /// The image.
    pub(crate) fn image(&self) -> String {
        format!("{REGISTRY}/{}:v{VERSION}", self.package)
    }
}

const POD_NAMESPACE: Env = Env::Field("metadata.namespace");
const POD_NAME: Env = Env::Field("metadata.name");

const NHC_GROUP: &str = "remediation.medik8s.io";
const SNR_GROUP: &str = "self-node-remediation.medik8s.io";
const NMO_GROUP: &str = "nodemaintenance.medik8s.io";

/// All operators, in the order in which `deploy/medik8s.yaml` installs them.
pub(crate) const OPERATORS: &[Operator] = &[
    Operator {
        package: "self-node-remediation",
        chart_key: "selfNodeRemediation",
        prefix: "self-node-remediation",
        namespace: "self-node-remediation",
        // The agents open /dev/watchdog, see the host's processes and reboot the node.
        pod_security: "privileged",
        labels: &[
            ("app.kubernetes.io/name", "self-node-remediation"),
            ("app.kubernetes.io/part-of", "medik8s"),
            ("self-node-remediation-operator", ""),
        ],
        selector: &[
            ("control-plane", "controller-manager"),
            ("self-node-remediation-operator", ""),
        ],
        replicas: 2,
        args: &[
            "--is-manager=true",
            "--health-probe-bind-address=:8081",
            "--metrics-bind-address=:8443",
            "--leader-elect",
            "--enable-http2=false",
        ],
        env: &[
            ("MY_NODE_NAME", Env::Field("spec.nodeName")),
            ("SELF_NODE_REMEDIATION_IMAGE", Env::Image),
            ("DEPLOYMENT_NAMESPACE", POD_NAMESPACE),
            ("POD_NAME", POD_NAME),
        ],
        requests: ("20m", "110Mi"),
        limits: None,
        termination_grace_period: 15,
        groups: &[SNR_GROUP],
        metrics_auth_role: "proxy-role",
        rules: self_node_remediation::rbac::rules,
        olm_rules: self_node_remediation::rbac::UNDER_OLM,
        agent: Some(Agent {
            service_account: medik8s_api::names::snr::AGENT_SERVICE_ACCOUNT,
            rules: || self_node_remediation_agent::rbac::RULES,
        }),
        remediation: Remediation::CarriesOut {
            group: SNR_GROUP,
            remediations: "selfnoderemediations",
            templates: "selfnoderemediationtemplates",
        },
        webhooks: self_node_remediation::webhooks,
        guard: Some(&self_node_remediation::webhooks::GUARD),
    },
    Operator {
        package: "node-healthcheck-operator",
        chart_key: "nodeHealthcheck",
        prefix: "node-healthcheck",
        namespace: "node-healthcheck-operator-system",
        pod_security: "restricted",
        labels: &[
            ("app.kubernetes.io/component", "controller-manager"),
            ("app.kubernetes.io/name", "node-healthcheck-operator"),
            ("app.kubernetes.io/part-of", "medik8s"),
        ],
        selector: &[
            ("app.kubernetes.io/component", "controller-manager"),
            ("app.kubernetes.io/name", "node-healthcheck-operator"),
        ],
        replicas: 2,
        args: &[
            "--health-probe-bind-address=:8081",
            "--metrics-bind-address=0.0.0.0:8443",
            "--leader-elect",
            "--enable-http2=false",
        ],
        env: &[
            ("DEPLOYMENT_NAMESPACE", POD_NAMESPACE),
            ("POD_NAME", POD_NAME),
        ],
        requests: ("100m", "20Mi"),
        limits: None,
        termination_grace_period: 15,
        groups: &[NHC_GROUP],
        metrics_auth_role: "proxy-role",
        rules: node_healthcheck_operator::rbac::rules,
        olm_rules: node_healthcheck_operator::rbac::UNDER_OLM,
        agent: None,
        remediation: Remediation::Creates,
        webhooks: node_healthcheck_operator::webhooks,
        guard: None,
    },
    Operator {
        package: "node-maintenance-operator",
        chart_key: "nodeMaintenance",
        prefix: "node-maintenance-operator",
        namespace: "node-maintenance-operator-system",
        pod_security: "restricted",
        labels: &[
            ("app.kubernetes.io/name", "node-maintenance-operator"),
            ("app.kubernetes.io/part-of", "medik8s"),
            ("node-maintenance-operator", ""),
        ],
        selector: &[
            ("control-plane", "controller-manager"),
            ("node-maintenance-operator", ""),
        ],
        replicas: 1,
        args: &[
            "--health-probe-bind-address=:8081",
            "--metrics-bind-address=:8443",
            "--leader-elect",
            "--enable-http2=false",
        ],
        env: &[
            ("OPERATOR_NAMESPACE", POD_NAMESPACE),
            ("POD_NAME", POD_NAME),
        ],
        requests: ("100m", "20Mi"),
        limits: Some(("200m", "100Mi")),
        termination_grace_period: 10,
        groups: &[NMO_GROUP],
        metrics_auth_role: "metrics-auth-role",
        rules: node_maintenance_operator::rbac::rules,
        olm_rules: &[],
        agent: None,
        remediation: Remediation::None,
        webhooks: node_maintenance_operator::webhooks,
        guard: Some(&node_maintenance_operator::GUARD),
    },
];
