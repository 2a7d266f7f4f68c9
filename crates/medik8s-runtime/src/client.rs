//! Clients of the API server.
//!
//! # Purpose
//! Where the cluster is and who we are is found out once ([`Access::resolve`]); clients for
//! different purposes ([`Profile`]) are built from it.
//!
//! # Guarantees
//! Every request counts in `rest_client_requests_total` and carries `<binary>/<version>`.
//!
//! A server that vanishes without a word (a dead control-plane node, a dropped route) is noticed
//! within [`DEAD_PEER`], also by watches: kube's own stack has no keep-alive and would wait up to
//! five minutes, in which a health checker is blind.
//!
//! # Caveats
//! kube's own retry (429, 503, 504, up to 15 times) hides a refused eviction for minutes and makes
//! an agent's deadline meaningless: evictions and agents use a profile without it.

use std::{
    fmt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, header::USER_AGENT};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt, retry::RetryPolicy},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{BoxError, Layer, Service, ServiceBuilder, retry::RetryLayer};

use crate::{cli::Product, metrics::Metrics, settings::Env};

/// Silence on a connection after which the kernel asks whether the peer is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 3;

/// How long a peer that vanished can go unnoticed: silence plus unanswered questions.
pub const DEAD_PEER: Duration = Duration::from_secs(30);

/// How long a server that is still there may say nothing on a connection in use. Watches hear a
/// bookmark about every minute.
const SILENCE: Duration = Duration::from_secs(90);

/// How long a connection without work is kept.
const IDLE: Duration = Duration::from_secs(30);

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Watches and ordinary reads and writes; overload answers are retried by the client.
    Manager,
    /// One request, one answer: evictions, leases.
    NoRetry,
    /// For a node agent: no retry, and bounded silence of the server.
    Agent {
        /// Limit for the connection with its TLS handshake.
        connect_timeout: Duration,
        /// Limit for the silence of the server on a connection in use. Must be longer than the
        /// interval of a watch's bookmarks (about one minute) for clients that watch.
        read_timeout: Duration,
    },
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A kubeconfig was named but cannot be used.
    #[error("could not use kubeconfig {path}")]
    Kubeconfig {
        /// The file or variable.
        path: String,
        /// Why.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The pod's service account cannot be used.
    #[error("could not use the pod's service account")]
    InCluster(#[source] kube::config::InClusterError),
    /// Nothing tells where the cluster is.
    #[error(
        "no cluster configured: give --kubeconfig, set KUBECONFIG, run in a pod with a service \
         account, or create ~/.kube/config"
    )]
    NothingConfigured(#[source] Box<KubeconfigError>),
    /// The configuration was found but no client can be made of it.
    #[error("could not build a client for {url}")]
    Build {
        /// The API server.
        url: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Where the cluster is and who we are there.
#[derive(Clone)]
pub struct Access {
    config: Config,
    metrics: Metrics,
    clients: Arc<Mutex<Vec<(Profile, Client)>>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("url", &self.config.cluster_url)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// Looks in the original's order: the flag, `KUBECONFIG`, the pod's service account,
    /// `~/.kube/config`.
    pub async fn resolve(
        kubeconfig: Option<&Path>,
        env: &Env,
        product: &Product,
        metrics: &Metrics,
    ) -> Result<Self, ConnectError> {
        let mut config = find_config(kubeconfig, env).await?;
        if let Ok(agent) = HeaderValue::from_str(&product.user_agent()) {
            config.headers.push((USER_AGENT, agent));
        }
        Ok(Self::from_config(config, metrics.clone()))
    }

    /// Access with a configuration made elsewhere, for the harness.
    pub fn from_config(config: Config, metrics: Metrics) -> Self {
        Self {
            config,
            metrics,
            clients: Arc::default(),
        }
    }

    /// A client. All clients of one profile share their connections.
    ///
    /// Must be called inside a tokio runtime.
    pub fn client(&self, profile: Profile) -> Result<Client, ConnectError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.iter().find(|(known, _)| *known == profile) {
            return Ok(client.clone());
        }
        let config = with_profile(self.config.clone(), profile);
        let url = config.cluster_url.clone();
        let host = url
            .authority()
            .map_or_else(String::new, ToString::to_string);
        let count = CountRequests {
            metrics: self.metrics.clone(),
            host,
        };
        let client = build(&config, count).map_err(|error| ConnectError::Build {
            url: url.to_string(),
            source: Box::new(error),
        })?;
        clients.push((profile, client.clone()));
        Ok(client)
    }

    /// The API server's address.
    pub fn url(&self) -> String {
        self.config.cluster_url.to_string()
    }

    /// The namespace of the kubeconfig's context or of the service account.
    pub fn default_namespace(&self) -> &str {
        &self.config.default_namespace
    }
}

/// kube's own stack of layers, with keep-alive below and counting inside of the retry.
fn build(config: &Config, count: CountRequests) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE_AFTER));
    tcp.set_keepalive_interval(Some(KEEPALIVE_EVERY));
    tcp.set_keepalive_retries(Some(KEEPALIVE_TRIES));
    // The same limit for what we sent and nobody acknowledged.
    tcp.set_tcp_user_timeout(Some(DEAD_PEER));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let mut connector = TimeoutConnector::new(tls);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(connector);
    let retry = config
        .default_retry
        .then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(retry)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .layer(count)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

