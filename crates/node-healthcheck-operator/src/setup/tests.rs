use k8s_openapi::api::apps::v1::Deployment;
use medik8s_runtime::capabilities;
use medik8s_runtime::metrics::Metrics;
use medik8s_testing::fake::{Failure, FakeApi, Fault};
use medik8s_testing::wire::Reply;
use serde_json::Value;

use super::*;

const NAMESPACE: &str = "workload-availability";

/// OpenShift without a console and without monitoring, with the manager's own objects.
fn openshift() -> FakeApi {
    let api = FakeApi::new();
    api.add_kind::<ReplicaSet>();
    api.add_kind::<Deployment>();
    api.add_dynamic_kind(
        "config.openshift.io/v1",
        "Infrastructure",
        "infrastructures",
        false,
    );
    api.add_namespace(NAMESPACE);
    let owner = |kind: &str, name: &str, uid: &str| {
        json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true,
            "blockOwnerDeletion": true}])
    };
    api.put_value(
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {
        "name": "manager-1", "namespace": NAMESPACE,
        "ownerReferences": owner("Deployment", "manager", "d")}}),
    );
    api.put_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
        "name": "manager-1-x", "namespace": NAMESPACE,
        "ownerReferences": owner("ReplicaSet", "manager-1", "r")}}));
    api
}

fn add_monitoring(api: &FakeApi) {
    let version = "monitoring.coreos.com/v1";
    api.add_dynamic_kind(version, "ServiceMonitor", "servicemonitors", true);
}

fn add_console(api: &FakeApi) {
    let version = "console.openshift.io/v1";
    api.add_dynamic_kind(version, "ConsolePlugin", "consoleplugins", false);
}

struct Running {
    metrics: Metrics,
    stop: Shutdown,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

fn start(api: &FakeApi, pod: Option<&str>) -> Running {
    let (metrics, stop) = (Metrics::new().unwrap(), Shutdown::manual());
    let (capability, discovery) = capabilities::discover(api.client());
    let setup = Setup::new(SetupParts {
        client: api.client(),
        writer: Writer::new("test"),
        capability,
        namespace: NAMESPACE.to_owned(),
        pod: pod.map(ToOwned::to_owned),
        registry: metrics.registry().clone(),
    })
    .unwrap();
    let asking = discovery.run(stop.clone());
    let setting = setup.run(stop.clone());
    let task = tokio::spawn(async move {
        let (asked, set) = tokio::join!(asking, setting);
        asked.and(set)
    });
    Running {
        metrics,
        stop,
        task,
    }
}

impl Running {
    fn shows(&self, object: &str, value: u8) -> bool {
        let line = format!("nodehealthcheck_platform_setup{{object=\"{object}\"}} {value}");
        self.metrics.text().unwrap().contains(&line)
    }
}

fn monitor(api: &FakeApi) -> Option<Value> {
    let version = "monitoring.coreos.com/v1";
    api.get_value(version, "ServiceMonitor", Some(NAMESPACE), SERVICE_MONITOR)
}

fn plugin(api: &FakeApi) -> Option<Value> {
    api.get_value(
        "console.openshift.io/v1",
        "ConsolePlugin",
        None,
        CONSOLE_PLUGIN,
    )
}

#[tokio::test(start_paused = true)]
async fn monitoring_and_the_console_are_set_up() {
    let api = openshift();
    add_monitoring(&api);
    add_console(&api);
    let running = start(&api, Some("manager-1-x"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let monitor = monitor(&api).unwrap();
    assert_eq!(
        monitor["metadata"]["ownerReferences"],
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "manager", "uid": "d",
            "controller": true}])
    );
    assert_eq!(
        monitor["metadata"]["labels"],
        json!({"app.kubernetes.io/component": "controller-manager"})
    );
    assert_eq!(
        monitor["spec"],
        json!({
            "scrapeClass": "tls-client-certificate-auth",
            "selector": {"matchLabels": {
                "app.kubernetes.io/component": "controller-manager",
                "app.kubernetes.io/name": "node-healthcheck-operator",
                "app.kubernetes.io/instance": "metrics"}},
            "endpoints": [{"port": "https", "scheme": "https", "interval": "15s", "tlsConfig": {
                "ca": {"configMap":
                    {"name": "node-healthcheck-ca-bundle", "key": "service-ca.crt"}},
                "serverName": "node-healthcheck-controller-manager-metrics-service.\
                    workload-availability.svc"}}],
        })
    );
    assert_eq!(
        plugin(&api).unwrap()["spec"],
        json!({"displayName": "Node Remediation", "backend": {"type": "Service", "service": {
            "name": "node-healthcheck-node-remediation-console-plugin",
            "namespace": NAMESPACE, "port": 9443, "basePath": "/"}}})
    );
    let namespace = api.get_value("v1", "Namespace", None, NAMESPACE).unwrap();
    assert_eq!(namespace["metadata"]["labels"][MONITORED], "true");
    for item in Item::ALL {
        assert!(running.shows(item.name(), 1), "{item}");
    }
    running.stop.trigger();
    running.task.await.unwrap().unwrap();
    // The next leader finds everything as it should be and writes nothing.
    api.clear_requests();
    let running = start(&api, Some("manager-1-x"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(api.writes().is_empty(), "{:?}", api.writes());
    running.stop.trigger();
    running.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_is_put_right_and_what_he_added_stays() {
    let api = openshift();
    add_monitoring(&api);
    api.put_value(json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
        "metadata": {"name": SERVICE_MONITOR, "namespace": NAMESPACE, "labels": {"mine": "1"}},
        "spec": {"endpoints": []},
    }));
    // Without a pod there is no owner; that is no reason not to monitor.
    let running = start(&api, None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let monitor = monitor(&api).unwrap();
    assert_eq!(monitor["metadata"]["labels"]["mine"], "1");
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], "https");
    assert_eq!(monitor["metadata"]["ownerReferences"], Value::Null);
    running.stop.trigger();
    running.task.await.unwrap().unwrap();
}

/// The original ends when one of these objects cannot be created, for example where the console is
/// switched off, and with it ends the protection of nodes.
#[tokio::test(start_paused = true)]
async fn defect_10_problems_of_console_and_monitoring_end_nothing() {
    let api = openshift();
    let no = || Failure::Refuse(Reply::failure(403, "Forbidden", "no"));
    let about_the_namespace = |request: &medik8s_testing::wire::Recorded| {
        request.method == "PATCH" && request.path.contains("/namespaces/")
    };
    api.inject(Fault::on(about_the_namespace, no()).times(3));
    let running = start(&api, Some("manager-1-x"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!running.task.is_finished());
    assert!(running.shows("ConsolePlugin", 0) && running.shows("ServiceMonitor", 0));
    assert!(running.shows("namespace label", 0));
    // The label comes after some attempts, the kinds when they are installed.
    add_monitoring(&api);
    add_console(&api);
    tokio::time::sleep(Duration::from_mins(12)).await;
    for item in Item::ALL {
        assert!(running.shows(item.name(), 1), "{item}");
    }
    assert!(monitor(&api).is_some() && plugin(&api).is_some());
    running.stop.trigger();
    running.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_set_up_elsewhere() {
    let api = FakeApi::new();
    add_monitoring(&api);
    let running = start(&api, None);
    tokio::time::sleep(Duration::from_mins(6)).await;
    assert!(api.writes().is_empty());
    running.stop.trigger();
    running.task.await.unwrap().unwrap();
}
