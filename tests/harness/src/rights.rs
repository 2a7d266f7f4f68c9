//! What the ServiceAccounts of a cluster were seen using of their rights.
//!
//! # Purpose
//! Each suite leaves a file in `target/rights`; `cargo xtask rights` compares all of them with the
//! shipped rules, and finds those that nobody needs. Demo and benches leave nothing.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    audit::{self, Request},
    tools,
};

/// Whether this process has left something already: a suite may have several clusters.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// Adds what the audit log shows to the file of this suite.
pub(crate) fn record(log: &Path) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let Some(suite) = suite(&own) else {
        return Ok(());
    };
    let folder = tools::repository().join("target/rights");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{suite}.tsv"));
    let first = !BEGUN.swap(true, Ordering::Relaxed);
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(first)
        .append(!first)
        .open(file)?;
    for line in used(&audit::read(log)?) {
        writeln!(file, "{line}")?;
    }
    Ok(())
}

/// Name of the running test, without the hash that cargo adds to tests.
fn suite(program: &Path) -> Option<&str> {
    let (suite, hash) = program.file_stem()?.to_str()?.rsplit_once('-')?;
    (hash.len() == 16).then_some(suite)
}

/// Account, verb, API group, resource, name: one line for each that was allowed, whatever came of it.
fn used(requests: &[Request]) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for request in requests {
        let Some(account) = request.user.strip_prefix("system:serviceaccount:") else {
            continue;
        };
        let (namespace, account) = account.split_once(':').unwrap_or_default();
        if namespace.starts_with("kube-")
            || request.resource.is_empty()
            || [401, 403].contains(&request.code)
        {
            continue;
        }
        let mut line = |verb: &str| {
            let words = [
                account,
                verb,
                &request.group,
                &request.resource,
                &request.name,
            ];
            lines.insert(words.join("\t"));
        };
        line(&request.verb);
        // An apply that makes the object is asked for the right to create it as well.
        if request.verb == "patch" && request.code == 201 {
            line("create");
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_have_a_hash() {
        let name = |program: &str| suite(Path::new(program)).map(str::to_owned);
        assert_eq!(name("deps/story-0123456789abcdef"), Some("story".into()));
        assert_eq!(name("debug/medik8s-demo"), None);
    }

    #[test]
    fn counts_what_was_allowed_to_accounts_outside_of_kubernetes() {
        let request = |user: &str, verb: &str, code| Request {
            user: user.to_owned(),
            verb: verb.to_owned(),
            resource: "leases".to_owned(),
            group: "g".to_owned(),
            name: "n".to_owned(),
            code,
            at: jiff::Timestamp::UNIX_EPOCH,
            answered: jiff::Timestamp::UNIX_EPOCH,
        };
        let ours = "system:serviceaccount:somewhere:ours";
        let lines = used(&[
            request(ours, "get", 404),
            request(ours, "list", 403),
            request(ours, "patch", 201),
            request("admin", "watch", 200),
            request("system:serviceaccount:kube-system:c", "update", 200),
        ]);
        let wanted = ["create", "get", "patch"].map(|verb| format!("ours\t{verb}\tg\tleases\tn"));
        assert_eq!(lines, wanted.into());
    }
}
