use super::*;

/// Every series with one sample.
fn sampled() -> Metrics {
    let metrics = Metrics::new().unwrap();
    metrics.controller_started("nodemaintenance", 4);
    metrics.reconcile_started("nodemaintenance");
    metrics.reconcile_ended("nodemaintenance", ReconcileResult::RequeueAfter, 0.2);
    metrics.webhook_registered("/validate");
    metrics.webhook_started("/validate");
    metrics.webhook_ended("/validate", 200, 0.01);
    metrics.request_sent("200", "GET", "10.0.0.1:443");
    metrics.leader("e1f13584.medik8s.io", true);
    metrics.watch_failed("nodes");
    metrics.event_dropped("spam");
    let queue = metrics.queue("nodemaintenance");
    queue.adds.inc();
    queue.queue_duration.observe(0.001);
    queue.work_duration.observe(0.2);
    metrics
}

#[test]
fn names_and_types_are_those_of_the_originals() {
    let text = sampled().text().unwrap();
    let mut types: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("# TYPE "))
        .collect();
    types.sort_unstable();
    let expected: Vec<&str> = include_str!("series.txt").lines().collect();
    assert_eq!(types, expected);
}

#[test]
fn labels_and_buckets_are_those_of_controller_runtime() {
    let text = sampled().text().unwrap();
    for line in [
        r#"controller_runtime_reconcile_total{controller="nodemaintenance",result="requeue_after"} 1"#,
        r#"controller_runtime_reconcile_total{controller="nodemaintenance",result="success"} 0"#,
        r#"controller_runtime_reconcile_total{controller="nodemaintenance",result="error"} 0"#,
        r#"controller_runtime_reconcile_time_seconds_bucket{controller="nodemaintenance",le="0.2"} 1"#,
        r#"controller_runtime_reconcile_time_seconds_bucket{controller="nodemaintenance",le="60"} 1"#,
        r#"controller_runtime_max_concurrent_reconciles{controller="nodemaintenance"} 4"#,
        r#"controller_runtime_webhook_requests_total{code="200",webhook="/validate"} 1"#,
        r#"controller_runtime_webhook_requests_total{code="500",webhook="/validate"} 0"#,
        r#"rest_client_requests_total{code="200",host="10.0.0.1:443",method="GET"} 1"#,
        r#"leader_election_master_status{name="e1f13584.medik8s.io"} 1"#,
        r#"workqueue_adds_total{controller="nodemaintenance",name="nodemaintenance"} 1"#,
        r#"workqueue_work_duration_seconds_bucket{controller="nodemaintenance",name="nodemaintenance",le="1"} 1"#,
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nis not in\n{text}"
        );
    }
}

#[test]
fn a_counter_keeps_the_name_it_is_given() {
    // nodehealthcheck_old_remediation_cr must not become .._total.
    let metrics = Metrics::new().unwrap();
    let own = prometheus::IntCounter::new("nodehealthcheck_old_remediation_cr", "help").unwrap();
    metrics.registry().register(Box::new(own)).unwrap();
    let text = metrics.text().unwrap();
    assert!(
        text.contains("# TYPE nodehealthcheck_old_remediation_cr counter\n"),
        "{text}"
    );
    assert!(
        text.contains("\nnodehealthcheck_old_remediation_cr 0\n"),
        "{text}"
    );
}
