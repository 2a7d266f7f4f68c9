//! Installing as the manual says: by kubectl and kustomize, and by Helm. Each way ends in a node that
//! is remediated, and in a cluster in which nothing is left.
//!
//! Ends in one line, `N passed, N failed`.

#![expect(
    clippy::disallowed_methods,
    reason = "the test plays the user: its clock and its writes are not the product's"
)]
#![expect(
    clippy::indexing_slicing,
    reason = "what is missing in JSON is null, and then the check fails"
)]
#![expect(
    clippy::print_stdout,
    reason = "a test without the standard runner reports by itself"
)]
use std::process::ExitCode;

use medik8s_harness::{Cluster, Options, child, go_tools, images::Programs, machine::NodeSpec};

#[path = "install/access.rs"]
mod access;
#[path = "install/by_helm.rs"]
mod by_helm;
#[path = "install/by_kubectl.rs"]
mod by_kubectl;
#[path = "install/metrics.rs"]
mod metrics;
#[path = "install/newcomer.rs"]
mod newcomer;

fn main() -> ExitCode {
    if let Some(code) = child::dispatch() {
        return code;
    }
    medik8s_harness::run_with(&[go_tools::HELM, go_tools::PROMTOOL], async || {
        let nodes = std::iter::once(NodeSpec::control_plane("control-plane-1"))
            .chain((1..=4).map(|number| NodeSpec::worker(format!("worker-{number}"))))
            .collect();
        let options = Options {
            nodes,
            programs: Some(Programs::find()?),
            ..Options::default()
        };
        let mut cluster = Cluster::start(options).await?;
        let only = std::env::args()
            .nth(1)
            .filter(|word| !word.starts_with('-'));
        let mut passed = 0;
        let mut done = Ok(());
        for part in ["newcomer", "kubectl", "helm", "rules"] {
            if done.is_err() || only.as_deref().is_some_and(|only| only != part) {
                continue;
            }
            done = match part {
                "newcomer" => newcomer::test(&cluster).await,
                "kubectl" => by_kubectl::test(&cluster).await,
                "helm" => by_helm::test(&cluster).await,
                _ => metrics::rules_are_sound(&cluster).await,
            };
            passed += u32::from(done.is_ok());
        }
        if done.is_err() {
            println!("logs: {}", cluster.keep_files().display());
        }
        cluster.stop().await;
        println!("{passed} passed, {} failed", u32::from(done.is_err()));
        done
    })
}
