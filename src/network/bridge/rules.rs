//! The nftables table of an instance, in the words of `nft`:
//!
//! ```text
//! table ip orlop-<tag> {
//!     map ports    { type inet_proto . inet_service : ipv4_addr . inet_service; }
//!     map ports_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
//!     chain guard { type filter hook prerouting priority raw;
//!         iifname <bridge> ip daddr 127.0.0.0/8 drop
//!         iifname <bridge> ip saddr 127.0.0.0/8 drop
//!     }
//!     chain host_ports {
//!         dnat to ip daddr . meta l4proto . th dport map @ports_at
//!         dnat to meta l4proto . th dport map @ports
//!     }
//!     chain prerouting { type nat hook prerouting priority dstnat;
//!         ip daddr 127.0.0.0/8 return
//!         fib daddr type local jump host_ports
//!     }
//!     chain output { type nat hook output priority dstnat;
//!         fib daddr type local jump host_ports
//!     }
//!     chain postrouting { type nat hook postrouting priority srcnat;
//!         ip saddr <subnet> oifname != <bridge> masquerade             # pods to the world
//!         ip saddr <subnet> oifname <bridge> ct status dnat masquerade # pods to host ports
//!         ip saddr 127.0.0.0/8 oifname <bridge> masquerade             # the host to host ports
//!     }
//! }
//! ```
//!
//! The guard is needed because `route_localnet` is on for the bridge: without it a pod could
//! reach services that listen only on the host's 127.0.0.1 (CVE-2020-8558). The `return` is
//! for host ports on 127.0.0.1: they are used in the chain `output`, and what comes to that
//! address from a wire comes from a neighbour who forged it.

use std::net::IpAddr;

use rustix::io::Errno;

use super::names::Names;
use super::{AttachError, Pods};
use crate::network::attachment::{BridgeAttachment, PortMapping, Protocol};
use crate::network::netlink::nftables::{
    Batch, Comparison, Component, ComponentType, Element, Expressions, Hook, HookPoint, Payload,
    Register, Verdict, table_exists,
};
use crate::network::netlink::{Socket, conntrack};
use crate::network::subnet::Subnet;

const PORTS: &str = "ports";
const PORTS_AT: &str = "ports_at";
const PORTS_ID: u32 = 1;
const PORTS_AT_ID: u32 = 2;
const HOST_PORTS: &str = "host_ports";
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_SRCNAT: i32 = 100;

/// The mappings that map something, each once, for addresses this bridge can serve.
pub(super) fn usable(mappings: &[PortMapping]) -> Result<Vec<PortMapping>, AttachError> {
    let mut usable: Vec<PortMapping> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.host_port != 0) {
        let host_ip = match mapping.host_ip {
            Some(address) if address.is_unspecified() => None,
            Some(address @ IpAddr::V6(_)) => return Err(AttachError::HostAddress { address }),
            other => other,
        };
        let mapping = PortMapping { host_ip, ..*mapping };
        if !usable.contains(&mapping) {
            usable.push(mapping);
        }
    }
    Ok(usable)
}

/// No other pod has one of these ports, and none is mapped twice.
pub(super) fn check_free(pods: &Pods, mappings: &[PortMapping]) -> Result<(), AttachError> {
    for (nth, wanted) in mappings.iter().enumerate() {
        let taken = pods
            .iter()
            .find(|(_, pod)| pod.port_mappings.iter().any(|has| collide(has, wanted)))
            .map(|(id, _)| id.clone());
        let twice = mappings.iter().skip(nth + 1).any(|other| collide(other, wanted));
        if let Some(pod) = taken.or(twice.then(|| "itself".to_owned())) {
            let (port, protocol) = (wanted.host_port, wanted.protocol);
            return Err(AttachError::PortTaken { port, protocol, pod });
        }
    }
    Ok(())
}

fn collide(a: &PortMapping, b: &PortMapping) -> bool {
    let same_address = a.host_ip.is_none() || b.host_ip.is_none() || a.host_ip == b.host_ip;
    a.protocol == b.protocol && a.host_port == b.host_port && same_address
}

/// Makes the whole table anew, in one step.
pub(super) fn replace(
    netfilter: &mut Socket,
    names: &Names,
    subnet: Subnet,
    pods: &Pods,
) -> Result<(), Errno> {
    use ComponentType::{InetPort, InetProtocol, Ipv4Address};
    let mut batch = Batch::new(&names.table);
    batch.replace_table();
    let pod_port = [Ipv4Address, InetPort];
    batch.add_map(PORTS, PORTS_ID, &[InetProtocol, InetPort], &pod_port);
    batch.add_map(PORTS_AT, PORTS_AT_ID, &[Ipv4Address, InetProtocol, InetPort], &pod_port);
    add_guard(&mut batch, &names.bridge);
    add_destination(&mut batch);
    add_source(&mut batch, &names.bridge, &subnet);
    for (id, pod) in pods.iter().filter(|(_, pod)| pod.subnet == subnet) {
        for (map, elements) in elements(id, pod) {
            batch.add_elements(map, &elements);
        }
    }
    batch.commit(netfilter)
}

