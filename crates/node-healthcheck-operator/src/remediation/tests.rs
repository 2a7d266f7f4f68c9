#![expect(clippy::needless_pass_by_value, reason = "tests build values in place")]

use kube::core::GroupVersionKind;
use serde_json::json;

use super::*;
use crate::check::Check;
use crate::fixtures::{API, NAMESPACE, health_check, noon, owner, remediation, spec};

fn template_ref() -> TemplateRef {
    Check::parse(&health_check(spec())).unwrap().ladder[0]
        .template
        .clone()
}

fn template_object(spec: Value, annotations: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": API, "kind": "FooTemplate",
        "metadata": {"name": "foo", "namespace": NAMESPACE, "annotations": annotations},
        "spec": spec,
    }))
    .unwrap()
}

fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("test.example.com", "v1", "Foo"),
        "foos",
    )
}

#[test]
fn a_new_remediation_follows_the_contract() {
    let template = template_ref();
    let spec = json!({"template": {"spec": {"strategy": "reboot", "deep": {"list": [1, 2]}}}});
    let object = template_object(spec, json!({}));
    let machine = MachineRef {
        namespace: NAMESPACE.to_owned(),
        name: "m1".to_owned(),
    };
    let machine_kind = ResourceKind::new("machine.openshift.io/v1beta1", "Machine");
    let owner = owner();
    let blueprint = Blueprint {
        template: &template,
        object: &object,
        node: "w1",
        name: "w1".to_owned(),
        control_plane: true,
        owner: &owner,
        machine: Some((&machine, &machine_kind, "m-uid")),
    };
    let built = serde_json::to_value(build(&blueprint, &resource()).unwrap()).unwrap();
    assert_eq!(
        built,
        json!({
            "apiVersion": API, "kind": "Foo",
            "metadata": {
                "name": "w1", "namespace": NAMESPACE,
                "annotations": {
                    "remediation.medik8s.io/node-name": "w1",
                    "remediation.medik8s.io/template-name": "foo",
                },
                "labels": {
                    "app.kubernetes.io/part-of": "node-healthcheck-controller",
                    "remediation.medik8s.io/isControlPlaneNode": "",
                },
                "ownerReferences": [
                    {"apiVersion": "remediation.medik8s.io/v1alpha1", "kind": "NodeHealthCheck",
                     "name": "nhc", "uid": "nhc-uid", "controller": false},
                    {"apiVersion": "machine.openshift.io/v1beta1", "kind": "Machine",
                     "name": "m1", "uid": "m-uid"},
                ],
            },
            "spec": {"strategy": "reboot", "deep": {"list": [1, 2]}},
        })
    );
    let elsewhere = MachineRef {
        namespace: "other".to_owned(),
        name: "m1".to_owned(),
    };
    let blueprint = Blueprint {
        machine: Some((&elsewhere, &machine_kind, "m-uid")),
        control_plane: false,
        ..blueprint
    };
    let built = build(&blueprint, &resource()).unwrap();
    assert_eq!(built.metadata.owner_references.unwrap().len(), 1);
    assert_eq!(built.metadata.labels.unwrap().len(), 1);
}

#[test]
fn an_absent_inner_spec_is_empty_and_an_absent_template_is_none() {
    for (spec, expected) in [
        (json!({"template": {}}), Some(json!({}))),
        (json!({"template": {"spec": null}}), Some(json!({}))),
        (
            json!({"template": {"spec": {"a": 1}}}),
            Some(json!({"a": 1})),
        ),
        (json!({"template": "text"}), None),
        (json!({"template": null}), None),
        (json!({}), None),
        (Value::Null, None),
    ] {
        assert_eq!(
            spec_of(&template_object(spec.clone(), json!({}))),
            expected,
            "{spec}"
        );
    }
}

#[test]
fn only_the_presence_of_the_annotation_counts() {
    let key = "remediation.medik8s.io/multiple-templates-support";
    for (annotations, expected) in [
        (json!({}), false),
        (json!({key: ""}), true),
        (json!({key: "false"}), true),
    ] {
        let object = template_object(json!({}), annotations);
        assert_eq!(supports_multiple_templates(&object), expected);
    }
}

#[test]
fn derived_names_are_stable_distinct_and_look_generated() {
    let template = template_ref();
    let name = derived_name("uid-1", &template, "worker-1");
    assert_eq!(name, derived_name("uid-1", &template, "worker-1"));
    assert_eq!(name.len(), "worker-1-".len() + 5);
    assert!(name.starts_with("worker-1-"));
    let other = TemplateRef {
        name: "bar".to_owned(),
        ..template.clone()
    };
    assert_ne!(name, derived_name("uid-2", &template, "worker-1"));
    assert_ne!(name, derived_name("uid-1", &other, "worker-1"));
    let long = "n".repeat(253);
    let name = derived_name("uid-1", &template, &long);
    assert_eq!(name.len(), 63);
    assert!(
        name.bytes()
            .skip(58)
            .all(|byte| SUFFIX_ALPHABET.contains(&byte))
    );
}

#[test]
fn belongs_to_its_template_by_kind_namespace_and_name() {
    let template = template_ref();
    let good = remediation("Foo", "foo", "w1", noon());
    assert!(good.is_from(&template));
    for (what, wrong) in [
        (
            "namespace",
            Remediation {
                namespace: "other".to_owned(),
                ..good.clone()
            },
        ),
        (
            "kind",
            Remediation {
                kind: ResourceKind::new(API, "Bar"),
                ..good.clone()
            },
        ),
        (
            "version",
            Remediation {
                kind: ResourceKind::new("test.example.com/v2", "Foo"),
                ..good.clone()
            },
        ),
        (
            "template",
            Remediation {
                template: Some("bar".to_owned()),
                ..good.clone()
            },
        ),
        (
            "no node",
            Remediation {
                node_annotation: None,
                ..good.clone()
            },
        ),
    ] {
        assert!(!wrong.is_from(&template), "{what}");
    }
    let by_hand = Remediation {
        template: None,
        node_annotation: None,
        name: "w1".to_owned(),
        ..good.clone()
    };
    assert!(by_hand.is_from(&template));
    assert_eq!(by_hand.node(), "w1");
    let named_otherwise = Remediation {
        template: None,
        name: "x".to_owned(),
        ..good
    };
    assert!(
        !named_otherwise.is_from(&template),
        "no template name, and not named like its node"
    );
}

#[test]
fn the_owner_is_known_by_its_uid() {
    let ours = remediation("Foo", "foo", "w1", noon());
    assert_eq!(ours.ownership(&owner()), Ownership::Ours);
    let successor = Owner {
        uid: "another".to_owned(),
        ..owner()
    };
    assert_eq!(ours.ownership(&successor), Ownership::Predecessor);
    let stranger = Owner {
        name: "another".to_owned(),
        ..owner()
    };
    assert_eq!(ours.ownership(&stranger), Ownership::Other);
    let both = Remediation {
        owners: vec![owner(), successor.clone()],
        ..ours
    };
    assert_eq!(both.ownership(&successor), Ownership::Ours);
}
