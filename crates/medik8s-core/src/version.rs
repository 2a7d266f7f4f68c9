//! What the version of an API server tells.
//!
//! Source of the rules: section 4 of the SelfNodeRemediation specification. `minor` may carry a
//! suffix of the vendor (`26+`), `major` may not.

/// Version of a Kubernetes API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

/// A version that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the API server reports the version {major:?}.{minor:?}, which is not understood")]
pub struct VersionError {
    major: String,
    minor: String,
}

impl ServerVersion {
    /// Reads the two fields of `GET /version`.
    pub fn parse(major: &str, minor: &str) -> Result<Self, VersionError> {
        let digits = minor
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(minor.len());
        let (leading, _) = minor.split_at(digits);
        match (number(major), number(leading)) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            (None, _) | (_, None) => Err(VersionError {
                major: major.to_owned(),
                minor: minor.to_owned(),
            }),
        }
    }

    /// Whether the out-of-service taint does something (Kubernetes 1.26).
    pub fn supports_out_of_service_taint(self) -> bool {
        self >= Self {
            major: 1,
            minor: 26,
        }
    }

    /// Whether the out-of-service taint is generally available, and cannot be switched off
    /// (Kubernetes 1.28).
    pub fn out_of_service_taint_is_stable(self) -> bool {
        self >= Self {
            major: 1,
            minor: 28,
        }
    }

    /// Whether ValidatingAdmissionPolicies are stable, and the tokens of pods tell the node that the
    /// pod runs on (Kubernetes 1.30).
    pub fn has_admission_policies(self) -> bool {
        self >= Self {
            major: 1,
            minor: 30,
        }
    }

    /// Whether the feature gates of OpenShift that hand over MachineHealthChecks can exist
    /// (Kubernetes 1.27).
    pub fn has_machine_health_check_gate(self) -> bool {
        self >= Self {
            major: 1,
            minor: 27,
        }
    }
}

/// A run of ASCII digits only: `parse` alone would accept a plus sign.
fn number(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_servers_report() {
        for (major, minor, expected) in [
            ("1", "26", Some((1, 26))),
            ("1", "26+", Some((1, 26))),
            ("1", "26.5.2#", Some((1, 26))),
            ("1", "033", Some((1, 33))),
            ("2", "0", Some((2, 0))),
            ("1", "+26", None),
            ("1", "", None),
            ("", "26", None),
            ("1+", "26", None),
            ("+1", "26", None),
            ("v1", "26", None),
            ("1", "99999999999", None),
        ] {
            let got = ServerVersion::parse(major, minor)
                .ok()
                .map(|v| (v.major, v.minor));
            assert_eq!(got, expected, "{major}.{minor}");
        }
    }

    #[test]
    fn features_begin_at_their_release() {
        let facts = |major, minor| {
            let version = ServerVersion { major, minor };
            (
                version.supports_out_of_service_taint(),
                version.has_machine_health_check_gate(),
                version.out_of_service_taint_is_stable(),
            )
        };
        assert_eq!(facts(1, 25), (false, false, false));
        assert_eq!(facts(1, 26), (true, false, false));
        assert_eq!(facts(1, 27), (true, true, false));
        assert_eq!(facts(1, 28), (true, true, true));
        assert_eq!(facts(2, 0), (true, true, true));
        assert_eq!(facts(0, 99), (false, false, false));
    }
}
