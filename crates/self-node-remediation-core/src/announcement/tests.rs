use super::*;

fn announcement() -> Announcement {
    Announcement {
        boot: BootId::new("7d0c1c2e-8f0b-4a53-9f6f-0d5b7e1f9a11").unwrap(),
        armed: true,
        wd: 20,
        bound: Some(90),
        workers: 49,
        cp: 0,
        stamp: "2026-01-02T03:04:05Z".parse().unwrap(),
    }
}

#[test]
fn prints_the_form_of_the_specification() {
    assert_eq!(
        announcement().to_string(),
        "boot=7d0c1c2e-8f0b-4a53-9f6f-0d5b7e1f9a11 armed=true wd=20 bound=90 workers=49 cp=0 \
         stamp=2026-01-02T03:04:05Z"
    );
    let unbound = Announcement {
        bound: None,
        ..announcement()
    };
    assert!(unbound.to_string().contains(" bound=none "));
}

#[test]
fn reads_what_it_prints() {
    for value in [
        announcement(),
        Announcement {
            bound: None,
            armed: false,
            ..announcement()
        },
    ] {
        assert_eq!(value.to_string().parse(), Ok(value));
    }
}

#[test]
fn doubtful_texts_are_no_announcement() {
    let good = announcement().to_string();
    for key in ["boot", "armed", "wd", "bound", "workers", "cp", "stamp"] {
        let without: Vec<&str> = good
            .split(' ')
            .filter(|field| !field.starts_with(&format!("{key}=")))
            .collect();
        assert!(
            without.join(" ").parse::<Announcement>().is_err(),
            "without {key}"
        );
        let empty: Vec<String> = good
            .split(' ')
            .map(|field| match field.split_once('=') {
                Some((name, _)) if name == key => format!("{name}="),
                _ => field.to_owned(),
            })
            .collect();
        assert!(
            empty.join(" ").parse::<Announcement>().is_err(),
            "empty {key}"
        );
        assert!(
            format!("{good} {key}=1").parse::<Announcement>().is_err(),
            "twice {key}"
        );
    }
    assert!(
        good.replace("wd=20", "wd=-1")
            .parse::<Announcement>()
            .is_err()
    );
    assert!(
        good.replace("bound=90", "bound=None")
            .parse::<Announcement>()
            .is_err()
    );
    assert!(
        good.replace("armed=true", "armed=yes")
            .parse::<Announcement>()
            .is_err()
    );
}

#[test]
fn keys_of_a_later_version_are_skipped() {
    let text = format!("later=1 {} more", announcement());
    assert_eq!(text.parse(), Ok(announcement()));
}

#[test]
fn last_words_name_boot_and_timeout() {
    let words = StoppedFeeding {
        boot: BootId::new("b1").unwrap(),
        timeout: 5,
    };
    assert_eq!(words.to_string(), "b1/5");
    assert_eq!("b1/5".parse(), Ok(words));
    for bad in [
        "", "b1", "b1/", "/5", "b1/0", "b1/-5", "b1/5s", "b 1/5", "b1/5/5",
    ] {
        assert!(bad.parse::<StoppedFeeding>().is_err(), "{bad:?}");
    }
}

#[test]
fn relayed_words_survive_their_text_form_and_are_few() {
    let name = |number: usize| NodeName::new(format!("n{number}")).unwrap();
    let words = |timeout| StoppedFeeding {
        boot: BootId::new("b1").unwrap(),
        timeout,
    };
    let mut relayed = Relayed::default();
    for number in 0..12 {
        assert!(relayed.add(name(number), words(5)));
    }
    assert!(!relayed.add(name(11), words(5)), "known already");
    assert_eq!(relayed.nodes().count(), 8);
    let read = Relayed::read(&relayed.to_string());
    assert_eq!(read, relayed);
    let boot = BootId::new("b1").unwrap();
    assert_eq!(read.about(&name(11), &boot), Some(&words(5)));
    assert_eq!(read.about(&name(3), &boot), None, "the oldest went");
    assert_eq!(read.about(&name(11), &BootId::new("b2").unwrap()), None);
    // One broken entry does not spoil the others.
    let read = Relayed::read("x n1=b1 n2=b1/5 n3=b1/0");
    assert_eq!(read.to_string(), "n2=b1/5");
}
