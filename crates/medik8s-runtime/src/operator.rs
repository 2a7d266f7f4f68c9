//! The common start of a manager.
//!
//! # Purpose
//! Clients, metrics endpoint, probes, discovery, Events, leader lease and webhook server are set up
//! in the same way by every manager; this does it once. What differs is data ([`About`]).
//!
//! # Guarantees
//! - Servers, discovery and the webhooks run on every replica; what the caller starts with
//!   [`Operator::lead`] runs on the leader only, after the lease is held.
//! - Writers of [`Operator::writer`] refuse to write when the lease is not provably ours.
//! - Losing the lease, or any task that ends unexpectedly, ends the process.

use anyhow::Context as _;
use kube::Client;

use crate::{
    capabilities::{self, Capability},
    certs::{self, CertFiles},
    cli::{BindAddress, CommonArgs, Product},
    client::{Access, Profile},
    clock::Clock,
    events::{self, Recorder},
    leader::{self, Leadership, Params},
    metrics::{self, Authoriser, Metrics, MetricsServer},
    probes::{Check, Probes},
    process::Process,
    settings::Env,
    shutdown::Shutdown,
    tls::{self, CertSlot, ServerTls},
    webhook::{self, certificates},
    write::Writer,
};

/// What is particular about a manager.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// What runs.
    pub product: Product,
    /// What `kubectl describe` shows as the source of its Events.
    pub event_source: &'static str,
    /// Name of its leader lease.
    pub leader_lease: &'static str,
    /// Secret for its own webhook certificate.
    pub webhook_secret: &'static str,
    /// Service through which the API server calls its webhooks.
    pub webhook_service: &'static str,
    /// Its ValidatingWebhookConfigurations.
    pub validating: &'static [&'static str],
    /// Its MutatingWebhookConfigurations.
    pub mutating: &'static [&'static str],
}

/// A manager that is set up, but does nothing yet.
pub struct Operator {
    /// Time.
    pub clock: Clock,
    /// Metrics, for the caller's own series.
    pub metrics: Metrics,
    /// Makes further clients.
    pub access: Access,
    /// Client of the API server.
    pub client: Client,
    /// What the cluster offers.
    pub capability: Capability,
    /// Records Events.
    pub recorder: Recorder,
    /// Whether this process leads.
    pub leadership: Leadership,
    /// Writes only while this process leads.
    pub writer: Writer,
    /// Tasks of the process.
    pub process: Process,
    /// Health checks, for the caller's own.
    pub probes: Probes,
    about: About,
    args: CommonArgs,
    namespace: String,
    metrics_tls: ServerTls,
    webhook_tls: ServerTls,
}

impl Operator {
    /// Sets everything up and starts the tasks that run on every replica. `namespace` is the
    /// manager's own. Readers of the metrics are known by their token.
    pub async fn prepare(
        about: About,
        args: &CommonArgs,
        env: &Env,
        namespace: &str,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        Self::prepare_with(about, args, env, namespace, None, shutdown).await
    }

    /// As [`Operator::prepare`]. With `metrics_certificate` the metrics are served with that
    /// certificate, and readers are known by a client certificate of the cluster's CA (see
    /// [`metrics::client_ca`]) instead of a token.
    pub async fn prepare_with(
        about: About,
        args: &CommonArgs,
        env: &Env,
        namespace: &str,
        metrics_certificate: Option<CertFiles>,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let metrics = Metrics::new().context("could not set up metrics")?;
        let access =
            Access::resolve(args.kubeconfig.as_deref(), env, &about.product, &metrics).await?;
        let client = access.client(Profile::Manager)?;
        let mut process = Process::new(shutdown);

        let (capability, discovery) = capabilities::discover(client.clone());
        process.service("discovery", |stop| discovery.run(stop));

        // Every replica may tell something (a webhook that cannot be served), so this is not gated.
        let (recorder, sink) = events::recorder(
            access.client(Profile::NoRetry)?,
            about.event_source,
            Writer::new(about.product.name),
            clock.clone(),
            &metrics,
        );
        process.service("events", |stop| sink.run(stop));

        let leadership = if args.leader_elect {
            let (leadership, elector) = leader::elector(leader::Settings {
                client: access.client(Profile::NoRetry)?,
                namespace: namespace.to_owned(),
                name: about.leader_lease.to_owned(),
                identity: leader::identity(),
                field_manager: about.product.name,
                clock: clock.clone(),
                metrics: metrics.clone(),
                params: Params::default(),
            });
            process.service("leader election", |stop| async move {
                Ok(Box::pin(elector.run(stop)).await?)
            });
            leadership
        } else {
            Leadership::always(clock.clone())
        };
        let writer = Writer::new(about.product.name).gated(leadership.clone());

        let certificate = match &metrics_certificate {
            None => certs::self_signed(about.product.name)
                .context("could not make a certificate for the metrics endpoint")?,
            Some(_) => CertSlot::default(),
        };
        let server_tls = |certificate| {
            ServerTls::new(certificate, &tls::Profile::default(), args.enable_http2)
                .context("could not set up TLS")
        };
        let metrics_tls = server_tls(certificate)?;
        let webhook_tls = server_tls(CertSlot::default())?;

        let operator = Self {
            clock,
            metrics,
            access,
            client,
            capability,
            recorder,
            leadership,
            writer,
            process,
            probes: Probes::new(),
            about,
            args: args.clone(),
            namespace: namespace.to_owned(),
            metrics_tls,
            webhook_tls,
        };
        operator.with_metrics_endpoint(metrics_certificate)
    }

