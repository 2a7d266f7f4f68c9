//! A name server that knows one name, for programs in a scratch image.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::net::UdpSocket;

/// Type A, class IN.
const A_IN: [u8; 4] = [0, 1, 0, 1];

/// Answers every question of type A for `name` with `address`, and all others with nothing, until it is
/// dropped.
pub async fn serve(listen: SocketAddr, name: String, address: Ipv4Addr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(listen)
        .await
        .context("listen as a name server")?;
    let mut packet = [0; 512];
    loop {
        let (length, client) = socket.recv_from(&mut packet).await?;
        let query = packet.get(..length).unwrap_or_default();
        if let Some(answer) = answer(query, &wire(&name), address) {
            socket.send_to(&answer, client).await?;
        }
    }
}

/// The answer to one query (RFC 1035, section 4); `None` for what is no query with one question.
fn answer(query: &[u8], name: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let (id, rest) = query.split_at_checked(12)?;
    let end = rest.iter().position(|byte| *byte == 0)? + 5;
    let question = rest.get(..end)?;
    let asked = question.get(..end - 4)?;
    let found = asked.eq_ignore_ascii_case(name) && question.ends_with(&A_IN);
    let mut answer = id.get(..2)?.to_vec();
    // Response, recursion desired and available, no error; one question, one answer or none.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(found), 0, 0, 0, 0]);
    answer.extend(question);
    if found {
        // The name of the question, A, IN, 60 s, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// A name as it goes over the wire: each label behind its length.
fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(u8::try_from(label.len()).unwrap_or(0));
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(wire(name));
        query.extend([0, kind, 0, 1]);
        query
    }

    #[test]
    fn answers_its_own_name_and_nothing_else() {
        let ip = Ipv4Addr::new(10, 1, 0, 1);
        let known = wire("api.demo.test");
        let found = answer(&query("API.demo.test", 1), &known, ip).unwrap();
        assert_eq!(found[..2], [7, 7]);
        assert!(found.ends_with(&[10, 1, 0, 1]));
        assert_eq!(
            answer(&query("api.demo.test", 28), &known, ip).unwrap()[7],
            0,
            "AAAA"
        );
        assert_eq!(answer(&query("other.test", 1), &known, ip).unwrap()[7], 0);
        assert_eq!(answer(&[1, 2, 3], &known, ip), None);
    }
}
