//! Kinds that may not be watched are looked at now and then.
//!
//! Older platforms grant their own remediators' kinds without `list` and `watch`. That must not keep
//! a health check from using them: it notices things later, and says so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DynamicObject};
use kube::{Resource, ResourceExt};
use medik8s_runtime::capabilities::ServedKind;
use medik8s_runtime::error::Class;
use medik8s_runtime::read;

use super::{Follower, Role, chain};
use crate::check::ResourceKind;
use crate::objects;
use crate::world::{Key, Listing};

/// How often templates are looked at that may not be watched.
const TEMPLATES: Duration = Duration::from_secs(15);

/// How often remediations are looked at that may not be watched.
const REMEDIATIONS: Duration = Duration::from_secs(30);

/// How a watch ended.
pub(super) enum Ended {
    /// The kind is served differently now, or the watch was told to stop.
    Changed,
    /// It is not permitted. What could be listed, if listing is.
    Denied(Option<Vec<Arc<DynamicObject>>>),
}

impl Role {
    /// How often objects are looked at that may not be watched.
    pub(super) const fn period(self) -> Duration {
        match self {
            Self::Template => TEMPLATES,
            Self::Remediation => REMEDIATIONS,
        }
    }
}

impl Follower {
    /// Looks at the objects of a kind that may not be watched; returns whether that is permitted.
    pub(super) async fn poll(
        &self,
        role: Role,
        kind: &ResourceKind,
        served: &ServedKind,
        listed: Option<Vec<Arc<DynamicObject>>>,
        before: &BTreeSet<Key>,
    ) -> bool {
        let every = role.period().as_secs();
        let polled = if let Some(objects) = listed {
            // The informer has told about each of them.
            let seen = objects.iter().map(|object| key(object.as_ref())).collect();
            self.retain(role, kind, &seen, before);
            format!("may not be watched, is listed every {every} s")
        } else {
            match self.read_one_by_one(role, kind, served, before).await {
                Ok(()) => format!("may not be listed, its objects are read every {every} s"),
                Err(why) => {
                    self.set(role, kind, Listing::Failed(why), Some(served.clone()));
                    self.set_polled(role, kind, None);
                    return false;
                }
            }
        };
        self.set(role, kind, Listing::Known, Some(served.clone()));
        self.set_polled(role, kind, Some(polled));
        true
    }

    async fn read_one_by_one(
        &self,
        role: Role,
        kind: &ResourceKind,
        served: &ServedKind,
        before: &BTreeSet<Key>,
    ) -> Result<(), String> {
        let mut wanted = match role {
            Role::Template => self.world.templates_in_use(kind),
            Role::Remediation => self.world.remediations_in_question(kind).ok_or_else(|| {
                "they may not be listed, and their names are not known beforehand".to_owned()
            })?,
        };
        if wanted.is_empty() {
            // Whether reading is permitted must be known before it is needed. No remediation has
            // such a name; one that has would be read like any other.
            wanted = self.world.templates_of(kind);
        }
        let mut seen = BTreeSet::new();
        for (namespace, name) in wanted {
            let api: Api<DynamicObject> = if served.namespaced && !namespace.is_empty() {
                Api::namespaced_with(self.client.clone(), &namespace, &served.resource)
            } else {
                Api::all_with(self.client.clone(), &served.resource)
            };
            match read::get_opt(&api, &name).await {
                Ok(None) => {}
                Ok(Some(object)) => {
                    seen.insert((namespace, name));
                    self.take(role, kind, &object);
                }
                Err(error) if error.class() == Class::Denied => return Err(chain(&error)),
                // One object that cannot be read now is no reason to forget it.
                Err(error) => {
                    tracing::warn!(%kind, name, why = chain(&error), "could not be read");
                    seen.insert((namespace, name));
                }
            }
        }
        self.retain(role, kind, &seen, before);
        Ok(())
    }

    fn take(&self, role: Role, kind: &ResourceKind, object: &DynamicObject) {
        let wakes = match role {
            Role::Template => self.put_template(kind, object, Some(objects::template(object))),
            Role::Remediation => {
                let new = objects::remediation(kind, object.meta(), &object.data);
                self.world.put_remediation(new)
            }
        };
        self.queues.wake(wakes);
    }

    fn retain(
        &self,
        role: Role,
        kind: &ResourceKind,
        seen: &BTreeSet<Key>,
        before: &BTreeSet<Key>,
    ) {
        let wakes = match role {
            Role::Template => self.world.retain_templates(kind, seen),
            Role::Remediation => self.world.retain_remediations(kind, seen, before),
        };
        self.queues.wake(wakes);
    }

    pub(super) fn set_polled(&self, role: Role, kind: &ResourceKind, polled: Option<String>) {
        let wakes = match role {
            Role::Template => self.world.set_template_polled(kind, polled),
            Role::Remediation => self.world.set_remediation_polled(kind, polled),
        };
        self.queues.wake(wakes);
    }
}

fn key(object: &DynamicObject) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}
