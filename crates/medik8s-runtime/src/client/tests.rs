use std::io::Write as _;

use super::*;

const PRODUCT: Product = Product::new("test-operator", "1.2.3");

fn kubeconfig(server: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(
        file,
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         contexts: [{{name: c, context: {{cluster: k, user: u, namespace: ns1}}}}]\n\
         clusters: [{{name: k, cluster: {{server: '{server}'}}}}]\n\
         users: [{{name: u, user: {{token: t}}}}]\n"
    )
    .unwrap();
    file
}

async fn resolve(flag: Option<&Path>, env: &Env) -> Result<Access, ConnectError> {
    Access::resolve(flag, env, &PRODUCT, &Metrics::new().unwrap()).await
}

#[tokio::test]
async fn the_flag_wins_over_the_variable_and_that_over_the_home_directory() {
    let (a, b) = (kubeconfig("http://a:1"), kubeconfig("http://b:2"));
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".kube")).unwrap();
    std::fs::copy(
        kubeconfig("http://c:3").path(),
        home.path().join(".kube/config"),
    )
    .unwrap();
    let home = home.path().to_str().unwrap();
    let env = Env::from_pairs([("KUBECONFIG", b.path().to_str().unwrap()), ("HOME", home)]);
    assert_eq!(
        resolve(Some(a.path()), &env).await.unwrap().url(),
        "http://a:1/"
    );
    assert_eq!(resolve(None, &env).await.unwrap().url(), "http://b:2/");
    let env = Env::from_pairs([("HOME", home)]);
    let access = resolve(None, &env).await.unwrap();
    assert_eq!(
        (access.url().as_str(), access.default_namespace()),
        ("http://c:3/", "ns1")
    );
}

#[tokio::test]
async fn says_what_to_do_when_nothing_is_configured() {
    let error = resolve(None, &Env::default()).await.unwrap_err();
    assert!(matches!(error, ConnectError::NothingConfigured(_)));
    assert!(error.to_string().contains("--kubeconfig"), "{error}");
    let error = resolve(Some(Path::new("/does/not/exist")), &Env::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/does/not/exist"), "{error}");
}

#[test]
fn agents_and_evictions_do_not_retry() {
    let config = Config::new(http::Uri::from_static("http://a:1"));
    assert!(with_profile(config.clone(), Profile::Manager).default_retry);
    assert!(!with_profile(config.clone(), Profile::NoRetry).default_retry);
    let (connect_timeout, read_timeout) = (Duration::from_secs(1), Duration::from_secs(9));
    let agent = with_profile(
        config,
        Profile::Agent {
            connect_timeout,
            read_timeout,
        },
    );
    assert!(!agent.default_retry && agent.reset_reader_on_write);
    assert_eq!(agent.read_timeout, Some(read_timeout));
    assert_eq!(agent.connect_timeout, Some(connect_timeout));
}

/// A server that answers each request with the next status, and tells what it saw.
async fn server(answers: &'static [&'static str]) -> (String, tokio::sync::mpsc::Receiver<String>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (saw, seen) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            request.truncate(length);
            saw.send(String::from_utf8(request).unwrap()).await.unwrap();
            let answer =
                format!("HTTP/1.1 {answer}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (format!("http://{address}"), seen)
}

async fn request(client: &Client) -> u16 {
    let request = Request::get("/version").body(Body::empty()).unwrap();
    client.send(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn requests_carry_token_and_user_agent_and_are_counted_by_attempt() {
    let (url, mut seen) = server(&["429 Too Many Requests", "200 OK"]).await;
    let file = kubeconfig(&url);
    let metrics = Metrics::new().unwrap();
    let access = Access::resolve(Some(file.path()), &Env::default(), &PRODUCT, &metrics)
        .await
        .unwrap();
    let client = access.client(Profile::Manager).unwrap();
    assert_eq!(request(&client).await, 200);
    let first = seen.recv().await.unwrap().to_lowercase();
    assert!(first.starts_with("get /version http/1.1\r\n"), "{first}");
    assert!(first.contains("authorization: bearer t\r\n"), "{first}");
    assert!(
        first.contains("user-agent: test-operator/1.2.3\r\n"),
        "{first}"
    );
    let text = metrics.text().unwrap();
    let host = url.strip_prefix("http://").unwrap();
    for code in ["200", "429"] {
        let line = format!(
            "rest_client_requests_total{{code=\"{code}\",host=\"{host}\",method=\"GET\"}} 1"
        );
        assert!(text.contains(&line), "{text}");
    }
}

#[tokio::test]
async fn an_agent_gets_the_refusal_and_does_not_wait_for_a_silent_server() {
    let (url, _seen) = server(&["429 Too Many Requests"]).await;
    let file = kubeconfig(&url);
    let access = resolve(Some(file.path()), &Env::default()).await.unwrap();
    let profile = Profile::Agent {
        connect_timeout: Duration::from_millis(200),
        read_timeout: Duration::from_millis(200),
    };
    let client = access.client(profile).unwrap();
    assert_eq!(request(&client).await, 429);
    // Accepts connections (the kernel does) and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = kubeconfig(&format!("http://{}", silent.local_addr().unwrap()));
    let client = resolve(Some(file.path()), &Env::default())
        .await
        .unwrap()
        .client(profile)
        .unwrap();
    let request = Request::get("/version").body(Body::empty()).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), client.send(request)).await;
    assert!(answer.expect("the read timeout ends it").is_err());
}

#[test]
fn a_vanished_peer_is_noticed_in_the_promised_time() {
    assert!(KEEPALIVE_AFTER + KEEPALIVE_EVERY * KEEPALIVE_TRIES <= DEAD_PEER);
}
