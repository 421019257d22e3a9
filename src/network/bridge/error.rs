//! What can go wrong with the built-in bridge, by step.

use std::io;
use std::net::IpAddr;

use rustix::io::Errno;
use sandbox::sys::ns::EnterNetnsError;

use crate::network::attachment::Protocol;
use crate::network::subnet::Subnet;

/// Why the bridge does not stand.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The kernel did not tell what there is.
    #[error("looking at interfaces, addresses and routes")]
    Find(#[source] Errno),
    /// An interface that is no bridge has the name.
    #[error("the interface {name} exists and is not a bridge")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The interface was not made.
    #[error("making the bridge interface")]
    Create(#[source] Errno),
    /// The interface was removed by somebody in this moment.
    #[error("the bridge interface vanished")]
    Vanished,
    /// The configured subnet is in use.
    #[error("the subnet {wanted} overlaps {by}, which this host has a route to")]
    SubnetTaken {
        /// The subnet that the bridge should have.
        wanted: Subnet,
        /// The network that is in use.
        by: String,
    },
    /// Every candidate is in use.
    #[error("no /16 between 10.88.0.0 and 10.127.0.0 is free; configure a subnet")]
    NoFreeSubnet,
    /// The bridge has no address.
    #[error("giving the bridge its address")]
    AddAddress(#[source] Errno),
    /// The bridge is not set up.
    #[error("setting up the bridge interface")]
    Settings(#[source] Errno),
    /// The uplink does not forward.
    #[error("turning on forwarding of the uplink")]
    Forwarding(#[source] Errno),
    /// The nftables table was not made.
    #[error("making the nftables table")]
    Rules(#[source] Errno),
}

/// Why a pod was not attached to the bridge.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The pod was given without a network namespace.
    #[error("the pod has no network namespace")]
    NoNetns,
    /// The namespace's file was not opened.
    #[error("opening the pod's network namespace")]
    OpenNetns(#[source] io::Error),
    /// What an earlier attempt left is in the way.
    #[error("removing what an earlier attempt left")]
    Replace(#[source] DetachError),
    /// There is no bridge.
    #[error("building the bridge")]
    Build(#[source] BuildError),
    /// Another pod has the port of the host.
    #[error("host port {port}/{protocol} is taken by pod {pod}")]
    PortTaken {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// Who has it.
        pod: String,
    },
    /// The bridge has only IPv4.
    #[error("host port on {address}: the built-in bridge maps only IPv4 addresses")]
    HostAddress {
        /// What was asked for.
        address: IpAddr,
    },
    /// All addresses are given away.
    #[error("every address of {subnet} is in use")]
    AddressesExhausted {
        /// The subnet.
        subnet: Subnet,
    },
    /// The pair of interfaces was not made.
    #[error("making the pod's pair of interfaces")]
    CreatePair(#[source] Errno),
    /// The pod's namespace was not entered.
    #[error("entering the pod's network namespace")]
    EnterNetns(#[source] EnterNetnsError),
    /// The pod's interface is not set up.
    #[error("giving the pod's interface its address and route")]
    ConfigurePod(#[source] Errno),
    /// The ports of the host were not opened.
    #[error("adding the pod's host ports to the nftables table")]
    OpenPorts(#[source] Errno),
}

/// Why something of the bridge was not removed.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// The interface is still there.
    #[error("removing an interface")]
    DeleteInterface(#[source] Errno),
    /// The ports of the host are still open.
    #[error("removing the pod's host ports from the nftables table")]
    ClosePorts(#[source] Errno),
    /// Running flows are still sent to the pod's address.
    #[error("forgetting the pod's connections")]
    ForgetConnections(#[source] Errno),
    /// The table is not as it should be.
    #[error("rebuilding the nftables table")]
    ReplaceRules(#[source] Errno),
    /// The kernel did not tell what there is.
    #[error("looking for the bridge and its ports")]
    FindBridge(#[source] Errno),
    /// There is no complete bridge to look at.
    #[error("building the bridge")]
    Build(#[source] BuildError),
    /// The uplink still forwards.
    #[error("turning off forwarding of the uplink")]
    Forwarding(#[source] Errno),
}
