use proptest::prelude::*;

use super::*;

fn limits(interval: u64, timeout: u64, threshold: u32, dial: u64, request: u64) -> Limits {
    Limits {
        api_check_interval: Duration::from_secs(interval),
        api_server_timeout: Duration::from_secs(timeout),
        max_api_error_threshold: threshold,
        peer_dial_timeout: Duration::from_secs(dial),
        peer_request_timeout: Duration::from_secs(request),
    }
}

fn defaults() -> Limits {
    Limits::of(&SelfNodeRemediationConfigSpec::default()).unwrap()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn defaults_are_those_of_the_schema() {
    assert_eq!(defaults(), limits(15, 5, 3, 5, 7));
}

#[test]
fn batches_of_the_original() {
    let table = [
        (0, 0),
        (1, 1),
        (3, 1),
        (4, 2),
        (6, 2),
        (20, 7),
        (42, 14),
        (43, 11),
        (53, 11),
    ];
    for (peers, expected) in table {
        assert_eq!(batches(peers), expected, "{peers} peers");
    }
}

#[test]
fn waits_of_the_original() {
    // Section 18.1 and the baseline measurement (50 workers, softdog: 306 s).
    for (limits, workers, wd, expected) in [
        (defaults(), 2, 10, 130),
        (limits(25, 7, 4, 11, 13), 20, 25, 351),
        (defaults(), 6, 60, 180),
        (defaults(), 42, 60, 318),
        (defaults(), 50, 60, 306),
        (defaults(), 50, 10, 256),
        // Agents give a peer at least apiServerTimeout and 2 s, whatever is configured (18.3).
        (limits(15, 5, 3, 5, 2), 20, 10, 184),
    ] {
        assert_eq!(
            original_wait(&limits, workers, secs(wd)),
            Some(secs(expected))
        );
    }
}

#[test]
fn waits_of_an_announcing_node() {
    let fast = limits(3, 2, 3, 1, 4);
    for (limits, wd, expected) in [
        (defaults(), 10, 130),
        (defaults(), 60, 220),
        (defaults(), 20, 140),
        (fast, 10, 85),
    ] {
        let timing = Timing::new(limits).unwrap();
        assert_eq!(
            announced_wait(timing.announced_span(), wd, None),
            Ok(secs(expected))
        );
    }
}

#[test]
fn the_user_can_only_lengthen() {
    assert_eq!(announced_wait(90, 10, Some(secs(100))), Ok(secs(130)));
    assert_eq!(announced_wait(90, 10, Some(secs(131))), Ok(secs(131)));
    let timing = Timing::new(defaults()).unwrap();
    let least = timing.old_agent_wait(3, None, false, None).unwrap();
    assert_eq!(
        timing.old_agent_wait(3, None, false, Some(secs(1))),
        Ok(least)
    );
    let negative = SelfNodeRemediationConfigSpec {
        safe_time_to_assume_node_rebooted_seconds: Some(-5),
        ..SelfNodeRemediationConfigSpec::default()
    };
    assert_eq!(user_wait(&negative), None);
}

#[test]
fn h02_an_old_agents_watchdog_timeout_of_zero_counts_as_sixty() {
    let timing = Timing::new(defaults()).unwrap();
    let wait = |published| timing.old_agent_wait(2, published, false, None).unwrap();
    assert_eq!(wait(Some(Duration::ZERO)), wait(Some(secs(60))));
    assert_eq!(wait(None), wait(Some(secs(60))));
    // 60 + 30 + wd + 30, and I + A + C + Rq on top.
    assert_eq!(wait(Some(secs(10))), secs(130 + 32));
}

#[test]
fn an_old_control_plane_agent_gets_its_own_surcharge() {
    let timing = Timing::new(defaults()).unwrap();
    let worker = timing
        .old_agent_wait(2, Some(secs(10)), false, None)
        .unwrap();
    let control_plane = timing
        .old_agent_wait(2, Some(secs(10)), true, None)
        .unwrap();
    assert_eq!(control_plane, worker + secs(4 * 12 + 35));
}

#[test]
fn h12_the_closing_ping_is_counted() {
    assert_eq!(after_quorum(90, 20), Ok(secs(90 + 40 + 10)));
    assert_eq!(after_last_words(5, false), Ok(secs(12)));
    assert_eq!(after_last_words(5, true), Ok(secs(17)));
    for wd in 0..700 {
        let wait = announced_wait(90, wd, None).unwrap();
        assert!(wait >= secs(90 + 2 * wd + 10), "wd {wd}");
        assert!(wait >= secs(90 + wd) + REBOOT_BUFFER, "wd {wd}");
    }
}

#[test]
fn moments_are_rounded_up() {
    let now: Timestamp = "2026-01-02T03:04:05.000000001Z".parse().unwrap();
    let exact: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    assert_eq!(
        assumed_rebooted(now, secs(10)).unwrap().to_string(),
        "2026-01-02T03:04:16Z"
    );
    assert_eq!(
        assumed_rebooted(exact, secs(10)).unwrap().to_string(),
        "2026-01-02T03:04:15Z"
    );
    assert_eq!(whole_seconds_up(Duration::from_millis(1001)), 2);
    assert_eq!(whole_seconds_up(Duration::from_secs(2)), 2);
}

#[test]
fn what_cannot_be_counted_is_refused() {
    assert_eq!(
        Timing::new(limits(u64::MAX, 1, 1, 1, 1)),
        Err(BudgetError::TooLong)
    );
    assert_eq!(
        Timing::new(limits(1, 1, 1, 1, u64::MAX)),
        Err(BudgetError::TooLong)
    );
    assert_eq!(
        Timing::new(limits(1, u64::MAX, 1, 1, 1)),
        Err(BudgetError::TooLong)
    );
    assert_eq!(
        Timing::new(limits(3600, 1, u32::MAX, 1, 1)),
        Err(BudgetError::TooLong)
    );
    assert_eq!(announced_wait(u64::MAX, 1, None), Err(BudgetError::TooLong));
    assert_eq!(announced_wait(1, u64::MAX, None), Err(BudgetError::TooLong));
    assert_eq!(
        announced_wait(1, 1, Some(Duration::MAX)),
        Err(BudgetError::TooLong)
    );
    assert_eq!(after_quorum(1, u64::MAX), Err(BudgetError::TooLong));
    assert_eq!(after_last_words(u64::MAX, false), Err(BudgetError::TooLong));
    for bad in [0, -1, i64::MAX] {
        let spec = SelfNodeRemediationConfigSpec {
            max_api_error_threshold: Some(bad),
            ..SelfNodeRemediationConfigSpec::default()
        };
        let error = BudgetError::Count {
            field: "maxApiErrorThreshold",
            value: bad,
        };
        assert_eq!(Timing::of(&spec), Err(error));
    }
    let spec = SelfNodeRemediationConfigSpec {
        api_check_interval: Some("soon".into()),
        ..SelfNodeRemediationConfigSpec::default()
    };
    assert!(matches!(
        Timing::of(&spec),
        Err(BudgetError::Duration {
            field: "apiCheckInterval",
            ..
        })
    ));
}

/// Durations over the whole range of what the schema accepts, dense where configurations are.
fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (1u64..120_000).prop_map(Duration::from_millis),
        1 => (0u64..=i64::MAX.unsigned_abs()).prop_map(Duration::from_nanos),
        1 => Just(Duration::from_nanos(i64::MAX.unsigned_abs())),
    ]
}

