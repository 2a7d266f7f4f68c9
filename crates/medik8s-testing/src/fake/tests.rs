#![expect(
    clippy::disallowed_methods,
    reason = "the raw requests are what is tested"
)]

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, pin_mut};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::Eviction;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent,
    WatchParams,
};
use kube::core::ObjectMeta;
use kube::{Api, ResourceExt};
use medik8s_api::SelfNodeRemediation;
use medik8s_core::conditions::Status;
use medik8s_core::node_edit::NodeEdit;
use medik8s_core::taints::{DRAIN, has};
use serde_json::json;

use super::*;
use crate::build::{MetaExt, NodeExt, PodExt, at, lease, node, pod, self_node_remediation, time};

fn code<T>(result: Result<T, kube::Error>) -> Option<u16> {
    match result {
        Err(kube::Error::Api(status)) => Some(status.code),
        Ok(_) | Err(_) => None,
    }
}

fn fresh<K: ResourceExt>(mut object: K) -> K {
    object.meta_mut().resource_version = None;
    object
}

fn snrs(api: &FakeApi) -> Api<SelfNodeRemediation> {
    Api::namespaced(api.client(), "medik8s")
}

fn nodes(api: &FakeApi) -> Api<Node> {
    Api::all(api.client())
}

fn pods(api: &FakeApi) -> Api<Pod> {
    Api::default_namespaced(api.client())
}

#[tokio::test]
async fn objects_are_created_once() {
    let api = FakeApi::with_medik8s_kinds();
    api.set_time(at(7));
    let create = async |object| snrs(&api).create(&PostParams::default(), &object).await;
    let created = create(fresh(self_node_remediation("n1"))).await.unwrap();
    assert_eq!(created.metadata.creation_timestamp, Some(time(7)));
    assert_eq!(created.metadata.generation, Some(1));
    assert!(created.resource_version().is_some() && created.uid().unwrap() != "uid-n1");
    assert_eq!(
        code(create(fresh(self_node_remediation("n1"))).await),
        Some(409)
    );
    assert_eq!(code(create(self_node_remediation("n2")).await), Some(400));
    let elsewhere: Api<SelfNodeRemediation> = Api::namespaced(api.client(), "nowhere");
    let object = fresh(self_node_remediation("n2")).within("nowhere");
    assert_eq!(
        code(elsewhere.create(&PostParams::default(), &object).await),
        Some(404)
    );
}

#[tokio::test]
async fn generated_names_differ_and_keep_58_characters_of_the_base() {
    let api = FakeApi::with_medik8s_kinds();
    let mut names = Vec::new();
    for _ in 0..3 {
        let object = fresh(self_node_remediation("x")).with_meta(|meta| {
            meta.name = None;
            meta.generate_name = Some("n".repeat(70));
        });
        names.push(
            snrs(&api)
                .create(&PostParams::default(), &object)
                .await
                .unwrap()
                .name_any(),
        );
    }
    names.dedup();
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|name| name.len() == 63));
}

#[tokio::test]
async fn unknown_kinds_are_not_found() {
    let api = FakeApi::new();
    assert_eq!(
        code(snrs(&api).list(&ListParams::default()).await),
        Some(404)
    );
    api.add_kind::<SelfNodeRemediation>();
    assert_eq!(
        snrs(&api)
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        0
    );
    api.put(&self_node_remediation("n1"));
    api.remove_kind(
        "self-node-remediation.medik8s.io/v1alpha1",
        "SelfNodeRemediation",
    );
    assert_eq!(code(snrs(&api).get("n1").await), Some(404));
}

