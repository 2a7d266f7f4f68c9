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

fn stages_yaml() -> String {
    let simulated_pod = format!(
        "    - key: 'if .spec.containers[0].command[0] == \"{ENTRY_POINT}\" or \
         .metadata.labels[\"{WRITER}\"] != null then \"real\" else \"simulated\" end'\n      \
         operator: In\n      values: [simulated]\n"
    );
    [NODE_READY.to_owned()]
        .into_iter()
        .chain(
            [POD_READY, POD_COMPLETE, POD_DELETE]
                .map(|stage| stage.replace("    # only simulated pods\n", &simulated_pod)),
        )
        .collect::<Vec<_>>()
        .join("---\n")
}

/// A node that is heard again (or for the first time) is ready.
const NODE_READY: &str = r#"apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: node-ready
spec:
  resourceRef:
    apiGroup: v1
    kind: Node
  selector:
    matchExpressions:
    - key: '.status.conditions.[] | select( .type == "Ready" ) | .status'
      operator: NotIn
      values: ["True"]
  next:
    statusTemplate: |
      {{ $now := Now }}
      conditions:
      {{ range NodeConditions }}
      - lastHeartbeatTime: {{ $now | Quote }}
        lastTransitionTime: {{ $now | Quote }}
        message: {{ .message | Quote }}
        reason: {{ .reason | Quote }}
        status: {{ .status | Quote }}
        type: {{ .type  | Quote}}
      {{ end }}
      phase: Running
"#;

const POD_READY: &str = r#"apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-ready
spec:
  resourceRef:
    apiGroup: v1
    kind: Pod
  selector:
    matchExpressions:
    # only simulated pods
    - key: '.metadata.deletionTimestamp'
      operator: DoesNotExist
    - key: '.status.phase'
      operator: In
      values: [Pending]
  next:
    statusTemplate: |
      {{ $now := Now }}
      conditions:
      {{ range $type := (list "Initialized" "Ready" "ContainersReady") }}
      - lastTransitionTime: {{ $now | Quote }}
        status: "True"
        type: {{ $type | Quote }}
      {{ end }}
      containerStatuses:
      {{ range .spec.containers }}
      - image: {{ .image | Quote }}
        name: {{ .name | Quote }}
        ready: true
        restartCount: 0
        state:
          running:
            startedAt: {{ $now | Quote }}
      {{ end }}
      {{ $hostIPs := NodeIPsWith .spec.nodeName }}
      {{ with $hostIPs }}
      hostIP: {{ index . 0 | Quote }}
      {{ end }}
      {{ $podIPs := PodIPsWith .spec.nodeName ( or .spec.hostNetwork false ) ( or .metadata.uid "" ) ( or .metadata.name "" ) ( or .metadata.namespace "" ) }}
      {{ with $podIPs }}
      podIP: {{ index . 0 | Quote }}
      podIPs:
      {{ range . }}
      - ip: {{ . | Quote }}
      {{ end }}
      {{ end }}
      phase: Running
      startTime: {{ $now | Quote }}
"#;

const POD_COMPLETE: &str = r#"apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-complete
spec:
  resourceRef:
    apiGroup: v1
    kind: Pod
  selector:
    matchExpressions:
    # only simulated pods
    - key: '.metadata.deletionTimestamp'
      operator: DoesNotExist
    - key: '.status.phase'
      operator: In
      values: [Running]
    - key: '.metadata.ownerReferences.[].kind'
      operator: In
      values: [Job]
  next:
    statusTemplate: |
      {{ $now := Now }}
      {{ $root := . }}
      containerStatuses:
      {{ range $index, $item := .spec.containers }}
      - image: {{ $item.image | Quote }}
        name: {{ $item.name | Quote }}
        ready: false
        restartCount: 0
        started: false
        state:
          terminated:
            exitCode: 0
            finishedAt: {{ $now | Quote }}
            reason: Completed
            startedAt: {{ $now | Quote }}
      {{ end }}
      phase: Succeeded
"#;

/// A pretended container takes between one and three seconds to end.
const POD_DELETE: &str = r#"apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-delete
spec:
  resourceRef:
    apiGroup: v1
    kind: Pod
  selector:
    matchExpressions:
    # only simulated pods
    - key: '.metadata.deletionTimestamp'
      operator: Exists
  delay:
    durationMilliseconds: 1000
    jitterDurationMilliseconds: 3000
  next:
    delete: true
"#;
