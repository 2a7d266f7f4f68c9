//! Paths of resources.

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Group and version, `v1` for the core group.
    pub(crate) api_version: String,
    /// Name of the resource.
    pub(crate) plural: String,
    /// Namespace, unless all or none are meant.
    pub(crate) namespace: Option<String>,
    /// Name of the object, unless the collection is meant.
    pub(crate) name: Option<String>,
    /// Subresource.
    pub(crate) subresource: Option<String>,
}

/// Reads a path below `/api/v1` or `/apis/<group>/<version>`; `None` if it names no resource.
pub(crate) fn parse(path: &str) -> Option<Target> {
    let segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    let (api_version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ((*version).to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let [plural, rest @ ..] = rest else {
        return None;
    };
    let (name, subresource) = match rest {
        [] => (None, None),
        [name] => (Some(*name), None),
        [name, subresource] => (Some(*name), Some(*subresource)),
        _ => return None,
    };
    Some(Target {
        api_version,
        plural: (*plural).to_owned(),
        namespace: namespace.map(ToOwned::to_owned),
        name: name.map(ToOwned::to_owned),
        subresource: subresource.map(ToOwned::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(path: &str) -> String {
        let Some(target) = parse(path) else {
            return "none".to_owned();
        };
        let part = |part: Option<String>| part.unwrap_or_else(|| "-".to_owned());
        format!(
            "{} {} {} {} {}",
            target.api_version,
            target.plural,
            part(target.namespace),
            part(target.name),
            part(target.subresource)
        )
    }

    #[test]
    fn paths_name_resources() {
        for (path, expected) in [
            ("/api/v1/nodes", "v1 nodes - - -"),
            ("/api/v1/nodes/n1/status", "v1 nodes - n1 status"),
            ("/api/v1/pods", "v1 pods - - -"),
            ("/api/v1/namespaces", "v1 namespaces - - -"),
            ("/api/v1/namespaces/a", "v1 namespaces - a -"),
            ("/api/v1/namespaces/a/pods", "v1 pods a - -"),
            (
                "/api/v1/namespaces/a/pods/p/eviction",
                "v1 pods a p eviction",
            ),
            (
                "/apis/apps/v1/namespaces/a/daemonsets/d",
                "apps/v1 daemonsets a d -",
            ),
            ("/apis/apps/v1", "none"),
            ("/version", "none"),
        ] {
            assert_eq!(show(path), expected, "{path}");
        }
    }
}
