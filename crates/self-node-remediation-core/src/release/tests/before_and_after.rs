//! Before the order, and after the release.

use super::*;

#[test]
fn what_an_order_needs() {
    let timing =
        Timing::of(&medik8s_api::self_node_remediation::SelfNodeRemediationConfigSpec::default())
            .unwrap();
    let judge = |node: &Node| terms(node, &timing, &[], 4, None).unwrap();
    let good = judge(&node()).unwrap();
    assert_eq!(
        (good.wait, good.grounds, good.boot),
        (secs(130), Grounds::Announced, boot("b1"))
    );
    let spoils: [(Spoil, Missing); 7] = [
        (|node| node.agent = AgentPods::None, Missing::Agent),
        (|node| node.agent = AgentPods::Unstarted, Missing::Agent),
        (
            |node| node.reboot_capable = false,
            Missing::RebootCapability,
        ),
        (|node| node.kubelet_boot = None, Missing::BootId),
        (|node| node.announced = None, Missing::Announcement),
        (
            |node| node.announced.as_mut().unwrap().boot = boot("b0"),
            Missing::AnnouncementOfThisBoot,
        ),
        (
            |node| node.announced.as_mut().unwrap().armed = false,
            Missing::RebootCapability,
        ),
    ];
    for (spoil, missing) in spoils {
        let mut node = node();
        spoil(&mut node);
        assert_eq!(judge(&node), Err(missing));
    }
    let mut unbound = node();
    unbound.announced.as_mut().unwrap().bound = None;
    let unbound = judge(&unbound).unwrap();
    assert_eq!(
        (unbound.wait, unbound.grounds),
        (secs(130), Grounds::Evidence),
        "ordered, though time will not free it"
    );
    let mut old = node();
    old.agent = AgentPods::Old;
    old.announced = None;
    let terms = judge(&old).unwrap();
    assert_eq!(terms.grounds, Grounds::OldAgent);
    // 60 + 2 x 12 (4 workers: 2 batches, less than G) -> 30, + 10 + 30, and 20 + 24 on top.
    assert_eq!(terms.wait, secs(60 + 30 + 10 + 30 + 20 + 24));
}

#[test]
fn an_old_agents_own_settings_count_as_well() {
    let fast = |interval| {
        Timing::new(budget::Limits {
            api_check_interval: secs(interval),
            api_server_timeout: secs(5),
            max_api_error_threshold: 3,
            peer_dial_timeout: secs(5),
            peer_request_timeout: secs(7),
        })
        .unwrap()
    };
    let mut old = node();
    old.agent = AgentPods::Old;
    let new_only = old_agent_wait(&old, &fast(5), &[], 2, None).unwrap();
    let both = old_agent_wait(&old, &fast(5), &[fast(30)], 2, None).unwrap();
    assert_eq!(both, old_agent_wait(&old, &fast(30), &[], 2, None).unwrap());
    assert!(
        both > new_only,
        "the roll-out of a shorter configuration may not have reached it"
    );
}

#[test]
fn how_the_workload_may_be_removed() {
    let forced = Released {
        at: at(130),
        by: By::Time,
    };
    let with = |released: Option<Released>| OrderTimes {
        released,
        ..times()
    };
    let renewal = || {
        Ok(OrderTerms {
            boot: boot("b2"),
            wait: secs(130),
            grounds: Grounds::Announced,
        })
    };
    let b1 = boot("b1");
    let judge = |node: &Node, times: &OrderTimes, left| {
        removal(node, Some(&b1), Some(times), left, renewal())
    };
    assert_eq!(
        judge(&node(), &with(Some(forced)), true),
        Removal::Force(forced)
    );
    // Nothing without a recorded release of this very boot.
    assert_eq!(judge(&node(), &with(None), true), Removal::Unreleased);
    assert_eq!(
        removal(&node(), Some(&b1), None, true, renewal()),
        Removal::Unreleased
    );
    assert_eq!(
        removal(&node(), None, Some(&with(Some(forced))), true, renewal()),
        Removal::Unreleased
    );
    let seen_reboot = Released {
        at: at(130),
        by: By::Reboot,
    };
    assert_eq!(
        judge(&node(), &with(Some(seen_reboot)), true),
        Removal::Unreleased
    );
    let other = OrderTimes {
        boot: boot("b0"),
        ..with(Some(forced))
    };
    assert_eq!(judge(&node(), &other, true), Removal::Unreleased);
    // The node is in another boot: never by force, whatever released it.
    let mut returned = node();
    returned.kubelet_boot = Some(boot("b2"));
    for ready in [Status::True, Status::False] {
        returned.ready = ready;
        assert_eq!(
            judge(&returned, &with(Some(forced)), true),
            Removal::Graceful
        );
    }
    // And lost again.
    returned.ready = Status::Unknown;
    assert_eq!(
        judge(&returned, &with(Some(forced)), false),
        Removal::Graceful
    );
    assert!(matches!(
        judge(&returned, &with(Some(forced)), true),
        Removal::Renew(_)
    ));
    let missing = Err(Missing::AnnouncementOfThisBoot);
    assert_eq!(
        removal(
            &returned,
            Some(&b1),
            Some(&with(Some(forced))),
            true,
            missing
        ),
        Removal::Hold(Missing::AnnouncementOfThisBoot)
    );
}

#[test]
fn recorded_times_survive_their_text_form_and_are_of_one_order() {
    let full = OrderTimes {
        words: Some(at(9)),
        released: Some(Released {
            at: at(10),
            by: By::LastWords,
        }),
        ..times()
    };
    let begin = OrderTimes::begin(Uid::new("u1").unwrap(), boot("b1"), at(1));
    let (uid, b1) = (Uid::new("u1").unwrap(), boot("b1"));
    for value in [full.clone(), begin] {
        let text = value.to_string();
        assert_eq!(OrderTimes::read(Some(&text), &uid, Some(&b1)), Some(value));
        assert_eq!(
            OrderTimes::read(Some(&text), &Uid::new("u2").unwrap(), Some(&b1)),
            None
        );
        assert_eq!(OrderTimes::read(Some(&text), &uid, Some(&boot("b2"))), None);
        assert_eq!(OrderTimes::read(Some(&text), &uid, None), None);
    }
    for bad in [
        "",
        "uid=u1 boot=b1",
        "uid=u1 boot=b1 seen=yesterday",
        "uid=u1 boot=b1 seen=2026-01-01T00:00:00Z released=2026-01-01T00:00:00Z",
        "uid=u1 boot=b1 seen=2026-01-01T00:00:00Z by=time",
    ] {
        assert_eq!(
            OrderTimes::read(Some(bad), &uid, Some(&b1)),
            None,
            "{bad:?}"
        );
    }
    assert!(
        full.to_string()
            .starts_with("uid=u1 boot=b1 seen=2023-11-14T22:13:21Z bound=90 wd=10 quorum=")
    );
}
