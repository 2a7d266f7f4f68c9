//! What the webhooks admit: pure rules over the object as it was and as it shall be.
//!
//! Source: section 4 of the SelfNodeRemediation specification.

use std::time::Duration;

use medik8s_api::{
    names::{
        contract::{MULTIPLE_TEMPLATES_ANNOTATION, TRUE},
        snr::CONFIG_NAME,
    },
    self_node_remediation::{
        RemediationStrategy, SelfNodeRemediationConfig, SelfNodeRemediationConfigSpec,
        SelfNodeRemediationTemplate, defaults,
    },
    value::GoDuration,
};
use medik8s_core::{
    go_duration,
    scheduling::{check_requirement, check_toleration},
    version::ServerVersion,
};
use self_node_remediation_core::budget::{self, PEER_REQUEST_BUFFER, Timing};

#[cfg(test)]
mod tests;

/// What the API server shall tell the user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Review {
    /// Why the object is refused; empty: it is admitted.
    pub errors: Vec<String>,
    /// What the user should know although the object is admitted.
    pub warnings: Vec<String>,
}

impl Review {
    /// One text for all reasons, `None` if there are none.
    pub fn denial(&self) -> Option<String> {
        (!self.errors.is_empty()).then(|| self.errors.join("; "))
    }
}

const WATCHDOG_MINIMUM: Duration = Duration::from_secs(5);
const WATCHDOG_MAXIMUM: Duration = Duration::from_mins(10);
const UNKNOWN_WATCHDOG: Duration = budget::UNKNOWN_WATCHDOG;

/// A remediation or template with this strategy. `server`: what is known of the cluster's version.
pub fn strategy(strategy: Option<&RemediationStrategy>, server: Option<ServerVersion>) -> Review {
    let mut review = Review::default();
    if strategy != Some(&RemediationStrategy::OutOfServiceTaint) {
        return review;
    }
    match server {
        Some(version) if version.supports_out_of_service_taint() => {}
        Some(version) => review.errors.push(format!(
            "spec.remediationStrategy: OutOfServiceTaint is not supported by Kubernetes {}.{}, it \
             needs 1.26; use Automatic or ResourceDeletion",
            version.major, version.minor
        )),
        None => review.warnings.push(
            "spec.remediationStrategy: OutOfServiceTaint needs Kubernetes 1.26; the version of \
             this cluster is not known yet"
                .to_owned(),
        ),
    }
    review
}

/// Whether the mutating webhook, or the manager where there is none, must mark a template as usable
/// several times in one health check. Any value that is there is kept.
pub fn needs_multiple_templates_mark(template: &SelfNodeRemediationTemplate) -> bool {
    template
        .metadata
        .annotations
        .as_ref()
        .is_none_or(|annotations| !annotations.contains_key(MULTIPLE_TEMPLATES_ANNOTATION))
}

/// Key and value of the mark.
pub const MULTIPLE_TEMPLATES_MARK: (&str, &str) = (MULTIPLE_TEMPLATES_ANNOTATION, TRUE);

/// A configuration that is created.
pub fn create_config(config: &SelfNodeRemediationConfig, namespace: &str) -> Review {
    let mut review = Review::default();
    let name = config.metadata.name.as_deref().unwrap_or_default();
    if name != CONFIG_NAME {
        review.errors.push(format!(
            "metadata.name: only one SelfNodeRemediationConfig is used, it must be named \
             {CONFIG_NAME}, not {name}"
        ));
    }
    let own = config.metadata.namespace.as_deref().unwrap_or_default();
    if own != namespace {
        review.errors.push(format!(
            "metadata.namespace: the SelfNodeRemediationConfig must be in the namespace of the \
             operator, {namespace}, not {own}"
        ));
    }
    let rest = self::config(&config.spec);
    review.errors.extend(rest.errors);
    review.warnings.extend(rest.warnings);
    review
}

/// The spec of a configuration that is created or changed.
pub fn config(spec: &SelfNodeRemediationConfigSpec) -> Review {
    let mut review = Review::default();
    durations(spec, &mut review);
    if review.errors.is_empty()
        && let Err(error) = Timing::of(spec)
    {
        review.errors.push(format!("spec: {}", with_source(&error)));
    }
    if let Some(port) = spec.host_port.filter(|port| !(1..=65535).contains(port)) {
        review.errors.push(format!(
            "spec.hostPort must be between 1 and 65535, not {port}"
        ));
    }
    let mut tolerations = spec
        .custom_ds_tolerations
        .iter()
        .flatten()
        .map(check_toleration);
    if let Some(error) = tolerations.find_map(Result::err) {
        review
            .errors
            .push(format!("spec.customDsTolerations: {error}"));
    }
    let requirements = spec.custom_ds_node_selector_requirements.iter().flatten();
    if let Some(error) = requirements.map(check_requirement).find_map(Result::err) {
        review
            .errors
            .push(format!("spec.customDsNodeSelectorRequirements: {error}"));
    }
    if review.errors.is_empty() {
        review.warnings.extend(peer_timeout_warning(spec));
        review.warnings.extend(safe_time_warning(spec));
    }
    review
}

