//! What the server can do: discovery, version, health.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kinds::Kind;
use super::state::State;
use crate::wire::Reply;

impl State {
    /// Answers paths that name no resource.
    pub(crate) fn discover(&self, path: &str) -> Reply {
        let segments: Vec<&str> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        match segments.as_slice() {
            ["version"] => {
                let (major, minor) = &self.version_info;
                Reply::ok(&json!({
                    "major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0"),
                    "gitCommit": "", "gitTreeState": "clean", "buildDate": "", "goVersion": "",
                    "compiler": "", "platform": "linux/amd64",
                }))
            }
            ["readyz" | "livez" | "healthz", ..] => Reply::ok(&"ok"),
            ["api"] => Reply::ok(&json!({
                "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [],
            })),
            ["apis"] => Reply::ok(&self.groups()),
            ["apis", group] => match self.group(group) {
                Some(group) => Reply::ok(&group),
                None => unknown(),
            },
            ["api", version] => self.resources(version),
            ["apis", group, version] => self.resources(&format!("{group}/{version}")),
            _ => unknown(),
        }
    }

    fn groups(&self) -> Value {
        let mut names: Vec<&str> = self.kinds.all().map(Kind::group).collect();
        names.sort_unstable();
        names.dedup();
        let groups: Vec<Value> = names.iter().filter_map(|name| self.group(name)).collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    fn group(&self, name: &str) -> Option<Value> {
        let of_group = self
            .kinds
            .all()
            .filter(|kind| !name.is_empty() && kind.group() == name);
        let versions: BTreeMap<&str, &str> = of_group
            .map(|kind| (kind.api_version.as_str(), kind.version()))
            .collect();
        let versions: Vec<Value> = versions
            .into_iter()
            .map(|(group_version, version)| {
                json!({"groupVersion": group_version, "version": version})
            })
            .collect();
        let preferred = versions.last()?.clone();
        Some(json!({
            "kind": "APIGroup", "apiVersion": "v1", "name": name,
            "versions": versions, "preferredVersion": preferred,
        }))
    }

    fn resources(&self, api_version: &str) -> Reply {
        let verbs = [
            "create", "delete", "get", "list", "patch", "update", "watch",
        ];
        let resources: Vec<Value> = self
            .kinds
            .all()
            .filter(|kind| kind.api_version == api_version)
            .flat_map(|kind| {
                let resource = |name: String, verbs: &[&str]| {
                    json!({
                        "name": name, "singularName": kind.kind.to_lowercase(),
                        "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs,
                    })
                };
                let status = format!("{}/status", kind.plural);
                let mut resources = vec![resource(kind.plural.clone(), &verbs)];
                if kind.has_status() {
                    resources.push(resource(status, &["get", "patch", "update"]));
                }
                resources
            })
            .collect();
        if resources.is_empty() {
            return unknown();
        }
        Reply::ok(&json!({
            "kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": api_version, "resources": resources,
        }))
    }
}

/// What a server says about a path or kind that it does not know.
pub(crate) fn unknown() -> Reply {
    Reply::failure(
        404,
        "NotFound",
        "the server could not find the requested resource",
    )
}
