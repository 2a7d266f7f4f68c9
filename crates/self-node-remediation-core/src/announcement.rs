//! What an agent tells about itself in annotations of its Node, and how the manager reads it.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{BootId, NodeName, Unusable};

#[cfg(test)]
mod tests;

/// The agent's bound, in the annotation
/// `boot=<id> armed=<bool> wd=<s> bound=<s, or none> workers=<n> cp=<n> stamp=<time>`.
///
/// `workers` and `cp` are the sizes of the electorates that the agent uses: a node outside the control plane has no
/// control-plane electorate and announces `cp=0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Announcement {
    /// The boot that the agent speaks for.
    pub boot: BootId,
    /// Whether the agent resets its node when it must.
    pub armed: bool,
    /// Watchdog timeout in seconds, as read back from the device; 0 without a usable watchdog.
    pub wd: u64,
    /// Span in seconds; `None`: no bound, the agent may not fence itself for isolation.
    pub bound: Option<u64>,
    /// Number of other workers in the agent's table.
    pub workers: u32,
    /// Number of other control-plane nodes in the agent's table.
    pub cp: u32,
    /// The server's date of the node list that the table was made from.
    pub stamp: Timestamp,
}

/// Why a text is not an announcement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A key is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A key is there twice.
    #[error("{0} is there twice")]
    Twice(&'static str),
    /// A value is not what its key needs.
    #[error("{0} has an unusable value")]
    Value(&'static str),
}

impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            boot,
            armed,
            wd,
            bound,
            workers,
            cp,
            stamp,
        } = self;
        write!(f, "boot={boot} armed={armed} wd={wd} ")?;
        match bound {
            Some(seconds) => write!(f, "bound={seconds} ")?,
            None => write!(f, "bound=none ")?,
        }
        write!(f, "workers={workers} cp={cp} stamp={stamp}")
    }
}

impl FromStr for Announcement {
    type Err = ParseError;

    /// Reads an announcement. Keys of a later version are skipped; whatever is doubtful is an error, which the manager
    /// treats as no announcement.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fields = Fields(text);
        Ok(Self {
            boot: fields.parse("boot", BootId::new)?,
            armed: fields.parse("armed", |value| value.parse().ok())?,
            wd: fields.parse("wd", |value| value.parse().ok())?,
            bound: fields.parse("bound", |value| match value {
                "none" => Some(None),
                seconds => seconds.parse().ok().map(Some),
            })?,
            workers: fields.parse("workers", |value| value.parse().ok())?,
            cp: fields.parse("cp", |value| value.parse().ok())?,
            stamp: fields.parse("stamp", |value| value.parse().ok())?,
        })
    }
}

/// `key=value` pairs, separated by blanks.
pub(crate) struct Fields<'a>(pub(crate) &'a str);

impl<'a> Fields<'a> {
    /// The value of a key, if the key is there.
    pub(crate) fn get(&self, key: &'static str) -> Result<Option<&'a str>, ParseError> {
        let mut values = self.0.split_ascii_whitespace().filter_map(|field| {
            field
                .split_once('=')
                .and_then(|(name, value)| (name == key).then_some(value))
        });
        let value = values.next();
        if values.next().is_some() {
            Err(ParseError::Twice(key))
        } else {
            Ok(value)
        }
    }

    /// The value of a key that may be absent.
    pub(crate) fn optional<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<Option<T>, ParseError> {
        match self.get(key)? {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or(ParseError::Value(key)),
        }
    }

    /// The value of a key that must be there.
    pub(crate) fn parse<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, ParseError> {
        self.optional(key, read)?.ok_or(ParseError::Missing(key))
    }
}

/// The last words of an agent (evidence E2): `<boot id>/<timeout s>`. Feeding stopped for good before they were
/// published, so the node is reset within the timeout, or twice the timeout if the holder of the device dies (H12).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoppedFeeding {
    /// The boot that ends.
    pub boot: BootId,
    /// Watchdog timeout in seconds, as read back from the device.
    pub timeout: u64,
}

impl fmt::Display for StoppedFeeding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.boot, self.timeout)
    }
}

impl FromStr for StoppedFeeding {
    type Err = Unusable;

    fn from_str(text: &str) -> Result<Self, Unusable> {
        let (boot, timeout) = text.split_once('/').ok_or(Unusable)?;
        let timeout = timeout
            .parse()
            .ok()
            .filter(|seconds| *seconds > 0)
            .ok_or(Unusable)?;
        Ok(Self {
            boot: BootId::new(boot).ok_or(Unusable)?,
            timeout,
        })
    }
}

/// Last words of other nodes that an agent passes on in an annotation of its own Node: `<node>=<boot id>/<timeout s>`,
/// separated by blanks. A node whose API is gone can still reach its peers; what it says is as true from there, because
/// it names a boot, in which nothing feeds again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relayed(Vec<(NodeName, StoppedFeeding)>);

impl Relayed {
    /// The latest ones; an older reboot is over.
    const MOST: usize = 8;

    /// Adds words. Returns whether they are new.
    pub fn add(&mut self, node: NodeName, words: StoppedFeeding) -> bool {
        let new = (node, words);
        if self.0.contains(&new) {
            return false;
        }
        self.0.push(new);
        let surplus = self.0.len().saturating_sub(Self::MOST);
        self.0.drain(..surplus);
        true
    }

    /// The words of a node about a boot.
    pub fn about(&self, node: &NodeName, boot: &BootId) -> Option<&StoppedFeeding> {
        self.0
            .iter()
            .find(|(name, words)| name == node && words.boot == *boot)
            .map(|(_, words)| words)
    }

    /// Whose words they are.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.0.iter().map(|(node, _)| node)
    }

    /// Reads an annotation; what is unreadable is left out.
    pub fn read(text: &str) -> Self {
        let one = |entry: &str| {
            let (node, words) = entry.split_once('=')?;
            Some((NodeName::new(node)?, words.parse().ok()?))
        };
        Self(text.split_ascii_whitespace().filter_map(one).collect())
    }
}

impl fmt::Display for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (node, words)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{node}={words}")?;
        }
        Ok(())
    }
}