prop_compose! {
    fn any_limits()(
        api_check_interval in durations(),
        api_server_timeout in durations(),
        max_api_error_threshold in prop_oneof![4 => 1u32..10, 1 => 1u32..=u32::MAX],
        peer_dial_timeout in durations(),
        peer_request_timeout in durations(),
    ) -> Limits {
        Limits { api_check_interval, api_server_timeout, max_api_error_threshold, peer_dial_timeout, peer_request_timeout }
    }
}

/// The sum in a wider number type: the judge of the checked arithmetic.
fn nanos(duration: Duration) -> u128 {
    duration.as_nanos()
}

proptest! {
    #[test]
    fn no_accepted_configuration_waits_too_short(
        limits in any_limits(),
        wd in prop_oneof![4 => 0u64..700, 1 => 0u64..=u64::MAX],
        user in proptest::option::of(durations()),
    ) {
        let rq = nanos(limits.peer_request_timeout)
            .max(nanos(limits.api_server_timeout) + 2_000_000_000);
        let span = u128::from(limits.max_api_error_threshold)
            * (nanos(limits.api_check_interval) + nanos(limits.api_server_timeout))
            + (nanos(limits.peer_dial_timeout) + rq).max(30_000_000_000);
        match Timing::new(limits) {
            Err(error) => {
                prop_assert_eq!(error, BudgetError::TooLong);
                prop_assert!(span > nanos(LONGEST));
            }
            Ok(timing) => {
                prop_assert_eq!(nanos(timing.span()), span);
                prop_assert_eq!(nanos(timing.patience() + timing.round()), span);
                if let Ok(wait) = announced_wait(timing.announced_span(), wd, user) {
                    let wd = u128::from(wd) * 1_000_000_000;
                    prop_assert!(nanos(wait) >= span + 2 * wd + 10_000_000_000);
                    prop_assert!(nanos(wait) >= span + wd + 30_000_000_000);
                    prop_assert!(wait >= user.unwrap_or_default());
                    prop_assert!(wait <= LONGEST);
                }
            }
        }
    }

    /// However slow the clock of the agent and fast that of the manager, and whichever manager ends the wait: it has not
    /// passed before the node is reset. In nanoseconds of a clock that is right.
    #[test]
    fn clocks_that_are_a_tenth_of_a_percent_off_never_end_a_wait_early(
        limits in any_limits(),
        wd in prop_oneof![4 => 0u64..700, 1 => 0u64..40_000_000],
        timeout in prop_oneof![4 => 1u64..700, 1 => 1u64..40_000_000],
    ) {
        // A slow clock shows 999 where 1000 have passed, a fast one 1001; two managers are five seconds apart.
        let slow = |shown: u128| (shown * 1000).div_ceil(999);
        let fast = |shown: u128| shown.saturating_sub(5_000_000_000) * 1000 / 1001;
        let second = 1_000_000_000u128;
        if let Ok(timing) = Timing::new(limits) {
            let reset = slow(nanos(timing.span()) + 2 * u128::from(wd) * second);
            for wait in [
                announced_wait(timing.announced_span(), wd, None),
                after_quorum(timing.announced_span(), wd),
            ].into_iter().flatten() {
                prop_assert!(fast(nanos(wait)) >= reset, "waits {wait:?}, reset after {reset}");
            }
        }
        if let Ok(wait) = after_last_words(timeout, true) {
            prop_assert!(fast(nanos(wait)) >= slow(2 * u128::from(timeout) * second));
        }
        if let Ok(wait) = after_last_words(timeout, false) {
            prop_assert!(nanos(wait) * 1000 / 1001 >= slow(2 * u128::from(timeout) * second));
        }
    }

    #[test]
    fn an_old_agent_never_gets_less_than_the_original(
        limits in any_limits(),
        workers in 0usize..5000,
        wd in proptest::option::of(0u64..700),
        control_plane: bool,
    ) {
        let Ok(timing) = Timing::new(limits) else { return Ok(()) };
        let published = wd.map(Duration::from_secs);
        if let Ok(wait) = timing.old_agent_wait(workers, published, control_plane, None) {
            let watchdog = published.filter(|wd| !wd.is_zero()).unwrap_or(UNKNOWN_WATCHDOG);
            prop_assert!(wait > original_wait(&limits, workers, watchdog).unwrap());
        }
    }

    #[test]
    fn a_moment_is_never_early(second in -1_000_000_000i64..4_000_000_000, nano in 0i32..1_000_000_000, wait in 0u64..100_000_000) {
        let now = Timestamp::new(second, if second < 0 { -nano } else { nano }).unwrap();
        let moment = assumed_rebooted(now, Duration::from_secs(wait)).unwrap();
        let exact = now.checked_add(Duration::from_secs(wait)).unwrap();
        prop_assert!(moment >= exact);
        prop_assert!(moment.duration_since(exact).as_secs() <= 1);
        prop_assert_eq!(moment.subsec_nanosecond(), 0);
    }

    #[test]
    fn batches_cover_all_peers(peers in 0usize..100_000) {
        let later = (peers.saturating_sub(3) / 10).max(3);
        let b = batches(peers) as usize;
        let covered = |b: usize| if b == 0 { 0 } else { 3 + (b - 1) * later };
        prop_assert!(covered(b) >= peers);
        prop_assert!(b == 0 || covered(b - 1) < peers);
    }
}