/// The configuration in use is deleted: admitted, but the user shall know what it means.
pub fn delete_config(name: &str, namespace: &str, own_namespace: &str) -> Review {
    let mut review = Review::default();
    if name == CONFIG_NAME && namespace == own_namespace {
        review.warnings.push(format!(
            "without the SelfNodeRemediationConfig {CONFIG_NAME} the agents are removed and self \
             node remediation is disabled"
        ));
    }
    review
}

fn durations(spec: &SelfNodeRemediationConfigSpec, review: &mut Review) {
    const MS10: Duration = Duration::from_millis(10);
    const S1: Duration = Duration::from_secs(1);
    const S10: Duration = Duration::from_secs(10);
    for (name, value, minimum) in [
        ("PeerApiServerTimeout", &spec.peer_api_server_timeout, MS10),
        ("ApiServerTimeout", &spec.api_server_timeout, MS10),
        ("PeerDialTimeout", &spec.peer_dial_timeout, MS10),
        ("PeerRequestTimeout", &spec.peer_request_timeout, MS10),
        ("ApiCheckInterval", &spec.api_check_interval, S1),
        ("PeerUpdateInterval", &spec.peer_update_interval, S10),
    ] {
        let Some(value) = value else { continue };
        match go_duration::parse_unsigned(value.as_str()) {
            Err(error) => review.errors.push(format!("{name}: {error}")),
            Ok(duration) if duration < minimum => review.errors.push(format!(
                "{name} cannot be less than {}, but is {value}",
                go_duration::format_unsigned(minimum)
            )),
            Ok(duration) if i64::try_from(duration.as_nanos()).is_err() => {
                review.errors.push(format!("{name} is too long: {value}"));
            }
            Ok(_) => {}
        }
    }
    if let Some(value) = &spec.watchdog_timeout {
        let problem = match go_duration::parse_unsigned(value.as_str()) {
            Err(error) => Some(error.to_string()),
            Ok(timeout) => (timeout.subsec_nanos() != 0
                || !(WATCHDOG_MINIMUM..=WATCHDOG_MAXIMUM).contains(&timeout))
            .then(|| format!("must be in whole seconds, from 5s to 600s, but is {value}")),
        };
        review
            .errors
            .extend(problem.map(|problem| format!("WatchdogTimeout: {problem}")));
    }
}

/// The agents use a longer peerRequestTimeout than this one.
pub(crate) fn peer_timeout_warning(spec: &SelfNodeRemediationConfigSpec) -> Option<String> {
    let read = |value: &Option<GoDuration>, default| budget::duration("", value.as_ref(), default);
    let request = read(&spec.peer_request_timeout, defaults::PEER_REQUEST_TIMEOUT).ok()?;
    let api = read(&spec.api_server_timeout, defaults::API_SERVER_TIMEOUT).ok()?;
    let least = api.checked_add(PEER_REQUEST_BUFFER)?;
    (request < least).then(|| {
        let text = go_duration::format_unsigned;
        format!(
            "PeerRequestTimeout ({}) is less than ApiServerTimeout ({}) plus the 2s that a peer \
             needs to ask the API server itself; {} is used instead",
            text(request),
            text(api),
            text(least)
        )
    })
}

/// The original ignores a value that is too small without a word.
fn safe_time_warning(spec: &SelfNodeRemediationConfigSpec) -> Option<String> {
    let user = budget::user_wait(spec)?;
    let timing = Timing::of(spec).ok()?;
    let watchdog = spec
        .watchdog_timeout
        .as_ref()
        .and_then(|timeout| go_duration::parse_unsigned(timeout.as_str()).ok())
        .unwrap_or(UNKNOWN_WATCHDOG);
    let least = budget::announced_wait(timing.announced_span(), watchdog.as_secs(), None).ok()?;
    (user < least).then(|| {
        format!(
            "safeTimeToAssumeNodeRebootedSeconds ({}) is less than the {} seconds that a node with \
             a watchdog timeout of {} seconds needs; where a node needs longer, its own time is \
             used",
            user.as_secs(),
            least.as_secs(),
            watchdog.as_secs()
        )
    })
}

fn with_source(error: &budget::BudgetError) -> String {
    use std::error::Error as _;
    error
        .source()
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
