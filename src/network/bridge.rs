//! The built-in pod network: a bridge on the host, a pair of interfaces per pod, and one
//! nftables table.
//!
//! ```text
//!   pod namespace            host
//!   eth0 ─────────────── orl<pod id> ── orlop-<tag> (gateway) ─── forwarding ── uplink
//!   10.88.0.2/16              port       10.88.0.1/16              masquerade
//! ```
//!
//! Invariants:
//! - The host's names are functions: the bridge's and the table's of the instance, a port's of
//!   the pod id. Nothing has to be remembered to remove them.
//! - The table is a function of the attached pods; it is built anew, atomically, at the first
//!   use after a start, so it never carries what an earlier process left.
//! - The addresses in use are those of the attached pods; there is no other list.
//! - A bridge that exists keeps its subnet, so pods outlive the daemon.
//!
//! Everything here blocks, for less than a millisecond per request, and runs on the thread of
//! [`Host`]; only removing an interface takes the kernel tens of milliseconds, which several
//! removals share when they run at once, and is done before on threads of its own.
//!
//! What the bridge does not do: IPv6, and limits on bandwidth. It adds no rules to tables of
//! others: where another program drops forwarded packets by default (Docker does), pods reach
//! the host and each other, but not the world, until that program is told.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use rustix::io::Errno;
use sandbox::sys::ns::in_netns;

use self::addresses::Pool;
use self::names::Names;
use super::attachment::{BridgeAttachment, INTERFACE, PodNetwork};
use super::config::BridgeConfig;
use super::netlink::route::{self, Link, Mac, Pair, Prefix};
use super::netlink::{Family, Socket, conntrack};

pub use self::error::{AttachError, BuildError, DetachError};
pub(super) use self::host::Host;
pub use self::host::{HostError, StartHostError};

mod addresses;
mod build;
mod error;
mod forwarding;
mod host;
mod names;
mod rules;

/// Pods by id, as attached.
type Pods = BTreeMap<String, BridgeAttachment>;

/// The bridge of this instance.
#[derive(Debug)]
pub(super) struct Bridge {
    config: BridgeConfig,
    names: Names,
    route: Socket,
    netfilter: Socket,
    built: Option<Built>,
    pods: Pods,
}

/// The bridge as it stands on the host.
#[derive(Debug)]
struct Built {
    index: u32,
    pool: Pool,
}

impl Bridge {
    /// A bridge in the network namespace of the calling thread; nothing is made yet.
    fn open(config: BridgeConfig) -> Result<Self, Errno> {
        Ok(Self {
            names: Names::of(&config),
            config,
            route: Socket::open(Family::Route)?,
            netfilter: Socket::open(Family::Netfilter)?,
            built: None,
            pods: Pods::new(),
        })
    }

    /// Takes over pods attached by an earlier process.
    pub(super) fn restore(&mut self, pods: Vec<(String, BridgeAttachment)>) {
        self.pods.extend(pods);
    }

    /// Attaches a pod; on failure what was done is undone.
    pub(super) fn add(&mut self, pod: &PodNetwork) -> Result<BridgeAttachment, AttachError> {
        let netns = pod.netns.as_ref().ok_or(AttachError::NoNetns)?;
        let netns = File::open(netns).map_err(AttachError::OpenNetns)?;
        self.del(&pod.id).map_err(AttachError::Replace)?;
        self.build().map_err(AttachError::Build)?;
        let attachment = self.plan(pod)?;
        self.pods.insert(pod.id.clone(), attachment.clone());
        let attached = self.connect(&netns, &pod.id, &attachment).and_then(|()| {
            rules::open(&mut self.netfilter, &self.names, &pod.id, &attachment)
                .map_err(AttachError::OpenPorts)
        });
        if let Err(error) = attached {
            // The reason of the failure is worth more than that of a failing clean-up, and
            // the caller calls `del` again.
            let _ = self.del(&pod.id);
            return Err(error);
        }
        Ok(attachment)
    }

    fn plan(&mut self, pod: &PodNetwork) -> Result<BridgeAttachment, AttachError> {
        let port_mappings = rules::usable(&pod.port_mappings)?;
        rules::check_free(&self.pods, &port_mappings)?;
        let built = self.built.as_mut().ok_or(AttachError::Build(BuildError::Vanished))?;
        let subnet = built.pool.subnet();
        let pods = &self.pods;
        let address = built
            .pool
            .take(|address| pods.values().any(|other| other.address == address))
            .ok_or(AttachError::AddressesExhausted { subnet })?;
        let host_interface = names::host_interface(&pod.id);
        Ok(BridgeAttachment { address, subnet, host_interface, port_mappings })
    }

