//! The command line, as the original managers have it.
//!
//! # Purpose
//! The originals use Go's `flag` package: `-x` and `--x` mean the same, a bare boolean means true,
//! `--x=false` unsets it, any other flag takes `--x=v` or `--x v` where `v` may start with a dash.
//! [`parse_or_exit`] turns that into what clap understands and adds `--version`.
//!
//! # Guarantees
//! Every address the program listens on is a flag.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args, Parser};

mod bind;
mod go_flags;

pub use bind::{BindAddress, InvalidBindAddress};
pub use go_flags::{go_bool, normalise_go_flags};

/// What is running: used for `--version`, the start banner, the user agent and field managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// Name of the binary's crate, e.g. `node-maintenance-operator`.
    pub name: &'static str,
    /// Version of the operator.
    pub version: &'static str,
}

impl Product {
    /// Use as `Product::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))`.
    pub const fn new(name: &'static str, version: &'static str) -> Self {
        Self { name, version }
    }

    /// The commit the program was built from: the build variable `MEDIK8S_COMMIT`, if it was set.
    pub fn commit(&self) -> &'static str {
        option_env!("MEDIK8S_COMMIT").unwrap_or("unknown")
    }

    /// When the program was built: the build variable `MEDIK8S_BUILD_DATE`, if it was set.
    pub fn build_date(&self) -> &'static str {
        option_env!("MEDIK8S_BUILD_DATE").unwrap_or("unknown")
    }

    /// The compiler that built the program.
    pub const fn toolchain(&self) -> &'static str {
        env!("MEDIK8S_RUSTC")
    }

    /// `<binary>/<version>`, sent with every request to the API server.
    pub fn user_agent(&self) -> String {
        format!("{}/{}", self.name, self.version)
    }

    /// The text behind the name in `--version`.
    pub fn version_text(&self) -> String {
        format!(
            "{} (commit {}, built {}, {}, {}/{})",
            self.version,
            self.commit(),
            self.build_date(),
            self.toolchain(),
            std::env::consts::OS,
            std::env::consts::ARCH,
        )
    }
}

/// Flags that every manager has.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Address of the HTTPS metrics endpoint: `:port`, `ip:port` or `[ipv6]:port`; `0` turns it off
    #[arg(long, value_name = "ADDRESS", default_value = ":8443")]
    pub metrics_bind_address: BindAddress,

    /// Address of the HTTP endpoint with /healthz and /readyz; `0` turns it off
    #[arg(long, value_name = "ADDRESS", default_value = ":8081")]
    pub health_probe_bind_address: BindAddress,

    /// Address of the HTTPS admission webhook server; `0` turns it off
    #[arg(long, value_name = "ADDRESS", default_value = ":9443")]
    pub webhook_bind_address: BindAddress,

    /// Act only while holding the leader lease, so that one of several replicas acts at a time
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = go_bool, action = ArgAction::Set)]
    pub leader_elect: bool,

    /// Offer HTTP/2 on the metrics and webhook servers (off: HTTP/1.1 only)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = go_bool, action = ArgAction::Set)]
    pub enable_http2: bool,

    /// Kubeconfig file; without it KUBECONFIG, then the pod's service account, then ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Webhook certificates.
    #[command(flatten)]
    pub webhook: WebhookArgs,

    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Where the webhook server gets its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CertMode {
    /// Mounted files if there are any, else a certificate of its own.
    Auto,
    /// Mounted files only: OLM, cert-manager or an administrator provides them.
    Files,
    /// Own CA and certificate, kept in a Secret; writes caBundle into its webhook configurations.
    SelfManaged,
}

/// Flags of the webhook server's certificate.
#[derive(Debug, Clone, Args)]
pub struct WebhookArgs {
    /// Where the webhook certificate comes from
    #[arg(long, value_name = "MODE", value_enum, default_value = "auto")]
    pub webhook_cert_mode: CertMode,

    /// Directory with tls.crt and tls.key [default: OLM's
    /// /apiserver.local.config/certificates, else /tmp/k8s-webhook-server/serving-certs]
    #[arg(long, value_name = "DIR")]
    pub webhook_cert_dir: Option<PathBuf>,
}

/// Log format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogEncoder {
    /// One JSON object per line.
    Json,
    /// For people.
    Console,
}

/// Logging flags, named as in the originals.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Accepted for compatibility: defaults are the same in both modes
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", value_parser = go_bool, action = ArgAction::Set,
          hide_default_value = true)]
    pub zap_devel: bool,

    /// Log format
    #[arg(long, value_enum, default_value = "json")]
    pub zap_encoder: LogEncoder,

    /// Log level: debug, info, warn, error, or a number (1 = debug, 2 and more = everything)
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub zap_log_level: LogLevel,

    /// Accepted for compatibility: stack traces are not logged
    #[arg(long, value_name = "LEVEL", value_parser = ["info", "error", "panic"])]
    pub zap_stacktrace_level: Option<String>,

    /// Accepted for compatibility: times are RFC 3339 with nanoseconds
    #[arg(long, value_name = "ENCODING",
          value_parser = ["epoch", "millis", "nano", "iso8601", "rfc3339", "rfc3339nano"])]
    pub zap_time_encoding: Option<String>,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(pub tracing::Level);

/// A log level that is neither a known name nor a positive number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("use debug, info, warn, error, panic or a number greater than 0")]
pub struct InvalidLogLevel;

impl std::str::FromStr for LogLevel {
    type Err = InvalidLogLevel;

    /// zap's names; numbers are logr verbosities, of which 1 is debug.
    fn from_str(text: &str) -> Result<Self, InvalidLogLevel> {
        use tracing::Level;
        match text.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self(Level::DEBUG)),
            "info" => Ok(Self(Level::INFO)),
            "warn" => Ok(Self(Level::WARN)),
            "error" | "panic" => Ok(Self(Level::ERROR)),
            number => match number.parse::<u8>() {
                Ok(1) => Ok(Self(Level::DEBUG)),
                Ok(2..) => Ok(Self(Level::TRACE)),
                Ok(0) | Err(_) => Err(InvalidLogLevel),
            },
        }
    }
}

/// Adjusts the command for operators that elect a leader unless told otherwise (NHC).
#[must_use]
pub fn leader_elect_by_default(command: clap::Command) -> clap::Command {
    command.mut_arg("leader_elect", |arg| arg.default_value("true"))
}

/// Parses the process's own command line; prints help, version or the error and ends the process
/// where clap would (codes 0 and 2, as Go's `flag` does).
pub fn parse_or_exit<T: Parser>(
    product: &Product,
    adjust: impl FnOnce(clap::Command) -> clap::Command,
) -> T {
    parse(product, std::env::args_os(), adjust).unwrap_or_else(|error| error.exit())
}

/// Parses a command line; the first argument is the program's name.
pub fn parse<T: Parser>(
    product: &Product,
    args: impl IntoIterator<Item = impl Into<OsString>>,
    adjust: impl FnOnce(clap::Command) -> clap::Command,
) -> Result<T, clap::Error> {
    let mut command = adjust(T::command().name(product.name)).version(product.version_text());
    command.build();
    let args = normalise_go_flags(args.into_iter().map(Into::into), &command);
    let mut matches = command.clone().try_get_matches_from(args)?;
    T::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

#[cfg(test)]
mod tests;
