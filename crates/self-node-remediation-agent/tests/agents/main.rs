//! Whole agents against each other, an API server in memory and fake watchdogs.
#![cfg(test)]

mod lab;
mod machines;

use std::sync::atomic::Ordering;
use std::time::Duration;

use lab::{Agent, Did, Lab, TIMEOUT, until};
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::snr::{
    AGENT_VERSION_ANNOTATION, IS_REBOOT_CAPABLE_ANNOTATION, RELAYED_WORDS_ANNOTATION,
    STOPPED_FEEDING_ANNOTATION, WATCHDOG_TIMEOUT_ANNOTATION,
};
use medik8s_testing::wire::{Answer, Recorded};
use self_node_remediation_peer::{AskError, Status};

const WORKERS: [&str; 3] = ["w1", "w2", "w3"];

async fn three_armed() -> (Lab, Vec<Agent>) {
    let lab = Lab::new(&WORKERS);
    let agents = WORKERS.map(|node| lab.start(node)).into_iter().collect();
    for node in WORKERS {
        lab.armed(node).await;
    }
    (lab, agents)
}

/// These wait for spans of half a minute, so they do it together.
#[tokio::test]
async fn what_takes_longer_than_a_span() {
    tokio::join!(
        software_does_not_reset_where_it_must_not(),
        software_resets_a_machine_whose_watchdog_does_not(),
        peers_keep_a_node_without_api_up(),
        nobody_reboots_when_the_api_is_away_for_all(),
        an_isolated_node_starves(),
        an_agent_restarted_in_an_outage_goes_on_with_what_it_knew(),
        a_watchdog_that_fails_counts_as_none(),
    );
}

async fn pause(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test]
async fn a_starting_agent_opens_first_and_announces_what_it_found() {
    let lab = Lab::new(&WORKERS);
    let _agent = lab.start("w1");
    let announced = lab.armed("w1").await;
    assert_eq!(
        (announced.wd, announced.workers, announced.cp),
        (TIMEOUT, 2, 0)
    );
    // 2 x (0.3 + 0.5) + max(1 + 2.5, 30), rounded up.
    assert_eq!(announced.bound, Some(32));
    assert_eq!(announced.boot.as_str(), "boot-of-w1");
    let annotation = |key| lab.annotation("w1", key).unwrap();
    assert_eq!(annotation(IS_REBOOT_CAPABLE_ANNOTATION), "true");
    assert_eq!(annotation(WATCHDOG_TIMEOUT_ANNOTATION), TIMEOUT.to_string());
    assert_eq!(annotation(AGENT_VERSION_ANNOTATION), "1.2.3");
    assert_eq!(lab.dog("w1").log()[..2], [Did::Opened, Did::Fed]);
}

#[tokio::test]
async fn without_contact_in_this_boot_nothing_is_opened_or_fenced() {
    let lab = Lab::new(&WORKERS);
    lab.set_reachable("w1", false);
    let agent = lab.start("w1");
    pause(3).await;
    assert!(lab.dog("w1").log().is_empty());
    assert!(agent.is_running() && lab.sysrq("w1").is_empty());
    lab.set_reachable("w1", true);
    lab.armed("w1").await;
}

#[tokio::test]
async fn an_ordered_node_starves_its_watchdog_and_says_so() {
    let (lab, agents) = three_armed().await;
    lab.remediation("w1", true);
    until("last words", || {
        lab.annotation("w1", STOPPED_FEEDING_ANNOTATION).is_some()
    })
    .await;
    assert_eq!(
        lab.annotation("w1", STOPPED_FEEDING_ANNOTATION).unwrap(),
        "boot-of-w1/5"
    );
    let log = lab.dog("w1").log();
    assert_eq!(
        log.last(),
        Some(&Did::Set(5)),
        "shortened once, then never fed: {log:?}"
    );
    agents[0].terminate();
    pause(2).await;
    assert_eq!(
        lab.dog("w1").log(),
        log,
        "neither SIGTERM nor time touches the device again"
    );
    assert!(
        agents[0].is_running(),
        "it holds the device open until the reset"
    );
    for node in ["w2", "w3"] {
        assert!(!lab.dog(node).did(Did::Set(5)));
    }
}

