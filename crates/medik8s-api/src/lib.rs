//! Every custom resource kind of the medik8s family, and the names that its operators share.
//!
//! # Purpose
//! One home for the API: the Rust types here are the only source of the CRD manifests in
//! `config/crd`, and every label, annotation, taint, condition and event reason that more than one
//! program must spell the same way lives in [`names`].
//!
//! # Guarantees
//! * No I/O: `kube` is used with its `derive` feature only.
//! * Decoding is tolerant: a value which the schema of this or an older release accepted never
//!   makes an object unreadable, because one unreadable object would make its whole list unreadable
//!   and blind the operator for all others. Parsing and judging values is the business of
//!   `medik8s-core`.
//! * Values that the schema accepts keep their exact text: durations and percentages are kept as
//!   written by the user and never normalised.
//!
//! # Caveats
//! `T::crd()` of the derived kinds is a raw form. Use [`crd::all`], which finishes it (no stray
//! `nullable`, `listKind`, descriptions of `apiVersion` and `kind`).

#![expect(
    clippy::duplicated_attributes,
    reason = "each printer column of a kind names its own type and priority"
)]

pub mod crd;
pub mod customized_user_remediation;
pub mod fence_agents_remediation;
pub mod foreign;
pub mod machine_deletion_remediation;
pub mod meatware_remediation;
pub mod names;
pub mod node_maintenance;
pub mod remediation;
pub mod schema;
pub mod self_node_remediation;
pub mod storage_based_remediation;
pub mod value;

pub use customized_user_remediation::{
    CustomizedUserRemediation, CustomizedUserRemediationConfig, CustomizedUserRemediationTemplate,
};
pub use fence_agents_remediation::{FenceAgentsRemediation, FenceAgentsRemediationTemplate};
pub use machine_deletion_remediation::{
    MachineDeletionRemediation, MachineDeletionRemediationTemplate,
};
pub use meatware_remediation::{MeatwareRemediation, MeatwareRemediationTemplate};
pub use node_maintenance::NodeMaintenance;
pub use remediation::NodeHealthCheck;
pub use self_node_remediation::{
    SelfNodeRemediation, SelfNodeRemediationConfig, SelfNodeRemediationTemplate,
};
pub use storage_based_remediation::{
    StorageBasedRemediation, StorageBasedRemediationConfig, StorageBasedRemediationTemplate,
};
pub use value::{GoDuration, IntOrString};
