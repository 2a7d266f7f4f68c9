use medik8s_testing::{
    fake::{Failure, FakeApi, Fault},
    wire::Reply,
};

use super::*;

#[tokio::test(start_paused = true)]
async fn the_answer_is_unknown_until_the_server_has_given_it() {
    let fake = FakeApi::new();
    let busy = Failure::Refuse(Reply::failure(503, "ServiceUnavailable", "later"));
    fake.inject(Fault::on(|_| true, busy).times(3));
    let (capability, discovery) = discover(fake.client());
    let stop = Shutdown::manual();
    let running = tokio::spawn(discovery.run(stop.clone()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(capability.current(), None);
    let known = capability.known(&stop).await.unwrap();
    assert_eq!(
        known.version,
        ServerVersion {
            major: 1,
            minor: 33
        }
    );
    assert!(known.serves("apps/v1") && !known.is_openshift() && !known.has_machine_api());
    stop.trigger();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_group_and_an_upgrade_are_noticed_without_a_restart() {
    let fake = FakeApi::new();
    let (mut capability, discovery) = discover(fake.client());
    let stop = Shutdown::manual();
    let running = tokio::spawn(discovery.run(stop.clone()));
    capability.known(&stop).await.unwrap();
    assert!(capability.changed(&stop).await);
    fake.add_dynamic_kind(
        "config.openshift.io/v1",
        "ClusterVersion",
        "clusterversions",
        false,
    );
    fake.set_version("1", "34+");
    assert!(capability.changed(&stop).await);
    let now = capability.current().unwrap();
    assert!(now.is_openshift());
    assert_eq!(now.version.minor, 34);
    // The last answer stays while nobody answers.
    fake.inject(Fault::on(|_| true, Failure::BreakBefore).times(1000));
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(capability.current(), Some(now));
    stop.trigger();
    assert!(!capability.changed(&stop).await);
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_followed_at_once() {
    let fake = FakeApi::new();
    let (mut capability, discovery) = discover(fake.client());
    let stop = Shutdown::manual();
    let running = tokio::spawn(discovery.run(stop.clone()));
    capability.known(&stop).await.unwrap();
    assert!(capability.changed(&stop).await);
    let (version, kind) = ("machine.openshift.io/v1beta1", "Machine");
    fake.add_dynamic_kind(version, kind, "machines", true);
    let start = tokio::time::Instant::now();
    capability.look_again();
    assert!(capability.changed(&stop).await);
    assert!(capability.current().unwrap().has_machine_api());
    assert!(start.elapsed() <= HINTED + Duration::from_secs(1));
    stop.trigger();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_kind_is_resolved_to_its_plural_and_scope() {
    let fake = FakeApi::with_medik8s_kinds();
    let client = fake.client();
    let api_version = "self-node-remediation.medik8s.io/v1alpha1";
    let found = resolve(&client, api_version, "SelfNodeRemediation")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.resource.plural, "selfnoderemediations");
    assert!(found.namespaced);
    let node = resolve(&client, "v1", "Node").await.unwrap().unwrap();
    assert!(!node.namespaced && node.resource.plural == "nodes" && node.resource.group.is_empty());
    assert_eq!(resolve(&client, api_version, "Other").await.unwrap(), None);
    assert_eq!(
        resolve(&client, "nothing.example.com/v1", "Other")
            .await
            .unwrap(),
        None
    );
}
