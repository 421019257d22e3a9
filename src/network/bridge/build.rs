//! Making the bridge on the host: its interface, its subnet, its settings, its table.
//!
//! Each step is taken only if it is missing, so a build that stopped half way goes on.

use std::net::Ipv4Addr;

use rustix::io::Errno;

use super::addresses::Pool;
use super::error::BuildError;
use super::{Bridge, Built, forwarding, mac_of};
use crate::network::netlink::Socket;
use crate::network::netlink::route::{self, InetSetting, Prefix};
use crate::network::subnet::Subnet;

/// Where free subnets are looked for: 10.88.0.0/16 up to 10.127.0.0/16. Docker takes from
/// 172.16.0.0/12, clusters often from 10.96.0.0/12 and 10.244.0.0/16; what is in use on the
/// host is left out.
const FIRST_CANDIDATE: u8 = 88;
const CANDIDATES: u8 = 40;
const CANDIDATE_PREFIX_LENGTH: u8 = 16;

impl Bridge {
    /// Makes what is missing.
    pub(super) fn build(&mut self) -> Result<(), BuildError> {
        if let Some(built) = &self.built {
            let index = built.index;
            let found = route::link_at(&mut self.route, index).map_err(BuildError::Find)?;
            if found.is_some_and(|link| link.name == self.names.bridge) {
                return forwarding::turn_on(&mut self.route, &self.config, index)
                    .map_err(BuildError::Forwarding);
            }
        }
        self.built = None;
        let index = self.interface()?;
        let subnet = self.subnet(index)?;
        route::set_inet(
            &mut self.route,
            index,
            // Connections from the host's 127.0.0.1 to a host port are routed to the pod.
            // The table drops what pods send to 127.0.0.0/8.
            &[(InetSetting::Forwarding, 1), (InetSetting::RouteLocalnet, 1)],
        )
        .map_err(BuildError::Settings)?;
        forwarding::turn_on(&mut self.route, &self.config, index)
            .map_err(BuildError::Forwarding)?;
        self.built = Some(Built { index, pool: Pool::new(subnet) });
        self.replace_rules().map_err(BuildError::Rules)
    }

    fn interface(&mut self) -> Result<u32, BuildError> {
        let name = self.names.bridge.clone();
        let link = route::link(&mut self.route, &name).map_err(BuildError::Find)?;
        match link {
            Some(link) if link.kind == "bridge" => return Ok(link.index),
            Some(_) => return Err(BuildError::NameTaken { name }),
            None => {}
        }
        // The real address comes with the subnet; until then any fixed one does.
        route::create_bridge(&mut self.route, &name, mac_of(Ipv4Addr::UNSPECIFIED))
            .map_err(BuildError::Create)?;
        let made = route::link(&mut self.route, &name).map_err(BuildError::Find)?;
        made.map(|link| link.index).ok_or(BuildError::Vanished)
    }

    /// The subnet the bridge has, or is given now: that of pods attached already, the
    /// configured one, or a free one.
    fn subnet(&mut self, index: u32) -> Result<Subnet, BuildError> {
        let addresses = route::addresses(&mut self.route).map_err(BuildError::Find)?;
        let own = addresses.iter().find(|prefix| prefix.interface == index);
        if let Some(own) = own
            && let Ok(subnet) = Subnet::around(own.address, own.prefix_length)
        {
            return Ok(subnet);
        }
        let taken = taken(&mut self.route, &addresses).map_err(BuildError::Find)?;
        let subnet = self.free_subnet(&taken)?;
        route::set_mac(&mut self.route, index, mac_of(subnet.gateway()))
            .map_err(BuildError::Settings)?;
        let prefix = Prefix {
            address: subnet.gateway(),
            prefix_length: subnet.prefix_length(),
            interface: index,
        };
        route::add_address(&mut self.route, prefix).map_err(BuildError::AddAddress)?;
        Ok(subnet)
    }

    fn free_subnet(&self, taken: &[Prefix]) -> Result<Subnet, BuildError> {
        // After a reboot the records still tell of pods, but nothing holds them to a subnet.
        let before = self.pods.values().map(|pod| pod.subnet).next();
        if let Some(before) = before.filter(|subnet| overlap(subnet, taken).is_none()) {
            return Ok(before);
        }
        match self.config.subnet {
            Some(wanted) => overlap(&wanted, taken)
                .map_or(Ok(wanted), |by| Err(BuildError::SubnetTaken { wanted, by })),
            None => self
                .candidates()
                .find(|subnet| overlap(subnet, taken).is_none())
                .ok_or(BuildError::NoFreeSubnet),
        }
    }

    /// Several instances that start at the same moment look from different places.
    fn candidates(&self) -> impl Iterator<Item = Subnet> + use<> {
        let start = self.names.spread % CANDIDATES;
        (0..CANDIDATES).filter_map(move |step| {
            let second = FIRST_CANDIDATE + (start + step) % CANDIDATES;
            Subnet::around(Ipv4Addr::new(10, second, 0, 0), CANDIDATE_PREFIX_LENGTH).ok()
        })
    }
}

/// What the host has or can reach more specifically than by its default route.
fn taken(route: &mut Socket, addresses: &[Prefix]) -> Result<Vec<Prefix>, Errno> {
    let mut taken = route::routes(route)?;
    taken.retain(|prefix| prefix.prefix_length > 0);
    taken.extend_from_slice(addresses);
    Ok(taken)
}

fn overlap(subnet: &Subnet, taken: &[Prefix]) -> Option<String> {
    taken
        .iter()
        .find(|prefix| subnet.overlaps(prefix.address, prefix.prefix_length))
        .map(|prefix| format!("{}/{}", prefix.address, prefix.prefix_length))
}
