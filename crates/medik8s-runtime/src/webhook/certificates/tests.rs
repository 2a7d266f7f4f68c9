use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    ServiceReference, ValidatingWebhook, WebhookClientConfig,
};
use medik8s_testing::{
    fake::{Failure, FakeApi, Fault},
    wire::Reply,
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn fake() -> FakeApi {
    let fake = FakeApi::new();
    fake.add_kind::<Secret>();
    fake.add_kind::<ValidatingWebhookConfiguration>();
    fake.add_kind::<MutatingWebhookConfiguration>();
    fake
}

/// What a plain `kubectl apply` of the manifests gives: no bundle.
fn configuration() -> ValidatingWebhookConfiguration {
    let service = ServiceReference {
        name: "svc".to_owned(),
        namespace: "medik8s".to_owned(),
        path: Some("/validate".to_owned()),
        port: None,
    };
    ValidatingWebhookConfiguration {
        metadata: ObjectMeta {
            name: Some("validating".to_owned()),
            ..ObjectMeta::default()
        },
        webhooks: Some(vec![ValidatingWebhook {
            name: "vtest.kb.io".to_owned(),
            client_config: WebhookClientConfig {
                service: Some(service),
                ..WebhookClientConfig::default()
            },
            ..ValidatingWebhook::default()
        }]),
    }
}

fn own(fake: &FakeApi, client: &str, clock: &Clock) -> SelfManaged {
    SelfManaged {
        client: fake.client_as(client),
        namespace: "medik8s".to_owned(),
        secret: "webhook-cert".to_owned(),
        service: "svc".to_owned(),
        validating: vec!["validating".to_owned()],
        mutating: vec!["mutating".to_owned()],
        extra_names: vec!["127.0.0.1".to_owned()],
        writer: Writer::new("test-operator"),
        clock: clock.clone(),
        metrics: Metrics::new().unwrap(),
    }
}

struct Replica {
    slot: CertSlot,
    check: Check,
    stop: Shutdown,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

fn start(own: SelfManaged) -> Replica {
    let (slot, check, stop) = (CertSlot::default(), Check::detached(), Shutdown::manual());
    let (its_slot, its_check, its_stop) = (slot.clone(), check.clone(), stop.clone());
    let source = Source::SelfManaged(Box::new(own));
    let running = tokio::spawn(async move { source.keep(&its_slot, &its_check, &its_stop).await });
    Replica {
        slot,
        check,
        stop,
        running,
    }
}

impl Replica {
    fn serves(&self) -> Vec<u8> {
        self.slot.get().unwrap().cert.first().unwrap().to_vec()
    }

    async fn end(self) {
        self.stop.trigger();
        self.running.await.unwrap().unwrap();
    }
}

fn clock() -> Clock {
    Clock::with_tokio("2026-03-01T12:00:00Z".parse::<Timestamp>().unwrap())
}

fn bundle(fake: &FakeApi) -> Option<Vec<u8>> {
    let found: ValidatingWebhookConfiguration = fake.get(None, "validating")?;
    found
        .webhooks?
        .pop()?
        .client_config
        .ca_bundle
        .map(|bytes| bytes.0)
}

fn stored(fake: &FakeApi) -> Material {
    let secret: Secret = fake.get(Some("medik8s"), "webhook-cert").unwrap();
    Material::read(&secret.data.unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_plain_install_works_and_all_replicas_share_one_certificate() {
    let (fake, clock) = (fake(), clock());
    fake.put(&configuration());
    let replicas = ["a", "b", "c"].map(|name| start(own(&fake, name, &clock)));
    tokio::time::sleep(10 * SECOND).await;
    let material = stored(&fake);
    assert_eq!(bundle(&fake), Some(material.bundle.clone()));
    let first = replicas[0].serves();
    for replica in &replicas {
        assert_eq!(replica.serves(), first);
        assert_eq!(replica.check.state(), Ok(()));
    }
    // The manifest's own fields are untouched.
    let found: ValidatingWebhookConfiguration = fake.get(None, "validating").unwrap();
    let mut expected = configuration().webhooks.unwrap();
    expected[0].client_config.ca_bundle = Some(ByteString(material.bundle));
    assert_eq!(found.webhooks, Some(expected));
    for replica in replicas {
        replica.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn manifests_that_are_applied_anew_get_the_bundle_at_once() {
    let (fake, clock) = (fake(), clock());
    let replica = start(own(&fake, "a", &clock));
    tokio::time::sleep(10 * SECOND).await;
    // Serving does not wait for a configuration that is not there.
    assert_eq!(replica.check.state(), Ok(()));
    fake.put(&configuration());
    tokio::time::sleep(2 * SECOND).await;
    assert!(bundle(&fake).is_some());
    fake.remove::<ValidatingWebhookConfiguration>(None, "validating");
    fake.put(&configuration());
    tokio::time::sleep(2 * SECOND).await;
    assert!(bundle(&fake).is_some());
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_served_that_the_api_server_does_not_trust_yet() {
    let (fake, clock) = (fake(), clock());
    fake.put(&configuration());
    let denied = Failure::Refuse(Reply::failure(403, "Forbidden", "no"));
    fake.inject(Fault::on(|request| request.method == "PATCH", denied).times(3));
    let replica = start(own(&fake, "a", &clock));
    tokio::time::sleep(SECOND).await;
    assert!(!replica.slot.is_set());
    assert!(replica.check.state().is_err());
    tokio::time::sleep(20 * SECOND).await;
    assert!(replica.slot.is_set() && bundle(&fake).is_some());
    assert_eq!(replica.check.state(), Ok(()));
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn certificates_and_authorities_are_renewed_while_everything_runs() {
    let fake = fake();
    let (clock, hands) = Clock::manual("2026-03-01T12:00:00Z".parse::<Timestamp>().unwrap());
    fake.put(&configuration());
    let replicas = ["a", "b"].map(|name| start(own(&fake, name, &clock)));
    tokio::time::sleep(10 * SECOND).await;
    let (first, served) = (stored(&fake), replicas[0].serves());
    hands.advance(Duration::from_hours(24 * 250));
    tokio::time::sleep(REFRESH + SECOND).await;
    let second = stored(&fake);
    assert_ne!(first.certificate, second.certificate);
    assert_eq!(first.bundle, second.bundle);
    assert_ne!(replicas[0].serves(), served);
    assert_eq!(replicas[0].serves(), replicas[1].serves());
    // Years later the authority itself is due.
    hands.advance(Duration::from_hours(24 * 2800));
    tokio::time::sleep(REFRESH + SECOND).await;
    let third = stored(&fake);
    assert!(third.bundle.ends_with(&first.bundle) && third.bundle.len() > first.bundle.len());
    assert_eq!(bundle(&fake), Some(third.bundle));
    assert_eq!(replicas[0].serves(), replicas[1].serves());
    for replica in replicas {
        replica.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_somebody_broke_is_made_anew() {
    let (fake, clock) = (fake(), clock());
    fake.put(&configuration());
    fake.put(&Secret {
        metadata: ObjectMeta {
            name: Some("webhook-cert".to_owned()),
            namespace: Some("medik8s".to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    });
    let replica = start(own(&fake, "a", &clock));
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(bundle(&fake), Some(stored(&fake).bundle));
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_served_stays_trusted_when_the_secret_is_lost() {
    let (fake, clock) = (fake(), clock());
    fake.put(&configuration());
    let replica = start(own(&fake, "a", &clock));
    tokio::time::sleep(10 * SECOND).await;
    let (first, served) = (stored(&fake), replica.serves());
    fake.remove::<Secret>(Some("medik8s"), "webhook-cert");
    // Somebody applies the manifests anew, so that it looks.
    fake.remove::<ValidatingWebhookConfiguration>(None, "validating");
    fake.put(&configuration());
    tokio::time::sleep(2 * SECOND).await;
    let second = stored(&fake);
    assert!(second.bundle.ends_with(&first.bundle) && second.bundle != first.bundle);
    assert_eq!(bundle(&fake), Some(second.bundle));
    // An API server may not have the new bundle yet.
    assert_eq!(replica.serves(), served);
    tokio::time::sleep(10 * SECOND).await;
    assert_ne!(replica.serves(), served);
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_takes_the_bundle_out_again_makes_no_storm() {
    let (fake, clock) = (fake(), clock());
    fake.put(&configuration());
    let replica = start(own(&fake, "a", &clock));
    tokio::time::sleep(10 * SECOND).await;
    let mut put_back = 0;
    for _ in 0..600 {
        if bundle(&fake).is_some() {
            put_back += 1;
            fake.remove::<ValidatingWebhookConfiguration>(None, "validating");
            fake.put(&configuration());
        }
        tokio::time::sleep(SECOND).await;
    }
    assert!(
        (5..30).contains(&put_back),
        "{put_back} times in 10 minutes"
    );
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_ran_out_is_not_ready() {
    let fake = fake();
    let (clock, hands) = Clock::manual("2026-03-01T12:00:00Z".parse::<Timestamp>().unwrap());
    fake.put(&configuration());
    let replica = start(own(&fake, "a", &clock));
    tokio::time::sleep(10 * SECOND).await;
    let refused = Failure::Refuse(Reply::failure(403, "Forbidden", "no"));
    fake.inject(Fault::on(|request| request.method == "PUT", refused).times(usize::MAX));
    hands.advance(Duration::from_hours(24 * 300));
    tokio::time::sleep(REFRESH + SECOND).await;
    assert_eq!(replica.check.state(), Ok(()), "it is still good");
    hands.advance(Duration::from_hours(24 * 100));
    tokio::time::sleep(REFRESH + SECOND).await;
    assert!(replica.check.state().is_err());
    replica.end().await;
}

#[test]
fn flags_choose_the_source() {
    let choose = |mode, dir: Option<&Path>| {
        let args = WebhookArgs {
            webhook_cert_mode: mode,
            webhook_cert_dir: dir.map(Into::into),
        };
        let files = CertFiles::in_dir(dir.unwrap_or_else(|| Path::new("/nowhere")));
        (candidates(&args), files)
    };
    let dir = tempfile::tempdir().unwrap();
    let (files, expected) = choose(CertMode::Files, Some(dir.path()));
    assert_eq!(files, Some(vec![expected]));
    let (files, _) = choose(CertMode::Files, None);
    assert_eq!(files, Some(vec![CertFiles::olm(), CertFiles::serving()]));
    assert_eq!(choose(CertMode::SelfManaged, Some(dir.path())).0, None);
    assert_eq!(choose(CertMode::Auto, Some(dir.path())).0, None);
    std::fs::write(dir.path().join("tls.crt"), "c").unwrap();
    std::fs::write(dir.path().join("tls.key"), "k").unwrap();
    let (files, expected) = choose(CertMode::Auto, Some(dir.path()));
    assert_eq!(files, Some(vec![expected]));
}
