//! Flags and environment of the manager.

use std::path::PathBuf;

use clap::Parser;
use medik8s_api::names::lease;
use medik8s_runtime::cli::{CommonArgs, Product, go_bool};
use medik8s_runtime::settings::{Env, EnvError};

/// What this program is.
pub const PRODUCT: Product = Product::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// Finds unhealthy nodes of a Kubernetes cluster and hands them to a remediator
///
/// Watches the nodes that NodeHealthChecks select. A node that stays unhealthy gets a remediation
/// object, made from the template that the health check names; when the node is healthy again the
/// object is deleted. What remediation means is up to the operator of the template.
///
/// Environment: DEPLOYMENT_NAMESPACE (own namespace, required outside a pod), LEASE_NAMESPACE
/// (namespace of the node leases, default medik8s-leases), POD_NAME (own pod; on OpenShift its
/// Deployment becomes the owner of the ServiceMonitor).
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// Flags that every manager has.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Off OpenShift: do not remediate a control plane node that is still Ready (a custom condition
    /// made it unhealthy) while the other Ready ones are no majority
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = go_bool, action = clap::ArgAction::Set)]
    pub guard_control_plane_quorum: bool,

    /// Do not start new remediations while the kubelets of a health check's nodes have different
    /// versions, which off OpenShift is the only sign of a cluster that is being upgraded
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = go_bool, action = clap::ArgAction::Set)]
    pub pause_while_kubelet_versions_differ: bool,

    /// OpenShift: a MachineHealthCheck disables only those NodeHealthChecks that select nodes of its
    /// machines, instead of all of them
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = go_bool, action = clap::ArgAction::Set)]
    pub allow_machine_health_checks_of_other_nodes: bool,

    /// Directory with tls.crt and tls.key of the metrics endpoint. If both are there, readers must
    /// have a client certificate of the cluster's CA; otherwise they need a token
    #[arg(long, value_name = "DIR", default_value = "/etc/tls/private")]
    pub metrics_cert_path: PathBuf,
}

/// What the environment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The manager's own namespace.
    pub namespace: String,
    /// Namespace of the node leases.
    pub lease_namespace: String,
    /// The manager's own pod, as far as it knows.
    pub pod: Option<String>,
}

impl Settings {
    /// Reads the environment.
    pub fn from_env(env: &Env) -> Result<Self, EnvError> {
        Ok(Self {
            namespace: env.own_namespace("DEPLOYMENT_NAMESPACE")?,
            lease_namespace: env
                .optional(lease::NAMESPACE_ENV)
                .unwrap_or(lease::NAMESPACE)
                .to_owned(),
            pod: env.optional("POD_NAME").map(ToOwned::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use medik8s_runtime::cli;

    use super::*;

    fn parse(args: &[&str]) -> Args {
        let args = std::iter::once("manager").chain(args.iter().copied());
        cli::parse(&PRODUCT, args, cli::leader_elect_by_default).unwrap()
    }

    #[test]
    fn the_originals_command_line_is_understood() {
        let args = parse(&[
            "--health-probe-bind-address=:8081",
            "--metrics-bind-address=0.0.0.0:8443",
            "--leader-elect",
            "--enable-http2=false",
        ]);
        assert!(args.common.leader_elect && !args.common.enable_http2);
        assert!(
            parse(&[]).common.leader_elect,
            "this operator elects unless told otherwise"
        );
        assert!(!parse(&["-leader-elect=false"]).common.leader_elect);
        assert!(!parse(&[]).guard_control_plane_quorum);
        assert!(parse(&["--guard-control-plane-quorum"]).guard_control_plane_quorum);
        let args = parse(&["--pause-while-kubelet-versions-differ=true"]);
        assert!(args.pause_while_kubelet_versions_differ);
        assert_eq!(args.metrics_cert_path, PathBuf::from("/etc/tls/private"));
    }

    #[test]
    fn the_lease_namespace_has_a_default() {
        let env = |pairs: &[(&str, &str)]| Env::from_pairs(pairs.iter().copied());
        let settings = Settings::from_env(&env(&[("DEPLOYMENT_NAMESPACE", "here")])).unwrap();
        assert_eq!(settings.namespace, "here");
        assert_eq!(settings.lease_namespace, "medik8s-leases");
        let both = env(&[
            ("DEPLOYMENT_NAMESPACE", "here"),
            ("LEASE_NAMESPACE", "there"),
        ]);
        assert_eq!(Settings::from_env(&both).unwrap().lease_namespace, "there");
    }
}
