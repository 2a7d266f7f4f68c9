//! QEMU's control socket: a few commands, and what it reports by itself.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, mpsc},
};

/// The connection.
#[derive(Debug)]
pub(super) struct Qmp(Mutex<Connection>);

#[derive(Debug)]
struct Connection {
    commands: OwnedWriteHalf,
    answers: mpsc::UnboundedReceiver<Value>,
}

impl Qmp {
    /// Connects. `events` gets the name of each event, as soon as it is there.
    pub(super) async fn connect(
        socket: &Path,
        events: impl Fn(Instant, &str, &Value) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (from, to) = UnixStream::connect(socket).await?.into_split();
        let (tell, answers) = mpsc::unbounded_channel();
        drop(tokio::spawn(listen(from, tell, events)));
        let qmp = Self(Mutex::new(Connection {
            commands: to,
            answers,
        }));
        qmp.command("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Carries out a command.
    pub(super) async fn command(&self, name: &str, arguments: Value) -> anyhow::Result<Value> {
        let mut connection = self.0.lock().await;
        let line = format!("{}\n", json!({"execute": name, "arguments": arguments}));
        connection.commands.write_all(line.as_bytes()).await?;
        let answer = connection.answers.recv().await;
        let answer = answer.with_context(|| format!("QEMU ended before it answered {name}"))?;
        match answer.get("error") {
            Some(error) => bail!("QEMU refused {name}: {error}"),
            None => Ok(answer),
        }
    }
}

async fn listen(
    from: OwnedReadHalf,
    answers: mpsc::UnboundedSender<Value>,
    events: impl Fn(Instant, &str, &Value),
) {
    let mut lines = BufReader::new(from).lines();
    // Ends with QEMU.
    while let Ok(Some(line)) = lines.next_line().await {
        let now = Instant::now();
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if let Some(event) = message.get("event").and_then(Value::as_str) {
            events(now, event, &message);
        } else if message.get("QMP").is_none() {
            // Nobody waits: the guest is being dropped.
            drop(answers.send(message));
        }
    }
}
