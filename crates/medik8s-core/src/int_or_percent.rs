//! Thresholds written as a number or a percentage: how many nodes must be healthy.
//!
//! # Guarantees [`HealthThreshold`] is the rule of NodeHealthCheck (section 8.5 of its
//! specification): percentages round **up**, in both directions towards more healthy nodes.
//! [`allowed_unhealthy`] is the rule of MachineHealthCheck: percentages round down. Numbers in
//! quotes count as numbers: the schema accepts them.
//!
//! # Caveats
//! The arithmetic never fails: what could be wrong is found when the value is parsed.

use std::fmt;

use medik8s_api::IntOrString;

#[cfg(test)]
mod tests;

/// A threshold field, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `spec.minHealthy`
    MinHealthy,
    /// `spec.maxUnhealthy`
    MaxUnhealthy,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MinHealthy => "minHealthy",
            Self::MaxUnhealthy => "maxUnhealthy",
        })
    }
}

/// Why thresholds cannot be used. The messages are those of NodeHealthCheck's admission webhook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// Both fields are set.
    #[error("minHealthy and maxUnhealthy cannot be specified at the same time")]
    Both,
    /// No field is set.
    #[error("one of minHealthy and maxUnhealthy should be specified")]
    Neither,
    /// A number below zero.
    #[error("{field} must not be negative: {value}")]
    Negative {
        /// The field.
        field: Field,
        /// What it holds.
        value: String,
    },
    /// Neither a number nor a percentage from 0% to 100%.
    #[error("{field} must be a number or a percentage from 0% to 100%: {value}")]
    Malformed {
        /// The field.
        field: Field,
        /// What it holds.
        value: String,
    },
}

/// A number of nodes, or a share of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntOrPercent {
    /// So many nodes.
    Count(u64),
    /// A share in percent, 0 to 100.
    Percent(u8),
}

impl IntOrPercent {
    /// Reads the value of a field.
    pub fn parse(field: Field, value: &IntOrString) -> Result<Self, ThresholdError> {
        let refuse = |make: fn(Field, String) -> ThresholdError| make(field, value.to_string());
        let negative = |field, value| ThresholdError::Negative { field, value };
        let malformed = |field, value| ThresholdError::Malformed { field, value };
        match value {
            IntOrString::Int(number) => u64::try_from(*number)
                .map(Self::Count)
                .map_err(|_| refuse(negative)),
            IntOrString::String(text) => match text.strip_suffix('%') {
                Some(percent) => digits(percent)
                    .and_then(|percent| u8::try_from(percent).ok())
                    .filter(|percent| *percent <= 100)
                    .map(Self::Percent)
                    .ok_or_else(|| refuse(malformed)),
                None => digits(text).map(Self::Count).ok_or_else(|| {
                    let is_negative = text.strip_prefix('-').and_then(digits).is_some();
                    refuse(if is_negative { negative } else { malformed })
                }),
            },
        }
    }

    /// The number of nodes out of `total`, a percentage rounded up.
    pub fn of_rounded_up(self, total: u64) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                narrow((u128::from(total) * u128::from(percent)).div_ceil(100))
            }
        }
    }

    /// The number of nodes out of `total`, a percentage rounded down.
    pub fn of_rounded_down(self, total: u64) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => narrow(u128::from(total) * u128::from(percent) / 100),
        }
    }
}

/// A share of a `u64` fits a `u64`.
fn narrow(share: u128) -> u64 {
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// A plain run of digits; a number too large to hold counts as the largest.
fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().unwrap_or(u64::MAX))
}

/// The rule of a NodeHealthCheck: remediation is allowed while enough selected nodes are healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthThreshold {
    /// At least so many nodes must be healthy.
    MinHealthy(IntOrPercent),
    /// At most so many nodes may be unhealthy.
    MaxUnhealthy(IntOrPercent),
}

impl HealthThreshold {
    /// Reads the two fields, of which exactly one must be set.
    pub fn parse(
        min_healthy: Option<&IntOrString>,
        max_unhealthy: Option<&IntOrString>,
    ) -> Result<Self, ThresholdError> {
        match (min_healthy, max_unhealthy) {
            (Some(_), Some(_)) => Err(ThresholdError::Both),
            (None, None) => Err(ThresholdError::Neither),
            (Some(value), None) => {
                IntOrPercent::parse(Field::MinHealthy, value).map(Self::MinHealthy)
            }
            (None, Some(value)) => {
                IntOrPercent::parse(Field::MaxUnhealthy, value).map(Self::MaxUnhealthy)
            }
        }
    }

    /// How many of `total` selected nodes must be healthy.
    ///
    /// A `maxUnhealthy` above the number of nodes asks for none: the original returns an error
    /// there, which blocks every remediation in a small pool.
    pub fn minimum_healthy(self, total: u64) -> u64 {
        match self {
            Self::MinHealthy(value) => value.of_rounded_up(total),
            Self::MaxUnhealthy(value) => total.saturating_sub(value.of_rounded_up(total)),
        }
    }

    /// Whether a remediation may start.
    pub fn allows(self, healthy: u64, total: u64) -> bool {
        healthy >= self.minimum_healthy(total)
    }
}

/// How many targets of a MachineHealthCheck may be unhealthy: unset means all of them, a percentage
/// rounds down, a negative number means none.
pub fn allowed_unhealthy(
    max_unhealthy: Option<&IntOrString>,
    total: u64,
) -> Result<u64, ThresholdError> {
    let Some(value) = max_unhealthy else {
        return Ok(total);
    };
    match IntOrPercent::parse(Field::MaxUnhealthy, value) {
        Ok(value) => Ok(value.of_rounded_down(total)),
        Err(ThresholdError::Negative { .. }) => Ok(0),
        Err(
            error @ (ThresholdError::Malformed { .. }
            | ThresholdError::Both
            | ThresholdError::Neither),
        ) => Err(error),
    }
}
