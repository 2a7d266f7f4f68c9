//! The newest known state of an object that both a watch and our own writes tell about.
//!
//! # Guarantees
//! After a write the answer of the API server counts until the watch has caught up: a plan never
//! sees a state that this process itself has replaced. An answer that the watch has overtaken does
//! not count: it would hide what somebody else has done since, for ever. Resource versions are only
//! compared for equality.
//!
//! # Caveats
//! Only for writes that carry the version they were made from; a blind write could hide the change
//! of somebody else for a moment.

use std::sync::Arc;

use kube::Resource;

/// An object and the versions of it that this process has replaced.
#[derive(Debug)]
pub struct Overlay<K> {
    newest: Arc<K>,
    replaced: Vec<String>,
}

impl<K: Resource> Overlay<K> {
    /// An object as a watch or a read showed it.
    pub const fn new(object: Arc<K>) -> Self {
        Self {
            newest: object,
            replaced: Vec::new(),
        }
    }

    /// The newest known state.
    pub const fn newest(&self) -> &Arc<K> {
        &self.newest
    }

    /// Takes in what the watch shows; false if it is old news.
    pub fn watched(&mut self, object: Arc<K>) -> bool {
        let version = object.meta().resource_version.as_ref();
        if version.is_some_and(|version| self.replaced.contains(version)) {
            return false;
        }
        self.newest = object;
        self.replaced.clear();
        true
    }

    /// Whether nothing was heard of the object since it had this version.
    pub fn is_at(&self, version: &str) -> bool {
        self.newest.meta().resource_version.as_deref() == Some(version)
    }

    /// Takes in the answer to a write or read that was sent while `base` was the newest version.
    pub fn answered(&mut self, base: &str, object: Arc<K>) {
        if !self.is_at(base) {
            return;
        }
        if object.meta().resource_version.as_deref() != Some(base) {
            self.replaced.push(base.to_owned());
        }
        self.newest = object;
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;

    fn node(version: &str) -> Arc<Node> {
        let resource_version = Some(version.to_owned());
        Arc::new(Node {
            metadata: ObjectMeta {
                resource_version,
                ..ObjectMeta::default()
            },
            ..Node::default()
        })
    }

    fn version(overlay: &Overlay<Node>) -> &str {
        overlay
            .newest()
            .metadata
            .resource_version
            .as_deref()
            .unwrap()
    }

    #[test]
    fn the_watch_cannot_bring_back_what_we_replaced() {
        let mut overlay = Overlay::new(node("1"));
        overlay.answered("1", node("2"));
        overlay.answered("2", node("3"));
        assert!(!overlay.watched(node("1")) && !overlay.watched(node("2")));
        assert_eq!(version(&overlay), "3");
        assert!(overlay.watched(node("3")));
        assert!(overlay.watched(node("4")), "a change of somebody else");
        assert_eq!(version(&overlay), "4");
    }

    #[test]
    fn a_change_of_somebody_else_on_top_of_ours_counts() {
        let mut overlay = Overlay::new(node("1"));
        overlay.answered("1", node("2"));
        assert!(overlay.watched(node("7")));
        assert_eq!(version(&overlay), "7");
    }

    #[test]
    fn a_write_that_changed_nothing_replaces_nothing() {
        let mut overlay = Overlay::new(node("1"));
        overlay.answered("1", node("1"));
        assert!(overlay.watched(node("1")));
    }

    #[test]
    fn an_answer_that_the_watch_has_overtaken_hides_nothing() {
        let mut overlay = Overlay::new(node("1"));
        assert!(overlay.watched(node("2")), "our write");
        assert!(overlay.watched(node("3")), "the change of somebody else");
        overlay.answered("1", node("2"));
        assert_eq!(version(&overlay), "3");
        assert!(overlay.watched(node("3")), "shown again by a new list");
    }
}
