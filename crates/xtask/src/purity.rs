//! Keeps decisions free of I/O, clocks, environment and chance.
//!
//! # Purpose
//! The dangerous cases of these programs are orderings, and orderings can be searched only where
//! nothing but arguments counts. The compiler does not know that rule, so this check reads the
//! sources: no `async`, no API client, no clock, no environment, no randomness in the modules that
//! decide.
//!
//! # Caveats
//! It compares tokens, not types: a forbidden thing under another name passes. Tests may do all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Names of the modules that decide; the files below a folder of that name belong to them.
const PURE_MODULES: &[&str] = &["plan", "decide", "validate", "watches"];

/// Crates that are pure as a whole.
const PURE_CRATES: &[&str] = &["medik8s-api", "medik8s-core", "self-node-remediation-core"];

/// Token sequences that are refused, and why.
const FORBIDDEN: &[(&[&str], &str)] = &[
    (&["async"], "waits for something outside"),
    (&["await"], "waits for something outside"),
    (&["Client"], "can reach the API server"),
    (&["Api", "<"], "can reach the API server"),
    (&["Api", ":", ":"], "can reach the API server"),
    (
        &["Timestamp", ":", ":", "now"],
        "reads the clock: take `now` as an argument",
    ),
    (
        &["Zoned", ":", ":", "now"],
        "reads the clock: take `now` as an argument",
    ),
    (
        &["SystemTime", ":", ":", "now"],
        "reads the clock: take `now` as an argument",
    ),
    (
        &["Instant", ":", ":", "now"],
        "reads the clock: take `now` as an argument",
    ),
    (&["env", ":", ":", "var"], "reads the environment"),
    (&["env", ":", ":", "vars"], "reads the environment"),
    (&["env", ":", ":", "var_os"], "reads the environment"),
    (&["rand", ":", ":"], "depends on chance"),
    (&["std", ":", ":", "fs"], "touches files"),
    (&["TcpStream"], "touches the network"),
    (&["TcpListener"], "touches the network"),
    (&["UdpSocket"], "touches the network"),
    (&["ToSocketAddrs"], "asks the name service"),
    (&["std", ":", ":", "process"], "touches processes"),
    (&["tokio", ":", ":"], "belongs to the runtime"),
];

/// All violations below `root`, one line each.
pub(crate) fn violations(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let crates = root.join("crates");
    for entry in fs::read_dir(&crates).context("could not read crates/")? {
        let folder = entry?.path();
        let source = folder.join("src");
        let whole = folder
            .file_name()
            .is_some_and(|name| PURE_CRATES.iter().any(|pure| name == *pure));
        collect(&source, whole, &mut files)?;
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let name = file.strip_prefix(root)?.display().to_string();
        found.extend(
            check(&text)
                .into_iter()
                .map(|(line, what, why)| format!("{name}:{line}: `{what}` {why}")),
        );
    }
    Ok(found)
}

/// Adds the pure source files below `folder`, except tests.
fn collect(folder: &Path, pure: bool, files: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        if stem == "tests" {
            continue;
        }
        let pure = pure || PURE_MODULES.contains(&stem);
        if path.is_dir() {
            collect(&path, pure, files)?;
        } else if pure && path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Forbidden things in one source text: line, what, why.
fn check(text: &str) -> Vec<(usize, String, &'static str)> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for start in 0..tokens.len() {
        let rest = tokens.get(start..).unwrap_or_default();
        for (pattern, why) in FORBIDDEN {
            let hit = rest.len() >= pattern.len()
                && rest
                    .iter()
                    .zip(*pattern)
                    .all(|((_, token), wanted)| token == wanted);
            if let (true, Some((line, _))) = (hit, rest.first()) {
                found.push((*line, pattern.concat(), *why));
            }
        }
    }
    found
}

/// Words and punctuation of a Rust source with their lines, without comments, strings and
/// characters.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let mut tokens: Vec<(usize, String)> = Vec::new();
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            '/' if chars.peek() == Some(&'/') => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
            }
            '/' if chars.peek() == Some(&'*') => {
                let mut depth = 1;
                chars.next();
                while depth > 0 {
                    let Some(c) = chars.next() else { break };
                    match (c, chars.peek()) {
                        ('\n', _) => line += 1,
                        ('*', Some('/')) => {
                            depth -= 1;
                            chars.next();
                        }
                        ('/', Some('*')) => {
                            depth += 1;
                            chars.next();
                        }
                        _ => {}
                    }
                }
            }
            '"' => {
                // A raw string ends at a quote followed by as many `#` as stand in front of it.
                let hashes = hashes_of_raw_string(&mut tokens);
                line += skip_string(&mut chars, hashes);
            }
            '\'' => skip_char_or_lifetime(&mut chars),
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = String::from(c);
                while let Some(c) = chars.peek().filter(|c| c.is_alphanumeric() || **c == '_') {
                    word.push(*c);
                    chars.next();
                }
                tokens.push((line, word));
            }
            c if c.is_whitespace() => {}
            c => tokens.push((line, c.to_string())),
        }
    }
    tokens
}

/// Takes the `r##` in front of a string off the tokens. `None`: not a raw string.
fn hashes_of_raw_string(tokens: &mut Vec<(usize, String)>) -> Option<usize> {
    let hashes = tokens
        .iter()
        .rev()
        .take_while(|(_, token)| token == "#")
        .count();
    let prefix = tokens
        .iter()
        .rev()
        .nth(hashes)
        .map(|(_, token)| token.as_str());
    if !matches!(prefix, Some("r" | "br" | "cr")) {
        return None;
    }
    tokens.truncate(tokens.len() - hashes - 1);
    Some(hashes)
}

/// Skips to the end of a string and returns the number of lines in it.
fn skip_string(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    raw_hashes: Option<usize>,
) -> usize {
    let mut lines = 0;
    while let Some(c) = chars.next() {
        match (c, raw_hashes) {
            ('\n', _) => lines += 1,
            ('\\', None) => lines += usize::from(chars.next() == Some('\n')),
            ('"', None | Some(0)) => break,
            ('"', Some(wanted)) => {
                let mut seen = 0;
                while seen < wanted && chars.peek() == Some(&'#') {
                    chars.next();
                    seen += 1;
                }
                if seen == wanted {
                    break;
                }
            }
            _ => {}
        }
    }
    lines
}

/// Skips a character such as `'"'`; a lifetime such as `'a` has no closing quote.
fn skip_char_or_lifetime(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let mut ahead = chars.clone();
    match (ahead.next(), ahead.next()) {
        (Some('\\'), _) => {
            chars.next();
            chars.next();
            while chars.next().is_some_and(|c| c != '\'') {}
        }
        (Some(_), Some('\'')) => {
            chars.next();
            chars.next();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
