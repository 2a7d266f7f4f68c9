//! Rules that can be broken, here and nowhere else.

/// A rule of the design, broken in the model: what the production functions are told, or what becomes of what they say,
/// is changed as if the rule did not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is described in the table below")]
pub enum Rule {
    FeedsForEver,
    WatchdogAnnouncedAsZero,
    LocalApiCounts,
    AnyApiErrorCounts,
    NoQuorum,
    NoMemory,
    DeletionEndsOrder,
    FreshPermitAtStart,
    DisarmsFreely,
    CountedFromComputing,
    DeletesByName,
    OverwritesTaints,
    BelievesWallClock,
    WatchdogCountedOnce,
    OpensWithoutPermit,
    NoBootCheck,
    ForceAfterReboot,
    AcknowledgedByName,
    SlowReadClears,
    SpeaksBeforeFirstRead,
    QuorumOfPresentNodes,
    NewTableCounts,
    OldTableCounts,
    FreedWithoutBound,
    MemorySpeaks,
}

impl Rule {
    /// Number of the hole in the table of `docs/fencing.md`.
    pub const fn hole(self) -> &'static str {
        self.table().0
    }

    /// What is broken, in one sentence.
    pub const fn sentence(self) -> &'static str {
        self.table().1
    }

    const fn table(self) -> (&'static str, &'static str) {
        match self {
            Self::FeedsForEver => (
                "H1",
                "The feeder feeds as long as its process lives, without a permit.",
            ),
            Self::WatchdogAnnouncedAsZero => (
                "H2",
                "The watchdog's timeout is published before the device is open: as 0.",
            ),
            Self::LocalApiCounts => (
                "H3",
                "A local API server that answers counts as a read of all remediations.",
            ),
            Self::AnyApiErrorCounts => (
                "H4",
                "One \"API error\" renews the permit; no majority is needed.",
            ),
            Self::NoQuorum => ("H5", "The manager frees by time without acknowledgements."),
            Self::NoMemory => (
                "H5",
                "Peers acknowledge, but do not remember it when they have lost the API.",
            ),
            Self::DeletionEndsOrder => (
                "H6",
                "For the agents a deletion timestamp ends an order; for the manager it does not.",
            ),
            Self::FreshPermitAtStart => {
                ("H7", "A process that starts gives itself a whole permit.")
            }
            Self::DisarmsFreely => (
                "H7",
                "A process that ends stops the watchdog without announcing it.",
            ),
            Self::CountedFromComputing => (
                "H8",
                "The wait is counted from when it was computed, not from when the order was visible.",
            ),
            Self::DeletesByName => ("H9", "Pods are deleted by name instead of by UID."),
            Self::OverwritesTaints => (
                "H10",
                "Taints are written as a whole list instead of by a patch that tests what was read.",
            ),
            Self::BelievesWallClock => (
                "H11",
                "\"Already rebooted\" is concluded from clocks instead of from the boot ID.",
            ),
            Self::WatchdogCountedOnce => ("H12", "The wait counts the watchdog's timeout once."),
            Self::OpensWithoutPermit => (
                "H12",
                "A process that starts opens the watchdog although the permit is over.",
            ),
            Self::NoBootCheck => (
                "H13",
                "The release does not look at the boot that the node is in.",
            ),
            Self::ForceAfterReboot => (
                "H13",
                "After a reboot that was seen, pods are deleted by force.",
            ),
            Self::AcknowledgedByName => (
                "H14",
                "An order is acknowledged because one for that node is remembered, of whatever UID, and the acknowledgement is not remembered.",
            ),
            Self::SlowReadClears => (
                "H14",
                "A list clears what was learned after it was asked for.",
            ),
            Self::SpeaksBeforeFirstRead => (
                "H15",
                "An agent says \"API error\" before it has read anything since its boot.",
            ),
            Self::QuorumOfPresentNodes => (
                "H16",
                "The quorum is counted over the nodes that exist now, not over the table of the node.",
            ),
            Self::NewTableCounts => (
                "H16",
                "A table counts as soon as it was listed: who is only in the table that is still announced is not asked for.",
            ),
            Self::OldTableCounts => (
                "H16",
                "Until the list after its announcement, only the table before counts.",
            ),
            Self::FreedWithoutBound => (
                "H17",
                "A node that may not fence itself is freed by time all the same.",
            ),
            Self::MemorySpeaks => ("H18", "A peer without API says \"unhealthy\" from memory."),
        }
    }
}
