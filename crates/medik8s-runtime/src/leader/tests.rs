use jiff::Timestamp;
use medik8s_testing::fake::{Failure, FakeApi, Fault};

use super::*;
use crate::process::Process;

const SECOND: Duration = Duration::from_secs(1);
const NAME: &str = "e1f13584.medik8s.io";
const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/medik8s/leases/e1f13584.medik8s.io";

fn settings(fake: &FakeApi, identity: &str, clock: &Clock) -> (Settings, Metrics) {
    let metrics = Metrics::new().unwrap();
    let settings = Settings {
        client: fake.client_as(identity),
        namespace: "medik8s".to_owned(),
        name: NAME.to_owned(),
        identity: identity.to_owned(),
        field_manager: "test-operator",
        clock: clock.clone(),
        metrics: metrics.clone(),
        params: Params::default(),
    };
    (settings, metrics)
}

fn stored(fake: &FakeApi) -> k8s_openapi::api::coordination::v1::LeaseSpec {
    fake.get::<Lease>(Some("medik8s"), NAME)
        .unwrap()
        .spec
        .unwrap()
}

fn clock() -> Clock {
    Clock::with_tokio(Timestamp::from_second(1_700_000_000).unwrap())
}

#[tokio::test(start_paused = true)]
async fn leads_renews_and_gives_back() {
    let (fake, clock) = (FakeApi::new(), clock());
    let (settings, metrics) = settings(&fake, "a", &clock);
    let (leadership, elector) = elector(settings);
    assert!(leadership.check().is_err());
    let stop = Shutdown::manual();
    let running = tokio::spawn(elector.run(stop.clone()));
    assert!(leadership.acquired(&stop).await);
    let first = stored(&fake);
    assert_eq!(first.holder_identity.as_deref(), Some("a"));
    assert_eq!(first.lease_duration_seconds, Some(15));
    assert!(
        metrics
            .text()
            .unwrap()
            .contains(&format!("{{name=\"{NAME}\"}} 1"))
    );
    tokio::time::sleep(60 * SECOND).await;
    assert!(leadership.is_leader());
    // Renewed every 5 s: 12 requests per minute, as promised to other holders.
    let requests = fake.requests().len();
    assert!((12..=15).contains(&requests), "{requests}");
    stop.trigger();
    running.await.unwrap().unwrap();
    assert!(!leadership.is_leader());
    let last = stored(&fake);
    assert_eq!(last.holder_identity.as_deref(), Some(""));
    assert_eq!(last.lease_duration_seconds, Some(1));
    assert!(
        metrics
            .text()
            .unwrap()
            .contains(&format!("{{name=\"{NAME}\"}} 0"))
    );
}

