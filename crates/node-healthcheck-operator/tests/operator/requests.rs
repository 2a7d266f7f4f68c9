//! What it costs.

use std::time::Duration;

use medik8s_core::conditions::Status;
use medik8s_testing::build::{NodeExt, node};
use serde_json::json;

use super::lab::*;

#[tokio::test(start_paused = true)]
async fn nothing_happens_costs_nothing() {
    let lab = Lab::new(50);
    lab.put_check("nhc", single());
    let _operator = lab.start();
    lab.until("enabled", 5, |lab| lab.phase("nhc") == "Enabled")
        .await;
    lab.seconds(1).await;
    lab.api.clear_requests();
    // Heartbeats: same conditions, other times and messages.
    for round in 0..10 {
        for number in 1..=50 {
            let name = format!("w{number}");
            lab.api
                .update::<k8s_openapi::api::core::v1::Node>(None, &name, |node| {
                    let ready = &mut node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0];
                    ready.message = Some(format!("heartbeat {round}"));
                });
        }
        lab.seconds(30).await;
    }
    assert_eq!(lab.requests(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_failing_node_costs_at_most_twelve_requests() {
    for (failing, limit) in [(1, 12), (20, 12 * 20)] {
        let lab = Lab::new(60);
        lab.put_check("nhc", single());
        let _operator = lab.start();
        lab.until("enabled", 5, |lab| lab.phase("nhc") == "Enabled")
            .await;
        lab.seconds(1).await;
        lab.api.clear_requests();
        for number in 1..=failing {
            lab.break_node(&format!("w{number}"));
        }
        lab.until("created", 10, |lab| lab.names("Foo").len() == failing)
            .await;
        lab.seconds(10).await;
        let requests = lab.requests();
        assert!(
            requests.len() <= limit,
            "{failing}: {} {requests:#?}",
            requests.len()
        );
        lab.api.clear_requests();
        lab.seconds(120).await;
        assert_eq!(
            lab.requests(),
            Vec::<String>::new(),
            "a remediation at work costs nothing"
        );
        for number in 1..=failing {
            lab.heal_node(&format!("w{number}"));
        }
        lab.until("deleted", 10, |lab| lab.names("Foo").is_empty())
            .await;
        lab.seconds(10).await;
        assert!(
            lab.requests().len() <= limit,
            "{failing}: {:#?}",
            lab.requests()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_wakes_only_the_health_checks_that_select_it() {
    let lab = Lab::new(0);
    for number in 0..100 {
        let selector = json!({"matchLabels": {"pool": format!("p{number}")}});
        let spec = with(with(single(), "selector", selector), "minHealthy", json!(0));
        lab.put_check(&format!("nhc-{number}"), spec);
        for index in 0..3 {
            let name = format!("p{number}-{index}");
            let new = node(&name).worker().ready(lab.ago(3600));
            let mut new = new;
            let labels = new.metadata.labels.get_or_insert_default();
            labels.insert("pool".to_owned(), format!("p{number}"));
            lab.api.put(&new);
        }
    }
    let operator = lab.start();
    lab.until("all enabled", 30, |lab| {
        (0..100).all(|number| lab.phase(&format!("nhc-{number}")) == "Enabled")
    })
    .await;
    lab.seconds(2).await;
    let runs = |operator: &Operator| -> u64 {
        let text = operator.metrics.text().unwrap();
        text.lines()
            .filter(|line| line.starts_with("controller_runtime_reconcile_total"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    };
    let before = runs(&operator);
    lab.api.clear_requests();
    lab.set_ready("p7-1", Status::False);
    lab.until("created", 10, |lab| lab.names("Foo") == ["p7-1"])
        .await;
    lab.seconds(5).await;
    // A handful: the two clocks of these tests differ by up to a tick around a due moment.
    assert!(
        runs(&operator) - before <= 20,
        "{}",
        runs(&operator) - before
    );
    let elsewhere = lab
        .requests()
        .into_iter()
        .filter(|one| one.contains("nodehealthchecks") && !one.contains("/nhc-7"))
        .count();
    assert_eq!(elsewhere, 0);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_changes_is_few_passes_and_no_due_moment_is_late() {
    let lab = Lab::new(30);
    lab.put_check("nhc", with(single(), "minHealthy", json!(0)));
    let operator = lab.start();
    lab.until("enabled", 5, |lab| lab.phase("nhc") == "Enabled")
        .await;
    lab.seconds(1).await;
    for number in 1..=30 {
        lab.break_node(&format!("w{number}"));
        lab.pass(Duration::from_millis(10)).await;
    }
    let last = lab.now();
    lab.until("created", 10, |lab| lab.names("Foo").len() == 30)
        .await;
    let waited = lab.now().duration_since(last).as_secs_f64();
    assert!(waited <= 3.2, "{waited}");
    let text = operator.metrics.text().unwrap();
    let adds = text
        .lines()
        .find(|line| line.starts_with("workqueue_adds_total"))
        .and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .unwrap();
    assert!(adds < 40, "{adds}");
}