    fn with_metrics_endpoint(mut self, certificate: Option<CertFiles>) -> anyhow::Result<Self> {
        let authoriser = match certificate {
            None => Some(Authoriser::new(
                self.client.clone(),
                self.about.product.name,
                self.clock.clone(),
            )),
            Some(files) => {
                self.recognise_clients(files)?;
                None
            }
        };
        let server = MetricsServer {
            bind: self.args.metrics_bind_address.clone(),
            tls: self.metrics_tls.clone(),
            http2: self.args.enable_http2,
            authoriser,
        };
        let metrics = self.metrics.clone();
        self.process
            .service("metrics", |stop| metrics::serve(metrics, server, stop));
        Ok(self)
    }

    /// Serves the metrics with mounted files, to clients with a certificate of the cluster's CA.
    fn recognise_clients(&mut self, files: CertFiles) -> anyhow::Result<()> {
        tracing::info!(
            certificate = %files.certificate.display(),
            "readers of /metrics are recognised by their client certificate"
        );
        self.metrics_tls
            .require_client_certificates()
            .context("could not set up TLS of the metrics endpoint")?;
        let slot = self.metrics_tls.certificate().clone();
        // Metrics are no reason to take the webhooks out of service.
        let check = Check::detached();
        self.process
            .service("metrics certificate", |stop| async move {
                certs::follow(&[files], &slot, &check, &stop).await;
                Ok(())
            });
        let (client, server) = (self.client.clone(), self.metrics_tls.clone());
        let metrics = self.metrics.clone();
        self.process.service("client CA of the metrics", |stop| {
            metrics::client_ca::follow(client, server, metrics, stop)
        });
        Ok(())
    }

    /// Serves the webhooks, on every replica.
    pub fn serve_webhooks(&mut self, server: webhook::Server) {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let own = certificates::SelfManaged {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            secret: self.about.webhook_secret.to_owned(),
            service: self.about.webhook_service.to_owned(),
            validating: names(self.about.validating),
            mutating: names(self.about.mutating),
            extra_names: own_address(&self.args.webhook_bind_address),
            writer: Writer::new(self.about.product.name),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        };
        let settings = webhook::Settings {
            bind: self.args.webhook_bind_address.clone(),
            http2: self.args.enable_http2,
            tls: self.webhook_tls.clone(),
            certificates: certificates::Source::choose(&self.args.webhook, own),
            check: self.probes.ready_check("webhook"),
        };
        self.process
            .service("webhooks", |stop| server.run(settings, stop));
    }

    /// Keeps the servers at OpenShift's TLS profile. Needs
    /// [`crate::rbac::TLS_PROFILE`].
    pub fn follow_tls_profile(&mut self) {
        let (client, capability) = (self.client.clone(), self.capability.clone());
        let servers = vec![self.metrics_tls.clone(), self.webhook_tls.clone()];
        let metrics = self.metrics.clone();
        self.process.service("TLS profile", |stop| {
            tls::openshift::follow(client, capability, servers, metrics, stop)
        });
    }

    /// Starts what only the leader does, once this process leads.
    pub fn lead<F>(&mut self, name: &str, start: impl FnOnce(Shutdown) -> F + Send + 'static)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let leadership = self.leadership.clone();
        self.process.worker(name, |stop| async move {
            if leadership.acquired(&stop).await {
                start(stop).await
            } else {
                Ok(())
            }
        });
    }

    /// Runs until told to stop, or until something ends that should not.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let (probes, bind) = (self.probes, self.args.health_probe_bind_address);
        self.process
            .service("probes", |stop| probes.serve(bind, stop));
        self.process.run().await
    }
}

/// The address given for the webhook server, for API servers that call it by URL.
fn own_address(bind: &BindAddress) -> Vec<String> {
    match bind {
        BindAddress::Address(address) if !address.ip().is_unspecified() => {
            vec![address.ip().to_string()]
        }
        BindAddress::Name(name, _) => vec![name.clone()],
        BindAddress::Address(_) | BindAddress::Any(_) | BindAddress::Disabled => Vec::new(),
    }
}