#[tokio::test]
async fn replace_needs_the_stored_version() {
    let api = FakeApi::new();
    let now = at(0);
    api.put(&lease("medik8s-leases", "node-n1", "a", now, 60));
    let leases: Api<Lease> = Api::namespaced(api.client(), "medik8s-leases");
    let read = leases.get("node-n1").await.unwrap();
    let mut mine = read.clone();
    mine.spec.as_mut().unwrap().holder_identity = Some("b".to_owned());
    let put = async |lease: &Lease| {
        leases
            .replace("node-n1", &PostParams::default(), lease)
            .await
    };
    let stored = put(&mine).await.unwrap();
    assert_ne!(stored.resource_version(), read.resource_version());
    assert_eq!(code(put(&mine).await), Some(409));
    assert_eq!(code(put(&fresh(mine.clone())).await), Some(422));
    let mut other = stored.clone();
    other.metadata.uid = Some("another".to_owned());
    assert_eq!(code(put(&other).await), Some(409));
    assert_eq!(
        put(&stored).await.unwrap().resource_version(),
        stored.resource_version()
    );
}

#[tokio::test]
async fn status_is_a_subresource() {
    let api = FakeApi::with_medik8s_kinds();
    api.put(&self_node_remediation("n1"));
    let patch = json!({
        "metadata": {"labels": {"a": "b"}},
        "spec": {"remediationStrategy": "Automatic"}, "status": {"phase": "x"},
    });
    let params = PatchParams::default();
    let object = snrs(&api)
        .patch_status("n1", &params, &Patch::Merge(&patch))
        .await
        .unwrap();
    assert_eq!(object.status.as_ref().unwrap().phase.as_deref(), Some("x"));
    assert_eq!(object.spec.remediation_strategy, None);
    assert_eq!(object.metadata.labels, None);
    assert_eq!(object.metadata.generation, Some(1));

    let patch = json!({"spec": {"remediationStrategy": "Automatic"}, "status": {"phase": "y"}});
    let object = snrs(&api)
        .patch("n1", &params, &Patch::Merge(&patch))
        .await
        .unwrap();
    assert_eq!(object.status.as_ref().unwrap().phase.as_deref(), Some("x"));
    assert!(object.spec.remediation_strategy.is_some());
    assert_eq!(object.metadata.generation, Some(2));
}

#[tokio::test]
async fn a_merge_patch_may_carry_preconditions() {
    let api = FakeApi::with_medik8s_kinds();
    let stored = api.put(&self_node_remediation("n1"));
    let patch = async |metadata: Value| {
        let patch = json!({"metadata": metadata, "status": {"phase": "x"}});
        let params = PatchParams::default();
        code(
            snrs(&api)
                .patch_status("n1", &params, &Patch::Merge(&patch))
                .await,
        )
    };
    assert_eq!(patch(json!({"resourceVersion": "1"})).await, Some(409));
    assert_eq!(patch(json!({"uid": "another"})).await, Some(409));
    assert_eq!(
        patch(json!({"resourceVersion": stored.resource_version()})).await,
        None
    );
    assert_eq!(
        patch(json!({"resourceVersion": stored.resource_version()})).await,
        Some(409)
    );
}

