//! Who may read `/metrics`: the API server decides (TokenReview, SubjectAccessReview), as
//! controller-runtime's `WithAuthenticationAndAuthorization` does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client};

use crate::{clock::Clock, error::Error, write::Writer};

const ALLOW_FOR: Duration = Duration::from_mins(5);
const DENY_FOR: Duration = Duration::from_secs(30);
/// Entries kept at most, so that made-up tokens cannot fill the memory.
const CACHE_SIZE: usize = 128;
const TOKEN_SIZE: usize = 16 * 1024;

/// What a request to the metrics endpoint gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// 200.
    Allowed,
    /// 401.
    Unauthenticated,
    /// 403.
    Forbidden,
}

/// Asks the API server about bearer tokens and remembers the answers for a while.
#[derive(Clone)]
pub struct Authoriser {
    client: Client,
    writer: Writer,
    clock: Clock,
    known: Arc<Mutex<BTreeMap<String, (Decision, Duration)>>>,
}

impl Authoriser {
    /// Asks through `client`, as field manager `binary`.
    pub fn new(client: Client, binary: &str, clock: Clock) -> Self {
        let writer = Writer::new(binary).with_deadline(Duration::from_secs(5));
        Self {
            client,
            writer,
            clock,
            known: Arc::default(),
        }
    }

    /// Decides about `GET path` with the content of an `Authorization` header.
    pub async fn decide(&self, header: Option<&str>, path: &str) -> Result<Decision, Error> {
        let Some(token) = header.and_then(bearer) else {
            return Ok(Decision::Unauthenticated);
        };
        let now = self.clock.boottime();
        let key = format!("{path} {token}");
        if let Some(decision) = self.remembered(&key, now) {
            return Ok(decision);
        }
        let decision = self.ask(token, path).await?;
        self.remember(key, decision, now);
        Ok(decision)
    }

    async fn ask(&self, token: &str, path: &str) -> Result<Decision, Error> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let reviewed = self
            .writer
            .create(&Api::all(self.client.clone()), &review)
            .await?;
        let status = reviewed.status.unwrap_or_default();
        let (true, Some(user)) = (status.authenticated.unwrap_or(false), status.user) else {
            return Ok(Decision::Unauthenticated);
        };
        let access = SubjectAccessReview {
            spec: question(user, path),
            ..Default::default()
        };
        let answered = self
            .writer
            .create(&Api::all(self.client.clone()), &access)
            .await?;
        Ok(match answered.status {
            Some(status) if status.allowed && status.denied != Some(true) => Decision::Allowed,
            Some(_) | None => Decision::Forbidden,
        })
    }

    fn remembered(&self, key: &str, now: Duration) -> Option<Decision> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(key)
            .filter(|(_, until)| now < *until)
            .map(|(decision, _)| *decision)
    }

    fn remember(&self, key: String, decision: Decision, now: Duration) {
        let keep = match decision {
            Decision::Allowed => ALLOW_FOR,
            Decision::Unauthenticated | Decision::Forbidden => DENY_FOR,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (_, until)| now < *until);
        if known.len() >= CACHE_SIZE {
            // The answer that is forgotten next anyway; denials are kept for the shortest time.
            let next = known
                .iter()
                .min_by_key(|(_, (_, until))| *until)
                .map(|(key, _)| key.clone());
            if let Some(next) = next {
                known.remove(&next);
            }
        }
        known.insert(key, (decision, now.saturating_add(keep)));
    }
}

fn question(user: UserInfo, path: &str) -> SubjectAccessReviewSpec {
    SubjectAccessReviewSpec {
        extra: user.extra,
        groups: user.groups,
        non_resource_attributes: Some(NonResourceAttributes {
            path: Some(path.to_owned()),
            verb: Some("get".to_owned()),
        }),
        resource_attributes: None,
        uid: user.uid,
        user: user.username,
    }
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= TOKEN_SIZE)
        .then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bearer_tokens_count() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for other in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(bearer(other), None, "{other}");
        }
        assert_eq!(
            bearer(&format!("Bearer {}", "x".repeat(TOKEN_SIZE + 1))),
            None
        );
    }
}
