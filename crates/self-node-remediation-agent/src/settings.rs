//! Flags and environment, read once.
//!
//! The environment is that of the DaemonSet which the manager renders; durations are integer
//! nanoseconds, as the original has them. A missing or unusable value ends the process: an agent
//! that guesses its limits would not keep the bound that the manager computes from them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgAction;
use medik8s_runtime::cli::{BindAddress, LogArgs, go_bool};
use medik8s_runtime::settings::{Env, EnvError};
use medik8s_watchdog::Host;
use self_node_remediation_core::budget::{self, Limits, Timing};
use self_node_remediation_core::ids::NodeName;

/// Where the DaemonSet mounts the shared certificates.
pub const CERTIFICATES_DIR: &str = "/etc/self-node-remediation/certificates";

const REMEDY: &str = "the manager sets it in the DaemonSet self-node-remediation-ds";

/// Flags of the agent.
#[derive(Debug, Clone, clap::Parser)]
#[command(about = "Judges the node it runs on and lets the watchdog reset it when it must")]
pub struct Args {
    /// Must be false: the manager is another program, which replaces itself by this one
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = go_bool, action = ArgAction::Set)]
    pub is_manager: bool,

    /// Accepted for compatibility: agents elect no leader
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = go_bool, action = ArgAction::Set)]
    pub leader_elect: bool,

    /// Address of the HTTPS metrics endpoint: `:port`, `ip:port` or `[ipv6]:port`; `0` turns it off
    #[arg(long, value_name = "ADDRESS", default_value = ":8443")]
    pub metrics_bind_address: BindAddress,

    /// Address of the HTTP endpoint with /healthz and /readyz; `0` turns it off
    #[arg(long, value_name = "ADDRESS", default_value = ":8081")]
    pub health_probe_bind_address: BindAddress,

    /// Offer HTTP/2 on the metrics server (off: HTTP/1.1 only)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = go_bool, action = ArgAction::Set)]
    pub enable_http2: bool,

    /// Address of the peer service [default: HOST_PORT on all addresses]
    #[arg(long, value_name = "ADDRESS")]
    pub peer_bind_address: Option<BindAddress>,

    /// Root of the host's file system as this process sees it
    #[arg(long, value_name = "DIR", default_value = Host::REAL_ROOT)]
    pub host_root: PathBuf,

    /// Directory with the shared certificates: caPem, certPem and keyPem
    #[arg(long, value_name = "DIR", default_value = CERTIFICATES_DIR)]
    pub certificates_dir: PathBuf,

    /// Kubeconfig file; without it KUBECONFIG, then the pod's service account, then ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The agent was started as a manager.
    #[error("this is the agent: start it with --is-manager=false")]
    Manager,
    /// A variable is missing or not a number.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// The limits do not make a usable time budget.
    #[error("the time limits in the environment cannot be used")]
    Timing(#[from] budget::BudgetError),
    /// A variable is outside its range.
    #[error("environment variable {name}={value} is out of range: {REMEDY}")]
    Range {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
}

/// What the agent was told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node it runs on.
    pub node: NodeName,
    /// The operator's namespace.
    pub namespace: String,
    /// The own pod.
    pub pod: Option<String>,
    /// The configured watchdog device.
    pub watchdog_path: PathBuf,
    /// The configured watchdog timeout.
    pub watchdog_timeout: Option<Duration>,
    /// The limits shared with the manager.
    pub timing: Timing,
    /// How long one read for the peer table may take.
    pub table_read_timeout: Duration,
    /// How often the peer table is made anew.
    pub peer_update_interval: Duration,
    /// Fewer worker peers than this: no fencing for isolation.
    pub min_peers: u32,
    /// Whether the node may be reset by software.
    pub software_reboot: bool,
    /// What a control-plane node tries to reach before it concludes that only the API is away.
    pub endpoint: Option<String>,
    /// The port of every agent's peer service.
    pub peer_port: u16,
}

impl Settings {
    /// Reads the environment.
    pub fn read(args: &Args, env: &Env) -> Result<Self, SettingsError> {
        if args.is_manager {
            return Err(SettingsError::Manager);
        }
        let node = env.required("MY_NODE_NAME", REMEDY)?;
        let timing = Timing::new(Limits {
            api_check_interval: duration(env, "API_CHECK_INTERVAL")?,
            api_server_timeout: duration(env, "API_SERVER_TIMEOUT")?,
            max_api_error_threshold: positive(env, "MAX_API_ERROR_THRESHOLD")?,
            peer_dial_timeout: duration(env, "PEER_DIAL_TIMEOUT")?,
            peer_request_timeout: duration(env, "PEER_REQUEST_TIMEOUT")?,
        })?;
        Ok(Self {
            node: NodeName::new(node).ok_or_else(|| range("MY_NODE_NAME", node))?,
            namespace: env.own_namespace("DEPLOYMENT_NAMESPACE")?,
            pod: env.optional("POD_NAME").map(str::to_owned),
            watchdog_path: Path::new(env.required("WATCHDOG_PATH", REMEDY)?).to_path_buf(),
            watchdog_timeout: match env.optional("WATCHDOG_TIMEOUT") {
                Some(_) => Some(duration(env, "WATCHDOG_TIMEOUT")?),
                None => None,
            },
            timing,
            table_read_timeout: duration(env, "PEER_API_SERVER_TIMEOUT")?,
            peer_update_interval: duration(env, "PEER_UPDATE_INTERVAL")?,
            min_peers: env.parse("MIN_PEERS_FOR_REMEDIATION", REMEDY)?,
            software_reboot: env.parse("IS_SOFTWARE_REBOOT_ENABLED", REMEDY)?,
            endpoint: env
                .optional("END_POINT_HEALTH_CHECK_URL")
                .map(str::to_owned),
            peer_port: match env.parse("HOST_PORT", REMEDY)? {
                0 => return Err(range("HOST_PORT", "0")),
                port => port,
            },
        })
    }
}

/// A positive number of nanoseconds; a zero would spin.
fn duration(env: &Env, name: &'static str) -> Result<Duration, SettingsError> {
    let nanoseconds: i64 = env.parse(name, REMEDY)?;
    match u64::try_from(nanoseconds) {
        Ok(nanoseconds) if nanoseconds > 0 => Ok(Duration::from_nanos(nanoseconds)),
        Ok(_) | Err(_) => Err(range(name, &nanoseconds.to_string())),
    }
}

fn positive(env: &Env, name: &'static str) -> Result<u32, SettingsError> {
    match env.parse(name, REMEDY)? {
        0_u32 => Err(range(name, "0")),
        count => Ok(count),
    }
}

fn range(name: &'static str, value: &str) -> SettingsError {
    SettingsError::Range {
        name,
        value: value.to_owned(),
    }
}

#[cfg(test)]
mod tests;
