//! Writing annotations of the own Node: all the agent ever writes but Events.

use std::time::Duration;

use kube::{Api, Client};
use medik8s_api::names::snr::{
    AGENT_VERSION_ANNOTATION, ANNOUNCED_ANNOTATION, IS_REBOOT_CAPABLE_ANNOTATION,
    RELAYED_WORDS_ANNOTATION, STOPPED_FEEDING_ANNOTATION, WATCHDOG_TIMEOUT_ANNOTATION,
};
use medik8s_runtime::cli::Product;
use medik8s_runtime::write::{Error, Writer};
use self_node_remediation_core::announcement::{Announcement, Relayed, StoppedFeeding};
use self_node_remediation_core::ids::NodeName;
use serde_json::{Value, json};

use crate::objects::OwnNode;

/// An announcement is given up after this time; the rules then treat its outcome as unknown.
const ANNOUNCE: Duration = Duration::from_secs(10);
/// Last words must not wait: the machine is about to be reset.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Writes to one Node. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    api: Api<OwnNode>,
    node: NodeName,
    writer: Writer,
    version: &'static str,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// Writes through `client`, which must not retry by itself.
    pub fn new(client: Client, node: NodeName, product: &Product) -> Self {
        Self {
            api: Api::all(client),
            node,
            writer: Writer::new(product.name),
            version: product.version,
        }
    }

    /// One patch with the announcement and what old managers read of it.
    pub async fn announce(&self, announcement: &Announcement) -> Result<(), Error> {
        let annotations = announced(announcement, self.version);
        self.patch(&annotations, ANNOUNCE).await
    }

    /// The last words.
    pub async fn stopped_feeding(&self, words: &StoppedFeeding) -> Result<(), Error> {
        let annotations = json!({ STOPPED_FEEDING_ANNOTATION: words.to_string() });
        self.patch(&annotations, LAST_WORDS).await
    }

    /// Last words of other nodes, on the own Node.
    pub async fn relayed(&self, words: &Relayed) -> Result<(), Error> {
        let annotations = json!({ RELAYED_WORDS_ANNOTATION: words.to_string() });
        self.patch(&annotations, LAST_WORDS).await
    }

    async fn patch(&self, annotations: &Value, limit: Duration) -> Result<(), Error> {
        let body = json!({ "metadata": { "annotations": annotations } });
        let writer = self.writer.clone().with_deadline(limit);
        writer
            .merge_patch(&self.api, self.node.as_str(), &body)
            .await
            .map(drop)
    }
}

fn announced(announcement: &Announcement, version: &str) -> Value {
    json!({
        ANNOUNCED_ANNOTATION: announcement.to_string(),
        IS_REBOOT_CAPABLE_ANNOTATION: announcement.armed.to_string(),
        WATCHDOG_TIMEOUT_ANNOTATION: announcement.wd.to_string(),
        AGENT_VERSION_ANNOTATION: version,
    })
}

#[cfg(test)]
mod tests {
    use self_node_remediation_core::ids::BootId;

    use super::*;

    #[test]
    fn one_patch_carries_everything() {
        let announcement = Announcement {
            boot: BootId::new("b1").unwrap(),
            armed: true,
            wd: 20,
            bound: Some(90),
            workers: 2,
            cp: 0,
            stamp: "2026-07-01T12:00:00Z".parse().unwrap(),
        };
        assert_eq!(
            announced(&announcement, "0.1.0"),
            json!({
                "self-node-remediation.medik8s.io/announced":
                    "boot=b1 armed=true wd=20 bound=90 workers=2 cp=0 stamp=2026-07-01T12:00:00Z",
                "is-reboot-capable.self-node-remediation.medik8s.io": "true",
                "self-node-remediation.medik8s.io/watchdog-timeout": "20",
                "self-node-remediation.medik8s.io/agent-version": "0.1.0",
            })
        );
    }
}
