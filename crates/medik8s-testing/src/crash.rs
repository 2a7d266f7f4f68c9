//! Killing a piece of work at every write.
//!
//! # Guarantees [`survives_every_crash`] runs the work once for each write it makes, twice: the
//! process dies right before the write is stored, and right after, with its answer lost. Then a new
//! process does the work on what is left. Whatever must hold in the end is checked after each of
//! these runs.

use std::fmt;
use std::future::Future;

use crate::fake::{FakeApi, Moment};

/// Work that makes more writes than this does not come to an end.
const LIMIT: usize = 500;

/// Where the process died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashPoint {
    /// At which write, counted from 1.
    pub write: usize,
    /// Before or after it was stored.
    pub moment: Moment,
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = match self.moment {
            Moment::Before => "before",
            Moment::After => "after",
        };
        write!(f, "killed {moment} write {}", self.write)
    }
}

/// Runs work to its end on fresh servers, killing it at each write in turn. Returns the number of
/// writes it makes when it is not killed.
///
/// `setup` makes a server in the state before the work. `run` does the work as a new process would,
/// with nothing remembered, and returns when there is nothing left to do or when
/// [`FakeApi::is_dead`]. `check` ends the test if the outcome is wrong; it gets `None` for the run
/// without a crash.
pub async fn survives_every_crash<R>(
    setup: impl Fn() -> FakeApi,
    run: impl Fn(FakeApi) -> R,
    check: impl Fn(&FakeApi, Option<CrashPoint>),
) -> usize
where
    R: Future<Output = ()>,
{
    let api = setup();
    api.clear_requests();
    run(api.clone()).await;
    check(&api, None);
    let writes = api.writes().len();
    assert!(
        writes < LIMIT,
        "the work does not come to an end: {writes} writes"
    );
    for moment in [Moment::Before, Moment::After] {
        for write in 1..=writes {
            let api = setup();
            api.clear_requests();
            api.die_at_write(write, moment);
            run(api.clone()).await;
            let point = CrashPoint { write, moment };
            assert!(
                api.is_dead(),
                "{point}: the work made fewer writes than before"
            );
            api.revive();
            run(api.clone()).await;
            let writes = api.writes().len();
            assert!(writes < LIMIT, "{point}: the work does not come to an end");
            check(&api, Some(point));
        }
    }
    writes
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::PostParams;

    use super::*;

    /// Creates three objects, and gives up when the server is gone.
    #[expect(
        clippy::disallowed_methods,
        reason = "the work under test is raw on purpose"
    )]
    async fn three_objects(api: FakeApi) {
        let maps: Api<ConfigMap> = Api::default_namespaced(api.client());
        for name in ["a", "b", "c"] {
            let map = ConfigMap {
                metadata: crate::build::meta(name),
                ..ConfigMap::default()
            };
            let map = ConfigMap {
                metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                    resource_version: None,
                    ..map.metadata
                },
                ..map
            };
            match maps.create(&PostParams::default(), &map).await {
                Ok(_) | Err(kube::Error::Api(_)) => {}
                Err(_) => return,
            }
        }
    }

    #[tokio::test]
    async fn every_write_is_a_point_to_crash_at() {
        let points = Mutex::new(Vec::new());
        let writes = survives_every_crash(FakeApi::new, three_objects, |api, point| {
            assert_eq!(api.list::<ConfigMap>().len(), 3, "{point:?}");
            points
                .lock()
                .unwrap()
                .push(point.map(|point| point.to_string()));
        })
        .await;
        assert_eq!(writes, 3);
        let points = points.into_inner().unwrap();
        assert_eq!(points.len(), 7);
        assert_eq!(points[1].as_deref(), Some("killed before write 1"));
        assert_eq!(points[6].as_deref(), Some("killed after write 3"));
    }

    #[tokio::test]
    #[should_panic(expected = "lost an object")]
    async fn an_outcome_that_depends_on_luck_is_found() {
        // Writes only once per process and never looks: a lost first write is never repeated.
        let run = |api: FakeApi| async move {
            if api.get::<ConfigMap>(Some("default"), "started").is_none() {
                let marker = ConfigMap {
                    metadata: crate::build::meta("started"),
                    ..ConfigMap::default()
                };
                api.put(&marker);
                three_objects(api).await;
            }
        };
        survives_every_crash(FakeApi::new, run, |api, _| {
            assert_eq!(api.list::<ConfigMap>().len(), 4, "lost an object");
        })
        .await;
    }
}
