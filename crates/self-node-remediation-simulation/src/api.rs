//! The way to the API server: requests and watches that are slow, cut, lost or late.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::network::{ApiMode, Network, Place};

/// A request that nobody waits for any more may still arrive and be carried out this much later. The
/// agents count on less than a minute.
const LATE: Duration = Duration::from_secs(45);
/// How often a watch that is silent looks whether its connection is cut.
const LOOK: Duration = Duration::from_secs(5);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;
type Answer = Result<Response<AnswerBody>, BoxError>;

/// A client of the API server at some place.
#[derive(Clone)]
struct Gate {
    net: Network,
    place: Place,
    server: Client,
    patience: Duration,
}

/// A client at a place that gives an answer up after `patience`, and a watch after that much silence of a
/// connection that is cut.
pub fn client(net: &Network, place: Place, server: Client, patience: Duration) -> Client {
    let gate = Gate {
        net: net.clone(),
        place,
        server,
        patience,
    };
    Client::new(gate, "default")
}

fn broken(kind: io::ErrorKind) -> BoxError {
    io::Error::from(kind).into()
}

impl Gate {
    async fn carry(self, request: Request<Body>) -> Answer {
        let watch = request
            .uri()
            .query()
            .is_some_and(|query| query.split('&').any(|part| part.starts_with("watch=")));
        if !self.net.transit(self.place, Place::Api).await {
            return std::future::pending().await;
        }
        match self.net.api() {
            ApiMode::Up => {}
            ApiMode::Refuses => return Err(broken(io::ErrorKind::ConnectionRefused)),
            ApiMode::Hangs => return std::future::pending().await,
            ApiMode::Fails => return Ok(failure()),
        }
        let response = self.server.send(request).await?;
        if !self.net.transit(Place::Api, self.place).await {
            return std::future::pending().await;
        }
        Ok(response.map(|body| {
            if watch {
                self.watched(body)
            } else {
                body.map_err(Into::into).boxed_unsync()
            }
        }))
    }

    /// Every event is under way for a while, and waits while the connection is cut.
    fn watched(self, body: Body) -> AnswerBody {
        let events = stream::unfold((self, body), |(gate, mut body)| async move {
            let mut silent = Duration::ZERO;
            let frame: Result<Frame<Bytes>, BoxError> = loop {
                match timeout(LOOK, body.frame()).await {
                    Ok(frame) => break frame?.map_err(Into::into),
                    Err(_elapsed) if gate.net.has_api(gate.place) => silent = Duration::ZERO,
                    Err(_elapsed) => silent += LOOK,
                }
                if silent >= gate.patience {
                    break Err(broken(io::ErrorKind::TimedOut));
                }
            };
            let arrives = async {
                let there = gate.net.transit(Place::Api, gate.place).await;
                while gate.net.api() != ApiMode::Up {
                    sleep(LOOK).await;
                }
                there
            };
            match timeout(gate.patience, arrives).await {
                Ok(true) => Some((frame, (gate, body))),
                Ok(false) => std::future::pending().await,
                Err(_elapsed) => Some((Err(broken(io::ErrorKind::TimedOut)), (gate, body))),
            }
        });
        BodyExt::boxed_unsync(StreamBody::new(events))
    }
}

fn failure() -> Response<AnswerBody> {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 500,
        "reason": "InternalError", "message": "etcdserver: leader changed",
    });
    let body = Full::new(Bytes::from(status.to_string().into_bytes()));
    let body = body.map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    response
}

impl tower::Service<Request<Body>> for Gate {
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let gate = self.clone();
        Box::pin(async move {
            let patience = gate.patience;
            let (answer, arrives) = oneshot::channel();
            // Not part of the caller: what is under way arrives, also when nobody waits any more.
            tokio::spawn(async move {
                if let Ok(carried) = timeout(LATE, gate.carry(request)).await
                    && answer.send(carried).is_err()
                {
                    tracing::debug!("nobody waits for this answer any more");
                }
            });
            let answered = async {
                match arrives.await {
                    Ok(answer) => answer,
                    // Lost on the way: the caller hears nothing until its patience ends.
                    Err(_lost) => std::future::pending().await,
                }
            };
            timeout(patience, answered)
                .await
                .unwrap_or_else(|_elapsed| Err(broken(io::ErrorKind::TimedOut)))
        })
    }
}
