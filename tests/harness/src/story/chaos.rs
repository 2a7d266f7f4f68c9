//! `kill -9` of each manager at a random moment.

use std::time::Duration;

use anyhow::ensure;
use rand::RngExt as _;
use tokio::{task::JoinHandle, time::sleep};

use super::{Narrator, install::OPERATORS};
use crate::{Cluster, cluster::Containers};

/// The story is longer than this, so each kill comes.
const WITHIN: u64 = 240;

/// The kills that are still to come.
#[derive(Debug)]
pub(super) struct Chaos(Vec<JoinHandle<usize>>);

impl Chaos {
    /// Draws the moments and says them, so that a failure can be told from its moment.
    pub(super) fn start(cluster: &Cluster, narrator: &Narrator) -> Self {
        let kills = OPERATORS.map(|namespace| {
            let moment = Duration::from_secs(rand::rng().random_range(5..WITHIN));
            narrator.say(&format!(
                "chaos: {namespace} will be killed in {} s",
                moment.as_secs()
            ));
            let (containers, narrator) = (cluster.containers(), narrator.clone());
            tokio::spawn(async move {
                sleep(moment).await;
                let killed = kill(&containers, namespace);
                narrator.say(&format!(
                    "chaos: kill -9 of {killed} processes of {namespace}"
                ));
                killed
            })
        });
        Self(Vec::from(kills))
    }

    /// All kills came and hit something.
    pub(super) async fn finish(self, narrator: &Narrator) -> anyhow::Result<()> {
        for kill in self.0 {
            ensure!(kill.await? > 0, "a kill hit nothing");
        }
        narrator.say("every manager was killed once");
        Ok(())
    }
}

fn kill(containers: &Containers, namespace: &str) -> usize {
    let managers = format!("{namespace}/");
    containers.kill(|pod| pod.starts_with(&managers) && pod.contains("controller-manager"))
}
