//! What the operator tells the Operator Lifecycle Manager: whether now is a moment to be updated.
//!
//! # Purpose
//! OLM updates an operator as soon as a new version is approved, also while a remediation or a drain
//! goes on. It waits while the operator's OperatorCondition says `Upgradeable=False`.
//!
//! # Guarantees
//! The record is written only when what it says changes. Nothing else depends on it: a failure is
//! logged and tried again.
//!
//! # Caveats
//! Who wants the update all the same sets `spec.overrides` of the OperatorCondition.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{Api, Client};
use medik8s_api::foreign::OperatorCondition;
use medik8s_core::backoff::Backoff;
use serde_json::json;

use crate::{
    clock::Clock,
    read,
    settings::Env,
    shutdown::Shutdown,
    write::{Error, Writer},
};

/// How often it is looked whether something is under way.
const LOOK: Duration = Duration::from_secs(1);
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
const UPGRADEABLE: &str = "Upgradeable";

/// The OperatorCondition of this operator.
pub struct Upgradeable {
    api: Api<OperatorCondition>,
    name: String,
    writer: Writer,
    clock: Clock,
}

impl Upgradeable {
    /// `None` where OLM did not install the operator.
    pub fn find(
        env: &Env,
        client: Client,
        namespace: &str,
        writer: Writer,
        clock: Clock,
    ) -> Option<Self> {
        Some(Self {
            name: env.olm_condition()?.to_owned(),
            api: Api::namespaced(client, namespace),
            writer,
            clock,
        })
    }

    /// Says `Upgradeable=False` while `busy` names what is under way, until `stop`.
    pub async fn keep(self, busy: impl Fn() -> Option<String>, stop: Shutdown) {
        let mut said = None;
        let mut failures = 0_u32;
        loop {
            let under_way = busy();
            let mut pause = LOOK;
            if said.as_ref() != Some(&under_way) {
                match self.say(under_way.as_deref()).await {
                    Ok(()) => {
                        said = Some(under_way);
                        failures = 0;
                    }
                    Err(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            operator_condition = self.name,
                            "could not tell OLM whether the operator may be updated"
                        );
                        pause = RETRY.delay(failures, 0.0);
                        failures = failures.saturating_add(1);
                    }
                }
            }
            if stop.or_stop(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn say(&self, under_way: Option<&str>) -> Result<(), Error> {
        let found = read::get(&self.api, &self.name).await?;
        let Some(wanted) = wanted(&found.spec.conditions, under_way, self.clock.now()) else {
            return Ok(());
        };
        let patch = json!({ "spec": { "conditions": [wanted] } });
        self.writer
            .merge_patch(&self.api, &self.name, &patch)
            .await?;
        Ok(())
    }
}

/// The condition to write; `None` if it says that already. One that was never written means yes.
fn wanted(current: &[Condition], under_way: Option<&str>, now: Timestamp) -> Option<Condition> {
    let current = current
        .iter()
        .find(|condition| condition.type_ == UPGRADEABLE);
    let (status, reason, message) = match under_way {
        Some(what) => ("False", "UnderWay", format!("{what} is under way")),
        None => ("True", "Idle", "nothing is under way".to_owned()),
    };
    let same = match current {
        Some(current) => current.status == status && current.message == message,
        None => under_way.is_none(),
    };
    if same {
        return None;
    }
    let since = current
        .filter(|current| current.status == status)
        .map_or(Time(now), |current| current.last_transition_time.clone());
    Some(Condition {
        type_: UPGRADEABLE.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: since,
        observed_generation: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn says_no_while_something_is_under_way() {
        assert_eq!(wanted(&[], None, at(0)), None, "silence means yes");
        let busy = wanted(&[], Some("a drain"), at(1)).unwrap();
        assert_eq!(busy.status, "False");
        assert!(busy.message.contains("a drain"));
        let said = [busy];
        assert_eq!(wanted(&said, Some("a drain"), at(2)), None);
        let other = wanted(&said, Some("another"), at(3)).unwrap();
        assert_eq!(other.last_transition_time, Time(at(1)), "still busy");
        let idle = wanted(&said, None, at(4)).unwrap();
        assert_eq!(idle.status, "True");
        assert_eq!(idle.last_transition_time, Time(at(4)));
        assert_eq!(wanted(&[idle], None, at(5)), None);
    }
}
