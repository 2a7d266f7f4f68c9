//! What can go wrong in this operator.

use std::fmt::Write as _;

/// An error with its causes on one line. The layers do not repeat each other.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        // Writing to a String cannot fail.
        if write!(text, ": {source}").is_err() {
            break;
        }
        cause = source.source();
    }
    text
}
