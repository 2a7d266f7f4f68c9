//! Which pods of a node have to go.
//!
//! The rules are those of `kubectl drain --force --ignore-daemonsets --delete-emptydir-data`
//! (specification of the node maintenance operator, 6.2), applied in the same order.

use std::collections::BTreeMap;

use super::pod::{Controller, Key, PodFacts};

/// What is known about a DaemonSet that controls pods of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonSet {
    /// It exists and would put its pod back at once.
    Exists,
    /// It is gone: its pods are orphans.
    Missing,
    /// It could not be read, for this reason.
    Unreadable(String),
}

/// The verdict about one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// It stays.
    Stays(Stays),
    /// It has to go; `notes` say what is lost by that.
    Goes(Notes),
    /// It depends on a DaemonSet nobody has looked for yet.
    Ask(Key),
    /// It depends on a DaemonSet that could not be read: it is not evicted, and the drain is not
    /// complete while it is there.
    Undecided {
        /// The DaemonSet.
        daemon_set: Key,
        /// Why it could not be read.
        why: String,
    },
}

/// Why a pod stays on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stays {
    /// Its DaemonSet would replace it on the same node.
    DaemonSet,
    /// It mirrors a static pod, which only the kubelet can stop.
    Mirror,
    /// The drain's pod selector does not choose it.
    NotSelected,
}

/// What somebody may want to know about a pod that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notes {
    /// Its DaemonSet is gone.
    pub orphan: bool,
    /// Data in its emptyDir volumes is lost.
    pub loses_data: bool,
    /// Nothing will replace it.
    pub unmanaged: bool,
}

impl Notes {
    /// The warnings as `kubectl drain` words them; empty if there is nothing to say.
    pub fn warnings(self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if self.orphan {
            warnings.push("evicting a pod whose DaemonSet is gone");
        }
        if self.loses_data {
            warnings.push("deleting a pod with local storage (emptyDir)");
        }
        if self.unmanaged {
            warnings.push("deleting a pod that declares no controller");
        }
        warnings
    }
}

/// Judges one pod. `selected` says whether the drain's pod selector chooses it.
pub fn classify(pod: &PodFacts, selected: bool, daemon_sets: &BTreeMap<Key, DaemonSet>) -> Class {
    if !selected {
        return Class::Stays(Stays::NotSelected);
    }
    let mut notes = Notes::default();
    if let Controller::DaemonSet(owner) = &pod.controller
        && !pod.is_finished
    {
        match daemon_sets.get(owner) {
            None => return Class::Ask(owner.clone()),
            Some(DaemonSet::Exists) => return Class::Stays(Stays::DaemonSet),
            Some(DaemonSet::Missing) => notes.orphan = true,
            Some(DaemonSet::Unreadable(why)) => {
                return Class::Undecided {
                    daemon_set: owner.clone(),
                    why: why.clone(),
                };
            }
        }
    }
    if pod.is_mirror {
        return Class::Stays(Stays::Mirror);
    }
    notes.loses_data = pod.has_empty_dir && !pod.is_finished;
    notes.unmanaged = pod.controller == Controller::None;
    Class::Goes(notes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::drain::pod::Uid;

    /// A running pod of a ReplicaSet.
    pub(crate) fn pod(namespace: &str, name: &str, uid: &str) -> PodFacts {
        PodFacts {
            key: Key::new(namespace, name),
            uid: Uid(uid.to_owned()),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            controller: Controller::Other,
            is_mirror: false,
            is_finished: false,
            has_empty_dir: false,
            terminating: None,
        }
    }

    fn of_daemon_set() -> PodFacts {
        PodFacts {
            controller: Controller::DaemonSet(Key::new("ns", "ds")),
            ..pod("ns", "p", "u")
        }
    }

    fn known(state: DaemonSet) -> BTreeMap<Key, DaemonSet> {
        BTreeMap::from([(Key::new("ns", "ds"), state)])
    }

    #[test]
    fn pods_of_a_living_daemon_set_stay() {
        let pod = of_daemon_set();
        assert_eq!(
            classify(&pod, true, &BTreeMap::new()),
            Class::Ask(Key::new("ns", "ds"))
        );
        assert_eq!(
            classify(&pod, true, &known(DaemonSet::Exists)),
            Class::Stays(Stays::DaemonSet)
        );
    }

    #[test]
    fn orphans_of_a_daemon_set_go() {
        let verdict = classify(&of_daemon_set(), true, &known(DaemonSet::Missing));
        assert_eq!(
            verdict,
            Class::Goes(Notes {
                orphan: true,
                ..Notes::default()
            })
        );
    }

    #[test]
    fn a_daemon_set_that_cannot_be_read_leaves_its_pod_undecided() {
        let verdict = classify(
            &of_daemon_set(),
            true,
            &known(DaemonSet::Unreadable("timeout".to_owned())),
        );
        assert_eq!(
            verdict,
            Class::Undecided {
                daemon_set: Key::new("ns", "ds"),
                why: "timeout".to_owned()
            }
        );
    }

    #[test]
    fn finished_pods_of_a_daemon_set_go_without_asking() {
        let pod = PodFacts {
            is_finished: true,
            ..of_daemon_set()
        };
        assert_eq!(
            classify(&pod, true, &BTreeMap::new()),
            Class::Goes(Notes::default())
        );
        assert_eq!(
            classify(&pod, true, &known(DaemonSet::Exists)),
            Class::Goes(Notes::default())
        );
    }

    #[test]
    fn mirror_pods_stay_even_when_finished_or_orphaned() {
        for pod in [
            PodFacts {
                is_mirror: true,
                ..pod("ns", "p", "u")
            },
            PodFacts {
                is_mirror: true,
                is_finished: true,
                ..pod("ns", "p", "u")
            },
            PodFacts {
                is_mirror: true,
                ..of_daemon_set()
            },
        ] {
            assert_eq!(
                classify(&pod, true, &known(DaemonSet::Missing)),
                Class::Stays(Stays::Mirror),
                "{pod:?}"
            );
        }
    }

    #[test]
    fn local_data_and_missing_controllers_are_only_noted() {
        let local = PodFacts {
            has_empty_dir: true,
            ..pod("ns", "p", "u")
        };
        assert_eq!(
            classify(&local, true, &BTreeMap::new()),
            Class::Goes(Notes {
                loses_data: true,
                ..Notes::default()
            })
        );
        let finished = PodFacts {
            is_finished: true,
            ..local
        };
        assert_eq!(
            classify(&finished, true, &BTreeMap::new()),
            Class::Goes(Notes::default())
        );
        let alone = PodFacts {
            controller: Controller::None,
            ..pod("ns", "p", "u")
        };
        let verdict = classify(&alone, true, &BTreeMap::new());
        assert_eq!(
            verdict,
            Class::Goes(Notes {
                unmanaged: true,
                ..Notes::default()
            })
        );
        assert_eq!(
            Notes {
                unmanaged: true,
                ..Notes::default()
            }
            .warnings()
            .len(),
            1
        );
    }

    #[test]
    fn a_selector_comes_first() {
        assert_eq!(
            classify(&of_daemon_set(), false, &BTreeMap::new()),
            Class::Stays(Stays::NotSelected)
        );
    }
}
