//! A double of the original health checker drives remediations: its names, annotations, labels, owners and timeouts.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use medik8s_api::SelfNodeRemediation;
use medik8s_api::names::contract::{
    NHC_TIMED_OUT_ANNOTATION, NODE_NAME_ANNOTATION, PART_OF_LABEL, PART_OF_VALUE, PROCESSING,
    REMEDIATION_STOPPED, SUCCEEDED, TEMPLATE_NAME_ANNOTATION,
};
use medik8s_api::names::snr;
use medik8s_testing::build::{self, MetaExt as _};
use self_node_remediation_core::order::ORDERED_NODE_ANNOTATION;
use serde_json::json;

use crate::lab::{Agents, BOUND, Lab, NAMESPACE, NODE};

/// Group and version of Machines.
const MACHINES: &str = "machine.openshift.io/v1beta1";

/// What the original writes, by the contract's table A.3.
struct Checker<'a>(&'a Lab);

impl Checker<'_> {
    /// A template with several-templates support: the name is generated.
    fn node_health_check(&self) -> String {
        let name = format!("{NODE}-7xk2p");
        let owner = OwnerReference {
            controller: Some(false),
            ..build::owner(
                "remediation.medik8s.io/v1alpha1",
                "NodeHealthCheck",
                "workers",
            )
        };
        self.create(&name, NAMESPACE, NODE, vec![owner]);
        name
    }

    /// A Machine, of this node or of none. Its namespace.
    fn machine(&self, node: Option<&str>) -> &'static str {
        let namespace = "openshift-machine-api";
        let api = &self.0.api;
        api.add_namespace(namespace);
        api.add_dynamic_kind(MACHINES, "Machine", "machines", true);
        let mut machine = json!({
            "apiVersion": MACHINES, "kind": "Machine",
            "metadata": {"name": "machine-7", "namespace": namespace},
        });
        if let Some(node) = node {
            machine["status"] = json!({"nodeRef": {"name": node}});
        }
        api.put_value(machine);
        namespace
    }

    /// The Machine's name, in the Machine's namespace, owned by the MachineHealthCheck and the Machine.
    fn machine_health_check(&self, namespace: &str, annotated: &str) -> String {
        let name = "machine-7".to_owned();
        let owners = vec![
            build::owner(MACHINES, "MachineHealthCheck", "workers"),
            build::owner(MACHINES, "Machine", &name),
        ];
        self.create(&name, namespace, annotated, owners);
        name
    }

    fn create(&self, name: &str, namespace: &str, node: &str, owners: Vec<OwnerReference>) {
        let mut object = build::self_node_remediation(name)
            .within(namespace)
            .created(self.0.clock.now())
            .annotated(NODE_NAME_ANNOTATION, node)
            .annotated(TEMPLATE_NAME_ANNOTATION, snr::DEFAULT_TEMPLATE_NAME)
            .labelled(PART_OF_LABEL, PART_OF_VALUE);
        object.metadata.owner_references = Some(owners);
        self.0.api.put(&object);
    }

    /// A step's time is over: the annotation, with an RFC 3339 time.
    fn times_out(&self, name: &str) {
        let now = self.0.clock.now().to_string();
        self.0
            .api
            .update::<SelfNodeRemediation>(Some(NAMESPACE), name, |object| {
                let all = object.metadata.annotations.get_or_insert_default();
                all.insert(NHC_TIMED_OUT_ANNOTATION.to_owned(), now);
            });
    }

    /// The node is healthy.
    fn deletes(&self, namespace: &str, name: &str) {
        self.0
            .api
            .delete::<SelfNodeRemediation>(Some(namespace), name);
    }
}

fn conditions(lab: &Lab, namespace: &str, name: &str) -> (String, String) {
    (
        lab.condition(namespace, name, PROCESSING),
        lab.condition(namespace, name, SUCCEEDED),
    )
}

fn pair(processing: &str, succeeded: &str) -> (String, String) {
    (processing.to_owned(), succeeded.to_owned())
}