/// The fake device never resets anything, so the reset by software has to come.
async fn software_resets_a_machine_whose_watchdog_does_not() {
    let (lab, _agents) = three_armed().await;
    lab.remediation("w1", true);
    until("shortened", || lab.dog("w1").did(Did::Set(5))).await;
    assert_eq!(lab.sysrq("w1"), "");
    // Timeout 5 s and 5 s more.
    until("software reboot", || lab.sysrq("w1").starts_with('b')).await;
}

async fn software_does_not_reset_where_it_must_not() {
    let lab = Lab::new(&WORKERS);
    let agents =
        WORKERS.map(|node| lab.start_with(node, &[("IS_SOFTWARE_REBOOT_ENABLED", "false")]));
    for node in WORKERS {
        lab.armed(node).await;
    }
    lab.remediation("w1", true);
    until("shortened", || lab.dog("w1").did(Did::Set(5))).await;
    // 5 s more than the timeout.
    until("told", || lab.was_told("CannotReboot")).await;
    let text = lab.told("CannotReboot").unwrap();
    assert!(text.contains("has not reset it in time"), "{text}");
    pause(2).await;
    assert_eq!(lab.sysrq("w1"), "");
    assert!(agents[0].is_running());
}

/// Another device than the configured one guards the node: people should know.
#[tokio::test]
async fn a_device_that_cannot_be_used_is_told_of() {
    let lab = Lab::new(&WORKERS);
    lab.dog("w1").second.store(true, Ordering::SeqCst);
    let _agents = WORKERS.map(|node| lab.start(node));
    for node in WORKERS {
        lab.armed(node).await;
    }
    until("told", || lab.was_told("WatchdogPassedOver")).await;
    let text = lab.told("WatchdogPassedOver").unwrap();
    let expected = [
        "guarded by the watchdog /dev/watchdog1",
        "/dev/watchdog cannot be used",
        "MAGICCLOSE",
    ];
    for part in expected {
        assert!(text.contains(part), "{text}");
    }
}

/// E2 must not be published before feeding has stopped: a write that is under way may still feed.
#[tokio::test]
async fn last_words_wait_until_nothing_feeds_any_more() {
    let (lab, _agents) = three_armed().await;
    let feeds = lab.dog("w1").feeds();
    lab.dog("w1").stuck.store(true, Ordering::SeqCst);
    // The next beat, every 4 s, gets stuck.
    pause(5).await;
    assert_eq!(lab.dog("w1").feeds(), feeds);
    lab.remediation("w1", true);
    pause(2).await;
    assert_eq!(lab.annotation("w1", STOPPED_FEEDING_ANNOTATION), None);
    lab.dog("w1").stuck.store(false, Ordering::SeqCst);
    until("last words", || {
        lab.annotation("w1", STOPPED_FEEDING_ANNOTATION).is_some()
    })
    .await;
    let log = lab.dog("w1").log();
    assert_eq!(log[log.len() - 2..], [Did::Fed, Did::Set(5)]);
}

async fn a_watchdog_that_fails_counts_as_none() {
    let (lab, _agents) = three_armed().await;
    lab.dog("w1").broken.store(true, Ordering::SeqCst);
    // Two timeouts of 12 s and 5 s more, with the machine still alive.
    pause(24).await;
    assert_eq!(lab.announced("w1").unwrap().wd, TIMEOUT);
    until("announced without", || {
        lab.announced("w1").is_some_and(|a| a.wd == 0)
    })
    .await;
    assert!(
        lab.announced("w1").unwrap().armed,
        "software may still reset it"
    );
}

/// What is only in memory would be forgotten by a restart: it is neither announced nor spoken of.
#[tokio::test]
async fn what_cannot_be_recorded_is_not_used() {
    let lab = Lab::new(&WORKERS);
    // A folder in the place of the file cannot be replaced by one.
    std::fs::create_dir_all(lab.state_dir("w2").join("state.json/x")).unwrap();
    let _agents = WORKERS.map(|node| lab.start(node));
    lab.armed("w1").await;
    let uid = lab.remediation("w1", true).metadata.uid.unwrap();
    pause(2).await;
    assert_eq!(lab.announced("w2"), None);
    assert!(lab.dog("w2").log().is_empty());
    let answer = lab.ask("w2", "w1", &uid).await;
    assert!(matches!(answer, Err(AskError::Refused(_))), "{answer:?}");
    std::fs::remove_dir_all(lab.state_dir("w2").join("state.json")).unwrap();
    lab.armed("w2").await;
    assert_eq!(
        lab.ask("w2", "w1", &uid).await.unwrap().acknowledged_uid,
        uid
    );
}

