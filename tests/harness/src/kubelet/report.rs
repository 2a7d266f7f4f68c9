//! What the kubelet writes into the status of its pods, and the last word about them.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

/// State of the only container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub ready: bool,
    pub restarts: u32,
    /// Since when it runs; `None` while it waits for its restart.
    pub running_since: Option<Timestamp>,
}

/// Writes the status; the UID keeps it from a later pod of the same name.
pub(crate) async fn publish(
    pods: &Api<Pod>,
    pod: &Pod,
    report: &Report,
    [address, host]: [Ipv4Addr; 2],
    started: Timestamp,
) -> kube::Result<()> {
    let status = status(pod, report, [address, host], started, Timestamp::now());
    pods.patch_status(
        &pod.name_any(),
        &PatchParams::default(),
        &Patch::Strategic(status),
    )
    .await?;
    Ok(())
}

fn status(
    pod: &Pod,
    report: &Report,
    [address, host]: [Ipv4Addr; 2],
    started: Timestamp,
    now: Timestamp,
) -> Value {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let ready = if report.ready { "True" } else { "False" };
    let conditions: Vec<Value> = [
        ("Initialized", "True"),
        ("ContainersReady", ready),
        ("Ready", ready),
    ]
    .into_iter()
    .map(|(kind, status)| json!({"type": kind, "status": status, "lastTransitionTime": now}))
    .collect();
    let state = match report.running_since {
        Some(since) => json!({"running": {"startedAt": since}}),
        None => json!({"waiting": {"reason": "CrashLoopBackOff"}}),
    };
    json!({
        "metadata": {"uid": pod.uid()},
        "status": {
            "phase": "Running",
            "conditions": conditions,
            "containerStatuses": [{
                "name": container.map(|container| container.name.clone()),
                "image": container.and_then(|container| container.image.clone()),
                "imageID": "",
                "ready": report.ready,
                "started": report.running_since.is_some(),
                "restartCount": report.restarts,
                "state": state,
            }],
            "hostIP": host.to_string(),
            "hostIPs": [{"ip": host.to_string()}],
            "podIP": address.to_string(),
            // Another sandbox, for instance after a reboot, has another address, which replaces the one before.
            "podIPs": [{"$patch": "replace"}, {"ip": address.to_string()}],
            "startTime": started,
        },
    })
}

/// The container has ended: the object may go. True when nothing is left to do.
pub(crate) async fn finish(pods: &Api<Pod>, pod: &Pod) -> bool {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match pods.delete(&pod.name_any(), &params).await {
        Ok(_) => true,
        // Gone, or another pod of that name.
        Err(kube::Error::Api(status)) => status.code == 404 || status.code == 409,
        Err(_) => false,
    }
}
