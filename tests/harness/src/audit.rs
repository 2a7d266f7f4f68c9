//! What the API server was asked, from its audit log.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::ensure;
use jiff::Timestamp;
use serde::Deserialize;

/// One finished request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asked, such as `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: String,
    /// Plural name, with `/subresource` if any; empty for a path that is no resource.
    pub resource: String,
    /// API group of the resource; empty for the core group.
    pub group: String,
    /// Name of the object, if the request named one.
    pub name: String,
    /// Status code of the answer.
    pub code: u16,
    /// When it arrived.
    pub at: Timestamp,
    /// When it was answered; a watch, when it ended.
    pub answered: Timestamp,
}

/// Which requests to count.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    /// Only of this user.
    pub user: Option<&'a str>,
    /// Only with this verb.
    pub verb: Option<&'a str>,
    /// Only for this resource (with `/subresource`).
    pub resource: Option<&'a str>,
    /// From this instant on.
    pub from: Timestamp,
    /// Until before this instant.
    pub until: Timestamp,
}

impl Filter<'_> {
    /// Whether a request is to be counted.
    pub fn matches(&self, request: &Request) -> bool {
        self.user.is_none_or(|user| user == request.user)
            && self.verb.is_none_or(|verb| verb == request.verb)
            && self
                .resource
                .is_none_or(|resource| resource == request.resource)
            && self.from <= request.at
            && request.at < self.until
    }
}

/// All requests in the log; a line that is being written right now is left out.
pub fn read(log: &Path) -> anyhow::Result<Vec<Request>> {
    Ok(parse(&fs::read_to_string(log)?))
}

/// Reads a log that grows, each line once.
#[derive(Debug)]
pub struct Reader {
    log: PathBuf,
    offset: u64,
    requests: Vec<Request>,
}

impl Reader {
    /// A reader that has read nothing yet.
    pub fn new(log: impl Into<PathBuf>) -> Self {
        Self {
            log: log.into(),
            offset: 0,
            requests: Vec::new(),
        }
    }

    /// All requests so far, in the order of their answers.
    pub fn read(&mut self) -> anyhow::Result<&[Request]> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut new = Vec::new();
        file.read_to_end(&mut new)?;
        // The last line may be half written; its rest comes with the next look.
        let whole = new.iter().rposition(|byte| *byte == b'\n');
        new.truncate(whole.map_or(0, |end| end + 1));
        self.offset += u64::try_from(new.len())?;
        self.requests.extend(parse(&String::from_utf8_lossy(&new)));
        Ok(&self.requests)
    }
}

/// How many requests of the log the filter lets through.
pub fn count(requests: &[Request], filter: Filter<'_>) -> usize {
    requests
        .iter()
        .filter(|request| filter.matches(request))
        .count()
}

/// The shipped roles are enough: no request of the service accounts of these namespaces was refused for good. An API
/// server that starts refuses everything until it has read the roles, so what it also allowed does not count.
pub fn nothing_was_forbidden(log: &Path, namespaces: &[&str]) -> anyhow::Result<()> {
    let forbidden = forbidden(&read(log)?, namespaces);
    ensure!(
        forbidden.is_empty(),
        "the shipped roles are too narrow: {forbidden:#?}"
    );
    Ok(())
}

fn forbidden(requests: &[Request], namespaces: &[&str]) -> BTreeSet<String> {
    let what = |request: &Request| {
        format!(
            "{} may not {} {}.{} {}",
            request.user, request.verb, request.resource, request.group, request.name
        )
    };
    let ours = |request: &&Request| {
        let account = request.user.strip_prefix("system:serviceaccount:");
        account
            .and_then(|account| account.split_once(':'))
            .is_some_and(|(namespace, _)| namespaces.contains(&namespace))
    };
    let (refused, others): (Vec<_>, Vec<_>) = requests
        .iter()
        .filter(ours)
        .partition(|request| request.code == 403);
    let allowed: BTreeSet<String> = others
        .into_iter()
        .filter(|request| matches!(request.code, 200..=299 | 404 | 409))
        .map(what)
        .collect();
    let refused = refused.into_iter().map(what);
    refused.filter(|what| !allowed.contains(what)).collect()
}

