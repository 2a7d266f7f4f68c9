//! Writes that arrive late: a manager that lost the Lease has a request under way while its successor goes on.
//!
//! The API server's part (preconditions, patches that test) is played; what is sent is what the production functions
//! make.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use medik8s_core::node_edit::NodeEdit;
use medik8s_core::taints;
use medik8s_core::workload::{PodDeletion, pods_to_force_delete};
use serde_json::{Value, json};

use crate::rules::Rule;
use crate::search::Model;
use crate::view::wall;

/// A state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent fact"
)]
pub struct State {
    /// The pod object bound to x: number of its UID; 0: none.
    pod: u8,
    /// Number of the pod whose container runs on x; 0: none.
    runs: u8,
    /// x has the taint against new pods.
    fenced: bool,
    /// x has the out-of-service taint.
    out_of_service: bool,
    /// Version of the Node.
    version: u8,
    /// x came back.
    back: bool,
    /// What the old manager has under way.
    late: Late,
    /// It has not sent anything yet.
    may_send: bool,
    /// A pod was deleted by force, or its volumes detached, while its container ran.
    broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Late {
    Nothing,
    /// A deletion of the pod with this number.
    Deletion(u8),
    /// The taint, on the node as it was at this version.
    Taint(u8),
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "`tell` says what each is")]
pub enum Action {
    OldSendsDeletion,
    OldSendsTaint,
    OldDeletionArrives,
    OldTaintArrives,
    NewDeletes,
    NewTaints,
    NewRemovesTaint,
    Returns,
    NewCleansUp,
    PodIsMadeAgain,
}

/// The model.
pub struct Effects {
    broken: Option<Rule>,
}

impl Effects {
    /// With this rule broken.
    pub const fn new(broken: Option<Rule>) -> Self {
        Self { broken }
    }

    /// Who does what.
    pub fn tell(action: Action) -> (String, String) {
        let (who, what) = match action {
            Action::OldSendsDeletion => (
                "manager 1",
                "lists the pods of x and sends a deletion by force; it is slow",
            ),
            Action::OldSendsTaint => (
                "manager 1",
                "reads the Node and sends the out-of-service taint; it is slow",
            ),
            Action::OldDeletionArrives => ("API", "the deletion of manager 1 arrives"),
            Action::OldTaintArrives => ("API", "the taint of manager 1 arrives"),
            Action::NewDeletes => ("manager 2", "has the Lease now; deletes the pod by force"),
            Action::NewTaints => (
                "manager 2",
                "has the Lease now; adds the out-of-service taint: the pod is deleted",
            ),
            Action::NewRemovesTaint => ("manager 2", "removes the out-of-service taint"),
            Action::Returns => ("x", "boots again"),
            Action::NewCleansUp => (
                "manager 2",
                "x is healthy: removes the taint against new pods",
            ),
            Action::PodIsMadeAgain => (
                "StatefulSet",
                "makes a pod of the same name, which starts on x",
            ),
        };
        (who.to_owned(), what.to_owned())
    }

