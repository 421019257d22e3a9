//! Making the host forward for pods, on as few interfaces as possible, and undoing it.
//!
//! Linux asks the interface a packet comes in through whether it may be forwarded: the bridge
//! for what pods send, the uplink for the replies and for host ports used from outside. So
//! those two are switched, and not `net.ipv4.ip_forward`, which would switch all.
//!
//! What was switched is noted in the bridge's alias, in the kernel, so that it survives the
//! daemon and vanishes with the bridge.

use std::net::Ipv4Addr;

use rustix::io::Errno;

use super::names::BRIDGE_PREFIX;
use crate::network::config::{BridgeConfig, Forwarding};
use crate::network::netlink::Socket;
use crate::network::netlink::route::{self, InetSetting, Link};

/// An address that is only reached over a default route: 198.18.0.0/15 is set aside for
/// benchmarks and never in the internet.
const FAR_AWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

const NOTE: &str = "orlop forwards: ";

/// Switches the interface of the default route on. Cheap when it is on.
pub(super) fn turn_on(route: &mut Socket, config: &BridgeConfig, bridge: u32) -> Result<(), Errno> {
    if config.forwarding == Forwarding::BridgeOnly {
        return Ok(());
    }
    let Some(uplink) = route::interface_towards(route, FAR_AWAY)? else { return Ok(()) };
    if uplink == bridge {
        return Ok(());
    }
    let Some(uplink) = route::link_at(route, uplink)? else { return Ok(()) };
    if uplink.forwarding && !others(route, bridge)?.iter().any(|other| notes(other, &uplink.name)) {
        return Ok(());
    }
    let Some(own) = route::link_at(route, bridge)? else { return Ok(()) };
    if notes(&own, &uplink.name) {
        return Ok(());
    }
    let noted = match own.alias.as_deref().filter(|alias| alias.starts_with(NOTE)) {
        Some(alias) => format!("{alias} {}", uplink.name),
        None => format!("{NOTE}{}", uplink.name),
    };
    // Note before act: a crash in between leaves a note too many, which is harmless.
    route::set_alias(route, bridge, &noted)?;
    route::set_inet(route, uplink.index, &[(InetSetting::Forwarding, 1)])
}

/// Switches off what [`turn_on`] switched, unless another instance or the whole host needs it.
pub(super) fn give_back(route: &mut Socket, bridge: &Link) -> Result<(), Errno> {
    if whole_host_forwards() {
        return Ok(());
    }
    let others = others(route, bridge.index)?;
    for link in route::links(route)? {
        if notes(bridge, &link.name) && !others.iter().any(|other| notes(other, &link.name)) {
            route::set_inet(route, link.index, &[(InetSetting::Forwarding, 0)])?;
        }
    }
    Ok(())
}

/// The bridges of other instances.
fn others(route: &mut Socket, bridge: u32) -> Result<Vec<Link>, Errno> {
    let mut links = route::links(route)?;
    links.retain(|link| {
        link.index != bridge && link.kind == "bridge" && link.name.starts_with(BRIDGE_PREFIX)
    });
    Ok(links)
}

fn notes(bridge: &Link, uplink: &str) -> bool {
    let noted = bridge.alias.as_deref().and_then(|alias| alias.strip_prefix(NOTE));
    noted.is_some_and(|names| names.split(' ').any(|name| name == uplink))
}

/// Read on a thread in the host's namespace; unreadable counts as no.
fn whole_host_forwards() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}
