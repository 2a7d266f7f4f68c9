//! The searches that every change runs.

use std::path::Path;

use self_node_remediation_model::cases::{self, Case};
use self_node_remediation_model::{document, story};

fn must_find_nothing(case: &Case) {
    let report = case.run();
    assert!(
        report.passed(case),
        "{}\n{}",
        case.name,
        story::text(case, &report)
    );
    assert!(report.states > 10, "{}: nothing was searched", case.name);
}

#[test]
fn with_all_rules_nothing_is_found() {
    for case in cases::small() {
        must_find_nothing(&case);
    }
}

#[test]
fn each_broken_rule_leads_to_a_broken_promise_and_the_document_tells_how() {
    let cases = cases::broken();
    let reports: Vec<_> = cases.iter().map(Case::run).collect();
    for (case, report) in cases.iter().zip(&reports) {
        assert!(
            report.passed(case),
            "{}: no trace in {} states",
            case.name,
            report.states
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fencing.md");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        document::part(&text, "traces").unwrap() == story::markdown(cases.iter().zip(&reports)),
        "docs/fencing.md is not current: run `make traces`"
    );
}
