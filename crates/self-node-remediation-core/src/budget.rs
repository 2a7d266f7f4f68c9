//! Time budgets: how long a node may go on without proof, and how long the manager waits for its reset.
//!
//! # Purpose
//! The one home of the arithmetic of SelfNodeRemediation section 18 and fencing-safety section 7. The agent uses
//! [`Timing::span`]; the manager uses what the agent announced of it, or [`Timing::old_agent_wait`] where the node runs
//! an agent that announces nothing.
//!
//! # Guarantees
//! All sums are checked. A configuration whose sums exceed [`LONGEST`] is refused, so that no accepted configuration
//! can wrap around to a short wait. A wait is never rounded down.

use std::time::Duration;

use jiff::Timestamp;
use medik8s_api::self_node_remediation::{SelfNodeRemediationConfigSpec, defaults};
use medik8s_api::value::GoDuration;
use medik8s_core::go_duration;

#[cfg(test)]
mod tests;

/// G: how long missing answers of peers are forgiven.
pub const NO_RESPONSE_GRACE: Duration = Duration::from_secs(30);
/// K: reserve for the reset itself, rounding and clock differences between managers.
pub const REBOOT_BUFFER: Duration = Duration::from_secs(30);
/// A peer asks the API server itself before it answers, so it gets at least this much longer.
pub const PEER_REQUEST_BUFFER: Duration = Duration::from_secs(2);
/// Reserve beyond span and closing ping at the release, and the least of K beyond one watchdog timeout.
pub const RELEASE_RESERVE: Duration = Duration::from_secs(10);
/// Reserve beyond the closing ping after the last words.
pub const LAST_WORDS_RESERVE: Duration = Duration::from_secs(2);
/// The most by which the clocks of two managers differ (fencing-safety section 1): a wait that one has begun may be ended
/// by another.
pub const MANAGER_CLOCKS: Duration = Duration::from_secs(5);
/// Clocks run 0.1 % fast or slow: what a slow one measures as this long takes a fast one by one part more.
const CLOCK_RATE_PARTS: u32 = 499;
/// Timeout assumed of a watchdog about which an old agent says nothing or `0`: it publishes the value before it opens
/// the device (H2), and softdog's default is this.
pub const UNKNOWN_WATCHDOG: Duration = Duration::from_mins(1);
/// How long diagnostics of an old control-plane agent may take on top: ping and kubelet probe.
pub const OLD_DIAGNOSTICS: Duration = Duration::from_secs(35);
/// Longer sums are refused: no cluster waits a year, and far beyond it dates cannot be represented.
pub const LONGEST: Duration = Duration::from_hours(366 * 24);

/// Why a configuration has no usable time budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// The sums exceed [`LONGEST`].
    #[error("the time limits add up to more than a year")]
    TooLong,
    /// A field is not a duration.
    #[error("{field} is not usable")]
    Duration {
        /// The field's name in the API.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: go_duration::ParseError,
    },
    /// A count is negative, zero where at least one is needed, or too large.
    #[error("{field} is out of range: {value}")]
    Count {
        /// The field's name in the API.
        field: &'static str,
        /// Its value.
        value: i64,
    },
}

/// The time limits that manager and agent must agree on, with their sums proved to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timing {
    limits: Limits,
    span: Duration,
}

/// The limits as configured, not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// I: pause between two API checks.
    pub api_check_interval: Duration,
    /// A: timeout of one API check.
    pub api_server_timeout: Duration,
    /// N: failed checks before peers are asked.
    pub max_api_error_threshold: u32,
    /// C: time to connect to a peer.
    pub peer_dial_timeout: Duration,
    /// R: time for the answer of a peer, as configured.
    pub peer_request_timeout: Duration,
}

impl Limits {
    /// The limits of a configuration; fields that are not set have the schema's defaults.
    pub fn of(spec: &SelfNodeRemediationConfigSpec) -> Result<Self, BudgetError> {
        Ok(Self {
            api_check_interval: duration(
                "apiCheckInterval",
                spec.api_check_interval.as_ref(),
                defaults::API_CHECK_INTERVAL,
            )?,
            api_server_timeout: duration(
                "apiServerTimeout",
                spec.api_server_timeout.as_ref(),
                defaults::API_SERVER_TIMEOUT,
            )?,
            max_api_error_threshold: threshold(
                spec.max_api_error_threshold
                    .unwrap_or(defaults::MAX_API_ERROR_THRESHOLD),
            )?,
            peer_dial_timeout: duration(
                "peerDialTimeout",
                spec.peer_dial_timeout.as_ref(),
                defaults::PEER_DIAL_TIMEOUT,
            )?,
            peer_request_timeout: duration(
                "peerRequestTimeout",
                spec.peer_request_timeout.as_ref(),
                defaults::PEER_REQUEST_TIMEOUT,
            )?,
        })
    }
}