#[tokio::test]
async fn a_node_health_check_creates_waits_and_deletes() {
    let agents = Agents::start().await;
    let lab = Lab::new(&agents);
    let checker = Checker(&lab);
    let name = checker.node_health_check();
    let manager = lab.manager().await;
    lab.pass(&manager).await;
    assert_eq!(conditions(&lab, NAMESPACE, &name), pair("True", "Unknown"));
    lab.until(&manager, "success", |lab| {
        lab.empties_out_of_service();
        conditions(lab, NAMESPACE, &name) == pair("False", "True")
    })
    .await;
    let waited = {
        let seen = lab.seen.lock().unwrap();
        seen.freed.unwrap().as_second() - seen.ordered.unwrap().as_second()
    };
    assert!(waited >= BOUND, "{waited}");
    lab.comes_back("b2");
    checker.deletes(NAMESPACE, &name);
    lab.until(&manager, "released", |lab| {
        lab.remediation(NAMESPACE, &name).is_none()
    })
    .await;
    assert_eq!(lab.taints(), []);
    lab.assert_right("nhc");
    assert_eq!(lab.told("RemediationStarted").await, 1);
    assert_eq!(lab.told("RemediationFinished").await, 1);
}

/// Escalation: the step is over before the node is freed. Nothing destructive begins any more; marks stay until the
/// remediation is deleted.
#[tokio::test]
async fn an_escalating_node_health_check_times_the_step_out() {
    let agents = Agents::start().await;
    let lab = Lab::new(&agents);
    let checker = Checker(&lab);
    let name = checker.node_health_check();
    let manager = lab.manager().await;
    lab.until(&manager, "ordered", |lab| {
        lab.seen.lock().unwrap().ordered.is_some()
    })
    .await;
    for _ in 0..30 {
        lab.pass(&manager).await;
    }
    checker.times_out(&name);
    for _ in 0..200 {
        lab.pass(&manager).await;
    }
    assert_eq!(conditions(&lab, NAMESPACE, &name), pair("False", "False"));
    assert!(lab.has_pods(), "nothing is freed after the step's time");
    assert!(lab.has_taint(snr::REMEDIATION_TAINT), "the marks stay");
    assert_eq!(lab.told(REMEDIATION_STOPPED).await, 1);
    // The next remediator has mended the node.
    lab.comes_back("b2");
    checker.deletes(NAMESPACE, &name);
    lab.until(&manager, "released", |lab| {
        lab.remediation(NAMESPACE, &name).is_none()
    })
    .await;
    assert_eq!(lab.taints(), []);
    lab.assert_right("timed out");
}

#[tokio::test]
async fn a_machine_health_check_names_the_machine() {
    let agents = Agents::start().await;
    let lab = Lab::new(&agents);
    let checker = Checker(&lab);
    let namespace = checker.machine(Some(NODE));
    let name = checker.machine_health_check(namespace, NODE);
    let manager = lab.manager().await;
    lab.until(&manager, "success", |lab| {
        lab.empties_out_of_service();
        conditions(lab, namespace, &name) == pair("False", "True")
    })
    .await;
    lab.comes_back("b2");
    checker.deletes(namespace, &name);
    lab.until(&manager, "released", |lab| {
        lab.remediation(namespace, &name).is_none()
    })
    .await;
    assert_eq!(lab.taints(), []);
    lab.assert_right("mhc");
}

