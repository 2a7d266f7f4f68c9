//! A way to the API server on which a process can be killed at one of its writes.
//!
//! # Purpose
//! A restart in the middle of each write: the `k`-th write of the process either does not reach the
//! server, or it is carried out and its answer is lost; in both cases the process is killed at that
//! moment.
//!
//! # Caveats
//! HTTP/1.1 without pipelining, as the client speaks it on a plain connection: a request begins with
//! the bytes that arrive when the one before it has been answered.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

/// When the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The write does not reach the server.
    Before,
    /// The write is carried out, its answer is lost.
    After,
}

/// What is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Which write, counted from 1.
    pub write: usize,
    /// When.
    pub moment: Moment,
}

struct Shared {
    point: Mutex<Option<Point>>,
    writes: AtomicUsize,
    struck: Notify,
    has_struck: Mutex<Option<String>>,
}

/// The proxy. Dropping it ends it.
pub struct Proxy {
    /// Its address, for plain HTTP.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on `own`; `api` is where the server is, `ca` its CA as PEM.
    pub async fn start(own: std::net::Ipv4Addr, api: SocketAddr, ca: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let listener = TcpListener::bind((own, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            point: Mutex::default(),
            writes: AtomicUsize::new(0),
            struck: Notify::new(),
            has_struck: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (shared, connector) = (Arc::clone(&serving), connector.clone());
                drop(tokio::spawn(async move {
                    drop(carry(client, api, &connector, &shared).await);
                }));
            }
        });
        Ok(Self {
            address,
            shared,
            task,
        })
    }

    /// From now on counts writes anew, and strikes at this point.
    pub fn arm(&self, point: Option<Point>) {
        self.shared.writes.store(0, Ordering::SeqCst);
        *lock(&self.shared.has_struck) = None;
        *lock(&self.shared.point) = point;
    }

    /// Waits until it strikes: the caller kills the process.
    pub async fn strikes(&self) {
        self.shared.struck.notified().await;
    }

    /// Which write it struck at.
    pub fn struck(&self) -> Option<String> {
        lock(&self.shared.has_struck).clone()
    }

    /// How many writes there were since it was armed.
    pub fn writes(&self) -> usize {
        self.shared.writes.load(Ordering::SeqCst)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn carry(
    client: TcpStream,
    api: SocketAddr,
    connector: &TlsConnector,
    shared: &Shared,
) -> anyhow::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(api).await?;
    server.set_nodelay(true)?;
    let server = connector
        .connect(ServerName::from(api.ip()), server)
        .await?;
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let mut up = vec![0; 64 * 1024];
    let mut down = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            read = from_client.read(&mut up) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                let sent = up.get(..read).context("read too much")?;
                if let Some(moment) = strike(shared, sent) {
                    let ends = (&mut from_client, &mut to_server, &mut from_server);
                    return end(moment, sent, ends, shared).await;
                }
                to_server.write_all(sent).await?;
                to_server.flush().await?;
            }
            read = from_server.read(&mut down) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                to_client.write_all(down.get(..read).context("read too much")?).await?;
            }
        }
    }
}

/// Whether the bytes begin a write at which it strikes.
fn strike(shared: &Shared, sent: &[u8]) -> Option<Moment> {
    let line = first_write(sent)?;
    let number = shared.writes.fetch_add(1, Ordering::SeqCst) + 1;
    let point = (*lock(&shared.point))?;
    if point.write != number || lock(&shared.has_struck).is_some() {
        return None;
    }
    *lock(&shared.has_struck) = Some(line);
    Some(point.moment)
}

/// Method and path of a request that changes something. Questions (reviews) do not.
fn first_write(sent: &[u8]) -> Option<String> {
    let writes: [&[u8]; 4] = [b"POST ", b"PUT ", b"PATCH ", b"DELETE "];
    if !writes.iter().any(|method| sent.starts_with(method)) {
        return None;
    }
    let end = sent.iter().position(|byte| *byte == b'\r')?;
    let line = String::from_utf8_lossy(sent.get(..end)?).into_owned();
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    (!line.contains("reviews")).then_some(line)
}

async fn end(
    moment: Moment,
    sent: &[u8],
    (from_client, to_server, from_server): Ends<'_>,
    shared: &Shared,
) -> anyhow::Result<()> {
    if moment == Moment::After {
        let carried_out = async {
            to_server.write_all(sent).await?;
            to_server.flush().await?;
            let (mut rest, mut answer) = (vec![0; 64 * 1024], [0; 1024]);
            loop {
                tokio::select! {
                    // The body may come after the head.
                    read = from_client.read(&mut rest) => {
                        let read = read?;
                        let more = rest.get(..read).context("read too much")?;
                        to_server.write_all(more).await?;
                        to_server.flush().await?;
                    }
                    read = from_server.read(&mut answer) => return anyhow::Ok(read?),
                }
            }
        };
        let limit = std::time::Duration::from_secs(5);
        drop(tokio::time::timeout(limit, carried_out).await);
    }
    shared.struck.notify_one();
    // The connection hangs until the process is gone.
    std::future::pending().await
}

/// The client's requests, the way to the server, and its answers.
type Ends<'a> = (
    &'a mut ReadHalf<TcpStream>,
    &'a mut WriteHalf<TlsStream<TcpStream>>,
    &'a mut ReadHalf<TlsStream<TcpStream>>,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_recognised_by_their_first_line() {
        let line = |text: &str| first_write(text.as_bytes());
        assert_eq!(
            line("PATCH /apis/x/y?fieldManager=a HTTP/1.1\r\nhost: b\r\n\r\n{}").as_deref(),
            Some("PATCH /apis/x/y?fieldManager=a")
        );
        assert_eq!(line("GET /api/v1/nodes HTTP/1.1\r\n\r\n"), None);
        assert_eq!(line("{\"kind\": \"POST \"}"), None);
        let review = "POST /apis/authentication.k8s.io/v1/tokenreviews HTTP/1.1\r\n\r\n";
        assert_eq!(line(review), None);
    }
}
