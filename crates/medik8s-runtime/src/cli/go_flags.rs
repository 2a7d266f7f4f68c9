//! From Go's flag syntax to clap's.

use std::{collections::BTreeMap, ffi::OsString};

/// Go's `strconv.ParseBool`.
pub fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("use true or false".to_owned()),
    }
}

/// Rewrites Go-style flags into the one form `--name=value`.
///
/// The first argument (the program's name) is kept. `--` and the first argument that is not a flag
/// end the rewriting, as Go ends parsing there. Short flags that `command` declares (`-h`) are kept.
pub fn normalise_go_flags(
    args: impl IntoIterator<Item = OsString>,
    command: &clap::Command,
) -> Vec<OsString> {
    let takes_value: BTreeMap<&str, bool> = command
        .get_arguments()
        .filter_map(|arg| {
            let always = arg.get_action().takes_values() && !arg.is_require_equals_set();
            arg.get_long().map(|long| (long, always))
        })
        .collect();
    let mut args = args.into_iter();
    let mut normal: Vec<OsString> = args.next().into_iter().collect();
    while let Some(arg) = args.next() {
        let Some(name) = arg.to_str().and_then(flag_name) else {
            normal.push(arg);
            break;
        };
        if name.chars().count() == 1 {
            normal.push(arg);
            continue;
        }
        let flag = format!("--{name}");
        if takes_value.get(name).copied().unwrap_or(false) {
            // Without a next argument clap reports the missing value.
            match args.next() {
                Some(value) => {
                    let mut joined = OsString::from(flag);
                    joined.push("=");
                    joined.push(value);
                    normal.push(joined);
                }
                None => normal.push(flag.into()),
            }
        } else {
            normal.push(flag.into());
        }
    }
    normal.extend(args);
    normal
}

/// The text behind one or two dashes, if there is any.
fn flag_name(arg: &str) -> Option<&str> {
    let name = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    (!name.is_empty() && !name.starts_with('-') && !name.starts_with('=')).then_some(name)
}
