//! Durations in the syntax of Go, as the custom resources store them.
//!
//! # Guarantees [`parse`] accepts exactly the strings that Go's `time.ParseDuration` accepts and
//! returns the same number of nanoseconds, including its rounding (fractions are computed in double
//! precision and truncated) and its limits (a signed 64-bit count of nanoseconds). [`format`]
//! prints what Go's `Duration.String` prints. Objects written by the Go operators and by these
//! crates therefore mean the same.
//!
//! # Caveats
//! A user's text is never rewritten: `300s` stays `300s` although [`format`] would print `5m0s`.

use std::fmt;
use std::time::Duration;

use jiff::SignedDuration;

#[cfg(test)]
mod tests;

/// The largest magnitude a Go duration can have, in nanoseconds; only a negative one may reach it.
const LIMIT: u64 = 1 << 63;

/// Why a text is not a Go duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The text does not follow the grammar.
    Syntax,
    /// The text follows the grammar, but the value does not fit 64-bit nanoseconds.
    Overflow,
    /// A number is not followed by a unit.
    MissingUnit,
    /// A number is followed by something that is no unit.
    UnknownUnit,
    /// The value is negative where only zero or more makes sense.
    Negative,
}

/// A text that is not a Go duration. The message is the one Go gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    value: String,
    unit: String,
    kind: ErrorKind,
}

impl ParseError {
    fn new(value: &str, kind: ErrorKind) -> Self {
        Self {
            value: value.to_owned(),
            unit: String::new(),
            kind,
        }
    }

    /// The refused text.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What is wrong with it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = Quoted(&self.value);
        match self.kind {
            ErrorKind::Syntax | ErrorKind::Overflow => write!(f, "time: invalid duration {value}"),
            ErrorKind::MissingUnit => write!(f, "time: missing unit in duration {value}"),
            ErrorKind::UnknownUnit => {
                write!(
                    f,
                    "time: unknown unit {} in duration {value}",
                    Quoted(&self.unit)
                )
            }
            ErrorKind::Negative => write!(f, "duration {value} must not be negative"),
        }
    }
}

/// Prints a text in quotes, every byte that is not plain ASCII as `\xNN`: user input cannot forge
/// log lines.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for byte in self.0.bytes() {
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                b' '..=b'~' => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        f.write_str("\"")
    }
}

/// Reads a Go duration; a sign is allowed.
pub fn parse(text: &str) -> Result<SignedDuration, ParseError> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if unsigned == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(ParseError::new(text, ErrorKind::Syntax));
    }
    let mut total: u64 = 0;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let (part, remainder) = parse_part(text, rest)?;
        rest = remainder;
        // Both are at most 2^63, so the sum fits; Go checks after each part, so parts cannot cancel
        // out.
        total = total
            .checked_add(part)
            .filter(|sum| *sum <= LIMIT)
            .ok_or_else(|| ParseError::new(text, ErrorKind::Overflow))?;
    }
    let nanos = if negative {
        0i64.checked_sub_unsigned(total)
    } else {
        i64::try_from(total).ok()
    };
    nanos
        .map(SignedDuration::from_nanos)
        .ok_or_else(|| ParseError::new(text, ErrorKind::Overflow))
}

/// Reads a Go duration that must be zero or more.
pub fn parse_unsigned(text: &str) -> Result<Duration, ParseError> {
    Duration::try_from(parse(text)?).map_err(|_| ParseError::new(text, ErrorKind::Negative))
}

