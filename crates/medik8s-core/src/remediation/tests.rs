use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn meta(value: Value) -> ObjectMeta {
    serde_json::from_value(value).unwrap()
}

fn owned(kind: &str, api_version: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": "owner", "uid": "u"})
}

fn remediation(node_name: Option<&str>, owners: &[Value]) -> ObjectMeta {
    let mut meta = meta(json!({"name": "cr", "namespace": "ns", "ownerReferences": owners}));
    meta.annotations = node_name.map(|node| {
        [(
            "remediation.medik8s.io/node-name".to_owned(),
            node.to_owned(),
        )]
        .into()
    });
    meta
}

fn machine(api: MachineApi, api_version: &str) -> MachineRef {
    MachineRef {
        api,
        api_version: api_version.to_owned(),
        namespace: "ns".to_owned(),
        name: "owner".to_owned(),
    }
}

#[test]
fn the_node_is_found_in_the_order_of_the_contract() {
    let nhc = owned("NodeHealthCheck", "remediation.medik8s.io/v1alpha1");
    let mhc = owned("MachineHealthCheck", "machine.openshift.io/v1beta1");
    let openshift = owned("Machine", "machine.openshift.io/v1beta1");
    let capi = owned("Machine", "cluster.x-k8s.io/v1beta1");
    let strange = owned("Machine", "example.com/v1");
    let node = |name: &str| Target::Node(name.to_owned());
    let nothing = || Target::None(NoTarget::EmptyAnnotation);
    for (annotation, owners, expected) in [
        (None, vec![], node("cr")),
        (Some("n1"), vec![], node("n1")),
        (Some(""), vec![], nothing()),
        (None, vec![nhc.clone()], node("cr")),
        (Some("n1"), vec![nhc.clone()], node("n1")),
        (Some(""), vec![nhc.clone()], nothing()),
        // The health check wins over the Machine, in any order.
        (Some("n1"), vec![openshift.clone(), nhc.clone()], node("n1")),
        (Some("n1"), vec![nhc, openshift.clone()], node("n1")),
        (
            Some("n1"),
            vec![openshift.clone()],
            Target::Machine(machine(
                MachineApi::OpenShift,
                "machine.openshift.io/v1beta1",
            )),
        ),
        (
            None,
            vec![mhc.clone(), openshift],
            Target::Machine(machine(
                MachineApi::OpenShift,
                "machine.openshift.io/v1beta1",
            )),
        ),
        (
            None,
            vec![capi],
            Target::Machine(machine(MachineApi::ClusterApi, "cluster.x-k8s.io/v1beta1")),
        ),
        (
            Some("n1"),
            vec![strange],
            Target::None(NoTarget::UnknownMachineApi("example.com/v1".to_owned())),
        ),
        // A MachineHealthCheck in another namespace than the machine: only the annotation tells.
        (Some(""), vec![mhc.clone()], nothing()),
        (Some("n1"), vec![mhc], node("n1")),
    ] {
        let cr = remediation(annotation, &owners);
        assert_eq!(target(&cr), expected, "{cr:?}");
    }
}

#[test]
fn matching_uses_the_machine_name_if_it_is_known() {
    let owner = owned("Machine", "machine.openshift.io/v1beta1");
    let by_machine = remediation(None, &[owner]);
    assert_eq!(matches(&by_machine, "n1", Some("owner")), Match::Yes);
    let ask = Match::Ask(machine(
        MachineApi::OpenShift,
        "machine.openshift.io/v1beta1",
    ));
    assert_eq!(matches(&by_machine, "n1", Some("other")), ask);
    assert_eq!(matches(&by_machine, "n1", Some("")), ask);
    assert_eq!(matches(&by_machine, "n1", None), ask);

    let by_annotation = remediation(Some("n1"), &[]);
    assert_eq!(matches(&by_annotation, "n1", None), Match::Yes);
    assert_eq!(matches(&by_annotation, "cr", None), Match::No);
    let for_nobody = remediation(Some(""), &[]);
    assert_eq!(
        matches(&for_nobody, "cr", None),
        Match::Unknown(NoTarget::EmptyAnnotation)
    );
}