/// Watches are a shortcut; the checks find the order as well.
#[tokio::test]
async fn an_order_is_found_without_the_watch() {
    let (lab, _agents) = three_armed().await;
    lab.api
        .intercept(|request| request.is_watch().then_some(Answer::Hang));
    lab.api.drop_watches();
    pause(1).await;
    lab.remediation("w1", true);
    until("fenced", || lab.dog("w1").did(Did::Set(5))).await;
}

/// H3: a list is read to its last page; the order may be on that one.
#[tokio::test]
async fn h03_an_order_on_the_second_page_is_found() {
    let (lab, _agents) = three_armed().await;
    lab.api
        .intercept(|request| request.is_watch().then_some(Answer::Hang));
    lab.api.drop_watches();
    // Lists are sorted by name, and a page has 250: these all come before w1.
    for number in 0..260 {
        let mut other = SelfNodeRemediation::default();
        other.metadata.name = Some(format!("other-{number:03}"));
        other.metadata.namespace = Some("default".to_owned());
        lab.api.put(&other);
    }
    pause(1).await;
    lab.api.clear_requests();
    lab.remediation("w1", true);
    until("fenced", || lab.dog("w1").did(Did::Set(5))).await;
    let second_page = |request: &Recorded| {
        request.path.ends_with("selfnoderemediations") && request.query("continue").is_some()
    };
    assert!(lab.api.requests().iter().any(second_page));
}

/// Peers abstain about a node as long as they remember its order. Whoever watches its end reads it at once, or an
/// outage that begins now would take the returned node's voters away.
#[tokio::test]
async fn the_end_of_an_order_is_read_before_the_next_check() {
    let lab = Lab::new(&WORKERS);
    let slow = [("API_CHECK_INTERVAL", "60000000000")];
    let _agents = WORKERS.map(|node| lab.start_with(node, &slow));
    until("all contacted", || {
        WORKERS.iter().all(|node| lab.announced(node).is_some())
    })
    .await;
    // An order for a boot of w1 that is over; its agents remember it all the same.
    let mut order = lab.remediation("w1", false);
    order.metadata.annotations.get_or_insert_default().insert(
        "self-node-remediation.medik8s.io/boot-id".to_owned(),
        "boot-before".to_owned(),
    );
    order.status.get_or_insert_default().phase = Some("Pre-Reboot-Completed".to_owned());
    let uid = lab.api.put(&order).metadata.uid.unwrap();
    pause(1).await;
    let held = lab.ask("w2", "w1", &uid).await.unwrap();
    assert_eq!(held.acknowledged_uid, uid);
    lab.remove_remediation("w1");
    // 2 s at most, and the read.
    pause(3).await;
    lab.set_reachable("w2", false);
    let answer = lab.ask("w2", "w1", "").await.unwrap();
    assert_eq!(
        answer.status_value(),
        Some(Status::ApiError),
        "it abstains no more"
    );
}

/// The device that runs is the one that must be fed after a restart.
#[tokio::test]
async fn the_device_in_use_is_recorded() {
    let (lab, _agents) = three_armed().await;
    let record = lab.state_dir("w1").join("watchdog.json");
    let text = std::fs::read_to_string(record).unwrap();
    assert!(text.contains("/dev/watchdog"), "{text}");
}

/// E2 says that the watchdog will fire; one that refuses its feeds may not.
#[tokio::test]
async fn a_watchdog_that_refuses_its_feeds_is_no_evidence() {
    let (lab, _agents) = three_armed().await;
    let feeds = lab.dog("w1").feeds();
    lab.dog("w1").broken.store(true, Ordering::SeqCst);
    // A beat every 4 s.
    pause(5).await;
    assert_eq!(lab.dog("w1").feeds(), feeds);
    lab.remediation("w1", true);
    until("software reboot", || lab.sysrq("w1").starts_with('b')).await;
    assert_eq!(lab.annotation("w1", STOPPED_FEEDING_ANNOTATION), None);
}

