//! The PodDisruptionBudgets of a namespace, followed while pods there are blocked.

use std::collections::BTreeMap;

use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{
    Api, ResourceExt,
    runtime::{WatchStreamExt, watcher, watcher::Event as WatcherEvent},
};

use super::{budget::Budget, machine::Event};
use crate::error::chain;

/// The budgets of a namespace, after each change all of them.
pub(super) fn follow(
    api: Api<PodDisruptionBudget>,
    namespace: String,
) -> BoxStream<'static, Event> {
    let mut known: BTreeMap<String, Budget> = BTreeMap::new();
    watcher(api, watcher::Config::default())
        .default_backoff()
        .filter_map(move |event| {
            let mut put = |object: &PodDisruptionBudget| {
                if let Some(budget) = Budget::read(object) {
                    known.insert(budget.name.clone(), budget);
                }
            };
            let is_known = match event {
                Ok(WatcherEvent::Init) => {
                    known.clear();
                    None
                }
                Ok(WatcherEvent::InitApply(object)) => {
                    put(&object);
                    None
                }
                Ok(WatcherEvent::InitDone) => Some(true),
                Ok(WatcherEvent::Apply(object)) => {
                    put(&object);
                    Some(true)
                }
                Ok(WatcherEvent::Delete(object)) => {
                    known.remove(&object.name_any());
                    Some(true)
                }
                Err(watcher::Error::InitialListFailed(error)) => {
                    tracing::warn!(namespace, error = chain(&error), "budgets cannot be read");
                    Some(false)
                }
                Err(
                    watcher::Error::WatchStartFailed(_)
                    | watcher::Error::WatchError(_)
                    | watcher::Error::WatchFailed(_)
                    | watcher::Error::NoResourceVersion,
                ) => None,
            };
            let event = is_known.map(|is_known| {
                if is_known {
                    Event::Budgets(namespace.clone(), known.values().cloned().collect())
                } else {
                    Event::BudgetsUnknown(namespace.clone())
                }
            });
            async move { event }
        })
        .boxed()
}
