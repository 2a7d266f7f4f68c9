use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;

#[test]
fn all_forms_of_an_endpoint_are_read() {
    let http = |tls, host: &str, port, path: &str| {
        Some(Endpoint::Http {
            tls,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        })
    };
    for (text, expected) in [
        ("", None),
        ("  ", None),
        ("http://", None),
        ("http://h", http(false, "h", 80, "/")),
        (
            "https://h/healthz?x=1",
            http(true, "h", 443, "/healthz?x=1"),
        ),
        ("https://[fd00::1]:8443/", http(true, "fd00::1", 8443, "/")),
        ("http://h?x", http(false, "h", 80, "/?x")),
        ("h:22", Some(Endpoint::Tcp("h".to_owned(), 22))),
        (
            "[fd00::1]:22",
            Some(Endpoint::Tcp("fd00::1".to_owned(), 22)),
        ),
        ("fd00::1", Some(Endpoint::Echo("fd00::1".to_owned()))),
        (
            "192.168.0.1",
            Some(Endpoint::Echo("192.168.0.1".to_owned())),
        ),
        ("gateway", Some(Endpoint::Echo("gateway".to_owned()))),
    ] {
        assert_eq!(Endpoint::parse(text), expected, "{text:?}");
    }
}

#[test]
fn only_http_answers_have_a_status() {
    assert_eq!(status_of(b"HTTP/1.1 401"), Some(401));
    assert_eq!(status_of(b"HTTP/1.0 200"), Some(200));
    assert_eq!(status_of(b"SSH-2.0-Open"), None);
    assert_eq!(status_of(b"HTTP/1.1 xx1"), None);
    assert_eq!(status_of(&[0xff; 12]), None);
}

/// A server that answers every connection with the same text.
async fn server(answer: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut request = [0_u8; 1024];
            let length = tcp.read(&mut request).await.unwrap_or(0);
            assert!(request[..length].starts_with(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n"));
            tcp.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    port
}

fn diagnostics(endpoint: &str) -> Diagnostics {
    let node = NodeName::new("n1").unwrap();
    Diagnostics::new(Some(endpoint), node, Directory::default()).unwrap()
}

async fn reaches(endpoint: &str) -> bool {
    diagnostics(endpoint)
        .reach(&Endpoint::parse(endpoint).unwrap())
        .await
}

#[tokio::test]
async fn http_below_500_is_reachable() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\n\r\n", true),
        ("HTTP/1.1 404 Not Found\r\n\r\n", true),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
        ("nonsense that is long enough", false),
        ("", false),
    ] {
        let port = server(answer).await;
        assert_eq!(
            reaches(&format!("http://127.0.0.1:{port}/x")).await,
            expected,
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_tcp_port_is_reachable_or_not() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    assert!(reaches(&endpoint).await);
    drop(listener);
    assert!(!reaches(&endpoint).await);
}

#[tokio::test]
async fn an_endpoint_that_was_never_reachable_does_not_count() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let diagnostics = diagnostics(&listener.local_addr().unwrap().to_string());
    diagnostics.learn().await;
    assert!(diagnostics.endpoint_counts.load(Ordering::SeqCst));
    drop(listener);
    diagnostics.learn().await;
    assert!(!diagnostics.endpoint_counts.load(Ordering::SeqCst));
}
