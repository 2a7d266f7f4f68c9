use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use medik8s_testing::{
    fake::{Failure, FakeApi, Fault},
    wire::Reply,
};

use super::*;
use crate::leader::Leadership;

const MINUTES: Duration = Duration::from_mins(1);

fn leases(fake: &FakeApi) -> (NodeLeases, Clock) {
    let clock = Clock::with_tokio(Timestamp::from_second(1_700_000_000).unwrap());
    let writer = Writer::new("test-operator").gated(Leadership::always(clock.clone()));
    (
        NodeLeases::new(fake.client(), "medik8s-leases", writer, clock.clone()),
        clock,
    )
}

fn stored(fake: &FakeApi) -> Option<LeaseSpec> {
    fake.get::<Lease>(Some("medik8s-leases"), "node-n1")?.spec
}

fn owner() -> Owner {
    Owner::node("n1", "uid-1")
}

async fn request(leases: &NodeLeases, holder: &str) -> Result<Lease, LeaseError> {
    leases
        .request(&owner(), holder, 60 * MINUTES, Incident::Ongoing)
        .await
}

#[tokio::test(start_paused = true)]
async fn one_holder_at_a_time() {
    let fake = FakeApi::new();
    let (leases, _) = leases(&fake);
    let lease = request(&leases, "node-maintenance").await.unwrap();
    assert_eq!(lease.metadata.name.as_deref(), Some("node-n1"));
    let refused = request(&leases, "NodeHealthCheck-x").await.unwrap_err();
    let LeaseError::AlreadyHeld(AlreadyHeld { holder }) = &refused else {
        panic!("{refused}")
    };
    assert_eq!(holder, "node-maintenance");
    assert_eq!(
        refused.to_string(),
        "can't update or invalidate the lease because it is held by different owner: \
         node-maintenance"
    );
    let writes = fake.writes().len();
    request(&leases, "node-maintenance").await.unwrap();
    assert_eq!(fake.writes().len(), writes, "long enough, nothing to write");
    tokio::time::sleep(61 * MINUTES).await;
    request(&leases, "NodeHealthCheck-x").await.unwrap();
    assert_eq!(stored(&fake).unwrap().lease_transitions, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_claim_takes_what_is_free_and_nothing_else() {
    let fake = FakeApi::new();
    let (leases, _) = leases(&fake);
    let claim = async |holder| leases.claim(&owner(), holder, 60 * MINUTES).await;
    let taken = claim("node-maintenance").await.unwrap();
    assert_eq!(fake.requests().len(), 1, "no look first");
    let refused = claim("NodeHealthCheck-x").await.unwrap_err();
    assert!(matches!(refused, LeaseError::AlreadyHeld(_)), "{refused}");
    assert_eq!(
        claim("node-maintenance").await.unwrap().metadata.uid,
        taken.metadata.uid
    );
    tokio::time::sleep(61 * MINUTES).await;
    claim("NodeHealthCheck-x").await.unwrap();
    assert_eq!(stored(&fake).unwrap().lease_transitions, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_lost_race_is_decided_anew() {
    let fake = FakeApi::new();
    let (leases, _) = leases(&fake);
    request(&leases, "node-maintenance").await.unwrap();
    tokio::time::sleep(40 * MINUTES).await;
    // Somebody touches the lease between our read and our write.
    let conflict = Failure::Refuse(Reply::conflict("changed"));
    fake.inject(Fault::on_write(1, conflict.clone()).times(2));
    request(&leases, "node-maintenance").await.unwrap();
    tokio::time::sleep(40 * MINUTES).await;
    fake.inject(Fault::on_write(1, conflict).times(3));
    let error = request(&leases, "node-maintenance").await.unwrap_err();
    assert_eq!(error.class(), Class::Conflict);
}

#[tokio::test(start_paused = true)]
async fn the_namespace_is_made_when_it_is_missing() {
    let fake = FakeApi::new();
    fake.remove::<Namespace>(None, "medik8s-leases");
    let (leases, _) = leases(&fake);
    request(&leases, "node-maintenance").await.unwrap();
    assert!(fake.get::<Namespace>(None, "medik8s-leases").is_some());
    leases.ensure_namespace().await.unwrap();
    fake.remove::<Namespace>(None, "medik8s-leases");
    leases.ensure_namespace().await.unwrap();
    assert!(fake.get::<Namespace>(None, "medik8s-leases").is_some());
}

#[tokio::test(start_paused = true)]
async fn only_our_own_lease_is_given_back() {
    let fake = FakeApi::new();
    let (leases, _) = leases(&fake);
    assert_eq!(leases.release("n1", "a").await.unwrap(), Released::Absent);
    request(&leases, "a").await.unwrap();
    assert!(matches!(
        leases.release("n1", "b").await,
        Err(LeaseError::AlreadyHeld(_))
    ));
    assert!(stored(&fake).is_some());
    assert_eq!(leases.release("n1", "a").await.unwrap(), Released::Deleted);
    assert!(stored(&fake).is_none());
    let delete = fake.writes().pop().unwrap();
    assert_eq!(delete.method, "DELETE");
    let preconditions = &delete.body["preconditions"];
    assert!(preconditions["uid"].is_string() && preconditions["resourceVersion"].is_string());
}

#[tokio::test(start_paused = true)]
async fn an_overdue_lease_is_deleted_once() {
    let fake = FakeApi::new();
    let (leases, _) = leases(&fake);
    let step = 10 * MINUTES;
    let keep = async || {
        leases
            .upkeep(&owner(), "a", 11 * MINUTES, step, Duration::ZERO)
            .await
    };
    assert_eq!(keep().await.unwrap(), Kept::NotOurs);
    leases
        .request(&owner(), "a", 11 * MINUTES, Incident::New)
        .await
        .unwrap();
    assert!(matches!(keep().await.unwrap(), Kept::Held(_)));
    for _ in 0..3 {
        tokio::time::sleep(10 * MINUTES).await;
        assert!(matches!(keep().await.unwrap(), Kept::Held(_)));
    }
    tokio::time::sleep(MINUTES).await;
    assert_eq!(keep().await.unwrap(), Kept::Overdue);
    assert!(stored(&fake).is_none());
    assert_eq!(leases.list().await.unwrap(), []);
}
