use super::*;
use crate::fixtures::{node, noon};

#[test]
fn reads_the_machine_annotation() {
    assert_eq!(
        MachineRef::parse("ns/m"),
        Some(MachineRef {
            namespace: "ns".to_owned(),
            name: "m".to_owned()
        })
    );
    for text in ["", "m", "/m", "ns/", "a/b/c"] {
        assert_eq!(MachineRef::parse(text), None, "{text:?}");
    }
}

#[test]
fn only_the_exact_value_excludes() {
    for (value, expected) in [
        (None, Exclusion::None),
        (Some("true"), Exclusion::Excluded),
        (Some(""), Exclusion::EmptyLabel),
        (Some("True"), Exclusion::None),
        (Some("false"), Exclusion::None),
    ] {
        let mut node = node("n", "True", noon());
        if let Some(value) = value {
            node.labels
                .insert(EXCLUDE_FROM_REMEDIATION_LABEL.to_owned(), value.to_owned());
        }
        assert_eq!(node.exclusion(), expected, "{value:?}");
    }
}
