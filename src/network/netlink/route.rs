//! Links, addresses and routes: the requests the bridge makes, as functions of a socket.
//!
//! Specification: rtnetlink(7),
//! [rt-link](https://docs.kernel.org/networking/netlink_spec/rt-link.html).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::message::u32_at;
use super::{Attributes, Message, NLM_F_CREATE, NLM_F_EXCL, Reply, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;

const LINK_FIXED_BYTES: usize = 16;
const ADDRESS_FIXED_BYTES: usize = 8;
const ROUTE_FIXED_BYTES: usize = 12;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// The per-interface IPv4 settings used here, numbered as in `linux/ip.h`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum InetSetting {
    /// Packets that come in here may leave elsewhere.
    Forwarding = 1,
    /// 127.0.0.0/8 may be routed over this interface.
    RouteLocalnet = 26,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its index.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// What it is (`bridge`, `veth`); empty for hardware.
    pub(crate) kind: String,
    /// The text an administrator or a program left with it.
    pub(crate) alias: Option<String>,
    /// Whether it forwards IPv4.
    pub(crate) forwarding: bool,
}

/// An IPv4 address or route: a network, and the interface it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// The address, with host bits where it is an interface's own.
    pub(crate) address: Ipv4Addr,
    /// The length of the prefix in bits.
    pub(crate) prefix_length: u8,
    /// The interface.
    pub(crate) interface: u32,
}

/// A pair of virtual interfaces to make.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    /// The host's end.
    pub(crate) host_name: &'a str,
    /// The bridge which the host's end joins.
    pub(crate) bridge: u32,
    /// The network namespace of the pod's end.
    pub(crate) netns: BorrowedFd<'a>,
    /// The pod's end.
    pub(crate) pod_name: &'a str,
    /// The hardware address of the pod's end.
    pub(crate) pod_mac: Mac,
}

fn link_fixed(index: u32, flags: u32, change: u32) -> [u8; LINK_FIXED_BYTES] {
    let mut fixed = [0; LINK_FIXED_BYTES];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

/// The interface of that name, if there is one.
pub(crate) fn link(socket: &mut Socket, name: &str) -> Result<Option<Link>, Errno> {
    find_link(socket, Message::new(RTM_GETLINK, 0, &link_fixed(0, 0, 0)).text(IFLA_IFNAME, name))
}

/// The interface of that index, if there is one.
pub(crate) fn link_at(socket: &mut Socket, index: u32) -> Result<Option<Link>, Errno> {
    find_link(socket, Message::new(RTM_GETLINK, 0, &link_fixed(index, 0, 0)))
}

fn find_link(socket: &mut Socket, message: Message) -> Result<Option<Link>, Errno> {
    match socket.query(message) {
        Ok(reply) => Ok(reply.as_ref().and_then(parse_link)),
        Err(Errno::NODEV) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The ports of a bridge.
pub(crate) fn ports(socket: &mut Socket, bridge: u32) -> Result<Vec<Link>, Errno> {
    let message = Message::new(RTM_GETLINK, 0, &link_fixed(0, 0, 0)).u32(IFLA_MASTER, bridge);
    let replies = socket.dump(message)?;
    // Kernels before 4.2 ignore the filter, so it is applied again here.
    Ok(replies
        .iter()
        .filter(|reply| reply.attributes(LINK_FIXED_BYTES).u32(IFLA_MASTER) == Some(bridge))
        .filter_map(parse_link)
        .collect())
}

/// Every interface.
pub(crate) fn links(socket: &mut Socket) -> Result<Vec<Link>, Errno> {
    let replies = socket.dump(Message::new(RTM_GETLINK, 0, &link_fixed(0, 0, 0)))?;
    Ok(replies.iter().filter_map(parse_link).collect())
}

fn parse_link(reply: &Reply) -> Option<Link> {
    let attributes = reply.attributes(LINK_FIXED_BYTES);
    Some(Link {
        index: u32_at(reply.fixed(LINK_FIXED_BYTES), 4)?,
        name: attributes.text(IFLA_IFNAME)?.to_owned(),
        kind: attributes.nested(IFLA_LINKINFO).text(IFLA_INFO_KIND).unwrap_or_default().to_owned(),
        alias: attributes.text(IFLA_IFALIAS).map(str::to_owned),
        forwarding: inet_setting(attributes, InetSetting::Forwarding) == Some(1),
    })
}

/// The settings come as an array that is indexed from 1.
fn inet_setting(attributes: Attributes<'_>, setting: InetSetting) -> Option<u32> {
    let settings =
        attributes.nested(IFLA_AF_SPEC).nested(u16::from(AF_INET)).find(IFLA_INET_CONF)?;
    u32_at(settings, (setting as usize - 1) * 4)
}

/// Makes a bridge, up.
///
/// # Errors
/// `EEXIST` if the name is taken.
pub(crate) fn create_bridge(socket: &mut Socket, name: &str, mac: Mac) -> Result<(), Errno> {
    let fixed = link_fixed(0, IFF_UP, IFF_UP);
    socket.request(
        Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &fixed)
            .text(IFLA_IFNAME, name)
            // A bridge without an address of its own takes that of a port, and changes it
            // whenever ports come and go, which breaks the pods' view of their gateway.
            .bytes(IFLA_ADDRESS, &mac)
            .nest(IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, "bridge")),
    )
}

/// Makes a pair, the host's end up and in its bridge; the kernel makes the other end down.
///
/// # Errors
/// `EEXIST` if a name is taken.
pub(crate) fn create_pair(socket: &mut Socket, pair: &Pair<'_>) -> Result<(), Errno> {
    let up = link_fixed(0, IFF_UP, IFF_UP);
    let netns = pair.netns.as_raw_fd().cast_unsigned();
    let peer = |m: Message| {
        m.raw(&link_fixed(0, 0, 0))
            .text(IFLA_IFNAME, pair.pod_name)
            .bytes(IFLA_ADDRESS, &pair.pod_mac)
            .u32(IFLA_NET_NS_FD, netns)
    };
    socket.request(
        Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up)
            .text(IFLA_IFNAME, pair.host_name)
            .u32(IFLA_MASTER, pair.bridge)
            .nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_KIND, "veth")
                    .nest(IFLA_INFO_DATA, |m| m.nest(VETH_INFO_PEER, peer))
            }),
    )
}

