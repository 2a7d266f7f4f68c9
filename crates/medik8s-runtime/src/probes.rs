//! Health endpoints for the kubelet.
//!
//! # Guarantees
//! `/healthz` and `/readyz` answer 200 `ok`, or 500 with the names of the checks that fail. A check
//! that was registered fails until it has passed once.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use futures::FutureExt;
use http::StatusCode;

use crate::{
    cli::BindAddress,
    serve::{self, Answer, Handler, text},
    shutdown::Shutdown,
};

type Test = Box<dyn Fn() -> Result<(), String> + Send>;

/// The checks of this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Probes {
    live: Arc<Mutex<BTreeMap<String, Test>>>,
    ready: Arc<Mutex<BTreeMap<String, Test>>>,
}

/// One check that somebody sets. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Check(Arc<Mutex<Result<(), String>>>);

impl Check {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Err("not started".to_owned()))))
    }

    /// A check that nobody asks for.
    pub fn detached() -> Self {
        Self::new()
    }

    /// From now on the check passes.
    pub fn pass(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Ok(());
    }

    /// From now on the check fails.
    pub fn fail(&self, why: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Err(why.into());
    }

    /// Why it fails, if it does.
    pub fn state(&self) -> Result<(), String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Probes {
    /// Without checks both endpoints answer `ok`.
    pub fn new() -> Self {
        Self::default()
    }

    /// A check of `/readyz`.
    pub fn ready_check(&self, name: &str) -> Check {
        let check = Check::new();
        let tested = check.clone();
        self.ready_when(name, move || tested.state());
        check
    }

    /// A check of `/healthz`: the kubelet restarts the container when it fails.
    pub fn live_check(&self, name: &str) -> Check {
        let check = Check::new();
        let tested = check.clone();
        self.live_when(name, move || tested.state());
        check
    }

    /// A check of `/readyz` that is evaluated for each request.
    pub fn ready_when(&self, name: &str, test: impl Fn() -> Result<(), String> + Send + 'static) {
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), Box::new(test));
    }

    /// A check of `/healthz` that is evaluated for each request.
    pub fn live_when(&self, name: &str, test: impl Fn() -> Result<(), String> + Send + 'static) {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), Box::new(test));
    }

    /// Serves until `stop`. With a disabled address it only waits.
    pub async fn serve(self, bind: BindAddress, stop: Shutdown) -> anyhow::Result<()> {
        let listener = bind
            .bind()
            .await
            .with_context(|| format!("could not listen on {bind} for probes"))?;
        let Some(listener) = listener else {
            stop.triggered().await;
            return Ok(());
        };
        let handler: Handler = Arc::new(move |request| {
            let answer = self.answer(request.uri().path());
            async move { answer }.boxed()
        });
        serve::serve(listener, None, false, handler, stop)
            .await
            .context("probe server failed")
    }

    fn answer(&self, path: &str) -> Answer {
        let checks = match path.trim_end_matches('/') {
            "/healthz" => &self.live,
            "/readyz" => &self.ready,
            _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        let checks = checks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failed = String::new();
        for (name, test) in checks.iter() {
            if let Err(why) = test()
                && writeln!(failed, "[-]{name} failed: {why}").is_err()
            {
                break;
            }
        }
        if failed.is_empty() {
            text(StatusCode::OK, "ok")
        } else {
            text(StatusCode::INTERNAL_SERVER_ERROR, failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_ok_without_checks() {
        let probes = Probes::new();
        assert_eq!(probes.answer("/healthz").status(), StatusCode::OK);
        assert_eq!(probes.answer("/readyz/").status(), StatusCode::OK);
        assert_eq!(probes.answer("/other").status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn a_check_fails_until_it_has_passed() {
        let probes = Probes::new();
        let check = probes.ready_check("webhook");
        assert_eq!(
            probes.answer("/readyz").status(),
            StatusCode::INTERNAL_SERVER_ERROR
        );
        assert_eq!(probes.answer("/healthz").status(), StatusCode::OK);
        check.pass();
        assert_eq!(probes.answer("/readyz").status(), StatusCode::OK);
        check.fail("no certificate");
        assert_eq!(
            probes.answer("/readyz").status(),
            StatusCode::INTERNAL_SERVER_ERROR
        );
    }
}