/// Reads one number with its unit and returns it in nanoseconds with what follows.
fn parse_part<'a>(whole: &str, text: &'a str) -> Result<(u64, &'a str), ParseError> {
    let (integer, rest) = take_while(text, |c| c.is_ascii_digit());
    let value =
        leading_integer(integer).ok_or_else(|| ParseError::new(whole, ErrorKind::Overflow))?;
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => take_while(rest, |c| c.is_ascii_digit()),
        None => ("", rest),
    };
    if integer.is_empty() && fraction.is_empty() {
        return Err(ParseError::new(whole, ErrorKind::Syntax));
    }
    let (name, rest) = take_while(rest, |c| c != '.' && !c.is_ascii_digit());
    if name.is_empty() {
        return Err(ParseError::new(whole, ErrorKind::MissingUnit));
    }
    let unit = unit_nanos(name).ok_or_else(|| ParseError {
        value: whole.to_owned(),
        unit: name.to_owned(),
        kind: ErrorKind::UnknownUnit,
    })?;
    let nanos = value
        .checked_mul(unit)
        .filter(|nanos| *nanos <= LIMIT)
        .and_then(|nanos| nanos.checked_add(fraction_nanos(fraction, unit)))
        .filter(|nanos| *nanos <= LIMIT)
        .ok_or_else(|| ParseError::new(whole, ErrorKind::Overflow))?;
    Ok((nanos, rest))
}

/// Splits at the first character that does not satisfy the predicate.
fn take_while(text: &str, accept: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !accept(c)).unwrap_or(text.len()))
}

/// The value of a run of digits, if it is at most 2^63.
fn leading_integer(digits: &str) -> Option<u64> {
    digits.bytes().try_fold(0u64, |value, digit| {
        value
            .checked_mul(10)?
            .checked_add(u64::from(digit.wrapping_sub(b'0')))
            .filter(|value| *value <= LIMIT)
    })
}

/// The nanoseconds of a decimal fraction of a unit.
///
/// Digits that no longer fit 63 bits are ignored, and the product is computed in double precision:
/// both as in Go, whose result users already rely on (`0.9…9s` with 23 digits is one second).
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "Go converts the same way; the product is between 0 and the unit"
)]
fn fraction_nanos(digits: &str, unit: u64) -> u64 {
    let mut value: u64 = 0;
    let mut scale: f64 = 1.0;
    for digit in digits.bytes() {
        let next = value
            .checked_mul(10)
            .filter(|_| value <= (LIMIT - 1) / 10)
            .map(|tenfold| tenfold.saturating_add(u64::from(digit.wrapping_sub(b'0'))))
            .filter(|next| *next <= LIMIT);
        let Some(next) = next else { break };
        value = next;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

/// Nanoseconds of a unit. Both spellings of micro exist: the micro sign and the Greek letter.
fn unit_nanos(name: &str) -> Option<u64> {
    match name {
        "ns" => Some(1),
        "us" | "\u{b5}s" | "\u{3bc}s" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        "m" => Some(60_000_000_000),
        "h" => Some(3_600_000_000_000),
        _ => None,
    }
}

/// Prints a duration the way Go does: `1h30m0s`, `2.5s`, `12.3ms`, `0s`.
pub fn format(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (value, per_unit, unit) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => (nanos, 1, "ns"),
        1_000..1_000_000 => (nanos, 1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => (nanos, 1_000_000, "ms"),
        _ => (nanos % 60_000_000_000, 1_000_000_000, "s"),
    };
    let minutes = nanos / 60_000_000_000;
    let prefix = match (minutes / 60, minutes % 60) {
        (0, 0) => String::new(),
        (0, minutes) => format!("{minutes}m"),
        (hours, minutes) => format!("{hours}h{minutes}m"),
    };
    format!("{sign}{prefix}{}{unit}", decimal(value, per_unit))
}

/// Prints a duration that cannot be negative the way Go does.
pub fn format_unsigned(duration: Duration) -> String {
    // A Duration beyond 2^63 seconds cannot come from a Go duration; the largest printable one
    // stands for it.
    format(SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX))
}

/// `value / per_unit` without trailing zeros; `per_unit` is a power of ten.
fn decimal(value: u128, per_unit: u128) -> String {
    let (whole, fraction) = (value / per_unit, value % per_unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = per_unit.ilog10() as usize;
    let fraction = format!("{fraction:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}
