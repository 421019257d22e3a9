//! Results of plugins, of every version: converting them for the next plugin, and reading
//! the pod's addresses.
//!
//! Specification: CNI 1.1, section 5; older forms in 0.2.0, 0.3.1 and 0.4.0.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::conflist::Version;
use crate::network::attachment::{Dns, INTERFACE};
use crate::network::config::PrimaryAddress;

/// Lists of addresses came with this version; before, there was one per family.
const WITH_LISTS: Version = Version::new(0, 3, 0);
/// From this version on an address does not say its family.
const WITHOUT_FAMILY: Version = Version::new(1, 0, 0);

/// Why a result is of no use.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    /// Not of the form of a result.
    #[error("not a CNI result")]
    Form(#[source] serde_json::Error),
    /// An address that is none.
    #[error("{address:?} is not an IP address with a prefix length")]
    Address {
        /// What was printed.
        address: String,
    },
    /// A version that cannot be converted.
    #[error("a result of cniVersion {version:?} cannot be used")]
    Version {
        /// What was printed.
        version: String,
    },
    /// The pod has no address.
    #[error("no address for the pod's interface")]
    NoAddress,
}

#[derive(Debug, Deserialize)]
struct Wire {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Ip>>,
    #[serde(default)]
    dns: Option<Dns>,
}

#[derive(Debug, Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    mac: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: String,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    interface: Option<i64>,
}

/// What an attached pod got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Outcome {
    /// Address and gateway, as reported.
    pub(in crate::network) ips: Vec<(IpAddr, Option<IpAddr>)>,
    pub(in crate::network) mac: Option<String>,
    pub(in crate::network) dns: Dns,
}

impl Outcome {
    /// Reads a result of any version.
    pub(super) fn parse(result: &Value) -> Result<Self, OutcomeError> {
        let newest = as_version(result.clone(), Version::new(1, 1, 0))?;
        let wire: Wire = serde_json::from_value(newest).map_err(OutcomeError::Form)?;
        let interfaces = wire.interfaces.unwrap_or_default();
        let reported = wire.ips.unwrap_or_default();
        let on =
            |ip: &Ip| ip.interface.and_then(|index| interfaces.get(usize::try_from(index).ok()?));
        let in_pod = |found: &Interface| found.name == INTERFACE && !found.sandbox.is_empty();
        let named = |ip: &&Ip| on(ip).is_none_or(in_pod);
        // A plugin may have its own idea of the interface's name or of the sandbox.
        let mut chosen: Vec<&Ip> = reported.iter().filter(named).collect();
        if chosen.is_empty() {
            chosen = reported.iter().collect();
        }
        let ips = chosen
            .into_iter()
            .map(|ip| Ok((address(&ip.address)?, ip.gateway)))
            .collect::<Result<_, _>>()?;
        let mac = interfaces.iter().find(|found| in_pod(found)).map(|found| found.mac.clone());
        Ok(Self { ips, mac: mac.filter(|mac| !mac.is_empty()), dns: wire.dns.unwrap_or_default() })
    }

    /// A pod without an address would be torn down by the kubelet again and again.
    pub(super) fn with_addresses(self) -> Result<Self, OutcomeError> {
        if self.ips.is_empty() { Err(OutcomeError::NoAddress) } else { Ok(self) }
    }

    /// The addresses, the primary one first, the others in their order.
    pub(in crate::network) fn ordered(
        &self,
        primary: PrimaryAddress,
    ) -> Vec<(IpAddr, Option<IpAddr>)> {
        let preferred = |ip: &IpAddr| match primary {
            PrimaryAddress::Ipv4 => ip.is_ipv4(),
            PrimaryAddress::Ipv6 => ip.is_ipv6(),
            PrimaryAddress::AsReported => true,
        };
        let mut ips = self.ips.clone();
        if let Some(at) = ips.iter().position(|(ip, _)| preferred(ip)) {
            let first = ips.remove(at);
            ips.insert(0, first);
        }
        ips
    }
}