/// Lets a port of a bridge send back what came in through it, and leaves `alias` with it.
pub(crate) fn set_port(socket: &mut Socket, port: &str, alias: &str) -> Result<(), Errno> {
    socket.request(
        Message::new(RTM_NEWLINK, 0, &link_fixed(0, 0, 0))
            .text(IFLA_IFNAME, port)
            .bytes(IFLA_IFALIAS, alias.as_bytes())
            .nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_SLAVE_KIND, "bridge")
                    .nest(IFLA_INFO_SLAVE_DATA, |m| m.bytes(IFLA_BRPORT_MODE, &[1]))
            }),
    )
}

/// Brings an interface up.
pub(crate) fn set_up(socket: &mut Socket, index: u32) -> Result<(), Errno> {
    socket.request(Message::new(RTM_NEWLINK, 0, &link_fixed(index, IFF_UP, IFF_UP)))
}

/// Changes the hardware address of an interface.
pub(crate) fn set_mac(socket: &mut Socket, index: u32, mac: Mac) -> Result<(), Errno> {
    socket.request(Message::new(RTM_NEWLINK, 0, &link_fixed(index, 0, 0)).bytes(IFLA_ADDRESS, &mac))
}

/// Removes an interface; `false` if there was none.
pub(crate) fn delete_link(socket: &mut Socket, name: &str) -> Result<bool, Errno> {
    let message = Message::new(RTM_DELLINK, 0, &link_fixed(0, 0, 0)).text(IFLA_IFNAME, name);
    match socket.request(message) {
        Ok(()) => Ok(true),
        Err(Errno::NODEV) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Leaves a text with an interface.
pub(crate) fn set_alias(socket: &mut Socket, index: u32, alias: &str) -> Result<(), Errno> {
    socket.request(
        Message::new(RTM_NEWLINK, 0, &link_fixed(index, 0, 0))
            .bytes(IFLA_IFALIAS, alias.as_bytes()),
    )
}

/// Changes settings of an interface.
pub(crate) fn set_inet(
    socket: &mut Socket,
    index: u32,
    settings: &[(InetSetting, u32)],
) -> Result<(), Errno> {
    let conf =
        |m: Message| settings.iter().fold(m, |m, (setting, value)| m.u32(*setting as u16, *value));
    socket.request(
        Message::new(RTM_NEWLINK, 0, &link_fixed(index, 0, 0))
            .nest(IFLA_AF_SPEC, |m| m.nest(u16::from(AF_INET), |m| m.nest(IFLA_INET_CONF, conf))),
    )
}

/// Gives an interface an address.
pub(crate) fn add_address(socket: &mut Socket, prefix: Prefix) -> Result<(), Errno> {
    let mut fixed = [AF_INET, prefix.prefix_length, 0, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&prefix.interface.to_ne_bytes());
    let host_bits = u32::MAX.checked_shr(u32::from(prefix.prefix_length)).unwrap_or(0);
    let broadcast = u32::from(prefix.address) | host_bits;
    socket.request(
        Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &fixed)
            .bytes(IFA_LOCAL, &prefix.address.octets())
            .bytes(IFA_ADDRESS, &prefix.address.octets())
            .bytes(IFA_BROADCAST, &broadcast.to_be_bytes()),
    )
}

/// Every IPv4 address of the namespace.
pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<Prefix>, Errno> {
    let mut fixed = [0; ADDRESS_FIXED_BYTES];
    fixed[0] = AF_INET;
    let replies = socket.dump(Message::new(RTM_GETADDR, 0, &fixed))?;
    Ok(replies.iter().filter_map(parse_address).collect())
}

fn parse_address(reply: &Reply) -> Option<Prefix> {
    let fixed = reply.fixed(ADDRESS_FIXED_BYTES);
    let attributes = reply.attributes(ADDRESS_FIXED_BYTES);
    let address = attributes.find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?;
    Some(Prefix {
        address: ipv4(address)?,
        prefix_length: *fixed.get(1)?,
        interface: u32_at(fixed, 4)?,
    })
}

/// Sends everything that has no better route to `gateway` over `interface`.
pub(crate) fn add_default_route(
    socket: &mut Socket,
    gateway: Ipv4Addr,
    interface: u32,
) -> Result<(), Errno> {
    let fixed = [AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0];
    socket.request(
        Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &fixed)
            .bytes(RTA_GATEWAY, &gateway.octets())
            .u32(RTA_OIF, interface),
    )
}

