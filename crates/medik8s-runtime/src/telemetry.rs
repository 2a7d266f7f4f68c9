//! Logs.
//!
//! # Guarantees
//! One event per line on stderr, time in RFC 3339 with nanoseconds. Libraries below us speak only
//! when they warn, unless everything was asked for.

use std::fmt;

use tracing::Level;
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::format::Writer,
    fmt::time::FormatTime,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

use crate::{
    cli::{LogArgs, LogEncoder, Product},
    clock::Clock,
};

/// Starts logging and logs the start banner. A second call in one process fails.
pub fn init(args: &LogArgs, product: &Product) -> Result<(), TryInitError> {
    let filter = filter(args.zap_log_level.0);
    let timer = Rfc3339Nanos(Clock::system());
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_timer(timer);
    let layer = match args.zap_encoder {
        LogEncoder::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
        LogEncoder::Console => layer.with_ansi(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    tracing::info!(
        product = product.name,
        version = product.version,
        commit = product.commit(),
        built = product.build_date(),
        toolchain = product.toolchain(),
        os = std::env::consts::OS,
        arch = std::env::consts::ARCH,
        "starting"
    );
    Ok(())
}

fn filter(level: Level) -> Targets {
    let targets = Targets::new().with_default(level);
    if level >= Level::TRACE {
        return targets;
    }
    let quiet = if level >= Level::DEBUG {
        Level::INFO
    } else {
        Level::WARN
    };
    [
        "hyper",
        "hyper_util",
        "h2",
        "rustls",
        "tower",
        "tower_http",
        "kube_client",
        "kube_runtime",
    ]
    .into_iter()
    .fold(targets, |targets, library| {
        targets.with_target(library, quiet.min(level))
    })
}

struct Rfc3339Nanos(Clock);

impl FormatTime for Rfc3339Nanos {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:.9}", self.0.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nine_digits() {
        let (clock, _) = Clock::manual(jiff::Timestamp::from_second(1).unwrap());
        let mut text = String::new();
        Rfc3339Nanos(clock)
            .format_time(&mut Writer::new(&mut text))
            .unwrap();
        assert_eq!(text, "1970-01-01T00:00:01.000000000Z");
    }

    #[test]
    fn libraries_are_quieter_than_we_are() {
        let info = filter(Level::INFO);
        assert!(info.would_enable("node_maintenance_operator", &Level::INFO));
        assert!(!info.would_enable("kube_client::client", &Level::INFO));
        assert!(info.would_enable("kube_client::client", &Level::WARN));
        let error = filter(Level::ERROR);
        assert!(!error.would_enable("hyper", &Level::WARN));
        assert!(filter(Level::TRACE).would_enable("hyper", &Level::TRACE));
    }
}
