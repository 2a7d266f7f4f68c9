use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const NOW: &str = "2026-07-01T12:00:00Z";

#[test]
fn a_new_set_is_valid_from_an_hour_ago_for_ten_years() {
    let set = CertificateSet::create(at(NOW)).unwrap();
    let validity = set.validate(at(NOW)).unwrap();
    assert_eq!(validity.not_after, at("2036-06-28T12:00:00Z"));
    assert_eq!(validity.first_expiry, validity.not_after);
    set.validate(at("2026-07-01T11:00:01Z")).unwrap();
    set.validate(at("2026-07-01T10:59:00Z")).unwrap_err();
    set.validate(at("2036-06-28T12:00:01Z")).unwrap_err();
}

#[test]
fn a_new_certificate_has_what_go_peers_need() {
    let set = CertificateSet::create(at(NOW)).unwrap();
    assert!(
        set.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"),
        "PKCS#8"
    );
    let identity = set.identity().unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&identity.chain()[0]).unwrap();
    let (_, ca) = x509_parser::parse_x509_certificate(&identity.cas()[0]).unwrap();
    assert_ne!(leaf.raw_serial(), ca.raw_serial());
    assert_ne!(leaf.subject(), ca.subject());
    assert!(ca.is_ca() && !leaf.is_ca());
    assert_eq!(leaf.issuer(), ca.subject());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        names.value.general_names,
        [GeneralName::IPAddress(&[192, 0, 2, 1])]
    );
    for cert in [&leaf, &ca] {
        let usage = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && usage.server_auth);
    }
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let known = |cert: &x509_parser::certificate::X509Certificate<'_>| {
        cert.extensions().iter().all(|e| {
            !matches!(
                e.parsed_extension(),
                ParsedExtension::UnsupportedExtension { .. }
            )
        })
    };
    assert!(known(&leaf) && known(&ca));
}

#[test]
fn two_sets_share_nothing() {
    let one = CertificateSet::create(at(NOW)).unwrap();
    let two = CertificateSet::create(at(NOW)).unwrap();
    assert_ne!(one.key_pem, two.key_pem);
    let mixed = CertificateSet {
        key_pem: two.key_pem.clone(),
        ..one.clone()
    };
    assert!(matches!(
        mixed.validate(at(NOW)),
        Err(CertificateProblem::Tls(TlsError::Rejected { .. }))
    ));
    let foreign = CertificateSet {
        ca_pem: two.ca_pem.clone(),
        ..one.clone()
    };
    assert!(matches!(
        foreign.validate(at(NOW)),
        Err(CertificateProblem::Tls(TlsError::Rejected { .. }))
    ));
    // Rotation keeps both CAs for a while.
    let both = CertificateSet {
        ca_pem: format!("{}{}", two.ca_pem, one.ca_pem),
        ..one
    };
    both.validate(at(NOW)).unwrap();
}

#[test]
fn broken_texts_are_named() {
    let set = CertificateSet::create(at(NOW)).unwrap();
    for (broken, field) in [
        (
            CertificateSet {
                ca_pem: String::new(),
                ..set.clone()
            },
            CA_FIELD,
        ),
        (
            CertificateSet {
                cert_pem: "x".to_owned(),
                ..set.clone()
            },
            CERT_FIELD,
        ),
        (
            CertificateSet {
                key_pem: set.cert_pem.clone(),
                ..set.clone()
            },
            KEY_FIELD,
        ),
    ] {
        let text = broken.validate(at(NOW)).unwrap_err().to_string();
        assert!(text.contains(field), "{text}");
    }
}

#[test]
fn debug_output_hides_the_key() {
    let set = CertificateSet::create(at(NOW)).unwrap();
    assert!(!format!("{set:?} {:?}", set.identity().unwrap()).contains("PRIVATE"));
}
