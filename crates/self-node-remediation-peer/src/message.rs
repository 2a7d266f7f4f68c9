//! The messages of `package selfnoderemediation.health` (proto3), written out by hand.
//!
//! ```proto
//! service PeerHealth { rpc IsHealthy(HealthRequest) returns (HealthResponse); }
//! message HealthRequest  { string nodeName = 1; string machineName = 2; string order_uid = 3; }
//! message HealthResponse { int32 status = 1; string acknowledged_uid = 2; }
//! ```
//!
//! `order_uid` and `acknowledged_uid` are ours; Go agents ignore the one and never set the other.

/// HTTP/2 path of the only method.
pub const IS_HEALTHY_PATH: &str = "/selfnoderemediation.health.PeerHealth/IsHealthy";

/// HTTP/2 path of our extension: please pass my last words on. Old agents answer UNIMPLEMENTED.
pub const RELAY_PATH: &str = "/selfnoderemediation.health.PeerHealth/Relay";

/// The largest message either side accepts: names are at most 253 bytes, a UID is 36.
pub const MAX_MESSAGE: usize = 4096;

/// Is the named node healthy, as far as you can see?
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthRequest {
    /// The node in question. Must not be empty.
    #[prost(string, tag = "1")]
    pub node_name: String,
    /// Its Machine, if it has one.
    #[prost(string, tag = "2")]
    pub machine_name: String,
    /// Asked by the manager: acknowledge exactly this order.
    #[prost(string, tag = "3")]
    pub order_uid: String,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthResponse {
    /// A [`Status`], or another number that counts as no answer.
    #[prost(int32, tag = "1")]
    pub status: i32,
    /// The order that the answering agent has on record for the node.
    #[prost(string, tag = "2")]
    pub acknowledged_uid: String,
}

/// The caller has stopped feeding its watchdog and cannot tell the API server: please do it for me.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RelayRequest {
    /// The node that speaks.
    #[prost(string, tag = "1")]
    pub node_name: String,
    /// Its last words, `<boot id>/<timeout s>`.
    #[prost(string, tag = "2")]
    pub words: String,
}

/// Understood; it says nothing about what became of it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RelayResponse {}

/// What a peer can say about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// A consistent read that began after the question arrived showed no remediation for it.
    Healthy,
    /// There is a remediation for it.
    Unhealthy,
    /// The peer cannot reach the API either.
    ApiError,
}

impl Status {
    /// The number on the wire.
    pub const fn code(self) -> i32 {
        match self {
            Self::Healthy => 1,
            Self::Unhealthy => 2,
            Self::ApiError => 3,
        }
    }

    /// The status of a number; `None` for those that count as no answer.
    pub const fn of(code: i32) -> Option<Self> {
        match code {
            1 => Some(Self::Healthy),
            2 => Some(Self::Unhealthy),
            3 => Some(Self::ApiError),
            _ => None,
        }
    }
}

impl HealthResponse {
    /// An answer without acknowledgement.
    pub fn of(status: Status) -> Self {
        Self {
            status: status.code(),
            acknowledged_uid: String::new(),
        }
    }

    /// The answer of an agent that has this order on record.
    pub fn acknowledging(uid: impl Into<String>) -> Self {
        Self {
            status: Status::Unhealthy.code(),
            acknowledged_uid: uid.into(),
        }
    }

    /// The status, if it is one.
    pub fn status_value(&self) -> Option<Status> {
        Status::of(self.status)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn bytes_are_those_of_the_proto_definition() {
        let request = HealthRequest {
            node_name: "n1".to_owned(),
            machine_name: "m".to_owned(),
            order_uid: "u".to_owned(),
        };
        assert_eq!(request.encode_to_vec(), b"\x0a\x02n1\x12\x01m\x1a\x01u");
        let response = HealthResponse {
            status: 3,
            acknowledged_uid: "u".to_owned(),
        };
        assert_eq!(response.encode_to_vec(), b"\x08\x03\x12\x01u");
        // What a Go agent sends: no third field, no second one in the answer.
        let old = HealthRequest::decode(&b"\x0a\x02n1"[..]).unwrap();
        assert_eq!((old.node_name.as_str(), old.order_uid.as_str()), ("n1", ""));
        let old = HealthResponse::decode(&b"\x08\x01"[..]).unwrap();
        assert_eq!(old, HealthResponse::of(Status::Healthy));
    }

    #[test]
    fn unknown_numbers_are_no_answer() {
        for code in [-1, 0, 4, i32::MAX] {
            assert_eq!(Status::of(code), None);
        }
        for status in [Status::Healthy, Status::Unhealthy, Status::ApiError] {
            assert_eq!(Status::of(status.code()), Some(status));
        }
        assert_eq!(
            HealthResponse::acknowledging("u").status_value(),
            Some(Status::Unhealthy)
        );
    }
}