/// A Secret that was spoilt is no reason to let the watchdog reset a healthy node: the agent guards it alone.
#[tokio::test]
async fn an_agent_with_unusable_certificates_guards_its_node() {
    let mut lab = Lab::new(&WORKERS);
    lab.probed = true;
    let _good = lab.start("w2");
    lab.armed("w2").await;
    lab.spoil_certificates();
    let _agent = lab.start("w1");
    lab.armed("w1").await;
    until("told", || lab.was_told("CertificatesUnusable")).await;
    // It is not ready, which stops a roll-out before all are nobodies. But it lives.
    let ready = lab.probe("w1", "/readyz").await;
    assert!(
        ready.contains("500") && ready.contains("certificates"),
        "{ready}"
    );
    assert!(lab.probe("w1", "/healthz").await.contains("200"));
    assert!(lab.probe("w2", "/readyz").await.contains("200"));
}

/// An API client that blocks does not block the answers (section 16).
#[tokio::test]
async fn questions_are_answered_in_time_when_the_api_hangs() {
    let (lab, _agents) = three_armed().await;
    lab.api
        .intercept(|request| (request.client == "w2").then_some(Answer::Hang));
    // The first own check has to run into its limit of 0.5 s, or the question's own limit.
    let asked = tokio::time::timeout(Duration::from_millis(1_500), lab.ask("w2", "w3", "")).await;
    assert_eq!(
        asked.unwrap().unwrap().status_value(),
        Some(Status::ApiError)
    );
}

#[tokio::test]
async fn an_order_for_another_boot_is_none() {
    let (lab, _agents) = three_armed().await;
    let mut order = lab.remediation("w1", false);
    order.metadata.annotations.get_or_insert_default().insert(
        "self-node-remediation.medik8s.io/boot-id".to_owned(),
        "boot-before".to_owned(),
    );
    order.status.get_or_insert_default().phase = Some("Pre-Reboot-Completed".to_owned());
    lab.api.put(&order);
    pause(3).await;
    assert!(!lab.dog("w1").did(Did::Set(5)) && lab.sysrq("w1").is_empty());
}

#[tokio::test]
async fn a_peer_tells_a_node_without_api_that_it_is_ordered() {
    let (lab, _agents) = three_armed().await;
    lab.set_reachable("w1", false);
    lab.remediation("w1", true);
    until("fenced by its peers' word", || {
        lab.dog("w1").did(Did::Set(5))
    })
    .await;
}

/// E2 of a node that reaches its peers but not the API server: they say it for it.
#[tokio::test]
async fn last_words_are_passed_on_by_a_peer() {
    let (lab, _agents) = three_armed().await;
    lab.set_reachable("w1", false);
    lab.remediation("w1", true);
    let relayed = |node| lab.annotation(node, RELAYED_WORDS_ANNOTATION);
    until("passed on", || {
        ["w2", "w3"].iter().any(|node| relayed(node).is_some())
    })
    .await;
    let said = relayed("w2").or_else(|| relayed("w3")).unwrap();
    assert_eq!(said, "w1=boot-of-w1/5");
    assert_eq!(relayed("w1"), None);
    assert_eq!(lab.annotation("w1", STOPPED_FEEDING_ANNOTATION), None);
}

/// All agents share a certificate. Whoever took it from one node must not free the workload of another.
#[tokio::test]
async fn last_words_from_elsewhere_are_not_passed_on() {
    let (lab, _agents) = three_armed().await;
    lab.relay_from_elsewhere("w2", "w1", "boot-of-w1/5").await;
    pause(2).await;
    assert_eq!(lab.annotation("w2", RELAYED_WORDS_ANNOTATION), None);
}

async fn peers_keep_a_node_without_api_up() {
    let (lab, _agents) = three_armed().await;
    lab.set_reachable("w1", false);
    // Longer than the span of 31.6 s: only the peers' Healthy can have extended the permit.
    pause(40).await;
    let feeds = lab.dog("w1").feeds();
    until("still fed", || lab.dog("w1").feeds() > feeds).await;
    assert!(!lab.dog("w1").did(Did::Set(5)));
}

async fn nobody_reboots_when_the_api_is_away_for_all() {
    let (lab, agents) = three_armed().await;
    for node in WORKERS {
        lab.set_reachable(node, false);
    }
    pause(40).await;
    for (node, agent) in WORKERS.iter().zip(&agents) {
        let feeds = lab.dog(node).feeds();
        until("still fed", || lab.dog(node).feeds() > feeds).await;
        assert!(!lab.dog(node).did(Did::Set(5)) && lab.sysrq(node).is_empty());
        assert!(agent.is_running());
        let series = agent.metrics.text().unwrap();
        assert!(
            series.contains("self_node_remediation_agent_peers_answered 2"),
            "{series}"
        );
    }
}

