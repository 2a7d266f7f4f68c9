//! The drain: what is asked of the API server, and when.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use medik8s_api::{names::nmo, node_maintenance::NodeMaintenanceDrain};
use medik8s_testing::{
    build::{self, MetaExt, PodExt},
    fake::{Failure, Fault},
    wire::{Answer, Reply},
};
use serde_json::json;

use super::lab::{Lab, NODE};

fn budget(app: &str, allowed: i32) -> PodDisruptionBudget {
    serde_json::from_value(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": format!("{app}-budget"), "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": app}}, "minAvailable": 2},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 2, "desiredHealthy": 2,
            "expectedPods": 2},
    }))
    .unwrap()
}

/// A switch between a test and the answers of the server.
fn switch() -> (Arc<AtomicBool>, impl Fn() -> bool + Send + 'static) {
    let on = Arc::new(AtomicBool::new(true));
    let read = Arc::clone(&on);
    (on, move || read.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn evictions_carry_the_uid_and_no_grace_period() {
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    let uid = lab
        .api
        .get::<Pod>(Some("default"), "a")
        .unwrap()
        .metadata
        .uid
        .unwrap();
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    let sent = &lab.evictions()[0].body;
    assert_eq!(sent["kind"], "Eviction");
    assert_eq!(sent["apiVersion"], "policy/v1");
    assert_eq!(sent["deleteOptions"]["preconditions"]["uid"], json!(uid));
    assert_eq!(sent["deleteOptions"].get("gracePeriodSeconds"), None);
}

#[tokio::test(start_paused = true)]
async fn orders_of_the_user_are_followed() {
    let lab = Lab::new();
    lab.put_pods(&["a", "b"]);
    let drain = NodeMaintenanceDrain {
        grace_period_seconds: Some(7),
        pod_selector: Some(serde_json::from_value(json!({"matchLabels": {"app": "a"}})).unwrap()),
        ..NodeMaintenanceDrain::default()
    };
    lab.maintain_by("m", drain);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    assert!(lab.has_pod("b") && !lab.has_pod("a"));
    assert_eq!(
        lab.evictions()[0].body["deleteOptions"]["gracePeriodSeconds"],
        7
    );
    let status = lab.status("m");
    assert_eq!(
        (status.total_pods, status.eviction_pods),
        (Some(2), Some(1))
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_with_a_long_grace_period_is_waited_for() {
    let lab = Lab::new();
    lab.api.keep_terminating_pods();
    lab.put_pods(&["a", "b", "slow"]);
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("evictions", |lab| lab.evictions().len() == 3)
        .await;
    lab.api.remove::<Pod>(Some("default"), "a");
    lab.seconds(3).await;
    assert_eq!(lab.status("m").drain_progress, Some(33));
    lab.api.remove::<Pod>(Some("default"), "b");
    lab.seconds(3).await;
    assert_eq!(lab.status("m").drain_progress, Some(66));
    assert_eq!(lab.status("m").pending_pods, Some(vec!["slow".to_owned()]));
    lab.seconds(26).await;
    let error = lab.last_error("m");
    assert!(error.contains("default/slow: terminating since"), "{error}");
    assert_eq!(lab.phase("m"), "Running");
    lab.seconds(48).await;
    lab.api.remove::<Pod>(Some("default"), "slow");
    let took = lab
        .until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    assert!(took <= Duration::from_secs(1), "{took:?}");
    assert_eq!(
        lab.evictions().len(),
        3,
        "terminating pods are not evicted again"
    );
    assert_eq!(lab.last_error("m"), "");
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_opens_lets_its_pod_go_within_two_seconds() {
    let lab = Lab::new();
    lab.put_pods(&["web", "other"]);
    lab.api.put(&budget("web", 0));
    let (closed, is_closed) = switch();
    lab.refuse(&["web"], move || {
        is_closed().then(|| {
            let mut reply = Reply::too_many_requests(
                "Cannot evict pod as it would violate the \
                 pod's disruption budget.",
            );
            reply.body["details"] = json!({"causes": [{"reason": "DisruptionBudget", "message":
                "The disruption budget web-budget needs 2 healthy pods and has 2 currently"}]});
            reply
        })
    });
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("the others", |lab| !lab.has_pod("other")).await;
    lab.api.clear_requests();
    lab.seconds(60).await;
    let asked = lab.evictions_of("web");
    assert!(asked <= 5, "{asked} evictions in a minute");
    let error = lab.last_error("m");
    assert!(
        error.contains("default/web: blocked by PodDisruptionBudget web-budget"),
        "{error}"
    );
    let drained = lab.status("m").conditions.unwrap().remove(0);
    assert_eq!(
        (drained.status.as_str(), drained.reason.as_str()),
        ("False", "Blocked")
    );
    assert!(
        drained.message.contains("default/web"),
        "{}",
        drained.message
    );
    closed.store(false, Ordering::Relaxed);
    lab.api
        .update::<PodDisruptionBudget>(Some("default"), "web-budget", |budget| {
            budget.status.as_mut().unwrap().disruptions_allowed = 1;
        });
    let took = lab.until("the pod", |lab| !lab.has_pod("web")).await;
    assert!(took <= Duration::from_secs(2), "{took:?}");
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
}

#[tokio::test(start_paused = true)]
async fn few_requests_while_a_pod_is_blocked() {
    let lab = Lab::new();
    lab.put_pods(&["web"]);
    lab.api.put(&budget("web", 0));
    lab.refuse(&["web"], || Some(Reply::too_many_requests("budget")));
    lab.maintain("m", NODE);
    lab.operator();
    lab.seconds(90).await;
    lab.api.clear_requests();
    lab.seconds(600).await;
    let minutes = 10;
    let requests = lab.api.requests();
    let asked = lab.evictions_of("web");
    assert!(
        asked <= 3 * minutes,
        "{asked} evictions in {minutes} minutes"
    );
    assert!(
        requests.len() <= 6 * minutes,
        "{} requests: {}",
        requests.len(),
        lab.story()
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_blocks_for_long_is_worth_an_event() {
    let lab = Lab::new();
    lab.put_pods(&["web"]);
    lab.api.put(&budget("web", 0));
    lab.refuse(&["web"], || Some(Reply::too_many_requests("budget")));
    lab.maintain("m", NODE);
    lab.operator();
    lab.seconds(290).await;
    assert_eq!(lab.told("m", "DrainBlocked"), 0);
    lab.seconds(20).await;
    assert_eq!(lab.told("m", "DrainBlocked"), 1);
    lab.seconds(600).await;
    assert_eq!(lab.told("m", "DrainBlocked"), 1, "at most every 15 minutes");
    lab.seconds(310).await;
    assert_eq!(lab.told("m", "DrainBlocked"), 2);
    let event = lab
        .api
        .list::<k8s_openapi::api::core::v1::Event>()
        .into_iter()
        .find(|event| event.reason.as_deref() == Some("DrainBlocked"))
        .unwrap();
    let message = event.message.unwrap();
    assert!(
        message.contains("default/web") && message.contains("web-budget"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_live_migration_is_waited_for() {
    // The webhook of virtual machines answers 429 until the machine has moved; then its pod has
    // finished and may go.
    let lab = Lab::new();
    lab.put_pods(&["vm"]);
    let (moving, is_moving) = switch();
    lab.refuse(&["vm"], move || {
        is_moving().then(|| Reply::too_many_requests("evacuating"))
    });
    lab.maintain("m", NODE);
    lab.operator();
    lab.seconds(42).await;
    assert!(
        lab.last_error("m").contains("evacuating"),
        "{}",
        lab.last_error("m")
    );
    moving.store(false, Ordering::Relaxed);
    lab.api.update::<Pod>(Some("default"), "vm", |pod| {
        pod.status.get_or_insert_default().phase = Some("Succeeded".to_owned());
    });
    let took = lab.until("the pod", |lab| !lab.has_pod("vm")).await;
    assert!(took <= Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_eviction_webhook_may_take_its_time() {
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    lab.api.inject(
        Fault::on_request(
            "POST",
            "/api/v1/namespaces/default/pods/a/eviction",
            Failure::Late(Duration::from_secs(12)),
        )
        .times(9),
    );
    lab.maintain("m", NODE);
    lab.elected_operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    assert_eq!(lab.evictions_of("a"), 1);
    assert_eq!(lab.evictions()[0].status, Some(201));
}

#[tokio::test(start_paused = true)]
async fn an_eviction_without_a_connection_is_not_sent_after_the_end() {
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    lab.maintain("m", NODE);
    lab.operator_far_away(Duration::from_secs(2));
    lab.until("the cordon", Lab::is_marked).await;
    lab.seconds(1).await;
    lab.end("m");
    lab.until("the end", |lab| lab.get("m").is_none()).await;
    lab.seconds(60).await;
    assert_eq!(lab.evictions(), [], "MUST NOT evict after the end");
    assert!(lab.has_pod("a") && lab.is_bare());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_loses_the_leadership_evicts_nothing_more() {
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    lab.refuse(&["a"], || Some(Reply::too_many_requests("budget")));
    lab.maintain("m", NODE);
    let operator = lab.elected_operator();
    lab.until("an eviction", |lab| lab.evictions_of("a") > 0)
        .await;
    let (name, now) = (nmo::LEADER_ELECTION_ID, lab.clock.now());
    lab.api
        .put(&build::lease("medik8s", name, "other", now, 3600));
    lab.until("the end of the process", |_| operator.has_ended())
        .await;
    let why = operator.ended().await;
    assert!(why.to_string().contains("leader lease"), "{why:#}");
    let asked = lab.evictions_of("a");
    lab.seconds(120).await;
    assert_eq!(lab.evictions_of("a"), asked);
    assert!(lab.is_marked(), "the node stays in maintenance");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_created_anew_elsewhere_is_left_alone() {
    let lab = Lab::new();
    lab.put_pods(&["db-0"]);
    // While the eviction is on its way the StatefulSet's pod moves to another node.
    lab.api.inject(Fault::on_request(
        "POST",
        "/api/v1/namespaces/default/pods/db-0/eviction",
        Failure::Late(Duration::from_secs(2)),
    ));
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("an eviction", |lab| lab.evictions_of("db-0") == 1)
        .await;
    lab.api.remove::<Pod>(Some("default"), "db-0");
    let mut anew = build::pod("default", "db-0").on("n2");
    anew.metadata.uid = Some("anew".to_owned());
    lab.api.put(&anew);
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    let pod = lab
        .api
        .get::<Pod>(Some("default"), "db-0")
        .expect("MUST NOT evict another UID");
    assert_eq!(pod.metadata.uid.as_deref(), Some("anew"));
    assert_eq!(lab.evictions()[0].status, Some(409));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_goes_takes_its_pods_along() {
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    lab.refuse(&["a"], || {
        let mut reply = Reply::failure(403, "Forbidden", "namespace is being terminated");
        reply.body["details"] = json!({"causes": [{"reason": "NamespaceTerminating",
            "message": "namespace default is being terminated", "field": "metadata.namespace"}]});
        Some(reply)
    });
    lab.maintain("m", NODE);
    lab.operator();
    lab.seconds(32).await;
    assert!(
        lab.last_error("m").contains("its namespace is terminating"),
        "{}",
        lab.last_error("m")
    );
    lab.api.remove::<Pod>(Some("default"), "a");
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_server_are_repeated_each_round() {
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    let (failing, is_failing) = switch();
    lab.refuse(&["a"], move || {
        is_failing()
            .then(|| Reply::failure(500, "InternalError", "more than one PodDisruptionBudget"))
    });
    lab.maintain("m", NODE);
    lab.operator();
    lab.seconds(34).await;
    assert_eq!(lab.evictions_of("a"), 1);
    assert!(
        lab.last_error("m")
            .contains("more than one PodDisruptionBudget")
    );
    lab.seconds(3).await;
    assert_eq!(lab.evictions_of("a"), 2);
    failing.store(false, Ordering::Relaxed);
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_set_that_cannot_be_read_holds_the_beginning_back() {
    let lab = Lab::new();
    lab.api.put(
        &lab.pod("of-ds")
            .with_meta(|meta| meta.owner_references = None)
            .of_daemon_set("ds"),
    );
    let (failing, is_failing) = switch();
    lab.api.intercept(move |request| {
        (request.path.contains("/daemonsets/") && is_failing())
            .then(|| Answer::Reply(Reply::failure(500, "InternalError", "no")))
    });
    lab.maintain("m", NODE);
    lab.operator();
    lab.seconds(10).await;
    assert_eq!(lab.phase("m"), "", "nothing persisted");
    assert!(lab.is_bare() && lab.has_pod("of-ds"));
    lab.seconds(600).await;
    assert_eq!(lab.told("m", "DrainBlocked"), 1, "{}", lab.story());
    lab.seconds(400).await;
    assert_eq!(lab.told("m", "DrainBlocked"), 2, "every 15 minutes");
    let events = lab.api.list::<k8s_openapi::api::core::v1::Event>();
    let told = events
        .iter()
        .find(|event| event.reason.as_deref() == Some("DrainBlocked"));
    let message = told.and_then(|event| event.message.clone()).unwrap();
    assert!(
        message.starts_with("The maintenance cannot begin: ") && message.contains("ds"),
        "{message}"
    );
    failing.store(false, Ordering::Relaxed);
    lab.put_daemon_set("ds");
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    assert!(lab.has_pod("of-ds"));
}

#[tokio::test(start_paused = true)]
async fn a_lost_watch_loses_nothing() {
    let lab = Lab::new();
    lab.api.keep_terminating_pods();
    lab.put_pods(&["a", "b"]);
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("evictions", |lab| lab.evictions().len() == 2)
        .await;
    lab.api.remove::<Pod>(Some("default"), "a");
    lab.api.compact();
    lab.api.drop_watches();
    lab.api.remove::<Pod>(Some("default"), "b");
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .map_err(|_poisoned| std::io::ErrorKind::Other)?
            .extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Test suites of users look for these words.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_round_is_logged_in_the_words_of_the_original() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
    // While there is one subscriber only, tracing asks it in the thread that comes to a line first, which may be that of
    // another test and have none: then the line is wanted by nobody for good.
    let _second = tracing::Dispatch::new(
        tracing_subscriber::fmt()
            .with_writer(std::io::sink)
            .finish(),
    );
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let rounds = || {
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        text.matches("Reconciling with fixed duration").count()
    };
    let lab = Lab::new();
    lab.put_pods(&["a"]);
    lab.refuse(&["a"], || Some(Reply::too_many_requests("budget")));
    lab.maintain("m", NODE);
    lab.operator();
    lab.seconds(29).await;
    assert_eq!(rounds(), 0);
    lab.seconds(3).await;
    assert_eq!(rounds(), 1);
    lab.seconds(35).await;
    assert_eq!(rounds(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_says_nothing_is_not_opened_all_the_time() {
    for is_garbled in [false, true] {
        let lab = Lab::new();
        lab.put_pods(&["a"]);
        lab.refuse(&["a"], || Some(Reply::too_many_requests("budget")));
        lab.maintain("m", NODE);
        lab.operator();
        lab.until("an eviction", |lab| lab.evictions_of("a") > 0)
            .await;
        if is_garbled {
            lab.api.intercept(|request| {
                (request.is_watch() && request.path == "/api/v1/pods")
                    .then(|| Answer::Reply(Reply::ok(&json!({}))))
            });
        }
        lab.api.clear_requests();
        for _ in 0..600 {
            lab.api.drop_watches();
            lab.pass(Duration::from_millis(100)).await;
        }
        let requests = lab.api.requests();
        let watches = requests
            .iter()
            .filter(|one| one.is_watch() && one.path == "/api/v1/pods")
            .count();
        assert!((2..=12).contains(&watches), "{watches} in a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn the_operators_own_pod_goes_last() {
    let lab = Lab::new();
    lab.put_pods(&["z1", "z2"]);
    lab.api
        .put(
            &build::pod("medik8s", "nmo-0")
                .on(NODE)
                .controlled_by("apps/v1", "ReplicaSet", "r"),
        );
    lab.maintain("m", NODE);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    let order: Vec<String> = lab.evictions().into_iter().map(|one| one.path).collect();
    assert_eq!(order.len(), 3);
    assert!(order[2].contains("/nmo-0/"), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn pods_that_appear_while_draining_go_too() {
    let lab = Lab::new();
    lab.put_pods(&["web"]);
    let (closed, is_closed) = switch();
    lab.refuse(&["web"], move || {
        is_closed().then(|| Reply::too_many_requests("no"))
    });
    lab.maintain("m", NODE);
    lab.operator();
    lab.seconds(3).await;
    lab.put_pods(&["late"]);
    lab.until("the late one", |lab| !lab.has_pod("late")).await;
    let status = lab.status("m");
    assert_eq!(
        (status.eviction_pods, status.drain_progress),
        (Some(1), None),
        "never negative"
    );
    closed.store(false, Ordering::Relaxed);
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_stuck_in_termination_is_let_go_on_order() {
    let lab = Lab::new();
    lab.api.keep_terminating_pods();
    lab.put_pods(&["stuck"]);
    let drain = NodeMaintenanceDrain {
        skip_wait_for_delete_timeout_seconds: Some(60),
        ..NodeMaintenanceDrain::default()
    };
    lab.maintain_by("m", drain);
    lab.operator();
    lab.until("success", |lab| lab.phase("m") == "Succeeded")
        .await;
    assert!(lab.elapsed() >= 60, "{} s", lab.elapsed());
    assert!(lab.has_pod("stuck"));
}
