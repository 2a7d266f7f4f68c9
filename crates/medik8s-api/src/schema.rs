//! Schema fragments that several kinds share.
//!
//! They repeat what the original CRDs say where the schema of the Rust or k8s-openapi type says
//! less (limits of conditions, list keys, atomic maps) or more (integer formats).

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::value::{COUNT_OR_PERCENT_PATTERN, SIGNED_DURATION_PATTERN};

/// An integer without a format: the original CRDs carry one only where they say so.
pub fn integer(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer" })
}

/// A Go duration that may be negative.
pub fn signed_duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": SIGNED_DURATION_PATTERN })
}

/// A count or a percentage.
pub fn count_or_percent(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "pattern": COUNT_OR_PERCENT_PATTERN,
    })
}

/// A moment in RFC 3339 form.
pub fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

/// An object without fields.
pub fn empty_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object" })
}

/// A map from string to moment.
pub fn map_of_times(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": {
            "description": "When the remediation of this node started.",
            "type": "string",
            "format": "date-time",
        },
    })
}

/// `core/v1` ObjectReference, replaced as a whole by server-side apply.
pub fn object_reference(_: &mut SchemaGenerator) -> Schema {
    let field = |description: &str| json!({ "type": "string", "description": description });
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "apiVersion": field("API group and version of the object, for example self-node-remediation.medik8s.io/v1alpha1."),
            "fieldPath": field("Part of the object that is meant, as a JSON path. Not used here; kept if set."),
            "kind": field("Kind of the object. In a reference to a remediation template it ends in Template."),
            "name": field("Name of the object."),
            "namespace": field("Namespace of the object. Must be set for kinds that live in namespaces, and empty for the others."),
            "resourceVersion": field("Version of the object that is meant. Not used here; kept if set."),
            "uid": field("UID of the object. It tells a re-created object of the same name from the first one."),
        },
    })
}

/// `meta/v1` LabelSelector, replaced as a whole by server-side apply.
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchExpressions": {
                "description": "Label requirements that must all hold, together with matchLabels.",
                "type": "array",
                "x-kubernetes-list-type": "atomic",
                "items": requirement(
                    "One label requirement.",
                    "How key and values relate: In, NotIn, Exists or DoesNotExist.",
                    "Values to compare with: at least one for In and NotIn, none for Exists and DoesNotExist.",
                ),
            },
            "matchLabels": {
                "description": "Labels with the exact value that the object must carry.",
                "type": "object",
                "additionalProperties": {
                    "description": "Value that the label must have.",
                    "type": "string",
                },
            },
        },
    })
}

/// List of `core/v1` NodeSelectorRequirement.
pub fn node_selector_requirements(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": requirement(
            "One requirement on the labels of a node.",
            "How key and values relate: In, NotIn, Exists, DoesNotExist, Gt or Lt.",
            "Values to compare with: at least one for In and NotIn, none for Exists and DoesNotExist, exactly one integer for Gt and Lt.",
        ),
    })
}

fn requirement(description: &str, operator: &str, values: &str) -> serde_json::Value {
    json!({
        "description": description,
        "type": "object",
        "required": ["key", "operator"],
        "properties": {
            "key": { "description": "Label key that the requirement is about.", "type": "string" },
            "operator": { "description": operator, "type": "string" },
            "values": {
                "description": values,
                "type": "array",
                "x-kubernetes-list-type": "atomic",
                "items": { "description": "A value to compare the label with.", "type": "string" },
            },
        },
    })
}

/// List of `core/v1` Toleration.
pub fn tolerations(_: &mut SchemaGenerator) -> Schema {
    let field = |description: &str| json!({ "type": "string", "description": description });
    json_schema!({
        "type": "array",
        "items": {
            "description": "One taint, or family of taints, that the pods tolerate.",
            "type": "object",
            "properties": {
                "effect": field("Taint effect to tolerate: NoSchedule, PreferNoSchedule or NoExecute. Empty tolerates every effect."),
                "key": field("Taint key to tolerate. Empty, with operator Exists, tolerates every key."),
                "operator": field("How key and value are compared: Equal (the default) or Exists, which takes any value."),
                "tolerationSeconds": {
                    "description": "Seconds that a NoExecute taint is tolerated. Unset means for ever; zero or less means not at all.",
                    "type": "integer",
                    "format": "int64",
                },
                "value": field("Taint value to tolerate. Must be empty with operator Exists."),
            },
        },
    })
}

/// List of `meta/v1` Condition, merged by type, with the limits of the Kubernetes API conventions.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "description": "One aspect of the current state of the object.",
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": {
                    "description": "When the status of this condition last changed.",
                    "type": "string",
                    "format": "date-time",
                },
                "message": {
                    "description": "Details about the last change for people. May be empty.",
                    "type": "string",
                    "maxLength": 32768,
                },
                "observedGeneration": {
                    "description": "Generation of the object (metadata.generation) that this condition was computed from. If it is older, the condition is out of date.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
                "reason": {
                    "description": "Why the status last changed, as one word for programs.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "status": {
                    "description": "Whether the condition holds: True, False or Unknown.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "type": {
                    "description": "What this entry of the list is about. The description of the list names the types that this kind has; each occurs once.",
                    "type": "string",
                    "maxLength": 316,
                    "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                },
            },
        },
    })
}
