//! Sets the manager up and runs it.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, runtime::watcher};
use medik8s_api::{
    SelfNodeRemediation, SelfNodeRemediationConfig, SelfNodeRemediationTemplate, names::snr,
};
use medik8s_core::backoff::Backoff;
use medik8s_runtime::{
    controller::{self, ObjectKey, Queue},
    events::REMEDIATION_PREFIX,
    guard,
    informer::Informer,
    olm::Upgradeable,
    operator::{About, Operator},
    settings::Env,
    shutdown::Shutdown,
    webhook,
};

use self_node_remediation_peer::net::Dialer;

use crate::{
    install::{
        effects::{Install, Told},
        policy, templates,
    },
    rbac,
    remediation::{self, Memory, NodeMetadata, Reach, RemediationMetrics, Remediator, keep_roles},
    settings::{Args, PRODUCT, Settings},
    webhooks,
};

/// Remediations under way at once. One that asks many agents must not keep the others waiting.
const REMEDIATIONS_AT_ONCE: usize = 32;

/// Failed passes: the time at which a node is free was told, so a cause that goes away must not be
/// waited for much longer; spread, so that the nodes of a storm do not return together.
const BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(500), Duration::from_secs(30)).with_spread(0.2);

const ABOUT: About = About {
    product: PRODUCT,
    event_source: snr::EVENT_SOURCE,
    leader_lease: snr::LEADER_ELECTION_ID,
    webhook_secret: rbac::WEBHOOK_CERTIFICATE,
    webhook_service: "self-node-remediation-webhook-service",
    validating: &["self-node-remediation-validating-webhook-configuration"],
    mutating: &["self-node-remediation-mutating-webhook-configuration"],
};

