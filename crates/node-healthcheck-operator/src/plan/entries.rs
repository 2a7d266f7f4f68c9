//! Entries of `status.unhealthyNodes`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use medik8s_api::remediation::{Remediation as Entry, UnhealthyNode};

use super::stored_time;
use crate::check::{ResourceKind, TemplateRef};
use crate::facts::Observed;
use crate::remediation::Remediation;

/// The entry of a node that is unhealthy (or soon): nothing of an earlier recovery is left in it.
pub(super) fn unhealthy(
    node: &str,
    stored: Option<&UnhealthyNode>,
    own: &[&Remediation],
    seen: &Observed,
    now: Timestamp,
) -> UnhealthyNode {
    let list = remediations(stored, own, seen, now);
    UnhealthyNode {
        name: node.to_owned(),
        remediations: (!list.is_empty()).then_some(list),
        conditions_healthy_timestamp: None,
        healthy_delayed: None,
    }
}

/// The entries of a node's remediations: those stored, brought up to date with those that exist.
///
/// An entry stands for kind, template (by namespace and name) and UID. A new object of the same template replaces the old
/// entry and starts afresh; two templates of one kind have two entries.
///
/// The entry of an object that is gone stays only if its step timed out, so that the step is not
/// repeated, and not even then if its remediator is uninstalled: entries keep a health check from
/// being edited and deleted.
fn remediations(
    stored: Option<&UnhealthyNode>,
    own: &[&Remediation],
    seen: &Observed,
    now: Timestamp,
) -> Vec<Entry> {
    let mut list = stored
        .and_then(|entry| entry.remediations.clone())
        .unwrap_or_default();
    let mut existing: Vec<&&Remediation> = own.iter().collect();
    existing.sort_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
    let known = |list: &[Entry], uid: &str| list.iter().any(|entry| uid_of(entry) == uid);
    for remediation in existing {
        if let Some(entry) = list
            .iter_mut()
            .find(|entry| uid_of(entry) == remediation.uid)
        {
            if entry.timed_out.is_none() && remediation.timed_out.is_some() {
                entry.timed_out = Some(stored_time(annotated_time(remediation, now)));
            }
            continue;
        }
        let fresh = entry_of(remediation, now);
        let replaced = list.iter_mut().find(|entry| {
            is_of_kind(entry, &remediation.kind)
                && namespace_of(entry) == remediation.namespace
                && same_template(entry, remediation.template.as_deref())
                && !own.iter().any(|other| other.uid == uid_of(entry))
        });
        match replaced {
            Some(entry) => *entry = fresh,
            None => list.push(fresh),
        }
    }
    list.retain(|entry| {
        let of = |kind: &ResourceKind| is_of_kind(entry, kind);
        let exists = own.iter().any(|one| one.uid == uid_of(entry));
        let may_exist = seen.unknown_kinds.keys().any(of);
        let counts = entry.timed_out.is_some() && !seen.missing_kinds.iter().any(of);
        exists || may_exist || counts
    });
    debug_assert!(own.iter().all(|remediation| known(&list, &remediation.uid)));
    list
}

/// The entries of a node that stand for a template.
pub(super) fn of_template<'e>(
    stored: Option<&'e UnhealthyNode>,
    template: &TemplateRef,
) -> impl Iterator<Item = &'e Entry> {
    let kind = template.remediation_kind();
    let (namespace, name) = (template.namespace.clone(), template.name.clone());
    stored
        .into_iter()
        .flat_map(|entry| entry.remediations.iter().flatten())
        .filter(move |entry| {
            is_of_kind(entry, &kind)
                && namespace_of(entry) == namespace
                && same_template(entry, Some(&name))
        })
}

/// The entry of one object.
pub(super) fn of_uid<'e>(stored: Option<&'e UnhealthyNode>, uid: &str) -> Option<&'e Entry> {
    stored?
        .remediations
        .iter()
        .flatten()
        .find(|entry| uid_of(entry) == uid)
}

fn entry_of(remediation: &Remediation, now: Timestamp) -> Entry {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Entry {
        resource: ObjectReference {
            api_version: text(&remediation.kind.api_version),
            kind: text(&remediation.kind.kind),
            namespace: text(&remediation.namespace),
            name: text(&remediation.name),
            uid: text(&remediation.uid),
            ..ObjectReference::default()
        },
        started: stored_time(remediation.created),
        timed_out: remediation
            .timed_out
            .is_some()
            .then(|| stored_time(annotated_time(remediation, now))),
        template_name: remediation.template.clone(),
    }
}

/// When a remediation was told to stop; now, if its annotation holds no time.
fn annotated_time(remediation: &Remediation, now: Timestamp) -> Timestamp {
    remediation
        .timed_out
        .as_deref()
        .and_then(|text| text.parse().ok())
        .unwrap_or(now)
}

fn uid_of(entry: &Entry) -> &str {
    entry.resource.uid.as_deref().unwrap_or_default()
}

/// A remediation lives in the namespace of its template.
fn namespace_of(entry: &Entry) -> &str {
    entry.resource.namespace.as_deref().unwrap_or_default()
}

/// Whether an entry stands for an object of a kind.
pub(super) fn is_of_kind(entry: &Entry, kind: &ResourceKind) -> bool {
    entry.resource.kind.as_deref() == Some(kind.kind.as_str())
        && entry.resource.api_version.as_deref() == Some(kind.api_version.as_str())
}

/// Whether an entry stands for a template of its kind. Entries of older releases have no name.
fn same_template(entry: &Entry, template: Option<&str>) -> bool {
    match entry.template_name.as_deref() {
        None | Some("") => true,
        Some(name) => Some(name) == template,
    }
}
