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
