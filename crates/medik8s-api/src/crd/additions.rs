//! Where our CRDs say more than the original ones, on purpose.

use super::surface::Difference;

/// A place where our CRD may differ from the original one, and why.
#[derive(Clone, Copy, Debug)]
pub struct Addition {
    /// Name of the CRD; `*` for all.
    pub crd: &'static str,
    /// The place, as in [`super::surface::Surface`]; places below it are meant as well.
    pub place: &'static str,
    /// How our CRD differs there.
    pub kind: Kind,
    /// Why.
    pub reason: &'static str,
}

/// How our CRD differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The place is only in our CRD.
    New,
    /// The place is in both; ours has this additional fact, and is otherwise the same.
    Fact(&'static str),
}

const SHORT_NAMES: &str = "short names, as the other kinds of the family have them";

/// All differences that the specifications demand.
pub const ADDITIONS: &[Addition] = &[
    Addition {
        crd: "*",
        place: "names.categories medik8s",
        kind: Kind::New,
        reason: "kubectl get medik8s lists everything of the family",
    },
    Addition {
        crd: "selfnoderemediationconfigs.self-node-remediation.medik8s.io",
        place: "v1alpha1.spec.watchdogTimeout",
        kind: Kind::New,
        reason: "a watchdog timeout that is chosen, not left to the driver, frees workload earlier",
    },
    Addition {
        crd: "nodemaintenances.nodemaintenance.medik8s.io",
        place: "v1beta1.spec.nodeName",
        kind: Kind::Fact(
            r#"x-kubernetes-validations=[{"message":"updating spec.NodeName isn't allowed","rule":"self == oldSelf"}]"#,
        ),
        reason: "the node of a maintenance stays immutable when the webhook is not installed",
    },
    Addition {
        crd: "nodemaintenances.nodemaintenance.medik8s.io",
        place: "v1beta1.spec.drain",
        kind: Kind::New,
        reason: "options of kubectl drain that users miss",
    },
    Addition {
        crd: "nodemaintenances.nodemaintenance.medik8s.io",
        place: "v1beta1.status.conditions",
        kind: Kind::New,
        reason: "kubectl wait --for=condition=Drained works",
    },
    Addition {
        crd: "nodemaintenances.nodemaintenance.medik8s.io",
        place: "v1beta1.status.observedGeneration",
        kind: Kind::New,
        reason: "tells whether the status is about the current spec",
    },
    Addition {
        crd: "storagebasedremediations.storage-based-remediation.medik8s.io",
        place: "names.shortNames sbr",
        kind: Kind::New,
        reason: SHORT_NAMES,
    },
    Addition {
        crd: "storagebasedremediationconfigs.storage-based-remediation.medik8s.io",
        place: "names.shortNames sbrc",
        kind: Kind::New,
        reason: SHORT_NAMES,
    },
    Addition {
        crd: "storagebasedremediationtemplates.storage-based-remediation.medik8s.io",
        place: "names.shortNames sbrt",
        kind: Kind::New,
        reason: SHORT_NAMES,
    },
];

/// The addition that `difference` in `crd` belongs to, if it is wanted.
pub fn find(crd: &str, difference: &Difference) -> Option<&'static Addition> {
    ADDITIONS.iter().find(|addition| {
        (addition.crd == "*" || addition.crd == crd) && addition.covers(difference)
    })
}

impl Addition {
    fn covers(&self, difference: &Difference) -> bool {
        match (self.kind, &difference.theirs, &difference.ours) {
            (Kind::New, None, Some(_)) => difference
                .place
                .strip_prefix(self.place)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[', '{'])),
            (Kind::Fact(fact), Some(theirs), Some(ours)) => {
                difference.place == self.place && *ours == format!("{theirs} {fact}")
            }
            (Kind::New, Some(_) | None, _) | (Kind::Fact(_), _, _) => false,
        }
    }
}