/// A duration of a configuration: the value, else the schema's default. Negative ones are refused.
pub fn duration(
    field: &'static str,
    value: Option<&GoDuration>,
    default: &str,
) -> Result<Duration, BudgetError> {
    go_duration::parse_unsigned(value.map_or(default, GoDuration::as_str))
        .map_err(|source| BudgetError::Duration { field, source })
}

fn threshold(value: i64) -> Result<u32, BudgetError> {
    let field = "maxApiErrorThreshold";
    u32::try_from(value)
        .ok()
        .filter(|count| *count > 0)
        .ok_or(BudgetError::Count { field, value })
}

impl Timing {
    /// Checks the limits: their sums must fit for any number of peers that an old agent might ask in batches.
    pub fn new(limits: Limits) -> Result<Self, BudgetError> {
        let span = span(&limits)
            .filter(|span| *span <= LONGEST)
            .ok_or(BudgetError::TooLong)?;
        Ok(Self { limits, span })
    }

    /// The timing of a configuration.
    pub fn of(spec: &SelfNodeRemediationConfigSpec) -> Result<Self, BudgetError> {
        Self::new(Limits::of(spec)?)
    }

    /// I.
    pub const fn api_check_interval(&self) -> Duration {
        self.limits.api_check_interval
    }

    /// A.
    pub const fn api_server_timeout(&self) -> Duration {
        self.limits.api_server_timeout
    }

    /// N.
    pub const fn max_api_error_threshold(&self) -> u32 {
        self.limits.max_api_error_threshold
    }

    /// C.
    pub const fn peer_dial_timeout(&self) -> Duration {
        self.limits.peer_dial_timeout
    }

    /// Rq = max(R, A + 2 s).
    pub fn peer_request_timeout(&self) -> Duration {
        effective_request_timeout(&self.limits)
    }

    /// I + A: how old the last API success or the last failed probe may be to say something about now.
    pub fn check_period(&self) -> Duration {
        self.limits
            .api_check_interval
            .saturating_add(self.limits.api_server_timeout)
    }

    /// N(I + A): from the last proof until peers are asked at the latest.
    pub fn patience(&self) -> Duration {
        self.check_period()
            .saturating_mul(self.limits.max_api_error_threshold)
    }

    /// C + Rq: the most that one peer can take to answer.
    pub fn one_peer(&self) -> Duration {
        self.limits
            .peer_dial_timeout
            .saturating_add(self.peer_request_timeout())
    }

    /// max(C + Rq, G): the time in which a peer round must decide.
    pub fn round(&self) -> Duration {
        self.one_peer().max(NO_RESPONSE_GRACE)
    }

    /// N(I + A) + max(C + Rq, G): how long a proof of "no order" lets the watchdog be fed.
    pub const fn span(&self) -> Duration {
        self.span
    }

    /// The span in the whole seconds of the announcement, rounded up.
    pub fn announced_span(&self) -> u64 {
        whole_seconds_up(self.span)
    }

    /// The wait for a node whose agent announces nothing: section 18.1 with Rq, the watchdog timeout it published
    /// (missing or 0: [`UNKNOWN_WATCHDOG`]), and what section 18.2 found missing in the original's formula.
    pub fn old_agent_wait(
        &self,
        workers: usize,
        published_watchdog: Option<Duration>,
        control_plane: bool,
        user: Option<Duration>,
    ) -> Result<Duration, BudgetError> {
        let watchdog = published_watchdog
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(UNKNOWN_WATCHDOG);
        let sum = || {
            let batches = self.one_peer().checked_mul(batches(workers))?;
            let mut surcharge = self.check_period().checked_add(batches)?;
            if control_plane {
                let rounds = self.limits.max_api_error_threshold.checked_add(1)?;
                surcharge = surcharge
                    .checked_add(self.one_peer().checked_mul(rounds)?)?
                    .checked_add(OLD_DIAGNOSTICS)?;
            }
            original_wait(&self.limits, workers, watchdog)?.checked_add(surcharge)
        };
        bounded(sum().map(|least| least.max(user.unwrap_or_default())))
    }
}

/// The original's formula (section 18.1) with Rq in place of R: the least that any wait for an agent which asks its
/// peers batch by batch may be. `None` if it cannot be represented.
pub fn original_wait(limits: &Limits, workers: usize, watchdog: Duration) -> Option<Duration> {
    let one_peer = limits
        .peer_dial_timeout
        .checked_add(effective_request_timeout(limits))?;
    let asking = one_peer
        .checked_mul(batches(workers))?
        .max(NO_RESPONSE_GRACE);
    limits
        .api_check_interval
        .checked_add(limits.api_server_timeout)?
        .checked_mul(limits.max_api_error_threshold)?
        .checked_add(asking)?
        .checked_add(watchdog)?
        .checked_add(REBOOT_BUFFER)
}