/// The whole point: cut off from everybody, the watchdog starves after the span.
async fn an_isolated_node_starves() {
    let lab = Lab::new(&WORKERS);
    // No other agent runs, so nobody answers.
    let _agent = lab.start("w1");
    lab.armed("w1").await;
    lab.set_reachable("w1", false);
    pause(34).await;
    let feeds = lab.dog("w1").feeds();
    pause(6).await;
    assert_eq!(
        lab.dog("w1").feeds(),
        feeds,
        "a beat of 4 s has passed without a feed"
    );
    // New proof before the reset resumes the feeding: the API comes back.
    assert_eq!(lab.sysrq("w1"), "");
    lab.set_reachable("w1", true);
    until("fed again", || lab.dog("w1").feeds() > feeds).await;
}

#[tokio::test]
async fn an_order_is_acknowledged_by_its_uid_also_without_api() {
    let (lab, _agents) = three_armed().await;
    assert_eq!(
        lab.ask("w2", "w1", "").await.unwrap().status_value(),
        Some(Status::Healthy)
    );
    let uid = lab.remediation("w1", true).metadata.uid.unwrap();
    let answer = lab.ask("w2", "w1", &uid).await.unwrap();
    assert_eq!(answer.status_value(), Some(Status::Unhealthy));
    assert_eq!(answer.acknowledged_uid, uid);
    let other = lab.ask("w2", "w1", "another").await.unwrap();
    assert_eq!(
        (other.status_value(), other.acknowledged_uid),
        (Some(Status::Unhealthy), String::new())
    );

    lab.set_reachable("w2", false);
    pause(2).await;
    let answer = lab.ask("w2", "w1", &uid).await.unwrap();
    assert_eq!(answer.acknowledged_uid, uid, "held in memory");
    // Memory abstains otherwise (H5, H18): neither ApiError nor Unhealthy.
    let silent = lab.ask("w2", "w1", "").await;
    assert!(matches!(silent, Err(AskError::Refused(_))), "{silent:?}");
    let stranger = lab.ask("w2", "w3", "").await.unwrap();
    assert_eq!(stranger.status_value(), Some(Status::ApiError));
}

#[tokio::test]
async fn the_memory_of_an_order_ends_with_a_later_list_only() {
    let (lab, _agents) = three_armed().await;
    let uid = lab.remediation("w1", true).metadata.uid.unwrap();
    let known = lab.ask("w2", "w1", &uid).await.unwrap();
    assert_eq!(known.acknowledged_uid, uid);
    lab.remove_remediation("w1");
    until("forgotten", || true).await;
    pause(1).await;
    let answer = lab.ask("w2", "w1", &uid).await.unwrap();
    assert_eq!(answer.status_value(), Some(Status::Healthy));
}

#[tokio::test]
async fn a_successor_stands_by_and_takes_over_an_armed_watchdog() {
    let (lab, mut agents) = three_armed().await;
    let successor = lab.start_successor("w1");
    until_listening(&lab).await;
    let silent = lab.ask_successor("w2").await;
    assert!(
        matches!(silent, Err(AskError::Refused(_))),
        "who stands by says nothing: {silent:?}"
    );
    // Even the pod's deletion does not disarm: somebody takes over.
    lab.pod("w1", true);
    let old = agents.remove(0);
    old.terminate();
    old.ended().await;
    until("opened again", || opened(&lab, "w1") == 2).await;
    let log = lab.dog("w1").log();
    assert!(
        log.contains(&Did::Closed) && !log.contains(&Did::MagicClosed),
        "{log:?}"
    );
    until("fed by the successor", || {
        lab.dog("w1").log().last() == Some(&Did::Fed)
    })
    .await;
    assert!(lab.announced("w1").unwrap().armed && successor.is_running());
    let answer = lab.ask_successor("w2").await.unwrap();
    assert_eq!(answer.status_value(), Some(Status::Healthy));
}

