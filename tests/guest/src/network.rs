//! The only network card, by netlink: no program of the host has to be in the guest for it.

use std::{fs, net::Ipv4Addr, os::fd::AsRawFd as _};

use anyhow::{Context as _, bail};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    },
};

const CARD: &str = "eth0";
/// `AF_INET`.
const INET: u8 = 2;
/// linux/rtnetlink.h.
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
/// linux/netlink.h: a request, to be acknowledged.
const CHANGE: u16 = 0x1 | 0x4;
/// The same, making or replacing something.
const MAKE: u16 = CHANGE | 0x100 | 0x400;
const HEADER: usize = 16;

/// Switches the card on, gives it its addresses and sends everything to the gateway.
pub(crate) fn configure(addresses: &[Ipv4Addr], gateway: Ipv4Addr) -> anyhow::Result<()> {
    let index: u32 = fs::read_to_string(format!("/sys/class/net/{CARD}/ifindex"))
        .context("there is no network card")?
        .trim()
        .parse()?;
    let index = index.to_ne_bytes();
    let up = 1_u32.to_ne_bytes();
    request(NEW_LINK, CHANGE, &[&[0; 4], &index[..], &up, &up].concat())?;
    for address in addresses {
        let local = attribute(2, address.octets());
        let body = [&[INET, 32, 0, 0], &index[..], &local].concat();
        request(NEW_ADDRESS, MAKE, &body).with_context(|| format!("add {address}"))?;
    }
    // Table main, static, universe, unicast; the gateway is on the link whatever its address.
    let (head, on_link) = ([INET, 0, 0, 0, 254, 4, 0, 1], 4_u32.to_ne_bytes());
    let (card, via) = (attribute(4, index), attribute(5, gateway.octets()));
    let body = [&head[..], &on_link, &card, &via].concat();
    request(NEW_ROUTE, MAKE, &body).context("add the route")
}

/// An attribute of four bytes.
fn attribute(kind: u16, value: [u8; 4]) -> Vec<u8> {
    [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat()
}

fn request(kind: u16, flags: u16, body: &[u8]) -> anyhow::Result<()> {
    let length = u32::try_from(HEADER + body.len())?.to_ne_bytes();
    let (kind, flags) = (kind.to_ne_bytes(), flags.to_ne_bytes());
    let message = [&length[..], &kind, &flags, &[0; 8], body].concat();
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::NetlinkRoute,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
    let mut answer = [0; 1024];
    recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // A negated error number follows the header; zero is the acknowledgement.
    let [a, b, c, d] = answer
        .get(HEADER..HEADER + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .unwrap_or([0xff; 4]);
    match i32::from_ne_bytes([a, b, c, d]) {
        0 => Ok(()),
        code => bail!(Errno::from_raw(-code)),
    }
}