fn add_guard(batch: &mut Batch<'_>, bridge: &str) {
    let hook = Hook { chain_type: "filter", point: HookPoint::Prerouting, priority: PRIORITY_RAW };
    batch.add_chain("guard", Some(hook));
    for payload in [Payload::DestinationAddress, Payload::SourceAddress] {
        let rule = Expressions::new()
            .in_interface(Comparison::Equal, bridge)
            .address_is_loopback(payload)
            .verdict(Verdict::Drop);
        batch.add_rule("guard", rule);
    }
}

fn add_destination(batch: &mut Batch<'_>) {
    batch.add_chain(HOST_PORTS, None);
    let at = Expressions::new()
        .load(Payload::DestinationAddress, Register::R0)
        .load_protocol(Register::R1)
        .load(Payload::DestinationPort, Register::R2)
        .look_up(PORTS_AT, PORTS_AT_ID)
        .translate_destination();
    batch.add_rule(HOST_PORTS, at);
    let anywhere = Expressions::new()
        .load_protocol(Register::R0)
        .load(Payload::DestinationPort, Register::R1)
        .look_up(PORTS, PORTS_ID)
        .translate_destination();
    batch.add_rule(HOST_PORTS, anywhere);
    for (name, point) in [("prerouting", HookPoint::Prerouting), ("output", HookPoint::Output)] {
        let hook = Hook { chain_type: "nat", point, priority: PRIORITY_DSTNAT };
        batch.add_chain(name, Some(hook));
        if matches!(point, HookPoint::Prerouting) {
            let forged = Expressions::new()
                .address_is_loopback(Payload::DestinationAddress)
                .verdict(Verdict::Return);
            batch.add_rule(name, forged);
        }
        let rule = Expressions::new().destination_is_local().verdict(Verdict::Jump(HOST_PORTS));
        batch.add_rule(name, rule);
    }
}

fn add_source(batch: &mut Batch<'_>, bridge: &str, subnet: &Subnet) {
    let hook = Hook { chain_type: "nat", point: HookPoint::Postrouting, priority: PRIORITY_SRCNAT };
    batch.add_chain("postrouting", Some(hook));
    let from_pod =
        || Expressions::new().address_in(Payload::SourceAddress, Comparison::Equal, subnet);
    let to_the_world = from_pod().out_interface(Comparison::Different, bridge).masquerade();
    let to_host_ports = from_pod()
        .out_interface(Comparison::Equal, bridge)
        .destination_was_translated()
        .masquerade();
    let from_the_host = Expressions::new()
        .address_is_loopback(Payload::SourceAddress)
        .out_interface(Comparison::Equal, bridge)
        .masquerade();
    for rule in [to_the_world, to_host_ports, from_the_host] {
        batch.add_rule("postrouting", rule);
    }
}

/// Adds the ports of a pod.
pub(super) fn open(
    netfilter: &mut Socket,
    names: &Names,
    id: &str,
    pod: &BridgeAttachment,
) -> Result<(), Errno> {
    change(netfilter, names, id, pod, Batch::add_elements)?;
    for mapping in pod.port_mappings.iter().filter(|m| m.protocol == Protocol::Udp) {
        // Clients that sent before there was a pod.
        conntrack::forget_to_port(netfilter, number(Protocol::Udp), mapping.host_port)?;
    }
    Ok(())
}

/// Removes the ports of a pod; `ENOENT`, with nothing removed, if one of them is missing.
pub(super) fn close(
    netfilter: &mut Socket,
    names: &Names,
    id: &str,
    pod: &BridgeAttachment,
) -> Result<(), Errno> {
    change(netfilter, names, id, pod, Batch::delete_elements)
}

fn change<'a>(
    netfilter: &mut Socket,
    names: &'a Names,
    id: &str,
    pod: &BridgeAttachment,
    each: impl Fn(&mut Batch<'a>, &str, &[Element]),
) -> Result<(), Errno> {
    if pod.port_mappings.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new(&names.table);
    for (map, elements) in elements(id, pod) {
        each(&mut batch, map, &elements);
    }
    batch.commit(netfilter)
}

/// Whether the table is there.
pub(super) fn exist(netfilter: &mut Socket, names: &Names) -> Result<bool, Errno> {
    table_exists(netfilter, &names.table)
}

/// Removes the table, if it is there.
pub(super) fn remove(netfilter: &mut Socket, names: &Names) -> Result<(), Errno> {
    let mut batch = Batch::new(&names.table);
    batch.delete_table();
    match batch.commit(netfilter) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// The entries of a pod, by map.
fn elements(id: &str, pod: &BridgeAttachment) -> [(&'static str, Vec<Element>); 2] {
    let mut anywhere = Vec::new();
    let mut at = Vec::new();
    for mapping in &pod.port_mappings {
        let mut key = vec![
            Component::InetProtocol(number(mapping.protocol)),
            Component::InetPort(mapping.host_port),
        ];
        let entries = match mapping.host_ip {
            Some(IpAddr::V4(address)) => {
                key.insert(0, Component::Ipv4Address(address));
                &mut at
            }
            _ => &mut anywhere,
        };
        let value =
            vec![Component::Ipv4Address(pod.address), Component::InetPort(mapping.container_port)];
        entries.push(Element { key, value, comment: id.to_owned() });
    }
    [(PORTS, anywhere), (PORTS_AT, at)]
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}