/// D of a node that announces: max(S, bound + wd + max(K, wd + 10 s)), counted from the order.
///
/// The second watchdog timeout is H12: when the process that holds the device dies just before the reset, the kernel
/// pings once more on its close.
pub fn announced_wait(
    bound_s: u64,
    wd_s: u64,
    user: Option<Duration>,
) -> Result<Duration, BudgetError> {
    let sum = || {
        let watchdog = Duration::from_secs(wd_s);
        let exact = until_reset(bound_s, wd_s)?;
        let buffered = Duration::from_secs(bound_s)
            .checked_add(watchdog)?
            .checked_add(REBOOT_BUFFER)?;
        Some(exact.checked_add(reserve(exact)?)?.max(buffered))
    };
    bounded(sum().map(|least| least.max(user.unwrap_or_default())))
}

/// What must pass after the quorum was complete: bound + 2 wd + 10 s, and more where the clocks' rates need more. The
/// model found bound + 2 wd exact.
pub fn after_quorum(bound_s: u64, wd_s: u64) -> Result<Duration, BudgetError> {
    let sum = || {
        let exact = until_reset(bound_s, wd_s)?;
        exact.checked_add(reserve(exact)?)
    };
    bounded(sum())
}

/// What must pass after the first sight of the last words (E2): 2 x timeout + 2 s, and more where the clocks' rates need
/// more. `by_another`: the first sight was recorded by another manager, whose clock may differ.
pub fn after_last_words(timeout_s: u64, by_another: bool) -> Result<Duration, BudgetError> {
    let sum = || {
        let exact = Duration::from_secs(timeout_s).checked_mul(2)?;
        let rate = clock_rate(exact)?.checked_add(Duration::from_secs(1))?;
        let wait = exact.checked_add(rate.max(LAST_WORDS_RESERVE))?;
        if by_another {
            wait.checked_add(MANAGER_CLOCKS)
        } else {
            Some(wait)
        }
    };
    bounded(sum())
}

/// From the last proof to the reset at the latest: the watchdog counts twice (H12).
fn until_reset(bound_s: u64, wd_s: u64) -> Option<Duration> {
    Duration::from_secs(wd_s)
        .checked_mul(2)?
        .checked_add(Duration::from_secs(bound_s))
}

/// What is waited for beyond the reset: the managers' clocks, and the rates of the agent's and the manager's. Ten seconds
/// have room for both up to about forty minutes; longer bounds need more.
fn reserve(exact: Duration) -> Option<Duration> {
    let clocks = clock_rate(exact)?.checked_add(MANAGER_CLOCKS)?;
    Some(clocks.max(RELEASE_RESERVE))
}

fn clock_rate(measured: Duration) -> Option<Duration> {
    measured
        .checked_div(CLOCK_RATE_PARTS)?
        .checked_add(Duration::from_nanos(1))
}

/// The safe time of the user. Negative values mean nothing, as in the original.
pub fn user_wait(spec: &SelfNodeRemediationConfigSpec) -> Option<Duration> {
    let seconds = u64::try_from(spec.safe_time_to_assume_node_rebooted_seconds?).ok()?;
    Some(Duration::from_secs(seconds))
}

/// `now + wait`, rounded up to the whole seconds that the API stores: cutting would wait up to a second too short.
pub fn assumed_rebooted(now: Timestamp, wait: Duration) -> Result<Timestamp, BudgetError> {
    let exact = now.checked_add(wait).map_err(|_| BudgetError::TooLong)?;
    let second = exact.as_second();
    let up = if Timestamp::from_second(second).is_ok_and(|whole| whole == exact) {
        second
    } else {
        second.saturating_add(1)
    };
    // Before 1970 `as_second` cuts towards zero, which is up already; adding one more only lengthens.
    Timestamp::from_second(up).map_err(|_| BudgetError::TooLong)
}

/// B(T): how many batches the original needs to ask all of `peers` (section 15.2).
pub fn batches(peers: usize) -> u32 {
    let first = peers.min(3);
    let rest = peers.saturating_sub(3);
    let later = rest.div_euclid(10).max(3);
    let batches = usize::from(first > 0).saturating_add(rest.div_ceil(later));
    u32::try_from(batches).unwrap_or(u32::MAX)
}

/// Seconds, rounded up.
pub fn whole_seconds_up(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0))
}

fn span(limits: &Limits) -> Option<Duration> {
    let round = limits
        .peer_dial_timeout
        .checked_add(effective_request_timeout(limits))?
        .max(NO_RESPONSE_GRACE);
    limits
        .api_check_interval
        .checked_add(limits.api_server_timeout)?
        .checked_mul(limits.max_api_error_threshold)?
        .checked_add(round)
}

fn effective_request_timeout(limits: &Limits) -> Duration {
    limits.peer_request_timeout.max(
        limits
            .api_server_timeout
            .saturating_add(PEER_REQUEST_BUFFER),
    )
}

fn bounded(wait: Option<Duration>) -> Result<Duration, BudgetError> {
    wait.filter(|wait| *wait <= LONGEST)
        .ok_or(BudgetError::TooLong)
}