#[tokio::test]
async fn a_json_patch_tests_first() {
    let api = FakeApi::new();
    let read = api.put(&node("n1"));
    let patch = NodeEdit::of(&read)
        .add_taints(&[DRAIN.taint()])
        .cordon()
        .patch();
    let patch: Patch<()> = Patch::Json(patch.unwrap().unwrap());
    let send = async || {
        nodes(&api)
            .patch("n1", &PatchParams::default(), &patch)
            .await
    };
    let changed = send().await.unwrap();
    assert!(has(&changed, DRAIN));
    assert_eq!(code(send().await), Some(422));

    let test_for_nothing: json_patch::Patch = serde_json::from_value(json!([
        {"op": "test", "path": "/metadata/annotations", "value": null},
        {"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}},
    ]))
    .unwrap();
    let patch: Patch<()> = Patch::Json(test_for_nothing);
    let send = async || {
        nodes(&api)
            .patch("n1", &PatchParams::default(), &patch)
            .await
    };
    assert!(send().await.is_ok());
    assert_eq!(code(send().await), Some(422));
}

#[tokio::test]
async fn apply_creates_merges_and_withdraws() {
    let api = FakeApi::new();
    let apply = async |manager: &str, body: Value| {
        let mut patch = json!({"apiVersion": "v1", "kind": "Namespace"});
        json_patch::merge(&mut patch, &body);
        let namespaces: Api<Namespace> = Api::all(api.client());
        namespaces
            .patch(
                "new",
                &PatchParams::apply(manager).force(),
                &Patch::Apply(&patch),
            )
            .await
    };
    let gone = apply("a", json!({"metadata": {"uid": "x"}})).await;
    assert_eq!(code(gone), Some(409));
    let labels = |labels: Value| json!({"metadata": {"labels": labels}});
    apply("a", labels(json!({"one": "1", "two": "2"})))
        .await
        .unwrap();
    apply("b", labels(json!({"three": "3"}))).await.unwrap();
    let stored = apply("a", labels(json!({"one": "1"}))).await.unwrap();
    let names: Vec<&str> = stored.labels().keys().map(String::as_str).collect();
    assert_eq!(names, ["one", "three"]);
    let managed = json!({"metadata": {"managedFields": [{"manager": "a"}]}});
    assert_eq!(code(apply("a", managed).await), Some(400));
}

#[tokio::test]
async fn finalizers_hold_an_object_back() {
    let api = FakeApi::with_medik8s_kinds();
    api.set_time(at(9));
    let stored = api.put(&self_node_remediation("n1").finalized_by("f"));
    let delete = async |params: &DeleteParams| snrs(&api).delete("n1", params).await;
    let wrong = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some("another".to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    assert_eq!(code(delete(&wrong).await), Some(409));
    let right = DeleteParams {
        preconditions: Some(Preconditions {
            uid: stored.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let marked = delete(&right).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.deletion_timestamp, Some(time(9)));

    let patch = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    let send = async |body: Value| {
        snrs(&api)
            .patch("n1", &PatchParams::default(), &Patch::Merge(&body))
            .await
    };
    assert_eq!(code(send(patch(json!(["f", "g"]))).await), Some(422));
    send(patch(Value::Null)).await.unwrap();
    assert_eq!(api.get::<SelfNodeRemediation>(Some("medik8s"), "n1"), None);
    assert_eq!(code(delete(&right).await), Some(404));
}

#[tokio::test]
async fn lists_select_and_page() {
    let api = FakeApi::new();
    for index in 0..5 {
        let node = if index % 2 == 0 { "n1" } else { "n2" };
        api.put(
            &pod("default", &format!("p{index}"))
                .on(node)
                .labelled("app", "web"),
        );
    }
    api.put(&pod("other", "p9").on("n1"));
    let all: Api<Pod> = Api::all(api.client());
    let on_n1 = ListParams::default().fields("spec.nodeName=n1");
    let names = |list: Vec<Pod>| list.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
    let list = all.list(&on_n1).await.unwrap();
    assert_eq!(names(list.items), ["p0", "p2", "p4", "p9"]);
    let list = all
        .list(&on_n1.clone().labels("app in (web)"))
        .await
        .unwrap();
    assert_eq!(names(list.items), ["p0", "p2", "p4"]);
    assert_eq!(pods(&api).list(&on_n1).await.unwrap().items.len(), 3);

    let mut page = on_n1.limit(3);
    let first = all.list(&page).await.unwrap();
    assert_eq!(first.items.len(), 3);
    assert_eq!(first.metadata.remaining_item_count, Some(1));
    page.continue_token = first.metadata.continue_;
    let second = all.list(&page).await.unwrap();
    assert_eq!(names(second.items), ["p9"]);
    assert_eq!(second.metadata.continue_, None);

    let metadata = nodes(&api)
        .list_metadata(&ListParams::default())
        .await
        .unwrap();
    assert_eq!(metadata.items.len(), 0);
}

#[tokio::test]
async fn evictions_obey_their_precondition() {
    let api = FakeApi::new();
    api.put(&pod("default", "p").on("n1"));
    let evict = async |uid: &str| {
        let eviction = Eviction {
            delete_options: Some(
                k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions {
                    preconditions: Some(
                        k8s_openapi::apimachinery::pkg::apis::meta::v1::Preconditions {
                            uid: Some(uid.to_owned()),
                            resource_version: None,
                        },
                    ),
                    ..Default::default()
                },
            ),
            metadata: ObjectMeta {
                name: Some("p".to_owned()),
                ..ObjectMeta::default()
            },
        };
        let (pods, params) = (pods(&api), PostParams::default());
        let created = pods.create_subresource::<_, Value>("eviction", "p", &params, &eviction);
        code(created.await)
    };
    assert_eq!(evict("another").await, Some(409));
    api.inject(Fault::on_request(
        "POST",
        "/api/v1/namespaces/default/pods/p/eviction",
        Failure::Refuse(Reply::too_many_requests("the budget web allows none").retry_after(3)),
    ));
    assert_eq!(evict("uid-p").await, Some(429));
    api.keep_terminating_pods();
    assert_eq!(evict("uid-p").await, None);
    let pod: Pod = api.get(Some("default"), "p").unwrap();
    assert!(pod.metadata.deletion_timestamp.is_some());
    api.remove::<Pod>(Some("default"), "p");
    assert_eq!(evict("uid-p").await, Some(404));
}

#[tokio::test]
async fn collections_cannot_be_deleted() {
    let api = FakeApi::new();
    let deleted = pods(&api)
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await;
    assert_eq!(code(deleted), Some(405));
}

#[tokio::test]
async fn watches_deliver_what_changes() {
    let api = FakeApi::new();
    api.put(&pod("default", "old").on("n1"));
    let list = pods(&api).list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let params = WatchParams::default().fields("spec.nodeName=n1");
    let events = pods(&api).watch(&params, &version).await.unwrap();
    pin_mut!(events);
    api.put(&pod("default", "new").on("n1"));
    api.put(&pod("default", "elsewhere").on("n2"));
    api.update::<Pod>(Some("default"), "new", |pod| {
        *pod = pod.clone().running(Status::True, at(1));
    });
    api.update::<Pod>(Some("default"), "old", |pod| {
        pod.spec.as_mut().unwrap().node_name = Some("n2".to_owned());
    });
    api.remove::<Pod>(Some("default"), "new");
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(match events.next().await.unwrap().unwrap() {
            WatchEvent::Added(pod) => format!("+{}", pod.name_any()),
            WatchEvent::Modified(pod) => format!("~{}", pod.name_any()),
            WatchEvent::Deleted(pod) => format!("-{}", pod.name_any()),
            other @ (WatchEvent::Bookmark(_) | WatchEvent::Error(_)) => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["+new", "~new", "-old", "-new"]);
    api.drop_watches();
    assert!(events.next().await.is_none());
    api.compact();
    let events = pods(&api).watch(&params, &version).await.unwrap();
    let events: Vec<_> = events.collect().await;
    assert!(matches!(&events[..], [Ok(WatchEvent::Error(status))] if status.code == 410));
}

#[tokio::test]
async fn a_watch_without_version_begins_with_what_is_there() {
    let api = FakeApi::new();
    api.put(&node("n1").ready(at(0)));
    let events = nodes(&api)
        .watch(&WatchParams::default(), "0")
        .await
        .unwrap();
    let first: Vec<_> = events.take(1).try_collect().await.unwrap();
    assert!(matches!(&first[..], [WatchEvent::Added(node)] if node.name_any() == "n1"));
}

#[tokio::test]
async fn discovery_knows_the_kinds() {
    let api = FakeApi::with_medik8s_kinds();
    let client = api.client();
    let version = client.apiserver_version().await.unwrap();
    assert_eq!(
        (version.major.as_str(), version.minor.as_str()),
        ("1", "33")
    );
    let groups = client.list_api_groups().await.unwrap().groups;
    assert!(
        groups
            .iter()
            .any(|group| group.name == "remediation.medik8s.io")
    );
    let group = "self-node-remediation.medik8s.io/v1alpha1";
    let resources = client
        .list_api_group_resources(group)
        .await
        .unwrap()
        .resources;
    let snr = resources
        .iter()
        .find(|resource| resource.kind == "SelfNodeRemediation")
        .unwrap();
    assert!(snr.namespaced && snr.name == "selfnoderemediations");
    let absent = client
        .list_api_group_resources("config.openshift.io/v1")
        .await;
    assert_eq!(code(absent), Some(404));
}

#[tokio::test(start_paused = true)]
async fn faults_fail_requests_in_every_way() {
    let api = FakeApi::new();
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    let send = async || {
        let nodes = nodes(&api);
        let params = PatchParams::default();
        let patch = Patch::Merge(&patch);
        let sent = nodes.patch("n1", &params, &patch);
        tokio::time::timeout(Duration::from_secs(10), sent).await
    };
    // Failure, whether it is carried out, and what the client sees: status, error or nothing.
    for (failure, stored, expected) in [
        (
            Failure::Refuse(Reply::failure(500, "InternalError", "x")),
            false,
            "500",
        ),
        (Failure::BreakBefore, false, "error"),
        (Failure::BreakAfter, true, "error"),
        (Failure::Hang, false, "nothing"),
        (Failure::HangAfter, true, "nothing"),
        (Failure::Late(Duration::from_secs(5)), true, "ok"),
    ] {
        api.put(&node("n1"));
        api.inject(Fault::on_write(1, failure.clone()));
        let seen = match send().await {
            Err(_) => "nothing".to_owned(),
            Ok(Ok(_)) => "ok".to_owned(),
            Ok(Err(kube::Error::Api(status))) => status.code.to_string(),
            Ok(Err(_)) => "error".to_owned(),
        };
        assert_eq!(seen, expected, "{failure:?}");
        let node: Node = api.get(None, "n1").unwrap();
        assert_eq!(node.labels().contains_key("a"), stored, "{failure:?}");
        assert!(send().await.unwrap().is_ok(), "only one request fails");
        api.remove::<Node>(None, "n1");
    }
}

#[tokio::test]
async fn a_client_can_be_cut_off() {
    let api = FakeApi::new();
    api.put(&node("n1"));
    let of = |name: &str| -> Api<Node> { Api::all(api.client_as(name)) };
    api.set_reachable("a", false);
    assert!(of("a").get("n1").await.is_err());
    assert!(of("b").get("n1").await.is_ok());
    api.set_reachable("a", true);
    assert!(of("a").get("n1").await.is_ok());
    let statuses: Vec<_> = api
        .requests()
        .into_iter()
        .map(|request| (request.client, request.status))
        .collect();
    let expected = [("a", None), ("b", Some(200)), ("a", Some(200))];
    assert_eq!(
        statuses,
        expected.map(|(client, status)| (client.to_owned(), status))
    );
}

#[tokio::test]
async fn interceptors_answer_first() {
    let api = FakeApi::new();
    api.put(&node("n1"));
    api.intercept(|request| {
        (request.method == "GET").then(|| Reply::failure(403, "Forbidden", "no").into())
    });
    assert_eq!(code(nodes(&api).get("n1").await), Some(403));
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let api = FakeApi::new();
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let created = nodes(&api)
        .create(&params, &fresh(node("n1")))
        .await
        .unwrap();
    assert_eq!(created.name_any(), "n1");
    assert_eq!(api.list::<Node>().len(), 0);
    assert!(api.writes().is_empty());
}