/// Every IPv4 route of the namespace, of all tables; a default route is `0.0.0.0/0`.
pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<Prefix>, Errno> {
    let mut fixed = [0; ROUTE_FIXED_BYTES];
    fixed[0] = AF_INET;
    let replies = socket.dump(Message::new(RTM_GETROUTE, 0, &fixed))?;
    Ok(replies.iter().filter_map(parse_route).collect())
}

/// The interface towards `destination`, if there is a route.
pub(crate) fn interface_towards(
    socket: &mut Socket,
    destination: Ipv4Addr,
) -> Result<Option<u32>, Errno> {
    let mut fixed = [0; ROUTE_FIXED_BYTES];
    fixed[0] = AF_INET;
    fixed[1] = 32;
    let message = Message::new(RTM_GETROUTE, 0, &fixed).bytes(RTA_DST, &destination.octets());
    match socket.query(message) {
        Ok(reply) => Ok(reply.as_ref().and_then(parse_route).map(|route| route.interface)),
        Err(Errno::NETUNREACH | Errno::HOSTUNREACH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn parse_route(reply: &Reply) -> Option<Prefix> {
    let attributes = reply.attributes(ROUTE_FIXED_BYTES);
    Some(Prefix {
        address: attributes.find(RTA_DST).map_or(Some(Ipv4Addr::UNSPECIFIED), ipv4)?,
        prefix_length: *reply.fixed(ROUTE_FIXED_BYTES).get(1)?,
        // A route over several next hops has none of its own.
        interface: attributes.u32(RTA_OIF).unwrap_or(0),
    })
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}
