use super::*;

fn boot(id: &str) -> BootId {
    BootId::new(id).unwrap()
}

fn folder() -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path().join("self-node-remediation")).unwrap();
    (dir, folder)
}

#[test]
fn a_record_is_read_back_in_its_own_boot_only() {
    let (_dir, folder) = folder();
    let store = folder.try_own().unwrap().unwrap();
    assert_eq!(store.read::<u32>(STATE, &boot("b1")), None);
    store.write(STATE, &boot("b1"), &7_u32).unwrap();
    assert_eq!(store.read::<u32>(STATE, &boot("b1")), Some(7));
    assert_eq!(store.read::<u32>(STATE, &boot("b2")), None);
    store.write(STATE, &boot("b2"), &8_u32).unwrap();
    assert_eq!(store.read::<u32>(STATE, &boot("b2")), Some(8));
}

#[test]
fn what_cannot_be_read_counts_as_none() {
    let (_dir, folder) = folder();
    let store = folder.try_own().unwrap().unwrap();
    for broken in [
        "",
        "{",
        "{\"boot\":\"b1\"}",
        "{\"boot\":\"b1\",\"state\":\"x\"}",
    ] {
        std::fs::write(store.path(STATE), broken).unwrap();
        assert_eq!(store.read::<u32>(STATE, &boot("b1")), None, "{broken}");
    }
}

#[test]
fn an_interrupted_write_leaves_the_old_record() {
    let (_dir, folder) = folder();
    let store = folder.try_own().unwrap().unwrap();
    store.write(STATE, &boot("b1"), &1_u32).unwrap();
    std::fs::write(store.path("state.json.next"), "{\"boot\":\"b1\",\"sta").unwrap();
    assert_eq!(store.read::<u32>(STATE, &boot("b1")), Some(1));
    store.write(STATE, &boot("b1"), &2_u32).unwrap();
    assert_eq!(store.read::<u32>(STATE, &boot("b1")), Some(2));
}

#[test]
fn one_process_owns_the_state_and_sees_its_successor() {
    let (_dir, folder) = folder();
    let store = folder.try_own().unwrap().unwrap();
    assert!(folder.try_own().unwrap().is_none());
    assert!(!store.is_awaited().unwrap());

    let mut successor = folder.clone().stand_by();
    assert!(successor.try_own().unwrap().is_none());
    assert!(store.is_awaited().unwrap());
    let mut third = folder.clone().stand_by();
    assert!(third.try_own().unwrap().is_none());
    drop(store);
    assert!(third.try_own().unwrap().is_none(), "the first who stood by");
    let next = successor.try_own().unwrap().unwrap();
    assert!(!next.is_awaited().unwrap());
    assert!(folder.try_own().unwrap().is_none());
}

#[test]
fn without_run_there_is_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let error = Folder::open(dir.path().join("run/self-node-remediation")).unwrap_err();
    assert!(
        error.to_string().contains("self-node-remediation"),
        "{error}"
    );
}