/// Who uninstalls while an agent is being replaced ends both at once. The old one sees somebody who takes over.
#[tokio::test]
async fn a_successor_that_is_ended_with_its_predecessor_stops_the_watchdog() {
    let (lab, mut agents) = three_armed().await;
    let successor = lab.start_successor("w1");
    until("stands by", || lab.stands_by("w1")).await;
    lab.pod("w1", true);
    let old = agents.remove(0);
    old.terminate();
    old.ended().await;
    successor.terminate();
    successor.ended().await;
    assert_eq!(opened(&lab, "w1"), 2, "to be able to stop it");
    let log = lab.dog("w1").log();
    assert_eq!(log[log.len() - 2..], [Did::MagicClosed, Did::Closed]);
    assert!(!lab.announced("w1").unwrap().armed);
}

/// A predecessor that was told later stops the watchdog itself, and then it stays so.
#[tokio::test]
async fn a_successor_that_is_ended_first_is_not_counted_on() {
    let (lab, mut agents) = three_armed().await;
    let successor = lab.start_successor("w1");
    until("stands by", || lab.stands_by("w1")).await;
    lab.pod("w1", true);
    successor.terminate();
    pause(1).await;
    assert!(
        !lab.stands_by("w1"),
        "it still takes the ownership for a second, unseen"
    );
    let old = agents.remove(0);
    old.terminate();
    old.ended().await;
    successor.ended().await;
    assert_eq!(opened(&lab, "w1"), 1);
    let log = lab.dog("w1").log();
    assert_eq!(log[log.len() - 2..], [Did::MagicClosed, Did::Closed]);
}

/// The roll-out is taken back: the owner stays.
#[tokio::test]
async fn a_successor_that_is_ended_alone_leaves_the_owner_alone() {
    let (lab, agents) = three_armed().await;
    let successor = lab.start_successor("w1");
    until_listening(&lab).await;
    successor.terminate();
    successor.ended().await;
    assert!(agents.iter().all(Agent::is_running));
    assert!(!lab.dog("w1").did(Did::Closed) && opened(&lab, "w1") == 1);
}

async fn until_listening(lab: &Lab) {
    for _ in 0..200 {
        match lab.ask_successor("w2").await {
            Err(AskError::Connect(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            _ => return,
        }
    }
}

fn opened(lab: &Lab, node: &str) -> usize {
    lab.dog(node)
        .log()
        .iter()
        .filter(|did| **did == Did::Opened)
        .count()
}

#[tokio::test]
async fn a_deleted_pod_without_successor_disarms_by_announcement() {
    let (lab, mut agents) = three_armed().await;
    lab.pod("w1", true);
    let agent = agents.remove(0);
    agent.terminate();
    agent.ended().await;
    assert!(!lab.announced("w1").unwrap().armed);
    assert_eq!(
        lab.annotation("w1", IS_REBOOT_CAPABLE_ANNOTATION).unwrap(),
        "false"
    );
    let log = lab.dog("w1").log();
    assert_eq!(log[log.len() - 2..], [Did::MagicClosed, Did::Closed]);
}

#[tokio::test]
async fn a_deleted_pod_of_an_ordered_node_does_not_disarm() {
    let (lab, mut agents) = three_armed().await;
    lab.pod("w1", true);
    // Known, but not for this boot: the agent does not fence, and still must not disarm.
    let mut order = lab.remediation("w1", false);
    order.metadata.annotations.get_or_insert_default().insert(
        "self-node-remediation.medik8s.io/boot-id".to_owned(),
        "boot-before".to_owned(),
    );
    order.status.get_or_insert_default().phase = Some("Pre-Reboot-Completed".to_owned());
    lab.api.put(&order);
    pause(1).await;
    let agent = agents.remove(0);
    agent.terminate();
    agent.ended().await;
    assert!(!lab.dog("w1").did(Did::MagicClosed));
}

async fn an_agent_restarted_in_an_outage_goes_on_with_what_it_knew() {
    let (lab, mut agents) = three_armed().await;
    for node in WORKERS {
        lab.set_reachable(node, false);
    }
    let old = agents.remove(0);
    old.terminate();
    old.ended().await;
    let _new = lab.start("w1");
    until("opened again", || opened(&lab, "w1") == 2).await;
    // It has to find its peers by the recorded addresses.
    pause(40).await;
    let feeds = lab.dog("w1").feeds();
    until("fed on", || lab.dog("w1").feeds() > feeds + 1).await;
    assert!(!lab.dog("w1").did(Did::Set(5)));
}
