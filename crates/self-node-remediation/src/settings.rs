//! Command line and environment of the manager.

use clap::Parser;
use medik8s_runtime::{
    cli::{self, CommonArgs, Product},
    settings::{Env, EnvError},
};

/// What runs.
pub const PRODUCT: Product = Product::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// Reboots sick nodes through the agents that run on them, and frees their workload afterwards.
///
/// The image holds two processes: with --is-manager this one, without it the agent, which takes
/// its place.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// Run the manager; otherwise the process replaces itself with the agent beside it
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = cli::go_bool,
          action = clap::ArgAction::Set)]
    pub is_manager: bool,

    /// Flags of every manager.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Environment of the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `DEPLOYMENT_NAMESPACE`: the namespace of the manager, the agents and the configuration.
    pub namespace: String,
    /// `SELF_NODE_REMEDIATION_IMAGE`: image of the agents.
    pub image: String,
    /// `MY_NODE_NAME`: the node that the manager runs on, if it is known.
    pub node_name: Option<String>,
}

impl Settings {
    /// Reads the environment.
    pub fn from_env(env: &Env) -> Result<Self, EnvError> {
        Ok(Self {
            namespace: env
                .required(
                    "DEPLOYMENT_NAMESPACE",
                    "set it to the namespace of the manager (fieldRef metadata.namespace)",
                )?
                .to_owned(),
            image: env
                .required(
                    "SELF_NODE_REMEDIATION_IMAGE",
                    "set it to the image that the agents shall run",
                )?
                .to_owned(),
            node_name: env.optional("MY_NODE_NAME").map(str::to_owned),
        })
    }
}

/// Whether a command line asks for the manager. Every other flag belongs to whichever process it
/// turns out to be, so that this must not fail on flags that only the agent knows.
///
/// Go's `flag` package takes one or two dashes; the last occurrence counts.
pub fn asks_for_manager<'a>(args: impl IntoIterator<Item = &'a str>) -> bool {
    args.into_iter()
        .filter_map(|arg| {
            let flag = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
            match flag.split_once('=') {
                Some(("is-manager", value)) => Some(cli::go_bool(value).unwrap_or(false)),
                None if flag == "is-manager" => Some(true),
                Some(_) | None => None,
            }
        })
        .last()
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_chosen_as_go_reads_flags() {
        for (args, manager) in [
            (&["--is-manager"][..], true),
            (&["-is-manager"], true),
            (&["--is-manager=true", "--leader-elect"], true),
            (&["-is-manager=1"], true),
            (&["--is-manager=false"], false),
            (&["--is-manager", "--is-manager=false"], false),
            (&["--is-manager=perhaps"], false),
            (&["--is-manager-of=true", "is-manager"], false),
            (&[], false),
        ] {
            assert_eq!(asks_for_manager(args.iter().copied()), manager, "{args:?}");
        }
    }

    #[test]
    fn a_missing_variable_is_named_with_the_remedy() {
        let env = Env::from_pairs([("DEPLOYMENT_NAMESPACE", "snr")]);
        let error = Settings::from_env(&env).unwrap_err().to_string();
        assert!(error.contains("SELF_NODE_REMEDIATION_IMAGE"), "{error}");
        let env = Env::from_pairs([
            ("DEPLOYMENT_NAMESPACE", "snr"),
            ("SELF_NODE_REMEDIATION_IMAGE", "example.com/snr:1"),
        ]);
        assert_eq!(Settings::from_env(&env).unwrap().namespace, "snr");
    }
}
