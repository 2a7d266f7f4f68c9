//! HTTP probes of a pod, as its specification asks for them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::timeout,
};

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

    /// One request, answered in a second with a code from 200 to 399.
    pub(super) async fn passes(&self, from: Ipv4Addr) -> bool {
        let asked = timeout(Duration::from_secs(1), self.ask(from)).await;
        matches!(asked, Ok(Ok(200..=399)))
    }

    async fn ask(&self, from: Ipv4Addr) -> anyhow::Result<u16> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::from(from), 0))?;
        let mut stream = socket.connect(self.target).await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.path, self.target
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer).await?;
        let code = answer.split(' ').nth(1).unwrap_or_default();
        Ok(code.parse()?)
    }
}

/// Counts the answers of a liveness probe.
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

    /// Takes an answer; true when the container has to be restarted.
    pub(super) fn lost(&mut self, passed: bool, check: &Check, now: Instant) -> bool {
        self.next = now + check.period;
        self.failed = if passed { 0 } else { self.failed + 1 };
        self.failed >= check.failures
    }
}