    fn act(&self, mut state: State, action: Action) -> Option<State> {
        let by_taint = |state: &mut State| {
            state.out_of_service = true;
            state.version += 1;
            state.broken |= state.pod != 0 && state.runs == state.pod;
            state.pod = 0;
        };
        match action {
            Action::OldSendsDeletion if state.may_send && !state.back => {
                let found = deletions(state);
                state.late = found.first().map(|pod| Late::Deletion(number(&pod.uid)))?;
                state.may_send = false;
            }
            Action::OldSendsTaint if state.may_send && !state.back && !state.out_of_service => {
                state.late = Late::Taint(state.version);
                state.may_send = false;
            }
            Action::OldDeletionArrives => {
                let Late::Deletion(uid) = state.late else {
                    return None;
                };
                state.late = Late::Nothing;
                if state.pod == uid || state.pod != 0 && self.broken == Some(Rule::DeletesByName) {
                    state.broken |= state.runs == state.pod;
                    state.pod = 0;
                }
            }
            Action::OldTaintArrives => {
                let Late::Taint(version) = state.late else {
                    return None;
                };
                state.late = Late::Nothing;
                if self.broken == Some(Rule::OverwritesTaints) || taint_is_taken(state, version) {
                    by_taint(&mut state);
                }
            }
            Action::NewDeletes if state.pod == 1 && !state.back => state.pod = 0,
            Action::NewTaints if state.pod == 1 && !state.back && !state.out_of_service => {
                by_taint(&mut state);
            }
            Action::NewRemovesTaint if state.out_of_service && state.pod == 0 => {
                state.out_of_service = false;
                state.version += 1;
            }
            Action::Returns if !state.back && state.pod == 0 => state.back = true,
            Action::NewCleansUp if state.back && state.fenced && !state.out_of_service => {
                state.fenced = false;
                state.version += 1;
            }
            Action::PodIsMadeAgain
                if state.back && !state.fenced && state.pod == 0 && state.runs == 0 =>
            {
                state.pod = 2;
                state.runs = 2;
            }
            Action::OldSendsDeletion
            | Action::OldSendsTaint
            | Action::NewDeletes
            | Action::NewTaints
            | Action::NewRemovesTaint
            | Action::Returns
            | Action::NewCleansUp
            | Action::PodIsMadeAgain => return None,
        }
        Some(state)
    }
}

fn number(uid: &str) -> u8 {
    uid.parse().unwrap_or(0)
}

/// What the manager would delete by force now.
fn deletions(state: State) -> Vec<PodDeletion> {
    let created = wall().checked_sub(std::time::Duration::from_hours(1));
    let pod: Option<Pod> = (state.pod != 0).then(|| {
        let value = json!({
            "metadata": {"name": "ledger-0", "namespace": "default", "uid": state.pod.to_string(),
                         "creationTimestamp": created.map(|at| at.to_string()).unwrap_or_default()},
            "spec": {"nodeName": "x", "containers": []},
        });
        serde_json::from_value(value).unwrap_or_default()
    });
    pods_to_force_delete("x", wall(), pod.as_ref())
}

/// The Node of a state as JSON, at a version.
fn node(state: State, version: u8) -> Value {
    let mut taints = Vec::new();
    if state.fenced {
        taints.push(json!({"key": taints::SELF_NODE_REMEDIATION.key, "effect": "NoSchedule"}));
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "x", "resourceVersion": version.to_string()},
        "spec": {"taints": taints},
    })
}

/// Whether the API server takes the patch that the manager made from the Node as it was at `version`, when both taints
/// but ours were as at the beginning.
fn taint_is_taken(state: State, version: u8) -> bool {
    let begin = State {
        fenced: true,
        ..state
    };
    let Ok(read) = serde_json::from_value::<Node>(node(begin, version)) else {
        return false;
    };
    let wanted = [taints::out_of_service(Timestamp::UNIX_EPOCH)];
    let Ok(Some(patch)) = NodeEdit::of(&read).add_taints(&wanted).patch() else {
        return false;
    };
    let mut present = node(state, state.version);
    json_patch::patch(&mut present, &patch).is_ok()
}

impl Model for Effects {
    type State = State;
    type Action = Action;

    fn initial(&mut self) -> State {
        State {
            pod: 1,
            runs: 0,
            fenced: true,
            out_of_service: false,
            version: 1,
            back: false,
            late: Late::Nothing,
            may_send: true,
            broken: false,
        }
    }

    fn successors(&mut self, state: State, into: &mut Vec<(Action, State)>) {
        for action in [
            Action::OldSendsDeletion,
            Action::OldSendsTaint,
            Action::OldDeletionArrives,
            Action::OldTaintArrives,
            Action::NewDeletes,
            Action::NewTaints,
            Action::NewRemovesTaint,
            Action::Returns,
            Action::NewCleansUp,
            Action::PodIsMadeAgain,
        ] {
            if let Some(next) = self.act(state, action) {
                into.push((action, next));
            }
        }
    }

    fn violation(&self, state: State) -> Option<String> {
        state.broken.then(|| {
            "the pod of x was deleted while its container ran: its replacement is the second copy".to_owned()
        })
    }
}