#[test]
fn ownership_needs_the_uid() {
    let id = OwnerId {
        api_version: "remediation.medik8s.io/v1alpha1",
        kind: "NodeHealthCheck",
        name: "owner",
        uid: "u",
    };
    let cr = remediation(None, &[owned("NodeHealthCheck", id.api_version)]);
    assert_eq!(ownership(&cr, id), Ownership::Ours);
    assert_eq!(
        ownership(&cr, OwnerId { uid: "v", ..id }),
        Ownership::Predecessor
    );
    assert_eq!(
        ownership(&cr, OwnerId { name: "x", ..id }),
        Ownership::Foreign
    );
    assert_eq!(
        ownership(&cr, OwnerId { kind: "x", ..id }),
        Ownership::Foreign
    );
    assert_eq!(
        ownership(
            &cr,
            OwnerId {
                api_version: "x",
                ..id
            }
        ),
        Ownership::Foreign
    );
    assert_eq!(ownership(&ObjectMeta::default(), id), Ownership::Foreign);
}

#[test]
fn presence_of_the_annotation_means_timed_out() {
    let timed_out = |value: &str| {
        let annotations = json!({"remediation.medik8s.io/nhc-timed-out": value});
        is_timed_out(&meta(json!({"annotations": annotations})))
    };
    let now = "2026-01-02T03:04:05.6Z".parse().unwrap();
    assert_eq!(timed_out_value(now), "2026-01-02T03:04:05Z");
    assert!(timed_out(&timed_out_value(now)));
    assert!(timed_out(""));
    assert!(!is_timed_out(&ObjectMeta::default()));
}

#[test]
fn templates_are_told_by_annotation_and_namespace() {
    let template = meta(json!({"name": "t", "namespace": "ns"}));
    let cr = |name: &str, namespace: &str, template: Option<&str>, node: Option<&str>| {
        let mut cr = meta(json!({"name": name, "namespace": namespace}));
        let pairs = [
            (TEMPLATE_NAME_ANNOTATION, template),
            (NODE_NAME_ANNOTATION, node),
        ];
        let pairs = pairs
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned())));
        cr.annotations = Some(pairs.collect());
        cr
    };
    for (object, expected) in [
        (cr("n-x", "ns", Some("t"), Some("n")), true),
        (cr("n-x", "other", Some("t"), Some("n")), false),
        (cr("n-x", "ns", Some("u"), Some("n")), false),
        (cr("n", "ns", Some("t"), None), false),
        (cr("n", "ns", None, None), true),
        (cr("n", "ns", None, Some("n")), true),
        (cr("m", "ns", None, Some("n")), false),
    ] {
        assert_eq!(is_from_template(&object, &template), expected, "{object:?}");
    }
}

#[test]
fn node_names_come_from_the_annotation_first() {
    assert_eq!(node_name(&remediation(Some("n1"), &[])), Some("n1"));
    assert_eq!(node_name(&remediation(None, &[])), Some("cr"));
    assert_eq!(node_name(&remediation(Some(""), &[])), None);
    assert_eq!(node_name(&ObjectMeta::default()), None);
}

#[test]
fn template_kinds() {
    for (kind, expected) in [
        ("SelfNodeRemediationTemplate", Some("SelfNodeRemediation")),
        ("Template", None),
        ("SelfNodeRemediation", None),
        ("XTemplates", None),
        ("", None),
        ("TemplateTemplate", Some("Template")),
    ] {
        assert_eq!(kind_of_template(kind), expected, "{kind}");
    }
}

proptest! {
    /// A remediation for one node never answers for another one, whatever it is called.
    #[test]
    fn never_another_node(
        name in "[ab]", annotation in prop::option::of("[ab]?"), asked in "[ab]", with_owner: bool,
    ) {
        let owners = with_owner
            .then(|| owned("NodeHealthCheck", "remediation.medik8s.io/v1alpha1"));
        let mut cr = remediation(annotation.as_deref(), &owners.into_iter().collect::<Vec<_>>());
        cr.name = Some(name.clone());
        let meant = annotation.unwrap_or(name);
        prop_assert_eq!(matches(&cr, &asked, None) == Match::Yes, asked == meant);
        prop_assert_eq!(node_name(&cr).is_some(), !meant.is_empty());
    }
}
