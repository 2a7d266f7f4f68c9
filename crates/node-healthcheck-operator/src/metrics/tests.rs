use medik8s_runtime::metrics::Metrics;
use serde_json::json;

use super::*;
use crate::fixtures::{at, noon};

fn status(nodes: &[(&str, &str)]) -> NodeHealthCheckStatus {
    let nodes: Vec<_> = nodes
        .iter()
        .map(|(node, kind)| {
            json!({"name": node, "remediations": [{
                "resource": {"kind": kind, "namespace": "ns", "name": node},
                "started": noon().to_string(),
            }]})
        })
        .collect();
    serde_json::from_value(json!({
        "unhealthyNodes": nodes, "observedNodes": 5, "healthyNodes": 3, "phase": "Remediating",
    }))
    .unwrap()
}

fn own(metrics: &Metrics) -> Vec<String> {
    let text = metrics.text().unwrap();
    text.lines()
        .filter(|line| line.contains("nodehealthcheck_") && !line.contains("_bucket"))
        .filter(|line| !line.starts_with("# HELP"))
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn names_and_types_are_those_of_the_original() {
    let metrics = Metrics::new().unwrap();
    let series = Series::new(metrics.registry()).unwrap();
    let none = NodeHealthCheckStatus::default();
    series.reported_old("w1");
    series.status_changed("nhc", &none, &status(&[("w1", "Foo")]), |_| true, at(5));
    series.status_changed("nhc", &status(&[("w1", "Foo")]), &none, |_| true, at(90));
    assert_eq!(
        own(&metrics),
        [
            "# TYPE nodehealthcheck_healthy_nodes gauge",
            "nodehealthcheck_healthy_nodes{nodehealthcheck=\"nhc\"} 0",
            "# TYPE nodehealthcheck_observed_nodes gauge",
            "nodehealthcheck_observed_nodes{nodehealthcheck=\"nhc\"} 0",
            "# TYPE nodehealthcheck_old_remediation_cr counter",
            "nodehealthcheck_old_remediation_cr{name=\"w1\",namespace=\"\"} 1",
            "# TYPE nodehealthcheck_ongoing_remediation gauge",
            "nodehealthcheck_ongoing_remediation{name=\"w1\",namespace=\"ns\",remediation=\"Foo\"} 0",
            "# TYPE nodehealthcheck_phase gauge",
            "nodehealthcheck_phase{nodehealthcheck=\"nhc\",phase=\"Disabled\"} 0",
            "nodehealthcheck_phase{nodehealthcheck=\"nhc\",phase=\"Enabled\"} 0",
            "nodehealthcheck_phase{nodehealthcheck=\"nhc\",phase=\"Paused\"} 0",
            "nodehealthcheck_phase{nodehealthcheck=\"nhc\",phase=\"Remediating\"} 0",
            "# TYPE nodehealthcheck_storm_active gauge",
            "nodehealthcheck_storm_active{nodehealthcheck=\"nhc\"} 0",
            "# TYPE nodehealthcheck_unhealthy_node_duration_seconds histogram",
            "nodehealthcheck_unhealthy_node_duration_seconds_sum{name=\"w1\",namespace=\"ns\",remediation=\"Foo\"} 90",
            "nodehealthcheck_unhealthy_node_duration_seconds_count{name=\"w1\",namespace=\"ns\",remediation=\"Foo\"} 1",
        ]
    );
}

#[test]
fn buckets_are_those_of_the_original() {
    let metrics = Metrics::new().unwrap();
    let series = Series::new(metrics.registry()).unwrap();
    let none = NodeHealthCheckStatus::default();
    series.status_changed("nhc", &status(&[("w1", "Foo")]), &none, |_| true, at(90));
    let text = metrics.text().unwrap();
    let bounds: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("nodehealthcheck_unhealthy_node_duration_seconds_bucket"))
        .filter_map(|line| line.split("le=\"").nth(1)?.split('"').next())
        .collect();
    assert_eq!(
        bounds,
        [
            "30", "60", "120", "180", "240", "300", "600", "1200", "2400", "3600", "+Inf"
        ]
    );
}

#[test]
fn the_series_of_a_node_that_is_gone_goes_too() {
    let metrics = Metrics::new().unwrap();
    let series = Series::new(metrics.registry()).unwrap();
    let none = NodeHealthCheckStatus::default();
    let both = status(&[("w1", "Foo"), ("w2", "Foo")]);
    series.status_changed("nhc", &none, &both, |_| true, noon());
    series.status_changed("nhc", &both, &none, |node| node != "w1", noon());
    let ongoing = |metrics: &Metrics| -> Vec<String> {
        own(metrics)
            .into_iter()
            .filter(|line| line.contains("ongoing_remediation{"))
            .collect()
    };
    assert_eq!(ongoing(&metrics).len(), 1);
    assert!(ongoing(&metrics)[0].contains("w2"));
    series.node_gone("w2", &[none]);
    assert!(ongoing(&metrics).is_empty());
    series.check_gone("nhc");
    assert!(!metrics.text().unwrap().contains("nodehealthcheck=\"nhc\""));
}

/// The original registers these series each time the feature gate goes on, and panics the second time.
#[test]
fn defect_07_series_of_machine_health_checks_are_registered_once() {
    let metrics = Metrics::new().unwrap();
    let series = MachineSeries::new(metrics.registry()).unwrap();
    series.register().unwrap();
    series.register().unwrap();
    series.show("machines", "mhc", 3, true);
    series.succeeded("machines", "mhc");
    let own = |metrics: &Metrics| -> Vec<String> {
        let text = metrics.text().unwrap();
        let lines = text.lines().filter(|line| line.starts_with("mapi_"));
        lines.map(ToOwned::to_owned).collect()
    };
    let labels = "{name=\"mhc\",namespace=\"machines\"}";
    assert_eq!(
        own(&metrics),
        [
            format!("mapi_machinehealthcheck_nodes_covered{labels} 3"),
            format!("mapi_machinehealthcheck_remediation_success_total{labels} 1"),
            format!("mapi_machinehealthcheck_short_circuit{labels} 1"),
        ]
    );
    series.gone("machines", "mhc");
    assert_eq!(own(&metrics), Vec::<String>::new());
}
