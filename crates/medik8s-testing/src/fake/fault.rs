//! Requests that fail.

use std::time::Duration;

use crate::wire::{Recorded, Reply};

/// How a request fails.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// It is refused with this reply and not carried out.
    Refuse(Reply),
    /// The connection breaks before it is carried out.
    BreakBefore,
    /// It is carried out, then the connection breaks: the client does not know.
    BreakAfter,
    /// It is not carried out and never answered.
    Hang,
    /// It is carried out and never answered.
    HangAfter,
    /// It is carried out after this time (tokio's clock), whether the client still waits or not.
    Late(Duration),
}

/// When the server goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The write is lost.
    Before,
    /// The write is stored, but its answer is lost.
    After,
}

/// Makes some requests fail.
pub struct Fault {
    matches: Box<dyn Fn(&Recorded) -> bool + Send>,
    skip: usize,
    times: usize,
    pub(super) failure: Failure,
}

impl Fault {
    /// Makes the first request fail that the function selects.
    pub fn on(matches: impl Fn(&Recorded) -> bool + Send + 'static, failure: Failure) -> Self {
        Self {
            matches: Box::new(matches),
            skip: 0,
            times: 1,
            failure,
        }
    }

    /// Makes the `nth` write fail, counted from 1.
    pub fn on_write(nth: usize, failure: Failure) -> Self {
        Self::on(Recorded::is_write, failure).skipping(nth.saturating_sub(1))
    }

    /// Makes the first request with this method and path fail.
    pub fn on_request(method: &'static str, path: &str, failure: Failure) -> Self {
        let path = path.to_owned();
        Self::on(
            move |request| request.method == method && request.path == path,
            failure,
        )
    }

    /// Lets the first selected requests through.
    #[must_use]
    pub fn skipping(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    /// Makes so many requests fail instead of one.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// Whether it applies to a request; counts.
    pub(super) fn applies(&mut self, request: &Recorded) -> bool {
        if self.times == 0 || !(self.matches)(request) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}
