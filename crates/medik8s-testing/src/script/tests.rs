use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::*;
use crate::build::node;

fn nodes(script: &Script) -> Api<Node> {
    Api::all(script.client())
}

const PATH: &str = "/api/v1/nodes/n1";

#[tokio::test]
async fn answers_what_it_was_told() {
    let script = Script::new([
        Expect::get(PATH).reply(Reply::ok(&node("n1"))),
        Expect::get(PATH).reply(Reply::not_found("nodes", "n1")),
        Expect::get(PATH).break_connection(),
    ]);
    let api = nodes(&script);
    assert_eq!(
        api.get("n1").await.unwrap().metadata.name.as_deref(),
        Some("n1")
    );
    assert_eq!(api.get_opt("n1").await.unwrap(), None);
    assert!(api.get("n1").await.is_err());
    script.verify();
    let codes: Vec<_> = script
        .recorded()
        .iter()
        .map(|request| request.status)
        .collect();
    assert_eq!(codes, [Some(200), Some(404), None]);
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the raw request is what is tested"
)]
async fn checks_query_content_type_and_body() {
    let expect = || {
        Expect::merge_patch(PATH)
            .query("fieldManager", "me")
            .without_query("force")
            .body_with(json!({"metadata": {"labels": {"a": "b"}}}))
            .reply(Reply::ok(&node("n1")))
    };
    let patch = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}});
    let params = PatchParams {
        field_manager: Some("me".to_owned()),
        ..PatchParams::default()
    };
    let script = Script::new([expect()]);
    nodes(&script)
        .patch("n1", &params, &Patch::Merge(&patch))
        .await
        .unwrap();
    script.verify();

    for (params, patch) in [
        (
            PatchParams::default(),
            json!({"metadata": {"labels": {"a": "b"}}}),
        ),
        (params, json!({"metadata": {"labels": {"a": "c"}}})),
    ] {
        let script = Script::new([expect()]);
        assert!(
            nodes(&script)
                .patch("n1", &params, &Patch::Merge(&patch))
                .await
                .is_err()
        );
        assert_eq!(script.lock().problems.len(), 1);
    }
}

#[tokio::test]
#[should_panic(expected = "unexpected GET /api/v1/nodes/n2")]
async fn an_unexpected_request_fails_the_test() {
    let script = Script::new([Expect::get(PATH)]);
    assert!(nodes(&script).get("n2").await.is_err());
    script.verify();
}

#[tokio::test]
#[should_panic(expected = "these requests did not come: DELETE /api/v1/nodes/n1")]
async fn a_missing_request_fails_the_test() {
    Script::new([Expect::delete(PATH)]).verify();
}

#[tokio::test(start_paused = true)]
async fn a_hanging_server_is_left_to_the_deadline_of_the_client() {
    let script = Script::new([Expect::get(PATH).hang()]);
    let api = nodes(&script);
    let get = api.get("n1");
    let limit = std::time::Duration::from_secs(5);
    assert!(tokio::time::timeout(limit, get).await.is_err());
    script.verify();
}