/// Of two remediations of a node, one by its Machine, the last to end removes the taint.
#[tokio::test]
async fn a_remediation_by_machine_keeps_the_taint_of_its_node() {
    let agents = Agents::start().await;
    let lab = Lab::new(&agents);
    let checker = Checker(&lab);
    let namespace = checker.machine(Some(NODE));
    let by_machine = checker.machine_health_check(namespace, NODE);
    let by_node = checker.node_health_check();
    let manager = lab.manager().await;
    lab.until(&manager, "both freed", |lab| {
        lab.empties_out_of_service();
        [(namespace, &by_machine), (NAMESPACE, &by_node)]
            .iter()
            .all(|(namespace, name)| {
                let phase = lab.status(namespace, name).phase;
                phase.as_deref() == Some(snr::PHASE_FENCING_COMPLETED)
            })
    })
    .await;
    // As the original leaves it: without a note of the node.
    lab.api
        .update::<SelfNodeRemediation>(Some(namespace), &by_machine, |object| {
            let all = object.metadata.annotations.get_or_insert_default();
            assert!(all.remove(ORDERED_NODE_ANNOTATION).is_some());
        });
    lab.comes_back("b2");
    checker.deletes(NAMESPACE, &by_node);
    lab.until(&manager, "the first is released", |lab| {
        lab.remediation(NAMESPACE, &by_node).is_none()
    })
    .await;
    assert!(lab.has_taint(snr::REMEDIATION_TAINT), "{}", lab.story());
    checker.deletes(namespace, &by_machine);
    lab.until(&manager, "the second is released", |lab| {
        lab.remediation(namespace, &by_machine).is_none()
    })
    .await;
    assert_eq!(lab.taints(), []);
    lab.assert_right("two remediations");
}

/// A Machine without a node: nothing can start, and nothing else is taken for it.
#[tokio::test]
async fn a_machine_without_node_harms_nobody() {
    let agents = Agents::start().await;
    let lab = Lab::new(&agents);
    let checker = Checker(&lab);
    let namespace = checker.machine(None);
    let name = checker.machine_health_check(namespace, "");
    let manager = lab.manager().await;
    for _ in 0..120 {
        lab.pass(&manager).await;
    }
    assert!(lab.has_pods());
    assert_eq!(lab.taints(), []);
    assert!(lab.status(namespace, &name).last_error.is_some());
}

/// Without acknowledgement of half of the node's peers no time frees it; the checker sees that work goes on.
#[tokio::test]
async fn h05_agents_that_cannot_be_asked_hold_the_release() {
    let agents = Agents::start().await;
    let lab = Lab::new(&agents);
    agents.set_silent(true);
    let name = Checker(&lab).node_health_check();
    let manager = lab.manager().await;
    for _ in 0..200 {
        lab.pass(&manager).await;
    }
    assert!(lab.has_pods());
    assert_eq!(conditions(&lab, NAMESPACE, &name), pair("True", "Unknown"));
    assert_eq!(
        lab.told(snr::EVENT_WAITING_FOR_QUORUM).await,
        2,
        "remediation and node"
    );
    agents.set_silent(false);
    lab.until(&manager, "success", |lab| {
        lab.empties_out_of_service();
        conditions(lab, NAMESPACE, &name) == pair("False", "True")
    })
    .await;
}

/// E2, written by the node itself or passed on by a peer: twice the timeout and two seconds after its first sight.
#[tokio::test]
async fn last_words_free_early_whoever_wrote_them() {
    for (node, key, text) in [
        (NODE, snr::STOPPED_FEEDING_ANNOTATION, "b1/5"),
        ("a", snr::RELAYED_WORDS_ANNOTATION, "x=b1/5"),
    ] {
        let agents = Agents::start().await;
        let lab = Lab::new(&agents);
        let name = Checker(&lab).node_health_check();
        let manager = lab.manager().await;
        lab.until(&manager, "ordered", |lab| {
            lab.seen.lock().unwrap().ordered.is_some()
        })
        .await;
        // Of another boot: no evidence.
        let say = |text: &str| {
            lab.api.update::<Node>(None, node, |node| {
                let all = node.metadata.annotations.get_or_insert_default();
                all.insert(key.to_owned(), text.to_owned());
            });
        };
        say(&text.replace("b1", "b0"));
        for _ in 0..20 {
            lab.pass(&manager).await;
        }
        assert!(lab.has_pods());
        say(text);
        let from = lab.clock.now();
        lab.until(&manager, "freed", |lab| {
            lab.empties_out_of_service();
            conditions(lab, NAMESPACE, &name) == pair("False", "True")
        })
        .await;
        let waited = lab.seen.lock().unwrap().freed.unwrap().as_second() - from.as_second();
        assert!((12..=14).contains(&waited), "{waited}");
        lab.assert_right("last words");
    }
}