fn address(text: &str) -> Result<IpAddr, OutcomeError> {
    let wrong = || OutcomeError::Address { address: text.to_owned() };
    let ip = text.split('/').next().unwrap_or_default();
    ip.parse().map_err(|_not_an_address| wrong())
}

/// Gives a result the form of another version. What the version does not know is lost.
pub(super) fn as_version(result: Value, wanted: Version) -> Result<Value, OutcomeError> {
    let Value::Object(mut result) = result else {
        return Err(OutcomeError::Version { version: String::new() });
    };
    let said = result.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    let has = match said {
        "" if result.contains_key("ip4") || result.contains_key("ip6") => Version::new(0, 2, 0),
        "" => wanted,
        said => Version::parse(said)
            .ok_or_else(|| OutcomeError::Version { version: said.to_owned() })?,
    };
    match (has < WITH_LISTS, wanted < WITH_LISTS) {
        (true, false) => families_to_list(&mut result),
        (false, true) => list_to_families(&mut result),
        _ => {}
    }
    if wanted >= WITH_LISTS {
        set_families(&mut result, wanted);
    }
    result.insert("cniVersion".to_owned(), wanted.to_string().into());
    Ok(Value::Object(result))
}

/// `ip4` and `ip6` become `ips` and `routes`.
fn families_to_list(result: &mut Map<String, Value>) {
    let (mut ips, mut routes) = (Vec::new(), Vec::new());
    for key in ["ip4", "ip6"] {
        let Some(Value::Object(family)) = result.remove(key) else { continue };
        let mut ip = Map::new();
        ip.insert("address".to_owned(), family.get("ip").cloned().unwrap_or_default());
        if let Some(gateway) = family.get("gateway") {
            ip.insert("gateway".to_owned(), gateway.clone());
        }
        ips.push(Value::Object(ip));
        routes.extend(family.get("routes").and_then(Value::as_array).cloned().unwrap_or_default());
    }
    result.insert("ips".to_owned(), ips.into());
    result.insert("routes".to_owned(), routes.into());
}

/// The first address of each family becomes `ip4` or `ip6`, with its routes.
fn list_to_families(result: &mut Map<String, Value>) {
    let ips = result.remove("ips").unwrap_or_default();
    let routes = result.remove("routes").unwrap_or_default();
    result.remove("interfaces");
    let is_v6 = |value: Option<&Value>| {
        value.and_then(Value::as_str).is_some_and(|text| text.contains(':'))
    };
    for (key, v6) in [("ip4", false), ("ip6", true)] {
        let of_family = |ip: &&Value| is_v6(ip.get("address")) == v6;
        let Some(ip) = ips.as_array().and_then(|ips| ips.iter().find(of_family)) else { continue };
        let routes: Vec<&Value> = routes
            .as_array()
            .map(|all| all.iter().filter(|route| is_v6(route.get("dst")) == v6).collect())
            .unwrap_or_default();
        let mut family = json!({"ip": ip.get("address"), "routes": routes});
        if let (Some(gateway), Some(family)) = (ip.get("gateway"), family.as_object_mut()) {
            family.insert("gateway".to_owned(), gateway.clone());
        }
        result.insert(key.to_owned(), family);
    }
}

/// Versions 0.3 and 0.4 want the family beside each address, later ones must not have it.
fn set_families(result: &mut Map<String, Value>, wanted: Version) {
    let ips = result.get_mut("ips").and_then(Value::as_array_mut);
    for ip in ips.into_iter().flatten().filter_map(Value::as_object_mut) {
        if wanted >= WITHOUT_FAMILY {
            ip.remove("version");
        } else {
            let v6 = ip.get("address").and_then(Value::as_str).is_some_and(|a| a.contains(':'));
            ip.insert("version".to_owned(), if v6 { "6" } else { "4" }.into());
        }
    }
}

#[cfg(test)]
mod tests;
