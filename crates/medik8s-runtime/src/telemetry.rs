//! Logs.
//!
//! # Guarantees
//! One event per line on stderr, time in RFC 3339 with nanoseconds. An error is logged with
//! everything that caused it. Libraries below us speak only when they warn, unless everything was
//! asked for.
//!
//! Nobody waits for the log: a thread of its own writes it, and when stderr takes nothing any more
//! (a container runtime that hangs) lines are dropped and counted. An agent that waited there would
//! let the watchdog of a healthy node run out.

use std::{
    error::Error,
    fmt, io,
    sync::{Arc, OnceLock},
};

use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer, time::FormatTime,
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::{SubscriberInitExt, TryInitError},
};

use crate::{
    cli::{LogArgs, LogEncoder, Product},
    clock::Clock,
};

/// Lines that wait for stderr at most.
const WAITING_LINES: usize = 1024;

/// Keeps the log going. Dropped last in `main`, so that the last lines are still written.
#[must_use = "without it nothing is logged"]
pub struct LogGuard {
    _worker: WorkerGuard,
}

/// Starts logging and logs the start banner. A second call in one process fails.
pub fn init(args: &LogArgs, product: &Product) -> Result<LogGuard, TryInitError> {
    let filter = filter(args.zap_log_level.0);
    let (writer, guard) = without_waiting(io::stderr());
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false);
    let layer = match args.zap_encoder {
        LogEncoder::Json => layer.event_format(Json(Clock::system())).boxed(),
        LogEncoder::Console => layer.with_timer(Rfc3339Nanos(Clock::system())).boxed(),
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
    Ok(guard)
}

/// A writer that never waits for `target`.
fn without_waiting<W: io::Write + Send + 'static>(target: W) -> (NonBlocking, LogGuard) {
    let dropped = Arc::new(OnceLock::new());
    let target = Telling {
        target,
        dropped: Arc::clone(&dropped),
        told: 0,
    };
    let (writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(target);
    // Nobody else has it, so it is not set yet.
    dropped.get_or_init(|| writer.error_counter());
    (writer, LogGuard { _worker: worker })
}

/// Says how many lines were dropped before it goes on.
struct Telling<W> {
    target: W,
    dropped: Arc<OnceLock<ErrorCounter>>,
    told: usize,
}

impl<W: io::Write> io::Write for Telling<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let dropped = self.dropped.get().map_or(0, ErrorCounter::dropped_lines);
        if dropped > self.told {
            let lines = dropped - self.told;
            self.told = dropped;
            writeln!(
                self.target,
                r#"{{"level":"WARN","message":"log lines were dropped, because stderr took none","lines":{lines}}}"#
            )?;
        }
        self.target.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
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

/// An error with everything that caused it, as one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        // Some libraries repeat their source in their own text.
        if !text.is_empty() && !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = next.source();
    }
    line
}

struct Rfc3339Nanos(Clock);

impl FormatTime for Rfc3339Nanos {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:.9}", self.0.now())
    }
}

/// One JSON object per event. tracing-subscriber's own prints errors without their causes.
struct Json(Clock);

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        if let Some(span) = context.lookup_current() {
            let extensions = span.extensions();
            let inside = extensions
                .get::<FormattedFields<N>>()
                .map(|fields| fields.fields.as_str())
                .filter(|fields| !fields.is_empty());
            let text = inside.map_or_else(
                || span.name().to_owned(),
                |inside| format!("{} {inside}", span.name()),
            );
            fields.others.push(("span", text.into()));
        }
        fields.others.push(("target", meta.target().into()));
        // People read these, too: first when, how bad, and what.
        write!(
            writer,
            r#"{{"timestamp":"{:.9}","level":"{}""#,
            self.0.now(),
            meta.level()
        )?;
        write!(writer, r#","message":{}"#, fields.message)?;
        for (name, value) in fields.others {
            write!(writer, ",{}:{value}", Value::from(name))?;
        }
        writeln!(writer, "}}")
    }
}

/// The fields of one event, in the order in which the code names them.
#[derive(Default)]
struct Fields {
    message: Value,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        match field.name() {
            "message" => self.message = value.into(),
            // Ours say these already.
            "timestamp" | "level" | "target" | "span" => {}
            name => self.others.push((name, value.into())),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

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

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("middle says: inner")]
    struct Middle(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner;

    /// Takes nothing until it is told to.
    struct Stuck {
        go: std::sync::mpsc::Receiver<()>,
        sink: Sink,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error is the end of the test: everything may go then.
            let _gone = self.go.recv();
            self.sink.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_log_that_is_stuck_and_the_loss_is_told() {
        let (let_go, go) = std::sync::mpsc::channel();
        let sink = Sink::default();
        let (writer, guard) = without_waiting(Stuck {
            go,
            sink: sink.clone(),
        });
        let mut writer = writer;
        let lines = 2 * WAITING_LINES;
        for line in 0..lines {
            writeln!(writer, "{line}").unwrap();
        }
        drop(let_go);
        drop(guard);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("log lines were dropped"), "{text}");
        let written = text.lines().filter(|line| !line.starts_with('{')).count();
        assert!((1..lines).contains(&written), "{written} of {lines}");
    }

    /// Collects what would be written to stderr.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut all = self
                .0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            all.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_of_json_with_all_causes() {
        let (clock, _) = Clock::manual(jiff::Timestamp::from_second(1).unwrap());
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .event_format(Json(clock));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let error = Outer(Middle(Inner));
            let error = &error as &dyn Error;
            let _span = tracing::info_span!("pass", node = "n1").entered();
            tracing::warn!(
                error,
                count = 3,
                ok = true,
                name = "two\nlines",
                "it failed"
            );
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let start =
            r#"{"timestamp":"1970-01-01T00:00:01.000000000Z","level":"WARN","message":"it f"#;
        assert!(text.starts_with(start), "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            line,
            serde_json::json!({
                "timestamp": "1970-01-01T00:00:01.000000000Z",
                "level": "WARN",
                "target": "medik8s_runtime::telemetry::tests",
                "span": "pass node=\"n1\"",
                "message": "it failed",
                "error": "outer: middle says: inner",
                "count": 3,
                "ok": true,
                "name": "two\nlines",
            })
        );
    }
}