/// Runs the manager until `shutdown`, or until something ends that should not.
pub async fn run(args: Args, env: Env, shutdown: Shutdown) -> anyhow::Result<()> {
    let settings = Settings::from_env(&env)?;
    let namespace = settings.namespace.clone();
    let mut operator = Operator::prepare(ABOUT, &args.common, &env, &namespace, shutdown).await?;
    let server = webhook::Server::new(&operator.metrics, operator.clock.clone());
    let server = webhooks::routes(server, &operator.capability, &namespace);
    let server = webhooks::GUARD.route(server, &operator.client, webhooks::is_open);
    operator.serve_webhooks(server);

    let client = operator.client.clone();
    let everything = watcher::Config::default;
    let named = |name: &str| everything().fields(&format!("metadata.name={name}"));
    let mut configs = Informer::new(
        "selfnoderemediationconfigs",
        Api::<SelfNodeRemediationConfig>::namespaced(client.clone(), &namespace),
        everything(),
        &operator.metrics,
    );
    let mut daemon_sets = Informer::new(
        "daemonsets",
        Api::<DaemonSet>::namespaced(client.clone(), &namespace),
        named(snr::DAEMON_SET_NAME),
        &operator.metrics,
    );
    let mut remediations = Informer::new(
        "selfnoderemediations",
        Api::<SelfNodeRemediation>::all(client.clone()),
        everything(),
        &operator.metrics,
    );
    let mut nodes = Informer::new(
        "nodes",
        Api::<NodeMetadata>::all(client.clone()),
        everything(),
        &operator.metrics,
    )
    .prune(keep_roles);
    let mut marked = Informer::new(
        "selfnoderemediationtemplates",
        Api::<SelfNodeRemediationTemplate>::all(client.clone()),
        everything(),
        &operator.metrics,
    );

    let queue = |name: &str| {
        Arc::new(Queue::<ObjectKey>::new(
            name,
            BACKOFF,
            operator.clock.clone(),
            &operator.metrics,
        ))
    };
    let install_queue = queue("selfnoderemediationconfig");
    let template_queue = queue("selfnoderemediationtemplate");
    let remediation_queue = queue("selfnoderemediation");
    let the_config = ObjectKey::namespaced(namespace.as_str(), snr::CONFIG_NAME);

    let (wake, key) = (Arc::clone(&install_queue), the_config.clone());
    configs.on_change(move |change| {
        if let Some(config) = change.object() {
            let name = config.metadata.name.as_deref().unwrap_or_default();
            if name == snr::CONFIG_NAME {
                wake.add(key.clone());
            } else {
                tracing::info!(
                    config = name,
                    "ignoring selfnoderemediationconfig CRs that are not named {}",
                    snr::CONFIG_NAME
                );
            }
        }
    });
    let (wake, key) = (Arc::clone(&install_queue), the_config.clone());
    daemon_sets.on_change(move |change| {
        // Its status changes with every agent; only what somebody asked for is of interest.
        let generation =
            |set: &Option<Arc<DaemonSet>>| set.as_ref().map(|set| set.metadata.generation);
        if generation(&change.old) != generation(&change.new) {
            wake.add(key.clone());
        }
    });
    let wake = Arc::clone(&template_queue);
    marked.on_change(move |change| {
        if let Some(template) = &change.new {
            wake.add(ObjectKey::of(&**template));
        }
    });

    remediation::wake_on_changes(&mut remediations, &mut nodes, &remediation_queue);

    let install = Arc::new(Install {
        client: client.clone(),
        writer: operator.writer.clone(),
        recorder: operator.recorder.prefixed(REMEDIATION_PREFIX),
        clock: operator.clock.clone(),
        settings: settings.clone(),
        configs: configs.cache(),
        daemon_sets: daemon_sets.cache(),
        told: Told::default(),
    });
    let remediator = Arc::new(Remediator {
        client: client.clone(),
        writer: operator.writer.clone(),
        recorder: operator.recorder.prefixed(REMEDIATION_PREFIX),
        dialer: Dialer::tcp(),
        clock: operator.clock.clone(),
        namespace: namespace.clone(),
        capability: operator.capability.clone(),
        configs: configs.cache(),
        remediations: remediations.cache(),
        nodes: nodes.cache(),
        memory: Memory::default(),
        cleaning: Arc::default(),
        metrics: RemediationMetrics::new(&operator.metrics)?,
    });
    let open = remediator.remediations.clone();
    operator.lead("remediations", move |stop| async move {
        let caches = [
            remediator.configs.synced(&stop).await,
            remediator.remediations.synced(&stop).await,
            remediator.nodes.synced(&stop).await,
        ];
        if caches.contains(&false) {
            return Ok(());
        }
        let reconcile = |key, _attempt| Arc::clone(&remediator).reconcile(key);
        controller::run(&remediation_queue, REMEDIATIONS_AT_ONCE, reconcile, &stop).await;
        Ok(())
    });
    let reach = Reach {
        client: client.clone(),
        namespace: namespace.clone(),
        configs: configs.cache(),
        nodes: nodes.cache(),
        recorder: operator.recorder.prefixed(REMEDIATION_PREFIX),
        dialer: Dialer::tcp(),
        clock: operator.clock.clone(),
    };
    operator.lead("reach", move |stop| reach.run(stop));
    let (writer, templates_cache) = (operator.writer.clone(), marked.cache());
    operator.lead("agents", move |stop| async move {
        let caches = [
            install.configs.synced(&stop).await,
            install.daemon_sets.synced(&stop).await,
        ];
        if caches.contains(&false) {
            return Ok(());
        }
        install_queue.add(the_config);
        let reconcile = |_key, _attempt| {
            let install = Arc::clone(&install);
            async move { install.reconcile().await }
        };
        controller::run(&install_queue, 1, reconcile, &stop).await;
        Ok(())
    });
    let (default_client, default_writer, default_namespace) =
        (client.clone(), operator.writer.clone(), namespace.clone());
    operator.lead("defaults", move |stop| async move {
        templates::create_defaults(
            default_client,
            default_writer,
            default_namespace,
            stop.clone(),
        )
        .await;
        stop.triggered().await;
        Ok(())
    });
    let olm = Upgradeable::find(
        &env,
        client.clone(),
        &namespace,
        operator.writer.clone(),
        operator.clock.clone(),
    );
    let (open_client, open_writer) = (client.clone(), operator.writer.clone());
    let wanted_agents = configs.cache();
    operator.lead("what is open", move |stop| async move {
        if !open.synced(&stop).await || !wanted_agents.synced(&stop).await {
            return Ok(());
        }
        if let Some(olm) = olm {
            let busy = || guard::first_open(&open, webhooks::is_open);
            olm.keep(busy, stop).await;
            return Ok(());
        }
        let agents = || !wanted_agents.list().is_empty();
        webhooks::GUARD
            .keep(
                open_client,
                open_writer,
                open,
                webhooks::is_open,
                agents,
                stop,
            )
            .await;
        Ok(())
    });
    let policy = policy::Keeper {
        client: client.clone(),
        writer: operator.writer.clone(),
        recorder: operator.recorder.prefixed(REMEDIATION_PREFIX),
        capability: operator.capability.clone(),
        namespace: namespace.clone(),
        under_olm: env.is_under_olm(),
    };
    operator.lead("policy of the agents", move |stop| policy.run(stop));
    operator.lead("templates", move |stop| async move {
        if !templates_cache.synced(&stop).await {
            return Ok(());
        }
        let reconcile = |key: ObjectKey, _attempt| {
            let (client, writer, cache) = (client.clone(), writer.clone(), templates_cache.clone());
            async move { templates::mark(&client, &writer, &cache, &key).await }
        };
        controller::run(&template_queue, 1, reconcile, &stop).await;
        Ok(())
    });

    operator
        .process
        .worker("watch configurations", |stop| configs.run(stop));
    operator
        .process
        .worker("watch agents", |stop| daemon_sets.run(stop));
    operator
        .process
        .worker("watch remediations", |stop| remediations.run(stop));
    operator
        .process
        .worker("watch nodes", |stop| nodes.run(stop));
    operator
        .process
        .worker("watch templates", |stop| marked.run(stop));
    operator.run().await
}