#[tokio::test(start_paused = true)]
async fn another_replica_takes_over_soon_after_a_release_and_late_after_a_crash() {
    for (clean, least, most) in [(true, 0, 4), (false, 10, 19)] {
        let (fake, clock) = (FakeApi::new(), clock());
        let (first, elector_a) = elector(settings(&fake, "a", &clock).0);
        let (second, elector_b) = elector(settings(&fake, "b", &clock).0);
        let (stop_a, stop_b) = (Shutdown::manual(), Shutdown::manual());
        let a = tokio::spawn(elector_a.run(stop_a.clone()));
        assert!(first.acquired(&stop_a).await);
        let b = tokio::spawn(elector_b.run(stop_b.clone()));
        tokio::time::sleep(60 * SECOND).await;
        assert!(first.is_leader() && !second.is_leader());
        let started = tokio::time::Instant::now();
        if clean {
            stop_a.trigger();
        } else {
            a.abort();
        }
        assert!(second.acquired(&stop_b).await);
        let took = started.elapsed().as_secs();
        assert!((least..=most).contains(&took), "clean={clean} took {took}");
        assert!(!first.is_leader(), "two leaders");
        assert_eq!(stored(&fake).lease_transitions, Some(1));
        stop_b.trigger();
        b.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_ends_before_another_one_begins() {
    let (fake, clock) = (FakeApi::new(), clock());
    let (first, elector_a) = elector(settings(&fake, "a", &clock).0);
    let (second, elector_b) = elector(settings(&fake, "b", &clock).0);
    let stop = Shutdown::manual();
    let a = tokio::spawn(elector_a.run(stop.clone()));
    assert!(first.acquired(&stop).await);
    let b = tokio::spawn(elector_b.run(stop.clone()));
    tokio::time::sleep(21 * SECOND).await;
    fake.set_reachable("a", false);
    let cut = tokio::time::Instant::now();
    let mut lost_at = None;
    while !second.is_leader() {
        if !first.is_leader() {
            lost_at.get_or_insert_with(|| cut.elapsed());
        }
        tokio::time::sleep(SECOND / 20).await;
    }
    let (lost, taken) = (lost_at.expect("two leaders"), cut.elapsed());
    assert!(
        lost <= 10 * SECOND && taken >= lost + 4 * SECOND,
        "{lost:?} {taken:?}"
    );
    let error = a.await.unwrap().unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("lost the leader lease medik8s/"),
        "{error}"
    );
    stop.trigger();
    b.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn requests_that_hang_do_not_stretch_the_renew_deadline() {
    let (fake, clock) = (FakeApi::new(), clock());
    let (leadership, elector) = elector(settings(&fake, "a", &clock).0);
    let stop = Shutdown::manual();
    let running = tokio::spawn(elector.run(stop.clone()));
    assert!(leadership.acquired(&stop).await);
    let acquired = tokio::time::Instant::now();
    fake.inject(Fault::on(|_| true, Failure::HangAfter).times(1000));
    running.await.unwrap().unwrap_err();
    assert!(
        acquired.elapsed() <= 10 * SECOND,
        "{:?}",
        acquired.elapsed()
    );
    assert!(!leadership.is_leader());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_renewal_is_not_a_lost_lease() {
    let (fake, clock) = (FakeApi::new(), clock());
    let (leadership, elector) = elector(settings(&fake, "a", &clock).0);
    let stop = Shutdown::manual();
    let running = tokio::spawn(elector.run(stop.clone()));
    assert!(leadership.acquired(&stop).await);
    fake.inject(Fault::on_request("PUT", PATH, Failure::BreakAfter));
    fake.inject(Fault::on_request("PUT", PATH, Failure::BreakBefore).skipping(2));
    for _ in 0..60 {
        tokio::time::sleep(SECOND).await;
        assert!(leadership.is_leader());
    }
    stop.trigger();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stolen_lease_ends_the_process_at_the_next_look() {
    let (fake, clock) = (FakeApi::new(), clock());
    let (leadership, elector) = elector(settings(&fake, "a", &clock).0);
    let stop = Shutdown::manual();
    let mut process = Process::new(stop.clone());
    process.service("leader", |stop| async move { Ok(elector.run(stop).await?) });
    let running = tokio::spawn(process.run());
    assert!(leadership.acquired(&stop).await);
    fake.update::<Lease>(Some("medik8s"), NAME, |lease| {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some("thief".to_owned());
    });
    let error = running.await.unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("thief holds it"), "{error:#}");
    assert!(!leadership.is_leader());
    // It is not ours to give back.
    assert_eq!(stored(&fake).holder_identity.as_deref(), Some("thief"));
}

#[tokio::test(start_paused = true)]
async fn a_foreign_lease_that_is_renewed_is_respected_for_ever() {
    let (fake, clock) = (FakeApi::new(), clock());
    let (_, other) = elector(settings(&fake, "go-manager", &clock).0);
    let stop = Shutdown::manual();
    tokio::spawn(other.run(stop.clone()));
    tokio::time::sleep(SECOND).await;
    let (leadership, elector) = elector(settings(&fake, "a", &clock).0);
    let running = tokio::spawn(elector.run(stop.clone()));
    for _ in 0..120 {
        tokio::time::sleep(SECOND).await;
        assert!(!leadership.is_leader());
    }
    let wrote = fake.writes().iter().any(|request| request.client == "a");
    assert!(!wrote, "a follower wrote");
    stop.trigger();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_an_election_everybody_leads() {
    let leadership = Leadership::always(Clock::system());
    assert!(leadership.is_leader());
    assert!(leadership.acquired(&Shutdown::manual()).await);
}

#[test]
fn identities_are_unique_and_look_as_client_gos() {
    let (a, b) = (identity(), identity());
    assert_ne!(a, b);
    let uuid = a.rsplit_once('_').unwrap().1;
    let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12]);
    let digits: Vec<char> = uuid.chars().collect();
    assert!(digits[14] == '4' && "89ab".contains(digits[19]), "{uuid}");
}