    /// Makes the pair of interfaces and configures the pod's end.
    fn connect(
        &mut self,
        netns: &File,
        pod: &str,
        to: &BridgeAttachment,
    ) -> Result<(), AttachError> {
        let bridge = self.built.as_ref().ok_or(AttachError::Build(BuildError::Vanished))?.index;
        let pair = Pair {
            host_name: &to.host_interface,
            bridge,
            netns: netns.as_fd(),
            pod_name: INTERFACE,
            pod_mac: mac_of(to.address),
        };
        route::create_pair(&mut self.route, &pair).map_err(AttachError::CreatePair)?;
        route::set_port(&mut self.route, &to.host_interface, pod)
            .map_err(AttachError::CreatePair)?;
        let mut inside = in_netns(netns.as_fd(), || Socket::open(Family::Route))
            .map_err(AttachError::EnterNetns)?
            .map_err(AttachError::ConfigurePod)?;
        configure(&mut inside, to).map_err(AttachError::ConfigurePod)
    }

    /// Detaches a pod. Harmless for one that was never attached.
    pub(super) fn del(&mut self, pod: &str) -> Result<(), DetachError> {
        route::delete_link(&mut self.route, &names::host_interface(pod))
            .map_err(DetachError::DeleteInterface)?;
        let Some(attachment) = self.pods.remove(pod) else { return Ok(()) };
        let closed = self.close_ports(pod, &attachment);
        if closed.is_err() {
            self.pods.insert(pod.to_owned(), attachment);
        }
        closed
    }

    fn close_ports(&mut self, pod: &str, of: &BridgeAttachment) -> Result<(), DetachError> {
        if of.port_mappings.is_empty() {
            return Ok(());
        }
        match rules::close(&mut self.netfilter, &self.names, pod, of) {
            // Some of them were not there: the table was flushed by somebody, or an add
            // stopped half way. What should be there is known.
            Err(Errno::NOENT) => self.replace_rules().map_err(DetachError::ReplaceRules)?,
            closed => closed.map_err(DetachError::ClosePorts)?,
        }
        conntrack::forget_answered_by(&mut self.netfilter, of.address)
            .map_err(DetachError::ForgetConnections)
    }

    /// Removes the interfaces and ports of pods that are not in `live`.
    pub(super) fn gc(&mut self, live: &[String]) -> Result<(), DetachError> {
        let strangers: Vec<String> =
            self.pods.keys().filter(|pod| !live.contains(pod)).cloned().collect();
        for pod in strangers {
            self.del(&pod)?;
        }
        let Some(bridge) = self.on_host().map_err(DetachError::FindBridge)? else {
            return rules::remove(&mut self.netfilter, &self.names)
                .map_err(DetachError::ReplaceRules);
        };
        self.build().map_err(DetachError::Build)?;
        let kept: Vec<String> = live.iter().map(|pod| names::host_interface(pod)).collect();
        let ports = route::ports(&mut self.route, bridge.index).map_err(DetachError::FindBridge)?;
        for port in ports.iter().filter(|port| names::is_host_interface(&port.name)) {
            if !kept.contains(&port.name) {
                route::delete_link(&mut self.route, &port.name)
                    .map_err(DetachError::DeleteInterface)?;
            }
        }
        Ok(())
    }

    /// Builds the table again if somebody flushed it.
    pub(super) fn repair(&mut self) -> Result<(), Errno> {
        if self.built.is_none() || rules::exist(&mut self.netfilter, &self.names)? {
            return Ok(());
        }
        self.replace_rules()
    }

    /// Removes bridge and table, unless a pod is attached.
    pub(super) fn shutdown(&mut self) -> Result<(), DetachError> {
        if let Some(bridge) = self.on_host().map_err(DetachError::FindBridge)? {
            let ports =
                route::ports(&mut self.route, bridge.index).map_err(DetachError::FindBridge)?;
            if !ports.is_empty() {
                return Ok(());
            }
            forwarding::give_back(&mut self.route, &bridge).map_err(DetachError::Forwarding)?;
            route::delete_link(&mut self.route, &bridge.name)
                .map_err(DetachError::DeleteInterface)?;
        }
        self.built = None;
        rules::remove(&mut self.netfilter, &self.names).map_err(DetachError::ReplaceRules)
    }

    fn replace_rules(&mut self) -> Result<(), Errno> {
        let Some(built) = &self.built else {
            return rules::remove(&mut self.netfilter, &self.names);
        };
        rules::replace(&mut self.netfilter, &self.names, built.pool.subnet(), &self.pods)
    }

    fn on_host(&mut self) -> Result<Option<Link>, Errno> {
        let link = route::link(&mut self.route, &self.names.bridge)?;
        Ok(link.filter(|link| link.kind == "bridge"))
    }
}

/// Gives the pod's end its address and its default route.
fn configure(inside: &mut Socket, to: &BridgeAttachment) -> Result<(), Errno> {
    let eth0 = route::link(inside, INTERFACE)?.ok_or(Errno::NODEV)?;
    let prefix_length = to.subnet.prefix_length();
    let prefix = Prefix { address: to.address, prefix_length, interface: eth0.index };
    route::add_address(inside, prefix)?;
    route::set_up(inside, eth0.index)?;
    route::add_default_route(inside, to.subnet.gateway(), eth0.index)
}

/// A hardware address follows from the address, so a neighbour's memory of an address that
/// is used again is still right. The first byte says locally administered.
fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x6f, a, b, c, d]
}

/// The hardware address of a pod, as text.
pub(super) fn mac_text(address: Ipv4Addr) -> String {
    mac_of(address).map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests;
