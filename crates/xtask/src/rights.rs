//! Which of the shipped rules are needed: compares them with what the suites on a real control plane
//! were seen using (`target/rights`, see the harness), and writes `docs/permissions.md`.
//!
//! # Guarantees
//! Each verb on each resource of each account is either used by a suite or listed as
//! [`Untested`](medik8s_runtime::rbac::Untested) with a reason, and nothing is both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use medik8s_runtime::rbac::{Rule, Untested};

use crate::operators::{OPERATORS, Operator};
use crate::tree::Tree;

/// Suites that use rights which no other does.
const SUITES: &[&str] = &[
    "healthcheck",
    "healthcheck_platform",
    "install",
    "maintenance",
    "olm",
    "pods",
    "rotation",
    "story",
    "upgrade",
    "volumes",
];

/// An account of an operator, and what it may do.
struct Account {
    name: String,
    title: String,
    rules: Vec<(&'static Rule, Scope)>,
    untested: Vec<&'static Untested>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Cluster,
    OwnNamespace,
    Namespace(&'static str),
    Olm,
}

/// One verb on one resource.
#[derive(Clone, Copy)]
struct Permission {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    names: &'static [&'static str],
}

impl Permission {
    fn is_in(&self, list: &Untested) -> bool {
        list.verbs.contains(&self.verb)
            && list.api_groups.contains(&self.group)
            && list.resources.contains(&self.resource)
    }
}

/// Account, verb, group, resource, name.
type Use = [String; 5];

/// What is not as it should be, one sentence each.
pub(crate) fn problems(folder: &Path) -> Result<Vec<String>> {
    Ok(judge(&accounts(), &used(folder)?))
}

fn judge(accounts: &[Account], used: &BTreeSet<Use>) -> Vec<String> {
    let mut problems = Vec::new();
    for account in accounts {
        for permission in permissions(account) {
            let seen = used.iter().any(|[who, verb, group, resource, name]| {
                who == &account.name
                    && verb == permission.verb
                    && group == permission.group
                    && resource == permission.resource
                    && (permission.names.is_empty() || permission.names.contains(&name.as_str()))
            });
            let told = account.untested.iter().any(|list| permission.is_in(list));
            let what = format!(
                "{}: {} {} ({})",
                account.name,
                permission.verb,
                permission.resource,
                if permission.group.is_empty() {
                    "core"
                } else {
                    permission.group
                },
            );
            if !seen && !told {
                problems.push(format!("{what} is used by no suite"));
            }
            if seen && told {
                problems.push(format!("{what} is listed as untested, and used"));
            }
        }
    }
    problems
}

fn permissions(account: &Account) -> Vec<Permission> {
    let mut all = Vec::new();
    for (rule, _) in &account.rules {
        for group in rule.api_groups {
            for resource in rule.resources {
                all.extend(rule.verbs.iter().map(|verb| Permission {
                    verb,
                    group,
                    resource,
                    names: rule.resource_names,
                }));
            }
        }
    }
    all
}

fn used(folder: &Path) -> Result<BTreeSet<Use>> {
    let mut used = BTreeSet::new();
    for suite in SUITES {
        let file = folder.join(format!("{suite}.tsv"));
        let text = fs::read_to_string(&file).with_context(|| {
            format!(
                "could not read {}: run the suite {suite} first (tests/README.md)",
                file.display()
            )
        })?;
        for line in text.lines() {
            let words: Vec<String> = line.split('\t').map(str::to_owned).collect();
            let words = Use::try_from(words).ok().context("a line is malformed")?;
            used.insert(words);
        }
    }
    ensure!(!used.is_empty(), "no suite has used anything");
    Ok(used)
}

fn accounts() -> Vec<Account> {
    OPERATORS.iter().flat_map(accounts_of).collect()
}

fn accounts_of(operator: &Operator) -> Vec<Account> {
    let manager = (operator.rules)();
    let title = operator.package.to_owned();
    let mut sets = vec![(operator.manager(), title, manager, operator.olm_rules)];
    if let Some(agent) = &operator.agent {
        let title = format!("{}, agent", operator.package);
        sets.push((
            agent.service_account.to_owned(),
            title,
            (agent.rules)(),
            &[],
        ));
    }
    sets.into_iter()
        .map(|(name, title, set, under_olm)| {
            let all = |tables: &'static [&'static [Rule]], scope: Scope| {
                tables
                    .iter()
                    .flat_map(|table| table.iter())
                    .map(move |rule| (rule, scope))
            };
            let mut rules: Vec<_> = all(set.cluster, Scope::Cluster).collect();
            rules.extend(all(set.own_namespace, Scope::OwnNamespace));
            for (namespace, tables) in set.namespaces {
                rules.extend(all(tables, Scope::Namespace(namespace)));
            }
            rules.extend(under_olm.iter().map(|rule| (rule, Scope::Olm)));
            let untested = set.untested.iter().flat_map(|list| list.iter()).collect();
            Account {
                name,
                title,
                rules,
                untested,
            }
        })
        .collect()
}

