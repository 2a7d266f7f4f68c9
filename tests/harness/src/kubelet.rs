//! The kubelet of pods that are real processes: operators, agents and writers.
//!
//! # Purpose
//! For every pod that is bound to a simulated node and has our entry point (or the writer label) the
//! process of its container is started with exactly the pod's arguments, environment, ServiceAccount
//! and mounted Secrets, in a network namespace with the pod's address; probes decide about Ready.
//!
//! # Guarantees
//! * A kubelet that is not heard (machine off or cut) learns nothing: it starts and ends nothing on
//!   behalf of the API, and goes on restarting what dies, as a real one does.
//! * The end of a pod is the process first, then the object (grace 0, with its UID).
//! * A writer is never ended because its object is gone.

pub(crate) mod endpoint;
pub(crate) mod launch;
pub(crate) mod pod_run;
mod probe;
pub(crate) mod report;
mod volumes;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use tokio::time::sleep;

pub use launch::Images;
pub(crate) use pod_run::PodRun;
pub use probe::get;

use crate::{
    kwok::{ENTRY_POINT, WRITER},
    machine::Machine,
    network::Fabric,
};

/// What all kubelets of a cluster share.
pub(crate) struct Shared {
    pub client: Client,
    pub fabric: Arc<Fabric>,
    pub images: Images,
    /// The API server as pods reach it.
    pub server: String,
    /// The CA as a kubeconfig carries it.
    pub ca_data: String,
    /// Mounted volumes and kubeconfigs of pods.
    pub pods_folder: PathBuf,
    pub logs_folder: PathBuf,
    pub writers_log: PathBuf,
}

/// Runs the kubelets of all machines until it is dropped.
pub(crate) async fn run(shared: Arc<Shared>, machines: BTreeMap<String, Arc<Machine>>) {
    let (store, writer) = reflector::store();
    let all = Api::<Pod>::all(shared.client.clone());
    let pods = watcher(all, watcher::Config::default())
        .default_backoff()
        .reflect(writer);
    let mut pods = std::pin::pin!(pods);
    let mut synced = false;
    loop {
        tokio::select! {
            event = pods.next() => synced |= matches!(event, Some(Ok(watcher::Event::InitDone))),
            () = sleep(Duration::from_millis(500)) => {}
        }
        if !synced {
            continue;
        }
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in store.state() {
            if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone())
                && is_real(&pod)
            {
                by_node.entry(node).or_default().push(pod);
            }
        }
        for machine in machines.values() {
            if machine.is_heard() {
                let pods = by_node.remove(machine.name()).unwrap_or_default();
                sync(&shared, machine, &pods);
            }
        }
    }
}

/// Whether the harness runs a process for this pod.
fn is_real(pod: &Pod) -> bool {
    let entry = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers.first())
        .and_then(|container| container.command.as_ref())
        .and_then(|command| command.first());
    entry.is_some_and(|entry| entry == ENTRY_POINT) || is_writer(pod)
}

fn is_writer(pod: &Pod) -> bool {
    pod.labels().contains_key(WRITER)
}

/// Brings what runs on one machine in line with what the API says.
fn sync(shared: &Arc<Shared>, machine: &Arc<Machine>, pods: &[Arc<Pod>]) {
    let wanted: Vec<Bound> = pods.iter().map(|pod| Bound::of(pod)).collect();
    let todo = machine.with_pods(|running| {
        running.retain(|_, run| !run.is_finished());
        let running: BTreeMap<&str, bool> = running
            .iter()
            .map(|(uid, run)| (uid.as_str(), run.is_writer()))
            .collect();
        plan(&wanted, &running)
    });
    for act in todo {
        match act {
            Act::Start(uid) | Act::Finish(uid) => {
                let Some(pod) = pods.iter().find(|pod| pod.uid().as_ref() == Some(&uid)) else {
                    continue;
                };
                let run = PodRun::start(Arc::clone(shared), Arc::clone(machine), Arc::clone(pod));
                machine.with_pods(|running| running.insert(uid, run));
            }
            Act::End { uid, grace } => machine.with_pods(|running| {
                if let Some(run) = running.get(&uid) {
                    run.end(grace);
                }
            }),
            Act::Abandon(uid) => machine.with_pods(|running| {
                if let Some(run) = running.get(&uid) {
                    run.abandon();
                }
            }),
        }
    }
}

/// What the plan needs to know of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bound {
    uid: String,
    /// Its deletion was asked for, with this grace.
    ending: Option<Duration>,
    /// Succeeded or Failed: nothing of it is to run again.
    finished: bool,
}

impl Bound {
    fn of(pod: &Pod) -> Self {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        Self {
            uid: pod.uid().unwrap_or_default(),
            ending: pod
                .metadata
                .deletion_timestamp
                .as_ref()
                .map(|_| Duration::from_secs(u64::try_from(grace).unwrap_or(0))),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    /// A pod that is not running here yet.
    Start(String),
    /// Its deletion was asked for and nothing of it runs (any more): the object may go.
    Finish(String),
    /// Its deletion was asked for.
    End { uid: String, grace: Duration },
    /// Its object is gone.
    Abandon(String),
}

/// `running`: UID and whether it is a writer.
fn plan(wanted: &[Bound], running: &BTreeMap<&str, bool>) -> Vec<Act> {
    let mut acts = Vec::new();
    for pod in wanted {
        match (running.contains_key(pod.uid.as_str()), pod.ending) {
            (true, Some(grace)) => acts.push(Act::End {
                uid: pod.uid.clone(),
                grace,
            }),
            (false, Some(_)) => acts.push(Act::Finish(pod.uid.clone())),
            (false, None) if !pod.finished => acts.push(Act::Start(pod.uid.clone())),
            (_, None) => {}
        }
    }
    for (uid, writer) in running {
        if !writer && !wanted.iter().any(|pod| pod.uid == *uid) {
            acts.push(Act::Abandon((*uid).to_owned()));
        }
    }
    acts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(uid: &str, ending: Option<u64>) -> Bound {
        Bound {
            uid: uid.to_owned(),
            ending: ending.map(Duration::from_secs),
            finished: false,
        }
    }

    #[test]
    fn starts_what_is_new_and_ends_what_is_asked_for() {
        let wanted = [
            bound("new", None),
            bound("old", Some(5)),
            bound("left", Some(5)),
        ];
        let running = BTreeMap::from([("old", false)]);
        assert_eq!(
            plan(&wanted, &running),
            [
                Act::Start("new".to_owned()),
                Act::End {
                    uid: "old".to_owned(),
                    grace: Duration::from_secs(5)
                },
                Act::Finish("left".to_owned()),
            ]
        );
    }

    #[test]
    fn a_writer_outlives_its_object_and_nothing_else_does() {
        let running = BTreeMap::from([("operator", false), ("writer", true)]);
        assert_eq!(plan(&[], &running), [Act::Abandon("operator".to_owned())]);
    }

    #[test]
    fn a_finished_pod_is_not_started_again() {
        let done = Bound {
            finished: true,
            ..bound("done", None)
        };
        assert_eq!(plan(&[done], &BTreeMap::new()), []);
    }
}
