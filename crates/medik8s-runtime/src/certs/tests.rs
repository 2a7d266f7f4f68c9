use std::os::unix::fs::symlink;

use super::*;

fn write_pair(dir: &Path, name: &str) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("tls.crt"), certificate.pem()).unwrap();
    fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
}

/// As the kubelet mounts Secrets: `tls.crt -> ..data/tls.crt`, `..data -> ..1`.
fn mount(dir: &Path) {
    write_pair(&dir.join("..1"), "one");
    symlink("..1", dir.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(file), dir.join(file)).unwrap();
    }
}

fn swap(dir: &Path, version: &str) {
    write_pair(&dir.join(version), version);
    symlink(version, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

fn served(slot: &CertSlot) -> Option<Vec<u8>> {
    slot.get()
        .map(|certified| certified.cert.first().unwrap().to_vec())
}

#[tokio::test(start_paused = true)]
async fn follows_the_kubelets_symlink_swap() {
    let dir = tempfile::tempdir().unwrap();
    mount(dir.path());
    let files = [CertFiles::in_dir(dir.path())];
    let (slot, check, stop) = (CertSlot::default(), Check::detached(), Shutdown::manual());
    let steps = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let first = served(&slot).expect("loaded at start");
        assert_eq!(check.state(), Ok(()));
        swap(dir.path(), "..2");
        tokio::time::sleep(RELOAD_PERIOD).await;
        let second = served(&slot).unwrap();
        assert_ne!(first, second);
        // A broken pair is reported, what was served stays.
        fs::create_dir(dir.path().join("..3")).unwrap();
        fs::write(dir.path().join("..3/tls.crt"), "nonsense").unwrap();
        fs::write(dir.path().join("..3/tls.key"), "nonsense").unwrap();
        symlink("..3", dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        tokio::time::sleep(RELOAD_PERIOD * 2).await;
        assert_eq!(served(&slot), Some(second));
        assert_eq!(check.state(), Ok(()));
        stop.trigger();
    };
    tokio::join!(follow(&files, &slot, &check, &stop), steps);
}

#[tokio::test(start_paused = true)]
async fn prefers_the_first_pair_and_waits_for_missing_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (olm, own) = (dir.path().join("olm"), dir.path().join("own"));
    let files = [CertFiles::in_dir(&olm), CertFiles::in_dir(&own)];
    let (slot, check, stop) = (CertSlot::default(), Check::detached(), Shutdown::manual());
    let steps = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!slot.is_set());
        assert!(check.state().unwrap_err().contains("no certificate at"));
        write_pair(&own, "own");
        tokio::time::sleep(RELOAD_PERIOD).await;
        let first = served(&slot).unwrap();
        write_pair(&olm, "olm");
        tokio::time::sleep(RELOAD_PERIOD).await;
        assert_ne!(served(&slot).unwrap(), first);
        stop.trigger();
    };
    tokio::join!(follow(&files, &slot, &check, &stop), steps);
}

#[test]
fn a_self_signed_certificate_can_be_served() {
    assert!(self_signed("test-operator").unwrap().is_set());
}
