//! The host seam under made-up roots. The real root is never acted on here.

use super::*;

fn simulated() -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("proc/sys/kernel/random")).unwrap();
    let host = Host::new(dir.path());
    (dir, host)
}

#[test]
fn only_the_real_root_reaches_the_machine() {
    for root in [
        "/",
        "/proc/self/root",
        "/proc/1",
        "/proc/2/root",
        "/tmp/x/proc/1/root",
        "",
    ] {
        let host = Host::new(root);
        assert!(!host.is_real(), "{root}");
        assert!(
            !host.reboot_chain().contains(&RebootStep::Syscall),
            "{root}"
        );
        assert_eq!(host.reboot_chain().len(), 1, "{root}");
        assert!(
            matches!(host.load_softdog(), Err(HostError::NotTheMachine)),
            "{root}"
        );
        assert!(host.watchdogs().list().is_empty(), "{root}");
        assert!(!host.watchdogs().exists(Path::new("/dev/null")), "{root}");
    }
}

#[test]
fn the_real_root_has_the_whole_chain() {
    // Only planned, never run.
    let host = Host::new(Host::REAL_ROOT);
    assert!(host.is_real());
    assert_eq!(
        host.reboot_chain(),
        [
            RebootStep::Sysrq("/proc/sysrq-trigger".into()),
            RebootStep::Sysrq("/proc/1/root/proc/sysrq-trigger".into()),
            RebootStep::Syscall
        ]
    );
}

#[test]
fn a_simulated_reboot_appends_to_a_plain_file() {
    let (dir, host) = simulated();
    let trigger = dir.path().join("proc/sysrq-trigger");
    let attempts = host.reboot();
    assert!(
        matches!(attempts[0].result, Err(HostError::File { .. })),
        "no file, no reset"
    );
    assert!(!trigger.exists(), "the trigger is never created");
    std::fs::write(&trigger, "").unwrap();
    let attempts = host.reboot();
    assert!(attempts.len() == 1 && attempts[0].result.is_ok());
    assert_eq!(std::fs::read_to_string(&trigger).unwrap(), "b");
}

#[test]
fn a_simulated_reboot_never_writes_to_procfs() {
    // /proc/self/comm is a writable procfs file without side effects: a write renames the thread.
    let before = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    let (dir, host) = simulated();
    let trigger = dir.path().join("proc/sysrq-trigger");
    std::os::unix::fs::symlink("/proc/thread-self/comm", &trigger).unwrap();
    let attempts = host.reboot();
    assert!(
        matches!(attempts[0].result, Err(HostError::Refused { .. })),
        "{attempts:?}"
    );
    assert_eq!(
        std::fs::read_to_string("/proc/thread-self/comm").unwrap(),
        before
    );
}

#[test]
fn a_simulated_reboot_never_writes_to_a_device() {
    let (dir, host) = simulated();
    std::os::unix::fs::symlink("/dev/null", dir.path().join("proc/sysrq-trigger")).unwrap();
    assert!(matches!(
        host.reboot()[0].result,
        Err(HostError::Refused { .. })
    ));
}

#[test]
fn boot_id_and_uptime_are_parsed() {
    let (dir, host) = simulated();
    assert!(matches!(host.boot_id(), Err(HostError::File { .. })));
    let boot_id = dir.path().join("proc/sys/kernel/random/boot_id");
    std::fs::write(&boot_id, "0b2c7fd2-1b7c-4c9a-93a5-6d0e6a1d8a11\n").unwrap();
    assert_eq!(
        host.boot_id().unwrap(),
        "0b2c7fd2-1b7c-4c9a-93a5-6d0e6a1d8a11"
    );
    for bad in ["", "\n", "a b", "../../x", &"0".repeat(65)] {
        std::fs::write(&boot_id, bad).unwrap();
        assert!(
            matches!(host.boot_id(), Err(HostError::Malformed { .. })),
            "{bad:?}"
        );
    }
    std::fs::write(dir.path().join("proc/uptime"), "350735.47 234388.90\n").unwrap();
    assert_eq!(host.uptime().unwrap(), Duration::from_millis(350_735_470));
    for bad in ["", "x 1", "-1 0", "NaN", "inf"] {
        std::fs::write(dir.path().join("proc/uptime"), bad).unwrap();
        assert!(
            matches!(host.uptime(), Err(HostError::Malformed { .. })),
            "{bad:?}"
        );
    }
    assert_eq!(
        host.state_dir(),
        dir.path().join("run/self-node-remediation")
    );
}

/// A write to sysrq that never returns must not keep reboot(2) from its turn.
#[test]
fn a_link_that_hangs_does_not_end_the_chain() {
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let tried = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let hanging = Default::default();
    let chain = || {
        let (held, tried) = (Arc::clone(&held), Arc::clone(&tried));
        let hangs: Link = Arc::new(move || {
            let _released = held.lock().unwrap().recv();
            Ok(())
        });
        let works: Link = Arc::new(move || {
            tried.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        let links = [
            (RebootStep::Sysrq("/proc/sysrq-trigger".into()), hangs),
            (RebootStep::Syscall, works),
        ];
        try_links(links, &hanging)
    };
    for round in 1..=2 {
        let attempts = chain();
        assert!(matches!(attempts[0].result, Err(HostError::Hangs)));
        assert!(attempts[1].result.is_ok());
        assert_eq!(tried.load(Ordering::SeqCst), round);
    }
    drop(release);
}
