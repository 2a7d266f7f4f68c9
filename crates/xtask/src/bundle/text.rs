//! What OperatorHub shows about each operator.

use anyhow::{Result, bail};

use crate::operators::Operator;

/// Facts for people.
pub(super) struct About {
    /// Its name.
    pub(super) display_name: &'static str,
    /// One sentence.
    pub(super) summary: &'static str,
    /// Markdown.
    pub(super) description: &'static str,
    /// How far along it is; as the original says.
    pub(super) maturity: &'static str,
    /// Oldest Kubernetes, as the original says.
    pub(super) min_kube_version: &'static str,
    /// Words to find it by.
    pub(super) keywords: &'static [&'static str],
}

/// The texts of one operator.
pub(super) fn about(operator: &Operator) -> Result<About> {
    Ok(match operator.package {
        "node-healthcheck-operator" => About {
            display_name: "Node Health Check Operator",
            summary: "Detect failing Nodes and trigger remediation with a remediation operator.",
            description: include_str!("text/node-healthcheck-operator.md"),
            maturity: "alpha",
            min_kube_version: "1.20.0",
            keywords: &[
                "medik8s",
                "node",
                "health",
                "check",
                "remediation",
                "fencing",
                "HA",
            ],
        },
        "self-node-remediation" => About {
            display_name: "Self Node Remediation Operator",
            summary: "Reboots unhealthy nodes by their own watchdog and frees their workload when it is proven off.",
            description: include_str!("text/self-node-remediation.md"),
            maturity: "alpha",
            min_kube_version: "1.25.0",
            keywords: &[
                "medik8s",
                "self-node-remediation",
                "watchdog",
                "fencing",
                "remediation",
                "HA",
            ],
        },
        "node-maintenance-operator" => About {
            display_name: "Node Maintenance Operator",
            summary: "Cordons and drains a node while a NodeMaintenance exists, and gives it back afterwards.",
            description: include_str!("text/node-maintenance-operator.md"),
            maturity: "beta",
            min_kube_version: "1.23.0",
            keywords: &[
                "medik8s",
                "node-maintenance-operator",
                "drain",
                "cordon",
                "maintenance",
            ],
        },
        other => bail!("there is no text about {other}"),
    })
}

/// A picture: a node (hexagon) with what the operator does to it.
pub(super) fn icon(operator: &Operator) -> String {
    let (colour, sign) = match operator.package {
        // A heartbeat.
        "node-healthcheck-operator" => ("#0b7a75", "M14 42h14l6-16 10 32 6-16h16"),
        // A circle back to itself, through a bolt.
        "self-node-remediation" => ("#a3290f", "M58 40a18 18 0 1 1-6-13m0-9v10h-10"),
        // A wrench.
        _ => (
            "#3b4a8c",
            "M27 55l16-16m0 0a10 10 0 1 0 13-13l-6 6-6-1-1-6 6-6",
        ),
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 80 80\">\
         <path fill=\"{colour}\" d=\"M40 2l33 19v38L40 78 7 59V21z\"/>\
         <path fill=\"none\" stroke=\"#fff\" stroke-width=\"5\" stroke-linecap=\"round\" \
         stroke-linejoin=\"round\" d=\"{sign}\"/></svg>\n"
    )
}