fn parse(text: &str) -> Vec<Request> {
    text.lines()
        .filter_map(|line| serde_json::from_str::<Entry>(line).ok())
        .map(Request::from)
        .collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    verb: String,
    user: User,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: ResponseStatus,
    request_received_timestamp: Timestamp,
    stage_timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
}

impl From<Entry> for Request {
    fn from(entry: Entry) -> Self {
        let mut resource = entry.object_ref.resource;
        if !entry.object_ref.subresource.is_empty() {
            resource = format!("{resource}/{}", entry.object_ref.subresource);
        }
        Self {
            user: entry.user.username,
            verb: entry.verb,
            resource,
            group: entry.object_ref.api_group,
            name: entry.object_ref.name,
            code: entry.response_status.code,
            at: entry.request_received_timestamp,
            answered: entry
                .stage_timestamp
                .unwrap_or(entry.request_received_timestamp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"1","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/n/pods/p/eviction","verb":"create","user":{"username":"system:serviceaccount:n:s","groups":["system:authenticated"]},"objectRef":{"resource":"pods","namespace":"n","name":"p","apiVersion":"v1","subresource":"eviction"},"responseStatus":{"metadata":{},"code":429},"requestReceivedTimestamp":"2026-01-01T00:00:05.000000Z","stageTimestamp":"2026-01-01T00:00:05.100000Z"}
{"kind":"Event","verb":"get","user":{"username":"admin"},"requestURI":"/readyz","requestReceivedTimestamp":"2026-01-01T00:00:06.000000Z"}
{"kind":"Event","verb":"ge"#;

    #[test]
    fn what_is_refused_once_and_allowed_later_is_no_missing_right() {
        let eviction = |code| {
            let text = LOG.lines().next().unwrap();
            parse(&text.replace("429", code)).remove(0)
        };
        assert_eq!(
            forbidden(&[eviction("403"), eviction("404")], &["n"]).len(),
            0
        );
        assert_eq!(
            forbidden(&[eviction("403"), eviction("500")], &["n"]).len(),
            1
        );
        assert_eq!(forbidden(&[eviction("403")], &["other"]).len(), 0);
    }

    #[test]
    fn counts_by_user_verb_resource_and_time() {
        let requests = parse(LOG);
        assert_eq!(requests.len(), 2);
        let all = Filter {
            user: None,
            verb: None,
            resource: None,
            from: "2026-01-01T00:00:05Z".parse().unwrap(),
            until: "2026-01-01T00:00:06Z".parse().unwrap(),
        };
        assert_eq!(count(&requests, all), 1);
        assert_eq!(
            count(
                &requests,
                Filter {
                    resource: Some("pods/eviction"),
                    ..all
                }
            ),
            1
        );
        assert_eq!(
            count(
                &requests,
                Filter {
                    resource: Some("pods"),
                    ..all
                }
            ),
            0
        );
        assert_eq!(
            count(
                &requests,
                Filter {
                    user: Some("admin"),
                    ..all
                }
            ),
            0
        );
        assert_eq!(requests[0].code, 429);
        assert_eq!(requests[0].answered.to_string(), "2026-01-01T00:00:05.1Z");
    }

    #[test]
    fn a_growing_log_is_read_line_by_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut reader = Reader::new(file.path());
        assert_eq!(reader.read().unwrap(), []);
        let (first, rest) = LOG.split_once('\n').unwrap();
        let (half, other_half) = first.split_at(100);
        let mut written = String::new();
        for (part, count) in [(half, 0), (other_half, 0), ("\n", 1), (rest, 2)] {
            written.push_str(part);
            fs::write(file.path(), &written).unwrap();
            assert_eq!(reader.read().unwrap().len(), count);
        }
        assert_eq!(reader.read().unwrap(), parse(LOG));
    }
}
