//! The serial port to the first process of a guest.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::bail;
use medik8s_guest::{Message, Order, Request};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    time::timeout,
};

/// An emulated machine on a busy one may need this long for an order.
const PATIENCE: Duration = Duration::from_secs(20);

type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Option<String>>>>>;

/// The port.
#[derive(Debug)]
pub(super) struct Port {
    line: tokio::sync::Mutex<(u64, OwnedWriteHalf)>,
    waiting: Waiting,
}

impl Port {
    /// Connects; what the guest says by itself goes to `messages`.
    pub(super) async fn connect(
        socket: &Path,
        messages: mpsc::UnboundedSender<Message>,
    ) -> anyhow::Result<Self> {
        let (from, to) = UnixStream::connect(socket).await?.into_split();
        let waiting = Waiting::default();
        drop(tokio::spawn(listen(from, Arc::clone(&waiting), messages)));
        Ok(Self {
            line: tokio::sync::Mutex::new((0, to)),
            waiting,
        })
    }

    /// Has an order carried out.
    pub(super) async fn order(&self, order: Order) -> anyhow::Result<()> {
        let (tell, done) = oneshot::channel();
        let what = format!("{order:?}");
        {
            let mut line = self.line.lock().await;
            line.0 += 1;
            lock(&self.waiting).insert(line.0, tell);
            let mut request = serde_json::to_vec(&Request {
                number: line.0,
                order,
            })?;
            request.push(b'\n');
            line.1.write_all(&request).await?;
        }
        // Long orders carry files.
        let what: String = what.chars().take(120).collect();
        match timeout(PATIENCE, done).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(error))) => bail!("the guest could not {what}: {error}"),
            Ok(Err(_)) => bail!("the guest was reset before it could {what}"),
            Err(_) => bail!("the guest does not answer: {what}"),
        }
    }

    /// The guest was reset: it will not answer what was asked before.
    pub(super) fn forget(&self) {
        lock(&self.waiting).clear();
    }
}

async fn listen(from: OwnedReadHalf, waiting: Waiting, messages: mpsc::UnboundedSender<Message>) {
    let mut lines = BufReader::new(from).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        // A reset may have cut a line off; the next message then begins in its middle.
        let begin = find(&line, b"{\"").unwrap_or_default();
        let message = line.get(begin..).map(serde_json::from_slice::<Message>);
        match message {
            Some(Ok(Message::Done { number, error })) => {
                if let Some(tell) = lock(&waiting).remove(&number) {
                    drop(tell.send(error));
                }
            }
            Some(Ok(message @ (Message::Booted { .. } | Message::Ended { .. }))) => {
                drop(messages.send(message));
            }
            Some(Err(_)) | None => {}
        }
    }
}

/// Where the last message of a line begins.
fn find(line: &[u8], start: &[u8]) -> Option<usize> {
    let kinds: [&[u8]; 3] = [b"Booted", b"Done", b"Ended"];
    (0..line.len()).rev().find(|at| {
        let rest = line.get(*at..).unwrap_or_default();
        rest.strip_prefix(start)
            .is_some_and(|rest| kinds.iter().any(|kind| rest.starts_with(kind)))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
