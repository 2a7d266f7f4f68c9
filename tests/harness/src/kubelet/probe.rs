//! HTTP probes of a pod, as its specification asks for them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::timeout,
};

use crate::network::Fabric;

/// Where and how often to ask.
#[derive(Debug, Clone)]
pub(super) struct Check {
    target: SocketAddr,
    path: String,
    pub period: Duration,
    pub failures: u32,
}

impl Check {
    /// The probe of a container; `None` when it has none that speaks HTTP.
    pub(super) fn of(probe: Option<&Probe>, container: &Container, pod: Ipv4Addr) -> Option<Self> {
        let probe = probe?;
        let get = probe.http_get.as_ref()?;
        let port = match &get.port {
            IntOrString::Int(port) => *port,
            IntOrString::String(name) => container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_ref() == Some(name))
                .map(|port| port.container_port)?,
        };
        let seconds = u64::try_from(probe.period_seconds.unwrap_or(10)).unwrap_or(10);
        Some(Self {
            target: SocketAddr::new(IpAddr::from(pod), u16::try_from(port).ok()?),
            path: get.path.clone().unwrap_or_else(|| "/".to_owned()),
            period: Duration::from_secs(seconds),
            failures: u32::try_from(probe.failure_threshold.unwrap_or(3)).unwrap_or(3),
        })
    }

    /// Whether one request is answered in a second with a code from 200 to 399.
    pub(super) async fn passes(&self) -> bool {
        let asked = get(self.target, &self.path, Duration::from_secs(1)).await;
        matches!(asked, Ok(200..=399))
    }
}

/// The status code of a GET, asked from the address that no cut of a node touches.
pub async fn get(target: SocketAddr, path: &str, limit: Duration) -> anyhow::Result<u16> {
    timeout(limit, async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::from(probe_address(target)), 0))?;
        let mut stream = socket.connect(target).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer).await?;
        Ok(answer.split(' ').nth(1).unwrap_or_default().parse()?)
    })
    .await
    .context("no answer in time")?
}

/// The probing address of the cluster that the pod belongs to.
fn probe_address(pod: SocketAddr) -> Ipv4Addr {
    match pod.ip() {
        IpAddr::V4(address) => Fabric::probe_of(address),
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

/// Counts the answers of a probe, and says when the next is due.
#[derive(Debug)]
pub(super) struct Patience {
    next: Instant,
    failed: u32,
}

impl Patience {
    pub(super) const fn new(start: Instant) -> Self {
        Self {
            next: start,
            failed: 0,
        }
    }

    /// Whether it is time to ask again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next <= now
    }

    /// Takes an answer; true when too many in a row were bad.
    pub(super) fn lost(&mut self, passed: bool, check: &Check, now: Instant) -> bool {
        self.next = now + check.period;
        self.failed = if passed { 0 } else { self.failed + 1 };
        self.failed >= check.failures
    }
}
