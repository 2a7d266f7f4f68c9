//! How long to wait after an eviction was refused.

use std::time::Duration;

use super::pod::Uid;

/// The wait after a refusal nobody can explain: an admission webhook (a live migration is under
/// way), or overload (specification 5.5).
const UNEXPLAINED: Duration = Duration::from_secs(5);

/// The longest wait while a budget is watched: the watch tells when it opens, the timer is only
/// for what a budget does not say. Six requests per minute and blocked pod are the limit.
const EXPLAINED_CAP: Duration = Duration::from_secs(30);

/// The longest gap between tries that are made because a budget seemed open.
const HASTY_CAP: Duration = Duration::from_secs(15);

/// The longest wait that a server can order. Above it, a broken proxy would stall a drain for good.
const ORDERED_CAP: Duration = Duration::from_mins(5);

/// How long to wait after the given number of refusals in a row.
///
/// `asked` is the server's Retry-After; `explained` says that the budgets covering the pod are
/// watched. Up to 20 % are added so that pods that were refused together do not return together;
/// the share depends on the pod and the number of refusals only, so that this stays a function.
pub fn delay(refusals: u32, asked: Option<Duration>, explained: bool, uid: &Uid) -> Duration {
    let base = if explained {
        let doublings = refusals.saturating_sub(1).min(8);
        UNEXPLAINED
            .saturating_mul(1 << doublings)
            .min(EXPLAINED_CAP)
    } else {
        UNEXPLAINED
    };
    let wait = base.max(asked.unwrap_or_default().min(ORDERED_CAP));
    wait.saturating_add(wait.saturating_mul(permille(uid, refusals)) / 1000)
}

/// How long after a refusal the next try may come because a budget opened.
pub fn hasty_gap(failed: u32) -> Duration {
    match failed.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => Duration::from_secs(1 << doublings.min(8)).min(HASTY_CAP),
    }
}

/// A number from 0 to 200 that looks random (FNV-1a).
fn permille(uid: &Uid, refusals: u32) -> u32 {
    let hash = uid
        .0
        .bytes()
        .chain(refusals.to_le_bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    hash % 201
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uid(text: &str) -> Uid {
        Uid(text.to_owned())
    }

    #[test]
    fn six_requests_per_minute_at_most_behind_a_watched_budget() {
        // The first refusal comes before the budgets are known.
        let mut at = delay(1, None, false, &uid("u"));
        let mut posts = 1;
        for refusals in 2.. {
            if at > Duration::from_mins(1) {
                break;
            }
            posts += 1;
            at += delay(refusals, None, true, &uid("u"));
        }
        assert!(posts <= 6, "{posts} requests in the first minute");
        assert!(delay(9, None, true, &uid("u")) >= Duration::from_secs(30));
    }

    #[test]
    fn pods_spread_out() {
        let waits: std::collections::BTreeSet<Duration> = (0..50)
            .map(|n| delay(1, None, false, &uid(&format!("pod-{n}"))))
            .collect();
        assert!(waits.len() > 30, "{} different waits", waits.len());
    }

    proptest! {
        #[test]
        fn waits_at_least_as_long_as_asked_and_never_for_ever(
            refusals: u32, asked in proptest::option::of(0u64..100_000), explained: bool, id in ".{0,40}",
        ) {
            let asked = asked.map(Duration::from_secs);
            let wait = delay(refusals, asked, explained, &uid(&id));
            prop_assert!(wait >= asked.unwrap_or_default().min(ORDERED_CAP).max(UNEXPLAINED));
            prop_assert!(wait <= ORDERED_CAP * 12 / 10);
            if asked.is_none() && !explained {
                prop_assert!(wait <= UNEXPLAINED * 12 / 10);
            }
        }

        #[test]
        fn gaps_between_hasty_tries_grow(failed in 1u32..1000) {
            prop_assert!(hasty_gap(failed) >= Duration::from_secs(1));
            prop_assert!(hasty_gap(failed) <= hasty_gap(failed + 1));
            prop_assert!(hasty_gap(failed) <= HASTY_CAP);
        }
    }
}
