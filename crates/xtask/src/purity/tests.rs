use super::*;

fn what(text: &str) -> Vec<(usize, String)> {
    check(text)
        .into_iter()
        .map(|(line, what, _)| (line, what))
        .collect()
}

#[test]
fn refuses_what_decides_by_more_than_its_arguments() {
    for (text, expected) in [
        ("async fn plan() {}", "async"),
        ("let x = y.await;", "await"),
        ("fn f(client: &kube::Client) {}", "Client"),
        ("fn f(pods: Api<Pod>) {}", "Api<"),
        ("let pods = Api::<Pod>::all(c);", "Api::"),
        ("let now = jiff::Timestamp::now();", "Timestamp::now"),
        ("let now = std::time::Instant :: now();", "Instant::now"),
        ("let now = SystemTime::now();", "SystemTime::now"),
        ("std::env::var(\"X\")", "env::var"),
        ("let n: u8 = rand::random();", "rand::"),
    ] {
        assert!(
            what(text).contains(&(1, expected.to_owned())),
            "{text}: {:?}",
            what(text)
        );
    }
}

#[test]
fn names_the_line() {
    let text = "//! async\n\nfn a() {}\n\nlet s = \"x\ny\";\nlet x = Timestamp::now();\n";
    assert_eq!(what(text), vec![(7, "Timestamp::now".to_owned())]);
}

#[test]
fn reads_only_code() {
    for text in [
        "// async fn f(c: Client)",
        "/* async /* Client */ Api<Pod> */ fn f() {}",
        "let s = \"async \\\" Client\";",
        "let s = r#\"async \" Client\"#;",
        "let s = r\"Client\\\"; fn f() {}",
        "let c = '\"'; let s = \"Client\";",
        "fn f<'a>(x: &'a str) {}",
        "struct ClientSettings; fn asynchronous() {}",
        "let c = '\\''; // Client",
    ] {
        assert_eq!(what(text), vec![], "{text}");
    }
}

#[test]
fn a_string_does_not_hide_what_follows() {
    assert_eq!(
        what("let s = r#\"a\"#; async {}"),
        vec![(1, "async".to_owned())]
    );
    assert_eq!(
        what("let c = '\"'; async {}"),
        vec![(1, "async".to_owned())]
    );
    assert_eq!(
        what("fn f<'a>(x: &'a str) {} async {}"),
        vec![(1, "async".to_owned())]
    );
}

#[test]
fn looks_into_the_modules_that_decide_and_into_no_other() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("crates/some-operator/src");
    fs::create_dir_all(source.join("plan"))?;
    fs::create_dir_all(folder.path().join("crates/medik8s-core/src"))?;
    for name in [
        "plan.rs",
        "plan/phase.rs",
        "plan/tests.rs",
        "effects.rs",
        "validate.rs",
    ] {
        fs::write(source.join(name), "async fn f() {}\n")?;
    }
    fs::write(
        folder.path().join("crates/medik8s-core/src/any.rs"),
        "async fn f() {}\n",
    )?;
    let found = violations(folder.path())?;
    let files: Vec<&str> = found
        .iter()
        .filter_map(|line| line.split(':').next())
        .collect();
    assert_eq!(
        files,
        [
            "crates/medik8s-core/src/any.rs",
            "crates/some-operator/src/plan/phase.rs",
            "crates/some-operator/src/plan.rs",
            "crates/some-operator/src/validate.rs",
        ]
    );
    Ok(())
}
