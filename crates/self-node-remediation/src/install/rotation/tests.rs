//! The whole rotation against a played cluster: every agent is one of the sets that its pod mounted.

use k8s_openapi::api::apps::v1::{DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec, SecretVolumeSource, Volume};
use rustls_pki_types::UnixTime;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn stored(uid: &str, set: CertificateSet) -> Stored {
    Stored {
        uid: uid.to_owned(),
        set,
    }
}

fn daemon_set(mount: &str, settled: bool) -> DaemonSet {
    let volume = Volume {
        secret: Some(SecretVolumeSource {
            secret_name: Some(mount.to_owned()),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    DaemonSet {
        spec: Some(DaemonSetSpec {
            template: PodTemplateSpec {
                spec: Some(PodSpec {
                    volumes: Some(vec![volume]),
                    ..PodSpec::default()
                }),
                ..PodTemplateSpec::default()
            },
            ..DaemonSetSpec::default()
        }),
        status: Some(DaemonSetStatus {
            desired_number_scheduled: 3,
            current_number_scheduled: 3,
            updated_number_scheduled: Some(if settled { 3 } else { 1 }),
            number_ready: 3,
            ..DaemonSetStatus::default()
        }),
        ..DaemonSet::default()
    }
}

/// Whether two agents with these sets can speak to each other, in both directions.
fn accept_each_other(one: &CertificateSet, other: &CertificateSet) -> bool {
    let time = UnixTime::since_unix_epoch(Duration::from_hours(490_896));
    // The certificate of the one under the CAs of the other; `verify` checks a set in itself.
    let crossed = |trusting: &CertificateSet, shown: &CertificateSet| {
        let set = CertificateSet {
            ca_pem: trusting.ca_pem.clone(),
            ..shown.clone()
        };
        set.identity().unwrap().verify(time).is_ok()
    };
    crossed(one, other) && crossed(other, one)
}

/// Old certificates that are due.
fn begin() -> Sets {
    Sets {
        main: Some(stored("m0", CertificateSet::create(now()).unwrap())),
        first_expiry: Some(now()),
        ..Sets::default()
    }
}

/// Carries a change out.
fn apply(sets: &mut Sets, change: Change, count: usize) {
    match change {
        Change::CreateNext { old_ca_pem } => {
            let new = CertificateSet::create(now()).unwrap();
            sets.next = Some(Next {
                stored: stored("n", next_set(&old_ca_pem, &new)),
                new_ca_pem: new.ca_pem,
            });
        }
        Change::Create { secret, set } => {
            let set = Some(stored(&format!("{secret}-{count}"), set));
            if secret == BOTH_SECRET {
                sets.both = set;
            } else {
                sets.main = set;
                sets.first_expiry = Some(time::after(now(), DUE * 9));
            }
        }
        Change::Delete { secret, uid } => {
            let gone = match secret {
                BOTH_SECRET => sets.both.take(),
                NEXT_SECRET => sets.next.take().map(|next| next.stored),
                _ => sets.main.take(),
            };
            assert_eq!(gone.unwrap().uid, uid);
        }
    }
}

/// Plays until nothing changes any more; `each` sees every state between two steps.
fn play(each: impl Fn(&Sets, &[CertificateSet])) -> (Sets, Vec<CertificateSet>) {
    let mut sets = begin();
    let first = sets.main.clone().unwrap().set;
    let mut mount = snr::CERTIFICATES_SECRET;
    // Three agents that are replaced one after the other.
    let mut agents = vec![first; 3];
    for count in 0..40 {
        let of = |sets: &Sets, mount: &str| match mount {
            BOTH_SECRET => sets.both.clone().unwrap().set,
            NEXT_SECRET => sets.next.clone().unwrap().stored.set,
            _ => sets.main.clone().unwrap().set,
        };
        // The roll-out of what is mounted, one agent per turn.
        let current = sets.main.as_ref().map(|_| of(&sets, mount));
        let late = current
            .as_ref()
            .and_then(|set| agents.iter().position(|agent| agent != set));
        let settled = late.is_none();
        let decided = decide(&sets, Some(&daemon_set(mount, settled)), true, now());
        if let (Some(agent), Some(set)) = (late, current) {
            agents[agent] = set;
        }
        each(&sets, &agents);
        let ends = settled && decided.mount == mount && decided.change.is_none();
        if ends {
            return (sets, agents);
        }
        mount = decided.mount;
        if let Some(change) = decided.change {
            apply(&mut sets, change, count);
        }
    }
    panic!("the rotation does not end");
}

#[test]
fn agents_and_manager_accept_each_other_at_every_moment() {
    let old = std::sync::Mutex::new(None);
    let (sets, agents) = play(|sets, agents| {
        old.lock().unwrap().get_or_insert(agents[0].clone());
        for one in agents {
            for other in agents {
                assert!(accept_each_other(one, other));
            }
            let manager = sets.for_the_manager().unwrap();
            assert!(accept_each_other(manager, one));
        }
    });
    let old = old.into_inner().unwrap().unwrap();
    let main = sets.main.unwrap().set;
    assert!(sets.both.is_none() && sets.next.is_none());
    assert!(agents.iter().all(|agent| *agent == main));
    assert!(!accept_each_other(&old, &main), "everything was replaced");
    assert!(main.validate(now()).is_ok());
}

#[test]
fn no_stage_begins_while_a_remediation_exists_or_an_agent_is_not_ready() {
    let sets = begin();
    let busy = |quiet, settled| {
        let set = daemon_set(snr::CERTIFICATES_SECRET, settled);
        decide(&sets, Some(&set), quiet, now()).change
    };
    assert!(busy(true, true).is_some());
    assert_eq!(busy(false, true), None);
    assert_eq!(busy(true, false), None);

    // The same between the stages.
    let mut sets = sets;
    let old_ca_pem = sets.main.clone().unwrap().set.ca_pem;
    apply(&mut sets, Change::CreateNext { old_ca_pem }, 0);
    let both = sets.main.clone().unwrap();
    sets.both = Some(both);
    for mount in [snr::CERTIFICATES_SECRET, BOTH_SECRET, NEXT_SECRET] {
        for (quiet, settled) in [(false, true), (true, false)] {
            let set = daemon_set(mount, settled);
            let decided = decide(&sets, Some(&set), quiet, now());
            assert_eq!((decided.mount, decided.change), (mount, None));
            // An expiry that comes nearer for months is nothing to be silent about.
            let told = decided.waits_for.unwrap();
            assert_eq!(told.contains("remediations"), !quiet, "{told}");
            assert_eq!(told.contains("agents"), quiet, "{told}");
        }
    }
}

#[test]
fn what_is_not_due_stays() {
    let sets = Sets {
        first_expiry: Some(time::after(now(), DUE + Duration::from_secs(1))),
        ..begin()
    };
    let set = daemon_set(snr::CERTIFICATES_SECRET, true);
    let decided = decide(&sets, Some(&set), true, now());
    assert_eq!(decided.change, None);
    assert_eq!(decided.mount, snr::CERTIFICATES_SECRET);
    assert_eq!(decided.wake, REST);
    let set = daemon_set(snr::CERTIFICATES_SECRET, false);
    assert_eq!(decide(&sets, Some(&set), false, now()).waits_for, None);
}

/// Somebody deletes the Secret in the middle: it comes back as one that those who run accept.
#[test]
fn a_secret_lost_on_the_way_comes_back_as_one_that_fits() {
    let mut sets = begin();
    let old = sets.main.clone().unwrap().set;
    apply(
        &mut sets,
        Change::CreateNext {
            old_ca_pem: old.ca_pem.clone(),
        },
        0,
    );
    let next = sets.next.clone().unwrap();
    sets.both = Some(stored(
        "b",
        CertificateSet {
            ca_pem: next.stored.set.ca_pem.clone(),
            ..old.clone()
        },
    ));
    sets.main = None;
    for (mount, running) in [
        (snr::CERTIFICATES_SECRET, &old),
        (BOTH_SECRET, &sets.both.clone().unwrap().set),
        (NEXT_SECRET, &next.stored.set),
    ] {
        let decided = decide(&sets, Some(&daemon_set(mount, true)), true, now());
        let Some(Change::Create { secret, set }) = decided.change else {
            panic!("nothing is created");
        };
        assert_eq!(secret, snr::CERTIFICATES_SECRET);
        assert!(accept_each_other(&set, running), "{mount}");
    }
}
