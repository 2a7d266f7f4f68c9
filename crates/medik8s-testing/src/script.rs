//! An API server that expects exactly one sequence of requests.
//!
//! For tests of effects: method, path, query, body, and what happens on 404, 409, 429 or a timeout.
//! A request that is not the next expected one is answered with 500 and fails [`Script::verify`].

use std::collections::VecDeque;
use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::{Request, Response};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use tower::Service;

use crate::wire::{Answer, AnswerBody, BoxError, Recorded, Reply, broken};

#[cfg(test)]
mod tests;

/// A check of a body; an error says what is wrong.
type Check = Box<dyn Fn(&Value) -> Result<(), String> + Send>;

/// A request that is expected.
pub struct Expect {
    method: &'static str,
    path: String,
    query: Vec<(String, Option<String>)>,
    content_type: Option<String>,
    body: Option<Check>,
    answer: Answer,
}

impl Expect {
    /// Any method. The answer is 200 with an empty object until another one is given.
    pub fn request(method: &'static str, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            content_type: None,
            body: None,
            answer: Reply::ok(&serde_json::json!({})).into(),
        }
    }

    /// GET of an object or list.
    pub fn get(path: impl Into<String>) -> Self {
        Self::request("GET", path)
    }

    /// POST.
    pub fn post(path: impl Into<String>) -> Self {
        Self::request("POST", path)
    }

    /// PUT.
    pub fn put(path: impl Into<String>) -> Self {
        Self::request("PUT", path)
    }

    /// DELETE.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::request("DELETE", path)
    }

    /// PATCH with JSON patch operations.
    pub fn json_patch(path: impl Into<String>) -> Self {
        Self::request("PATCH", path).content_type("application/json-patch+json")
    }

    /// PATCH with a merge patch.
    pub fn merge_patch(path: impl Into<String>) -> Self {
        Self::request("PATCH", path).content_type("application/merge-patch+json")
    }

    /// Server-side apply.
    pub fn apply(path: impl Into<String>) -> Self {
        Self::request("PATCH", path).content_type("application/apply-patch+yaml")
    }

    /// The query must have this value.
    #[must_use]
    pub fn query(mut self, key: &str, value: &str) -> Self {
        self.query.push((key.to_owned(), Some(value.to_owned())));
        self
    }

    /// The query must not have this key.
    #[must_use]
    pub fn without_query(mut self, key: &str) -> Self {
        self.query.push((key.to_owned(), None));
        self
    }

    /// The header `Content-Type` must be this.
    #[must_use]
    pub fn content_type(mut self, value: &str) -> Self {
        self.content_type = Some(value.to_owned());
        self
    }

    /// The body must equal this.
    #[must_use]
    pub fn body(self, expected: Value) -> Self {
        self.body_that(move |body| {
            if *body == expected {
                Ok(())
            } else {
                Err(format!("expected the body {expected}"))
            }
        })
    }

    /// The body must contain this: its objects may have more fields.
    #[must_use]
    pub fn body_with(self, expected: Value) -> Self {
        self.body_that(move |body| {
            let contained = contains(body, &expected);
            contained
                .then_some(())
                .ok_or_else(|| format!("expected a body with {expected}"))
        })
    }

    /// The body must pass a check.
    #[must_use]
    pub fn body_that(
        mut self,
        check: impl Fn(&Value) -> Result<(), String> + Send + 'static,
    ) -> Self {
        self.body = Some(Box::new(check));
        self
    }

    /// Answer with this.
    #[must_use]
    pub fn reply(mut self, reply: Reply) -> Self {
        self.answer = reply.into();
        self
    }

    /// Never answer.
    #[must_use]
    pub fn hang(mut self) -> Self {
        self.answer = Answer::Hang;
        self
    }

    /// Break the connection.
    #[must_use]
    pub fn break_connection(mut self) -> Self {
        self.answer = Answer::Break;
        self
    }

    fn check(&self, request: &Recorded) -> Result<(), String> {
        let (method, path) = (&request.method, &request.path);
        if self.method != method || self.path != *path {
            return Err(format!("expected {} {}", self.method, self.path));
        }
        for (key, value) in &self.query {
            let found = request.query(key);
            if found != value.as_deref() {
                return Err(format!("the query has {key}={found:?}, expected {value:?}"));
            }
        }
        if self.content_type.is_some() && self.content_type != request.content_type {
            return Err(format!(
                "the content type is {:?}, expected {:?}",
                request.content_type, self.content_type
            ));
        }
        self.body
            .as_ref()
            .map_or(Ok(()), |check| check(&request.body))
    }
}

/// Whether a value has everything that another one has.
fn contains(value: &Value, expected: &Value) -> bool {
    match (value, expected) {
        (Value::Object(value), Value::Object(expected)) => {
            expected.iter().all(|(key, expected)| {
                value
                    .get(key)
                    .is_some_and(|value| contains(value, expected))
            })
        }
        (Value::Array(value), Value::Array(expected)) => {
            value.len() == expected.len()
                && value
                    .iter()
                    .zip(expected)
                    .all(|(value, expected)| contains(value, expected))
        }
        (value, expected) => value == expected,
    }
}

#[derive(Default)]
struct State {
    expected: VecDeque<Expect>,
    recorded: Vec<Recorded>,
    problems: Vec<String>,
}

/// The sequence. Cheap to clone.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<State>>);

impl Script {
    /// A sequence of requests.
    pub fn new(expected: impl IntoIterator<Item = Expect>) -> Self {
        let script = Self::default();
        script.lock().expected.extend(expected);
        script
    }

    /// A client whose requests go to this script. Needs a tokio runtime.
    pub fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    /// Expects more requests after those that are left.
    pub fn then(&self, expected: impl IntoIterator<Item = Expect>) {
        self.lock().expected.extend(expected);
    }

    /// Everything that arrived, in order.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.lock().recorded.clone()
    }

    /// Ends the test if a request was not the expected one, or if one is missing.
    #[track_caller]
    pub fn verify(&self) {
        let state = self.lock();
        assert!(state.problems.is_empty(), "{}", state.problems.join("\n"));
        let missing: Vec<String> = state
            .expected
            .iter()
            .map(|expect| format!("{} {}", expect.method, expect.path))
            .collect();
        assert!(
            missing.is_empty(),
            "these requests did not come: {}",
            missing.join(", ")
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, mut request: Recorded) -> Answer {
        let mut state = self.lock();
        let verdict = match state.expected.front() {
            Some(expect) => expect.check(&request),
            None => Err("expected nothing more".to_owned()),
        };
        let answer = match verdict {
            Ok(()) => {
                let expect = state.expected.pop_front();
                expect.map_or(Answer::Break, |expect| expect.answer)
            }
            Err(why) => {
                state.problems.push(format!("unexpected {request}: {why}"));
                Reply::failure(500, "InternalError", &why).into()
            }
        };
        request.status = match &answer {
            Answer::Reply(reply) => Some(reply.code),
            Answer::Break | Answer::Hang => None,
        };
        state.recorded.push(request);
        answer
    }
}

impl Service<Request<Body>> for Script {
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let script = self.clone();
        Box::pin(async move {
            let request = Recorded::receive("script", request).await?;
            match script.answer(request) {
                Answer::Reply(reply) => ready(Ok(reply.into_response(Timestamp::UNIX_EPOCH))).await,
                Answer::Break => Err(broken()),
                Answer::Hang => pending().await,
            }
        })
    }
}
