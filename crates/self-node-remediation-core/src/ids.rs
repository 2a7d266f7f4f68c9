//! Names and identities, parsed once at the door.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes a text; an empty one, or one with white space or `/` in it, names nothing.
            ///
            /// Both characters separate fields in the annotations that carry these values.
            pub fn new(text: impl Into<String>) -> Option<Self> {
                let text = text.into();
                let bad = |c: char| c.is_whitespace() || c == '/';
                (!text.is_empty() && !text.contains(bad)).then_some(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Unusable;

            fn try_from(text: String) -> Result<Self, Unusable> {
                Self::new(text).ok_or(Unusable)
            }
        }
    };
}

/// A text that names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("empty, or with white space or a slash in it")]
pub struct Unusable;

identity! {
    /// One boot of one machine: `/proc/sys/kernel/random/boot_id`, which the kubelet reports as
    /// `status.nodeInfo.bootID`.
    BootId
}

identity! {
    /// Name of a Node.
    NodeName
}

identity! {
    /// UID of an object: tells it from a later one of the same name.
    Uid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_and_nothing_are_refused() {
        for bad in ["", " ", "a b", "a/b", "a\n"] {
            assert_eq!(BootId::new(bad), None, "{bad:?}");
            assert!(serde_json::from_value::<BootId>(serde_json::json!(bad)).is_err());
        }
        assert_eq!(BootId::new("b-1").map(String::from), Some("b-1".to_owned()));
    }
}
