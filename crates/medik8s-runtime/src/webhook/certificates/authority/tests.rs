use super::*;

const NAMES: [&str; 3] = ["svc.ns.svc", "svc.ns", "127.0.0.1"];

fn names() -> Vec<String> {
    NAMES.map(str::to_owned).to_vec()
}

fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn later(days: u32) -> Timestamp {
    start() + DAY * days
}

fn fresh() -> Material {
    make(Wanted::Authority, None, &names(), start()).unwrap()
}

fn count(bundle: &[u8]) -> usize {
    ders(bundle).len()
}

#[test]
fn nothing_stored_needs_an_authority() {
    assert_eq!(plan(None, &names(), start()), Plan::Make(Wanted::Authority));
}

#[test]
fn what_was_made_is_kept_until_a_third_is_left() {
    let material = fresh();
    for days in [0, 1, 100, 244] {
        assert_eq!(
            plan(Some(&material), &names(), later(days)),
            Plan::Keep,
            "day {days}"
        );
    }
    for days in [246, 364, 400, 2900] {
        assert_eq!(
            plan(Some(&material), &names(), later(days)),
            Plan::Make(Wanted::Certificate),
            "day {days}"
        );
    }
}

#[test]
fn an_old_authority_is_replaced_and_stays_trusted_until_it_runs_out() {
    let first = fresh();
    let day = 3650 - 730 + 1;
    assert_eq!(
        plan(Some(&first), &names(), later(day)),
        Plan::Make(Wanted::Authority)
    );
    let second = make(Wanted::Authority, Some(&first), &names(), later(day)).unwrap();
    assert_eq!(count(&second.bundle), 2);
    assert!(
        second
            .bundle
            .ends_with(pem_text(&ders(&first.bundle)[0]).as_bytes())
    );
    assert_eq!(plan(Some(&second), &names(), later(day)), Plan::Keep);
    // At the next rotation the first one has run out.
    let third = make(Wanted::Authority, Some(&second), &names(), later(2 * day)).unwrap();
    assert_eq!(count(&third.bundle), 2);
}

#[test]
fn a_certificate_never_outlives_its_authority() {
    assert!(CERTIFICATE_LIFE < AUTHORITY_RENEWAL);
    assert!(CERTIFICATE_RENEWAL < CERTIFICATE_LIFE);
    assert!(AUTHORITY_RENEWAL < AUTHORITY_LIFE);
}

#[test]
fn a_renewed_certificate_is_signed_by_the_same_authority() {
    let first = fresh();
    let second = make(Wanted::Certificate, Some(&first), &names(), later(300)).unwrap();
    assert_eq!(first.bundle, second.bundle);
    assert_ne!(first.certificate, second.certificate);
    assert_eq!(plan(Some(&second), &names(), later(300)), Plan::Keep);
}

#[test]
fn other_names_need_another_certificate() {
    let material = fresh();
    for name in ["other.ns.svc", "127.0.0.2", "::1"] {
        let mut wanted = names();
        wanted.push(name.to_owned());
        let decided = plan(Some(&material), &wanted, start());
        assert_eq!(decided, Plan::Make(Wanted::Certificate), "{name}");
    }
}

#[test]
fn broken_entries_are_replaced() {
    let good = fresh();
    let other = fresh();
    let nonsense = b"nonsense".to_vec();
    let cases = [
        (
            Material {
                bundle: nonsense.clone(),
                ..good.clone()
            },
            Wanted::Authority,
        ),
        (
            Material {
                authority_key: nonsense.clone(),
                ..good.clone()
            },
            Wanted::Authority,
        ),
        (
            Material {
                authority_key: other.authority_key.clone(),
                ..good.clone()
            },
            Wanted::Authority,
        ),
        (
            Material {
                certificate: nonsense.clone(),
                ..good.clone()
            },
            Wanted::Certificate,
        ),
        (
            Material {
                key: other.key.clone(),
                ..good.clone()
            },
            Wanted::Certificate,
        ),
        (
            // Complete, but signed by somebody else.
            Material {
                certificate: other.certificate.clone(),
                key: other.key.clone(),
                ..good.clone()
            },
            Wanted::Certificate,
        ),
    ];
    for (index, (broken, wanted)) in cases.into_iter().enumerate() {
        assert_eq!(
            plan(Some(&broken), &names(), start()),
            Plan::Make(wanted),
            "case {index}"
        );
    }
    // A clock that was set back by years does not make a valid certificate of an unborn one.
    let before = start() - DAY * 30;
    assert_eq!(
        plan(Some(&good), &names(), before),
        Plan::Make(Wanted::Authority)
    );
}

#[test]
fn the_secret_round_trips() {
    let material = fresh();
    let data = material
        .entries()
        .into_iter()
        .map(|(key, value)| (key.to_owned(), ByteString(value)))
        .collect();
    assert!(Material::read(&data) == Some(material));
    assert!(Material::read(&BTreeMap::new()).is_none());
}

#[test]
fn a_client_that_trusts_the_bundle_accepts_the_certificate() {
    let first = fresh();
    let second = make(Wanted::Authority, Some(&first), &names(), start()).unwrap();
    // The bundle of the second accepts both, that of the first only its own.
    assert!(accepts(&second.bundle, &second.certificate, "svc.ns.svc"));
    assert!(accepts(&second.bundle, &first.certificate, "svc.ns.svc"));
    assert!(accepts(&second.bundle, &second.certificate, "127.0.0.1"));
    assert!(!accepts(&first.bundle, &second.certificate, "svc.ns.svc"));
    assert!(!accepts(&second.bundle, &second.certificate, "other"));
}

/// Asks the verifier that Rust clients use.
fn accepts(bundle: &[u8], certificate: &[u8], name: &str) -> bool {
    use std::sync::Arc;

    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        crypto::ring,
    };
    use rustls_pki_types::{ServerName, UnixTime};

    let mut roots = RootCertStore::empty();
    for der in ders(bundle) {
        roots.add(der).unwrap();
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(start().as_second().unsigned_abs()));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let chain = ders(certificate);
    verifier
        .verify_server_cert(&chain[0], &[], &name, &[], now)
        .is_ok()
}