fn with_profile(mut config: Config, profile: Profile) -> Config {
    // Otherwise the time a pooled connection was idle counts as silence of the server.
    config.reset_reader_on_write = true;
    match profile {
        Profile::Manager => config.read_timeout = Some(SILENCE),
        Profile::NoRetry => {
            config.read_timeout = Some(SILENCE);
            config.default_retry = false;
        }
        Profile::Agent {
            connect_timeout,
            read_timeout,
        } => {
            config.default_retry = false;
            config.connect_timeout = Some(connect_timeout);
            config.read_timeout = Some(read_timeout);
            config.write_timeout = Some(read_timeout);
        }
    }
    config
}

async fn find_config(flag: Option<&Path>, env: &Env) -> Result<Config, ConnectError> {
    if let Some(path) = flag {
        return from_file(path).await;
    }
    if let Some(path) = env.optional("KUBECONFIG") {
        let failed = |source: KubeconfigError| ConnectError::Kubeconfig {
            path: format!("KUBECONFIG={path}"),
            source: Box::new(source),
        };
        let mut merged: Option<Kubeconfig> = None;
        for file in std::env::split_paths(path).filter(|file| file.exists()) {
            let next = Kubeconfig::read_from(file).map_err(failed)?;
            merged = Some(match merged {
                None => next,
                Some(first) => first.merge(next).map_err(failed)?,
            });
        }
        let kubeconfig = merged.ok_or(KubeconfigError::FindPath).map_err(failed)?;
        return Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(failed);
    }
    if env.optional("KUBERNETES_SERVICE_HOST").is_some() {
        return Config::incluster().map_err(ConnectError::InCluster);
    }
    match env
        .optional("HOME")
        .map(|home| PathBuf::from(home).join(".kube/config"))
    {
        Some(path) if path.exists() => from_file(&path).await,
        Some(_) | None => Err(ConnectError::NothingConfigured(Box::new(
            KubeconfigError::FindPath,
        ))),
    }
}

async fn from_file(path: &Path) -> Result<Config, ConnectError> {
    let failed = |source: KubeconfigError| ConnectError::Kubeconfig {
        path: path.display().to_string(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(failed)
}

/// Counts requests by status code, as client-go does.
#[derive(Debug, Clone)]
struct CountRequests {
    metrics: Metrics,
    host: String,
}

impl<S> Layer<S> for CountRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            count: self.clone(),
        }
    }
}

#[derive(Debug, Clone)]
struct Counted<S> {
    inner: S,
    count: CountRequests,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let CountRequests { metrics, host } = self.count.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            match &answer {
                Ok(response) => {
                    let code = response.status();
                    tracing::debug!(%method, path, code = code.as_u16(), "request");
                    metrics.request_sent(code.as_str(), method.as_str(), &host);
                }
                Err(_) => metrics.request_sent("<error>", method.as_str(), &host),
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests;
