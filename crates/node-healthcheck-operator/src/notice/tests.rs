use super::*;

fn notices(list: &[(&'static str, &str, &str)]) -> Notices {
    list.iter()
        .map(|(reason, subject, message)| {
            (
                Topic {
                    reason,
                    subject: (*subject).to_owned(),
                },
                Notice {
                    severity: Severity::Warning,
                    message: (*message).to_owned(),
                },
            )
        })
        .collect()
}

fn said(announcements: &[Announcement]) -> Vec<&str> {
    announcements
        .iter()
        .map(|one| one.message.as_str())
        .collect()
}

#[test]
fn says_a_thing_once_while_it_is_true() {
    let mut ledger = Ledger::default();
    let one = notices(&[("A", "n1", "x")]);
    assert_eq!(said(&ledger.update(one.clone())), ["x"]);
    assert!(ledger.update(one.clone()).is_empty());
    let two = notices(&[("A", "n1", "x"), ("A", "n2", "y")]);
    assert_eq!(said(&ledger.update(two)), ["y"]);
    assert_eq!(said(&ledger.update(notices(&[("A", "n1", "z")]))), ["z"]);
    assert!(ledger.update(notices(&[])).is_empty());
    assert_eq!(said(&ledger.update(one)), ["x"], "it is true again");
}

#[test]
fn says_first_what_concerns_everybody() {
    let mut ledger = Ledger::default();
    let all = notices(&[("A", "n1", "x"), ("A", "n2", "y"), ("B", "", "why")]);
    assert_eq!(said(&ledger.update(all)), ["why", "x", "y"]);
}
