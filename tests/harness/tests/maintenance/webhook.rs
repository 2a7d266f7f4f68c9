//! The webhook of virtual machines: refuses evictions with 429 until it is told otherwise.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::lab::Lab;

/// What it says meanwhile.
pub(crate) const REFUSAL: &str = "Eviction triggered evacuation of VMI";

pub(crate) struct Evictions {
    is_done: Arc<AtomicBool>,
    server: JoinHandle<()>,
}

impl Evictions {
    /// Guards the evictions of one namespace.
    pub(crate) async fn guard(lab: &Lab, namespace: &str) -> anyhow::Result<Self> {
        let address = lab.cluster.api_address().ip();
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).await?;
        let port = listener.local_addr()?.port();
        let own = rcgen::generate_simple_self_signed(vec![address.to_string()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)?;
        let is_done = Arc::new(AtomicBool::new(false));
        let server = tokio::spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            Arc::clone(&is_done),
        ));
        let ca = serde_json::to_value(k8s_openapi::ByteString(own.cert.pem().into_bytes()))?;
        let manifest = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "virtual-machines"},
            "webhooks": [{
                "name": "evictions.vms.example.com",
                "clientConfig": {"url": format!("https://{address}:{port}/evict"), "caBundle": ca},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["pods/eviction"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "failurePolicy": "Fail", "sideEffects": "None",
                "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
            }],
        });
        lab.cluster.apply_text(&manifest.to_string()).await?;
        Ok(Self { is_done, server })
    }

    /// The migration has ended.
    pub(crate) fn allow(&self) {
        self.is_done.store(true, Ordering::Relaxed);
    }
}

impl Drop for Evictions {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, is_done: Arc<AtomicBool>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, is_done) = (tls.clone(), Arc::clone(&is_done));
        // A broken connection is the caller's business: it asks again.
        drop(tokio::spawn(async move {
            let mut stream = tls.accept(stream).await?;
            let review = read(&mut stream).await?;
            let answer = judge(&review, is_done.load(Ordering::Relaxed)).to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n",
                answer.len()
            );
            stream.write_all((head + &answer).as_bytes()).await?;
            stream.shutdown().await?;
            anyhow::Ok(())
        }));
    }
}

fn judge(review: &Value, is_done: bool) -> Value {
    let uid = review.pointer("/request/uid").cloned().unwrap_or_default();
    let response = if is_done {
        json!({"uid": uid, "allowed": true})
    } else {
        json!({"uid": uid, "allowed": false,
            "status": {"code": 429, "reason": "TooManyRequests", "message": REFUSAL}})
    };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// The body of one HTTP request.
async fn read(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> anyhow::Result<Value> {
    const END: &[u8] = b"\r\n\r\n";
    let mut bytes = Vec::new();
    loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await?;
        anyhow::ensure!(count > 0, "the request ended early");
        bytes.extend(part.iter().take(count));
        let Some(head) = bytes.windows(END.len()).position(|part| part == END) else {
            continue;
        };
        let (head, body) = bytes.split_at(head + END.len());
        let length: usize = std::str::from_utf8(head)?
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .context("no length")?
            .1
            .trim()
            .parse()?;
        if body.len() >= length {
            return Ok(serde_json::from_slice(body)?);
        }
    }
}