/// Adds `docs/permissions.md`.
pub(crate) fn generate(tree: &mut Tree) {
    let mut text = String::from(
        "<!-- Generated by `cargo xtask generate`. Do not edit. -->\n\
         # Permissions\n\n\
         What each account may do, and why. Roles with the same words: `config/rbac`. `cargo xtask rights` fails when one\n\
         of these rights was used by no suite on a real control plane, unless it stands in the second table with the reason.\n",
    );
    let mut lists: BTreeMap<String, Vec<&Untested>> = BTreeMap::new();
    for account in accounts() {
        text.extend([format!(
            "\n## {}\n\nAccount `{}`.\n\n| May | On | Where | Why |\n|---|---|---|---|\n",
            account.title, account.name
        )]);
        for (rule, scope) in &account.rules {
            let on = format!("{}{}", on(rule.api_groups, rule.resources), named(rule));
            text.push_str(&row(&[
                &rule.verbs.join(", "),
                &on,
                &place(*scope),
                rule.why,
            ]));
        }
        lists.insert(account.title, account.untested);
    }
    text.push_str(
        "\n## Rights that no test uses\n\n| Account | May | On | Why it is there |\n|---|---|---|---|\n",
    );
    for (title, list) in lists {
        for untested in list {
            let on = on(untested.api_groups, untested.resources);
            text.push_str(&row(&[
                &title,
                &untested.verbs.join(", "),
                &on,
                untested.why,
            ]));
        }
    }
    tree.add("docs/permissions.md", text);
}

fn row(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn on(groups: &[&str], resources: &[&str]) -> String {
    let groups: Vec<&str> = groups.iter().copied().filter(|g| !g.is_empty()).collect();
    let resources: Vec<String> = resources.iter().map(|name| format!("`{name}`")).collect();
    if groups.is_empty() {
        resources.join(", ")
    } else {
        format!("{} ({})", resources.join(", "), groups.join(", "))
    }
}

fn named(rule: &Rule) -> String {
    let names: Vec<String> = rule
        .resource_names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(": only {}", names.join(", "))
    }
}

fn place(scope: Scope) -> String {
    match scope {
        Scope::Cluster => "everywhere".to_owned(),
        Scope::OwnNamespace => "own namespace".to_owned(),
        Scope::Namespace(name) => format!("namespace `{name}`"),
        Scope::Olm => "everywhere, only under OLM".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        static RULE: Rule = Rule::new(&["g"], &["things"], &["get", "list"], "why").named(&["n"]);
        static UNTESTED: Untested = Untested::new(&["g"], &["things"], &["list"], "why");
        Account {
            name: "a".into(),
            title: "a".into(),
            rules: vec![(&RULE, Scope::Cluster)],
            untested: vec![&UNTESTED],
        }
    }

    fn uses(all: &[[&str; 5]]) -> BTreeSet<Use> {
        all.iter().map(|one| one.map(str::to_owned)).collect()
    }

    #[test]
    fn each_right_is_used_or_told_and_not_both() {
        let got = uses(&[["a", "get", "g", "things", "n"]]);
        assert_eq!(judge(&[account()], &got), Vec::<String>::new());
        for other in [
            ["b", "get", "g", "things", "n"],
            ["a", "get", "g", "things", "m"],
            ["a", "get", "", "things", "n"],
            ["a", "get", "g", "things/status", "n"],
        ] {
            let found = judge(&[account()], &uses(&[other]));
            assert!(
                found[0].contains("a: get things (g) is used by no suite"),
                "{other:?}"
            );
        }
        let both = uses(&[
            ["a", "get", "g", "things", "n"],
            ["a", "list", "g", "things", "n"],
        ]);
        assert!(judge(&[account()], &both)[0].contains("list things (g) is listed as untested"));
    }

    #[test]
    fn nothing_is_listed_as_untested_that_nobody_grants() {
        for account in accounts() {
            let granted = permissions(&account);
            for list in &account.untested {
                assert!(
                    granted.iter().any(|permission| permission.is_in(list)),
                    "{}: {list:?}",
                    account.name
                );
            }
        }
    }
}
