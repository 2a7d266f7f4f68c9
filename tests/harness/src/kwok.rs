//! kwok: heartbeats for all simulated nodes, and the life of pods that are only pretended.
//!
//! # Purpose
//! kwok keeps the Lease and the conditions of every node labelled `sim=alive` and drops a node whose
//! label changes; the real node controller does the rest. Pods that are real processes (operators,
//! agents, writers) are left to [`crate::kubelet`]: for them kwok sets nothing and ends nothing.

use std::{fs, path::Path};

use crate::{
    network::Fabric,
    process::{Launch, Process},
    tools::Tools,
};

/// Label of a node that says whether its kubelet is heard.
pub const SIMULATED: &str = "sim";
/// The node's kubelet reaches the API server.
pub const ALIVE: &str = "alive";
/// The node is off, or cut from the API server.
pub const DEAD: &str = "dead";
/// Label of a pod for which the harness runs a writer process.
pub const WRITER: &str = "harness.medik8s.io/writer";
/// Label of a simulated pod that says how long its end takes; one to four seconds without it.
pub const ENDS: &str = "harness.medik8s.io/ends";
/// It ends at once.
pub const ENDS_AT_ONCE: &str = "at-once";
/// It ends when its grace period is over.
pub const ENDS_AFTER_GRACE: &str = "after-grace";
/// It does not end, as if its kubelet were stuck.
pub const ENDS_NEVER: &str = "never";
/// Entry point of all images of this project: such a pod is run for real.
pub const ENTRY_POINT: &str = "/manager";

pub(crate) async fn start(
    folder: &Path,
    tools: &Tools,
    fabric: &Fabric,
    kubeconfig: &Path,
) -> anyhow::Result<Process> {
    let stages = folder.join("stages.yaml");
    fs::write(&stages, stages_yaml())?;
    let launch = Launch::new("kwok", tools.kwok(), folder.join("logs/kwok.log"))
        // kwok creates ~/.kwok; a test leaves nothing in the user's home.
        .env("HOME", folder.display().to_string())
        .args([
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--manage-nodes-with-label-selector={SIMULATED}={ALIVE}"),
            "--node-lease-duration-seconds=40".to_owned(),
            format!("--cidr={}", fabric.simulated_pods()),
            format!("--node-ip={}", fabric.own()),
            format!("--config={}", stages.display()),
        ]);
    Process::start(launch).await
}

/// The stages, with the sign by which kwok knows the pods it may play.
fn stages_yaml() -> String {
    let simulated = format!(
        "    - key: 'if .spec.containers[0].command[0] == \"{ENTRY_POINT}\" or \
         .metadata.labels[\"{WRITER}\"] != null then \"real\" else \"simulated\" end'\n      \
         operator: In\n      values: [simulated]\n"
    );
    STAGES.replace("    # only simulated pods\n", &simulated)
}

const STAGES: &str = include_str!("kwok/stages.yaml");
