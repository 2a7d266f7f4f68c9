//! The CRDs have the surface of the original ones, plus what `crd::additions` lists.
//!
//! `parity.txt` holds the facts of the original CRDs: one line per place, `place | facts`, in the
//! form of `medik8s_api::crd::surface`. `cargo xtask crd-table DIR` prints it for a folder of CRDs.
#![cfg(test)]

use std::collections::BTreeMap;

use medik8s_api::crd::additions::{self, ADDITIONS};
use medik8s_api::crd::surface::{Difference, Surface, compare, surface};

/// The original CRDs, by name.
fn originals() -> BTreeMap<String, Surface> {
    let mut crds: BTreeMap<String, Surface> = BTreeMap::new();
    let mut current = String::new();
    for line in include_str!("parity.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix("crd ") {
            name.clone_into(&mut current);
            crds.insert(current.clone(), Surface::new());
        } else if let Some((place, facts)) = line.split_once(" |") {
            let facts = facts.trim().to_owned();
            let before = crds
                .get_mut(&current)
                .unwrap()
                .insert(place.to_owned(), facts);
            assert_eq!(before, None, "{current}: {place} is there twice");
        } else {
            assert_eq!(line, "");
        }
    }
    crds
}

fn ours() -> BTreeMap<String, Surface> {
    medik8s_api::crd::all()
        .iter()
        .map(|crd| (crd.metadata.name.clone().unwrap(), surface(crd)))
        .collect()
}

fn differences() -> Vec<(String, Difference)> {
    let ours = ours();
    originals()
        .iter()
        .flat_map(|(name, theirs)| {
            let ours = ours
                .get(name)
                .unwrap_or_else(|| panic!("{name} is missing"));
            compare(theirs, ours)
                .into_iter()
                .map(|difference| (name.clone(), difference))
        })
        .collect()
}

#[test]
fn every_original_crd_is_there() {
    assert_eq!(originals().len(), 15);
    let ours = ours();
    assert_eq!(
        ours.len(),
        17,
        "the original ones, and the two meatware kinds"
    );
    assert_eq!(
        originals()
            .keys()
            .filter(|name| !ours.contains_key(*name))
            .count(),
        0
    );
}

#[test]
fn nothing_differs_but_what_is_added_on_purpose() {
    let unwanted: Vec<_> = differences()
        .into_iter()
        .filter(|(name, difference)| additions::find(name, difference).is_none())
        .collect();
    assert_eq!(unwanted, vec![]);
}

#[test]
fn every_addition_is_real() {
    let differences = differences();
    for addition in ADDITIONS {
        let found = differences.iter().any(|(name, difference)| {
            additions::find(name, difference).is_some_and(|found| found.place == addition.place)
        });
        assert!(found, "{} {} adds nothing", addition.crd, addition.place);
    }
}

#[test]
fn an_addition_excuses_nothing_else() {
    let snrc = "selfnoderemediationconfigs.self-node-remediation.medik8s.io";
    let wanted = |crd: &str, place: &str, theirs: Option<&str>, ours: Option<&str>| {
        let difference = Difference {
            place: place.into(),
            theirs: theirs.map(Into::into),
            ours: ours.map(Into::into),
        };
        additions::find(crd, &difference).is_some()
    };
    let place = "v1alpha1.spec.watchdogTimeout";
    assert!(wanted(snrc, place, None, Some("type=\"string\"")));
    assert!(
        !wanted(snrc, place, Some("type=\"string\""), None),
        "removed"
    );
    assert!(
        !wanted(
            snrc,
            place,
            Some("type=\"string\""),
            Some("type=\"integer\"")
        ),
        "changed"
    );
    assert!(
        !wanted(snrc, "v1alpha1.spec.watchdogTimeoutX", None, Some("")),
        "another name"
    );
    assert!(!wanted("other", place, None, Some("")), "another CRD");
    let nm = "nodemaintenances.nodemaintenance.medik8s.io";
    let rule = r#"x-kubernetes-validations=[{"message":"updating spec.NodeName isn't allowed","rule":"self == oldSelf"}]"#;
    let before = r#"required type="string""#;
    let place = "v1beta1.spec.nodeName";
    assert!(wanted(
        nm,
        place,
        Some(before),
        Some(&format!("{before} {rule}"))
    ));
    assert!(
        !wanted(nm, place, Some(before), Some(rule)),
        "no longer required"
    );
    assert!(
        !wanted(nm, place, None, Some(rule)),
        "not there in the original"
    );
}
