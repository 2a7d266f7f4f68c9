//! When blocked pods try again because of what their PodDisruptionBudgets say.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    Budget, Command, Key, Machine, Round,
    duty::{Block, Blocker, Duty, Entry},
};

impl Machine {
    /// Whether a watched budget tells why this pod is blocked, so that watching it is enough. An
    /// open one does not: then it is a webhook or overload.
    pub(super) fn is_explained(&self, key: &Key) -> bool {
        let Some(Some(budgets)) = self.budgets.get(&key.namespace) else {
            return false;
        };
        self.pods.get(key).is_some_and(|entry| {
            budgets
                .iter()
                .any(|budget| budget.openings() == 0 && budget.covers(&entry.pod))
        })
    }

    /// Lets blocked pods try again as far as the budgets have openings.
    pub(super) fn on_budgets(&mut self, namespace: &str, budgets: Vec<Budget>, now: Timestamp) {
        for budget in &budgets {
            let under_way = self
                .pods
                .values()
                .filter(|entry| entry.pod.key.namespace == namespace && budget.covers(&entry.pod))
                .filter(|entry| entry.is_hasty_try())
                .count();
            let openings = budget.openings().saturating_sub(under_way);
            let mut blocked: Vec<&mut Block> = self
                .pods
                .values_mut()
                .filter(|entry| entry.pod.key.namespace == namespace)
                // More than one budget is a 500 of the server, whatever the numbers say.
                .filter(|entry| budgets.iter().filter(|b| b.covers(&entry.pod)).count() == 1)
                .filter(|entry| budget.covers(&entry.pod))
                .filter_map(waiting)
                .filter(|block| !block.is_hasty)
                .collect();
            blocked.sort_by_key(|block| block.since);
            if budget.openings() == 0 {
                for block in blocked {
                    block.hasty = block.hasty.saturating_sub(1);
                }
            } else {
                for block in blocked.into_iter().take(openings) {
                    block.hurry(now);
                }
            }
        }
        self.hurry_freed(namespace, &budgets, now);
        if let Some(known) = self.budgets.get_mut(namespace) {
            *known = Some(budgets);
        }
    }

    /// Lets pods try again whose budget is gone, covers them no longer, or has other rules now (its
    /// policy for unhealthy pods, for example): the numbers of a budget alone do not tell.
    fn hurry_freed(&mut self, namespace: &str, budgets: &[Budget], now: Timestamp) {
        let Some(Some(before)) = self.budgets.get(namespace) else {
            return;
        };
        let changed: Vec<Budget> = before
            .iter()
            .filter(|old| {
                let new = budgets.iter().find(|new| new.name == old.name);
                new.is_none_or(|new| new.generation != old.generation)
            })
            .cloned()
            .collect();
        for entry in self.pods.values_mut() {
            if entry.pod.key.namespace == namespace
                && changed.iter().any(|old| old.covers(&entry.pod))
                && let Some(block) = waiting(entry)
            {
                block.hurry(now);
            }
        }
    }

    pub(super) fn watch_budgets(&mut self, commands: &mut Vec<Command>) {
        let needed: BTreeSet<&String> = self
            .pods
            .values()
            .filter(|entry| entry.is_refused_for_now() && self.round != Round::Cancelled)
            .map(|entry| &entry.pod.key.namespace)
            .collect();
        let dropped: Vec<String> = self
            .budgets
            .keys()
            .filter(|known| !needed.contains(known))
            .cloned()
            .collect();
        let added: Vec<String> = needed
            .into_iter()
            .filter(|ns| !self.budgets.contains_key(*ns))
            .cloned()
            .collect();
        for namespace in dropped {
            self.budgets.remove(&namespace);
            commands.push(Command::ForgetBudgets(namespace));
        }
        for namespace in added {
            self.budgets.insert(namespace.clone(), None);
            commands.push(Command::WatchBudgets(namespace));
        }
    }
}

/// The block of a pod whose latest eviction was answered with 429, while it waits.
fn waiting(entry: &mut Entry) -> Option<&mut Block> {
    match &mut entry.duty {
        Duty::Blocked(block) if matches!(block.by, Blocker::NotNow(_)) => Some(block),
        Duty::Blocked(_)
        | Duty::Stays(_)
        | Duty::Unclassified
        | Duty::Undecided { .. }
        | Duty::Due(_)
        | Duty::Posting(_)
        | Duty::Accepted
        | Duty::Leaving(_)
        | Duty::LetGo
        | Duty::Refused(_) => None,
    }
}
