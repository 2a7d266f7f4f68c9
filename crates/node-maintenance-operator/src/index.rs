//! All NodeMaintenances, by node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use medik8s_api::NodeMaintenance;
use medik8s_runtime::informer::Change;

use crate::{facts::Maintenance, overlay::Overlay};

/// The objects by name. Cheap to clone; clones are the same index.
#[derive(Debug, Clone, Default)]
pub struct Index(Arc<Mutex<BTreeMap<String, Overlay<NodeMaintenance>>>>);

impl Index {
    /// Takes in a change that the watch shows.
    pub fn watched(&self, change: &Change<NodeMaintenance>) {
        let Some(name) = change
            .object()
            .and_then(|object| object.metadata.name.clone())
        else {
            return;
        };
        let mut objects = self.lock();
        match (&change.new, objects.get_mut(&name)) {
            (Some(new), Some(known)) => {
                known.watched(Arc::clone(new));
            }
            (Some(new), None) => {
                objects.insert(name, Overlay::new(Arc::clone(new)));
            }
            (None, _) => {
                objects.remove(&name);
            }
        }
    }

    /// Takes in the answer to a write or read that was sent while `base` was the newest version.
    pub fn answered(&self, base: &str, object: NodeMaintenance) {
        let mut objects = self.lock();
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if let Some(known) = objects.get_mut(name)
            && known.newest().metadata.uid == object.metadata.uid
        {
            known.answered(base, Arc::new(object));
        }
    }

    /// An object is not there any more. The watch will say so too.
    pub fn vanished(&self, uid: &str) {
        self.lock()
            .retain(|_, known| known.newest().metadata.uid.as_deref() != Some(uid));
    }

    /// The object with a UID.
    pub fn get(&self, uid: &str) -> Option<Arc<NodeMaintenance>> {
        self.lock()
            .values()
            .map(Overlay::newest)
            .find(|object| object.metadata.uid.as_deref() == Some(uid))
            .cloned()
    }

    /// The maintenances of a node, the oldest first.
    pub fn of_node(&self, node: &str) -> Vec<Maintenance> {
        let mut found: Vec<Maintenance> = self
            .lock()
            .values()
            .map(Overlay::newest)
            .filter(|object| object.spec.node_name == node)
            .filter_map(|object| Maintenance::read(object))
            .collect();
        found.sort_by(|one, other| one.seniority().cmp(&other.seniority()));
        found
    }

    /// The maintenances of all other nodes, each with the name of its node.
    pub fn of_other_nodes(&self, node: &str) -> Vec<(String, Maintenance)> {
        self.lock()
            .values()
            .map(Overlay::newest)
            .filter(|object| object.spec.node_name != node)
            .filter_map(|object| Some((object.spec.node_name.clone(), Maintenance::read(object)?)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Overlay<NodeMaintenance>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, uid: &str, version: &str, created: &str) -> Arc<NodeMaintenance> {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "nodemaintenance.medik8s.io/v1beta1", "kind": "NodeMaintenance",
                "metadata": {"name": name, "uid": uid, "resourceVersion": version,
                    "creationTimestamp": created},
                "spec": {"nodeName": "n"},
            }))
            .unwrap(),
        )
    }

    fn shown(new: &Arc<NodeMaintenance>) -> Change<NodeMaintenance> {
        Change {
            old: None,
            new: Some(Arc::clone(new)),
        }
    }

    #[test]
    fn the_oldest_comes_first_and_equal_ages_go_by_name() {
        let index = Index::default();
        for (name, created) in [
            ("c", "2026-01-01T00:00:00Z"),
            ("b", "2026-01-01T00:00:01Z"),
            ("a", "2026-01-01T00:00:01Z"),
        ] {
            index.watched(&shown(&object(name, name, "1", created)));
        }
        let names: Vec<String> = index.of_node("n").into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["c", "a", "b"]);
        assert!(index.of_node("other").is_empty());
    }

    #[test]
    fn own_writes_are_known_before_the_watch_tells() {
        let index = Index::default();
        let first = object("m", "u", "1", "2026-01-01T00:00:00Z");
        index.watched(&shown(&first));
        let mut second = (*object("m", "u", "2", "2026-01-01T00:00:00Z")).clone();
        second.metadata.finalizers = Some(vec!["foregroundDeleteNodeMaintenance".to_owned()]);
        index.answered("1", second);
        index.watched(&shown(&first));
        assert!(index.of_node("n")[0].has_finalizer);
        // The answer to a write on an earlier incarnation does not count.
        index.answered(
            "2",
            (*object("m", "other", "9", "2026-01-01T00:00:00Z")).clone(),
        );
        assert_eq!(index.of_node("n")[0].uid, "u");
        index.watched(&Change {
            old: Some(first),
            new: None,
        });
        assert!(index.of_node("n").is_empty());
    }

    #[test]
    fn a_late_answer_does_not_hide_that_the_object_was_deleted() {
        let index = Index::default();
        let created = "2026-01-01T00:00:00Z";
        index.watched(&shown(&object("m", "u", "1", created)));
        let mut deleted = (*object("m", "u", "3", created)).clone();
        deleted.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T01:00:00Z")).unwrap();
        index.watched(&shown(&Arc::new(deleted)));
        index.answered("1", (*object("m", "u", "2", created)).clone());
        assert!(index.of_node("n")[0].is_deleting);
    }
}
