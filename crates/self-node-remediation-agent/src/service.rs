//! The peer service: carries questions to the loop and answers back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use medik8s_runtime::cli::BindAddress;
use medik8s_runtime::shutdown::Shutdown;
use self_node_remediation_peer::net::Listener;
use self_node_remediation_peer::server::{self, Settings, TakeWords};
use self_node_remediation_peer::{HealthRequest, HealthResponse, Identity, Status};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::inbox::{Input, PeerAnswer, Sender};

/// The loop answers within apiServerTimeout; this much later the service gives up on it.
const NET: Duration = Duration::from_millis(500);

/// Listens on the given address, or on `port` of all addresses.
pub async fn listen(address: Option<&BindAddress>, port: u16) -> io::Result<TcpListener> {
    match address {
        None => server::listen_any(port),
        Some(BindAddress::Any(port)) => server::listen_any(*port),
        Some(BindAddress::Address(address)) => server::listen(*address),
        Some(named @ (BindAddress::Name(..) | BindAddress::Disabled)) => {
            named.bind().await?.ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the peer service cannot be turned off",
                )
            })
        }
    }
}

/// Serves until `stop`. As long as `standing_by` is set every answer is UNAVAILABLE.
pub async fn serve(
    listener: impl Listener,
    identity: Identity,
    api_timeout: Duration,
    standing_by: Arc<AtomicBool>,
    inbox: Sender,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let words: TakeWords = Arc::new({
        let inbox = inbox.clone();
        move |request, caller| inbox.send(Input::Relay(request, caller))
    });
    let answer = move |question: HealthRequest| {
        let (standing_by, inbox) = (Arc::clone(&standing_by), inbox.clone());
        async move {
            if standing_by.load(Ordering::SeqCst) {
                return Err(tonic::Status::unavailable("standing by"));
            }
            let (reply, answer) = oneshot::channel();
            inbox.send(Input::Question(question, reply));
            // A dropped sender is a loop that has ended.
            on_the_wire(answer.await.unwrap_or(PeerAnswer::Unavailable))
        }
    };
    let limits = Settings::answering_within(api_timeout.saturating_add(NET));
    let until = async move { stop.triggered().await };
    server::serve_and_relay(listener, &identity, limits, answer, Some(words), until).await?;
    Ok(())
}

fn on_the_wire(answer: PeerAnswer) -> Result<HealthResponse, tonic::Status> {
    match answer {
        PeerAnswer::Healthy => Ok(HealthResponse::of(Status::Healthy)),
        PeerAnswer::Unhealthy { acknowledged: None } => Ok(HealthResponse::of(Status::Unhealthy)),
        PeerAnswer::Unhealthy {
            acknowledged: Some(uid),
        } => Ok(HealthResponse::acknowledging(String::from(uid))),
        PeerAnswer::ApiError => Ok(HealthResponse::of(Status::ApiError)),
        PeerAnswer::Unavailable => Err(tonic::Status::unavailable("nothing can be said")),
    }
}

#[cfg(test)]
mod tests {
    use self_node_remediation_core::ids::Uid;

    use super::*;

    #[test]
    fn answers_and_their_wire_form() {
        let uid = Uid::new("u1").unwrap();
        for (answer, status, acknowledged) in [
            (PeerAnswer::Healthy, 1, ""),
            (PeerAnswer::Unhealthy { acknowledged: None }, 2, ""),
            (
                PeerAnswer::Unhealthy {
                    acknowledged: Some(uid),
                },
                2,
                "u1",
            ),
            (PeerAnswer::ApiError, 3, ""),
        ] {
            let response = on_the_wire(answer).unwrap();
            assert_eq!(response.status, status);
            assert_eq!(response.acknowledged_uid, acknowledged);
        }
        let refused = on_the_wire(PeerAnswer::Unavailable).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
    }
}
