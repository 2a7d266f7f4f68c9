//! Requests as the fakes see them, and answers as they give them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use kube::client::Body;
use serde::Serialize;
use serde_json::{Value, json};

/// An error of the transport.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Body of an answer.
pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// A request that arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Name of the client that sent it.
    pub client: String,
    /// HTTP method.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// Query, decoded.
    pub query: BTreeMap<String, String>,
    /// Header `Content-Type`.
    pub content_type: Option<String>,
    /// Header `Accept`.
    pub accept: Option<String>,
    /// Body as JSON; `Null` if there is none.
    pub body: Value,
    /// Status of the answer; `None` while there is none, or if the connection broke.
    pub status: Option<u16>,
}

impl Recorded {
    pub(crate) async fn receive(
        client: &str,
        request: http::Request<Body>,
    ) -> Result<Self, BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let header = |name| {
            let value = parts.headers.get(name)?;
            value.to_str().ok().map(ToOwned::to_owned)
        };
        Ok(Self {
            client: client.to_owned(),
            method: parts.method.as_str().to_owned(),
            path: parts.uri.path().to_owned(),
            query: parse_query(parts.uri.query().unwrap_or_default()),
            content_type: header(http::header::CONTENT_TYPE),
            accept: header(http::header::ACCEPT),
            body: if body.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(&body)?
            },
            status: None,
        })
    }

    /// Whether it changes something. A review or a dry run does not.
    pub fn is_write(&self) -> bool {
        let review = self.path.ends_with("reviews");
        self.method != "GET" && !review && !self.query.contains_key("dryRun")
    }

    /// Whether it opens a watch.
    pub fn is_watch(&self) -> bool {
        matches!(
            self.query.get("watch").map(String::as_str),
            Some("true" | "1")
        )
    }

    /// A value of the query.
    pub fn query(&self, key: &str) -> Option<&str> {
        self.query.get(key).map(String::as_str)
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        for (index, (key, value)) in self.query.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { '?' } else { '&' })?;
        }
        if !self.body.is_null() {
            write!(f, " {}", self.body)?;
        }
        Ok(())
    }
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

/// Undoes the encoding of forms: `+` is a space, `%41` is a byte.
fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                let text = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&text, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// What the client gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A response.
    Reply(Reply),
    /// The connection breaks.
    Break,
    /// Nothing, for ever: the client's own deadline has to end it.
    Hang,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

/// A response.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub code: u16,
    /// Body.
    pub body: Value,
    /// Header `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
}

impl Reply {
    /// A response with an object.
    pub fn object(code: u16, object: &impl Serialize) -> Self {
        let body = serde_json::to_value(object).expect("a Kubernetes object is JSON");
        Self {
            code,
            body,
            retry_after: None,
        }
    }

    /// 200 with an object.
    pub fn ok(object: &impl Serialize) -> Self {
        Self::object(200, object)
    }

    /// 201 with an object.
    pub fn created(object: &impl Serialize) -> Self {
        Self::object(201, object)
    }

    /// 200 with a list of objects.
    pub fn list(items: &[impl Serialize]) -> Self {
        let metadata = json!({"resourceVersion": "1"});
        let items = serde_json::to_value(items).expect("Kubernetes objects are JSON");
        Self::ok(&json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}))
    }

    /// A failure as the API server reports it.
    pub fn failure(code: u16, reason: &str, message: &str) -> Self {
        Self::object(
            code,
            &json!({
                "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
                "code": code, "reason": reason, "message": message,
            }),
        )
    }

    /// The outcome of a delete that left nothing behind.
    pub fn success() -> Self {
        Self::ok(&json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success",
        }))
    }

    /// 404 for an object.
    pub fn not_found(resource: &str, name: &str) -> Self {
        Self::failure(404, "NotFound", &format!("{resource} \"{name}\" not found"))
    }

    /// 409 because there is one already.
    pub fn already_exists(resource: &str, name: &str) -> Self {
        Self::failure(
            409,
            "AlreadyExists",
            &format!("{resource} \"{name}\" already exists"),
        )
    }

    /// 409 because it changed, or is another one than expected.
    pub fn conflict(why: &str) -> Self {
        Self::failure(
            409,
            "Conflict",
            &format!("operation cannot be fulfilled: {why}"),
        )
    }

    /// 422, among others for a JSON patch whose test fails.
    pub fn invalid(why: &str) -> Self {
        Self::failure(422, "Invalid", why)
    }

    /// 429, with the cause that a disruption budget gives.
    pub fn too_many_requests(message: &str) -> Self {
        let mut reply = Self::failure(429, "TooManyRequests", message);
        let causes = json!([{"reason": "DisruptionBudget", "message": message}]);
        json_patch::merge(&mut reply.body, &json!({"details": {"causes": causes}}));
        reply
    }

    /// The same with the header `Retry-After`.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    pub(crate) fn into_response(self, now: Timestamp) -> http::Response<AnswerBody> {
        let body = serde_json::to_vec(&self.body).unwrap_or_default();
        respond(self.code, self.retry_after, now, full(body))
    }
}

pub(crate) fn full(body: Vec<u8>) -> AnswerBody {
    Full::new(Bytes::from(body))
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn respond(
    code: u16,
    retry_after: Option<u64>,
    now: Timestamp,
    body: AnswerBody,
) -> http::Response<AnswerBody> {
    let date = DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&now)
        .unwrap_or_default();
    let mut response = http::Response::builder()
        .status(code)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::DATE, date);
    if let Some(seconds) = retry_after {
        response = response.header(http::header::RETRY_AFTER, seconds);
    }
    response
        .body(body)
        .expect("the parts of the response are valid")
}

/// What a client sees when its peer is gone.
pub(crate) fn broken() -> BoxError {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection broke").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query =
            parse_query("fieldSelector=spec.nodeName%3Dn1&labelSelector=a+in+%28b%29&watch");
        assert_eq!(query["fieldSelector"], "spec.nodeName=n1");
        assert_eq!(query["labelSelector"], "a in (b)");
        assert_eq!(query["watch"], "");
    }
}
