use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use super::*;

/// `openssl ecparam -name prime256v1 -genkey -noout`: the form OLM writes (SEC1).
fn sec1_of(key: &KeyPair) -> String {
    // RFC 5915: SEQUENCE { 1, OCTET STRING key, [0] curve }, taken out of the PKCS#8 wrapper.
    let pkcs8 = key.serialize_der();
    let PrivateKeyDer::Pkcs8(_) = PrivateKeyDer::try_from(pkcs8.clone()).unwrap() else {
        panic!("rcgen writes PKCS#8")
    };
    // SEQUENCE { INTEGER 0, SEQUENCE { OIDs }, OCTET STRING { ECPrivateKey } }
    let start = pkcs8
        .windows(2)
        .position(|pair| pair == [0x04, 0x20])
        .unwrap();
    let scalar = &pkcs8[start + 2..start + 34];
    let mut body = vec![0x02, 0x01, 0x01, 0x04, 0x20];
    body.extend_from_slice(scalar);
    body.extend_from_slice(&[
        0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ]);
    // [1] BIT STRING with the public key, which Go and OpenSSL both write.
    let public = key.public_key_raw();
    body.extend_from_slice(&[0xa1, 0x44, 0x03, 0x42, 0x00]);
    body.extend_from_slice(public);
    let mut der = vec![0x30, u8::try_from(body.len()).unwrap()];
    der.extend(body);
    format!(
        "-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n",
        STANDARD.encode(der)
    )
}

fn pair() -> (String, KeyPair) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    (certificate.pem(), key)
}

#[test]
fn loads_pkcs8_and_sec1_keys() {
    let (certificate, key) = pair();
    certified_key(certificate.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    certified_key(certificate.as_bytes(), sec1_of(&key).as_bytes()).unwrap();
}

#[test]
fn loads_pkcs1_keys() {
    // A throw-away RSA key and its certificate, made with `openssl req -x509 -newkey rsa:2048`.
    let certificate = include_bytes!("rsa.crt");
    let key = include_bytes!("rsa-pkcs1.key");
    assert!(key.starts_with(b"-----BEGIN RSA PRIVATE KEY-----"));
    certified_key(certificate, key).unwrap();
}

#[test]
fn refuses_what_does_not_belong_together() {
    let ((certificate, _), (_, other)) = (pair(), pair());
    let error = certified_key(certificate.as_bytes(), other.serialize_pem().as_bytes());
    assert!(matches!(error, Err(TlsError::Refused(_))), "{error:?}");
    let (certificate, key) = pair();
    assert!(matches!(
        certified_key(b"", key.serialize_pem().as_bytes()),
        Err(TlsError::Empty)
    ));
    assert!(matches!(
        certified_key(certificate.as_bytes(), b"nonsense"),
        Err(TlsError::Pem { what: "key", .. })
    ));
}

#[test]
fn openssl_spells_ciphers_differently() {
    for (iana, openssl) in [
        (
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
        ),
        (
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
        ),
        (
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "ECDHE-RSA-CHACHA20-POLY1305",
        ),
    ] {
        assert_eq!(openssl_name(iana), openssl);
    }
}

#[test]
fn a_profile_chooses_versions_and_ciphers() {
    let suites = |profile: &Profile| {
        let config = server_config(&CertSlot::default(), profile, false, None)?;
        Ok::<_, TlsError>(config.crypto_provider().cipher_suites.len())
    };
    let all = suites(&Profile::Intermediate).unwrap();
    let custom = Profile::Custom {
        min_version: MinVersion::Tls12,
        ciphers: vec!["ECDHE-RSA-AES128-GCM-SHA256".into(), "DES-CBC3-SHA".into()],
    };
    let some = suites(&custom).unwrap();
    assert!(
        some < all && some == 4,
        "one of TLS 1.2 and the three of TLS 1.3: {some} of {all}"
    );
    assert!(suites(&Profile::Modern).is_ok());
}

#[test]
fn http2_is_offered_only_if_asked_for() {
    let alpn = |http2| {
        let tls = ServerTls::new(CertSlot::default(), &Profile::default(), http2).unwrap();
        tls.current().alpn_protocols.clone()
    };
    assert_eq!(alpn(false), [b"http/1.1".to_vec()]);
    assert_eq!(alpn(true), [b"h2".to_vec(), b"http/1.1".to_vec()]);
}

#[test]
fn openshifts_profiles_are_understood() {
    use serde_json::json;

    use super::openshift::profile_of;

    let of =
        |profile: serde_json::Value| profile_of(&json!({"spec": {"tlsSecurityProfile": profile}}));
    assert_eq!(profile_of(&json!({"spec": {}})), Profile::Intermediate);
    assert_eq!(of(serde_json::Value::Null), Profile::Intermediate);
    assert_eq!(of(json!({"type": "Old", "old": {}})), Profile::Intermediate);
    assert_eq!(of(json!({"type": "Intermediate"})), Profile::Intermediate);
    assert_eq!(of(json!({"type": "Modern", "modern": {}})), Profile::Modern);
    assert_eq!(
        of(json!({"type": "Custom", "custom": {
            "ciphers": ["ECDHE-RSA-AES128-GCM-SHA256"], "minTLSVersion": "VersionTLS11",
        }})),
        Profile::Custom {
            min_version: MinVersion::Tls12,
            ciphers: vec!["ECDHE-RSA-AES128-GCM-SHA256".to_owned()],
        }
    );
    assert_eq!(
        of(json!({"type": "Custom", "custom": {"ciphers": [], "minTLSVersion": "VersionTLS13"}})),
        Profile::Custom {
            min_version: MinVersion::Tls13,
            ciphers: Vec::new()
        }
    );
}

#[tokio::test(start_paused = true)]
async fn the_clusters_profile_is_followed_while_serving() {
    use std::time::Duration;

    use medik8s_testing::fake::FakeApi;
    use serde_json::json;

    use crate::{capabilities, metrics::Metrics, shutdown::Shutdown};

    let fake = FakeApi::new();
    let metrics = Metrics::new().unwrap();
    let (capability, discovery) = capabilities::discover(fake.client());
    let server = ServerTls::new(CertSlot::default(), &Profile::default(), false).unwrap();
    let stop = Shutdown::manual();
    let asking = tokio::spawn(discovery.run(stop.clone()));
    let servers = vec![server.clone()];
    let client = fake.client();
    let following = tokio::spawn(openshift::follow(
        client,
        capability,
        servers,
        metrics,
        stop.clone(),
    ));
    let suites = || server.current().crypto_provider().cipher_suites.len();
    let settle = || tokio::time::sleep(Duration::from_mins(6));
    settle().await;
    let all = suites();
    // The platform appears (in a test only), then somebody changes the profile.
    fake.add_dynamic_kind("config.openshift.io/v1", "APIServer", "apiservers", false);
    let ciphers = ["ECDHE-RSA-AES128-GCM-SHA256"];
    let object = |profile: serde_json::Value| {
        json!({
            "apiVersion": "config.openshift.io/v1", "kind": "APIServer",
            "metadata": {"name": "cluster"}, "spec": {"tlsSecurityProfile": profile},
        })
    };
    fake.put_value(object(
        json!({"type": "Custom", "custom": {"ciphers": ciphers}}),
    ));
    settle().await;
    assert!(suites() < all, "{} of {all}", suites());
    fake.put_value(object(json!({"type": "Intermediate"})));
    settle().await;
    assert_eq!(suites(), all);
    stop.trigger();
    following.await.unwrap().unwrap();
    asking.await.unwrap().unwrap();
}
