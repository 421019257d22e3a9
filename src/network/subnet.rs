//! An IPv4 subnet in CIDR notation and the arithmetic on it.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 network with room for at least a gateway and one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: u32,
    prefix_length: u8,
}

/// The text is not a usable subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSubnetError {
    /// Not `a.b.c.d/n`.
    #[error("{text:?} is not an IPv4 subnet like 10.88.0.0/16")]
    Syntax {
        /// What was given.
        text: String,
    },
    /// Less than two usable addresses, or the whole address space.
    #[error("prefix length {prefix_length} is not between 8 and 30")]
    Size {
        /// What was given.
        prefix_length: u8,
    },
    /// Bits are set beyond the prefix.
    #[error("{text:?} has host bits set; the subnet is {subnet}")]
    HostBits {
        /// What was given.
        text: String,
        /// What was probably meant.
        subnet: Subnet,
    },
}

impl Subnet {
    /// The subnet of that prefix length which holds `address`.
    ///
    /// # Errors
    /// [`ParseSubnetError::Size`] unless `prefix_length` is between 8 and 30.
    pub fn around(address: Ipv4Addr, prefix_length: u8) -> Result<Self, ParseSubnetError> {
        if !(8..=30).contains(&prefix_length) {
            return Err(ParseSubnetError::Size { prefix_length });
        }
        let mask = u32::MAX << (32 - prefix_length);
        Ok(Self { network: u32::from(address) & mask, prefix_length })
    }

    /// The network address.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        self.network.into()
    }

    /// The length of the prefix, in bits.
    #[must_use]
    pub fn prefix_length(&self) -> u8 {
        self.prefix_length
    }

    /// The first usable address: the bridge's own.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        (self.network + 1).into()
    }

    /// The last usable address.
    #[must_use]
    pub fn last(&self) -> Ipv4Addr {
        (self.broadcast() - 1).into()
    }

    /// The netmask.
    #[must_use]
    pub fn mask(&self) -> Ipv4Addr {
        (u32::MAX << (32 - self.prefix_length)).into()
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.network..=self.broadcast()).contains(&address.into())
    }

    /// Whether the network `address/prefix_length` shares an address with this one.
    #[must_use]
    pub fn overlaps(&self, address: Ipv4Addr, prefix_length: u8) -> bool {
        let shorter = self.prefix_length.min(prefix_length);
        let mask = u32::MAX.checked_shl(32 - u32::from(shorter)).unwrap_or(0);
        u32::from(address) & mask == self.network & mask
    }

    fn broadcast(&self) -> u32 {
        self.network | (u32::MAX >> self.prefix_length)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix_length)
    }
}

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || ParseSubnetError::Syntax { text: text.to_owned() };
        let (address, prefix_length) = text.split_once('/').ok_or_else(syntax)?;
        let address: Ipv4Addr = address.parse().map_err(|_not_an_address| syntax())?;
        let prefix_length = prefix_length.parse().map_err(|_not_a_number| syntax())?;
        let subnet = Self::around(address, prefix_length)?;
        if subnet.network() != address {
            return Err(ParseSubnetError::HostBits { text: text.to_owned(), subnet });
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = ParseSubnetError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_counts() {
        let subnet: Subnet = "10.88.0.0/16".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.88.0.0/16");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(subnet.last(), Ipv4Addr::new(10, 88, 255, 254));
        assert_eq!(subnet.mask(), Ipv4Addr::new(255, 255, 0, 0));
        assert!(subnet.contains(Ipv4Addr::new(10, 88, 3, 4)));
        assert!(!subnet.contains(Ipv4Addr::new(10, 89, 0, 0)));
    }

    #[test]
    fn overlap_is_symmetric_in_size() {
        let subnet: Subnet = "10.88.0.0/16".parse().unwrap();
        assert!(subnet.overlaps(Ipv4Addr::new(10, 0, 0, 0), 8));
        assert!(subnet.overlaps(Ipv4Addr::new(10, 88, 7, 0), 24));
        assert!(subnet.overlaps(Ipv4Addr::UNSPECIFIED, 0));
        assert!(!subnet.overlaps(Ipv4Addr::new(10, 89, 0, 0), 16));
        assert!(!subnet.overlaps(Ipv4Addr::new(192, 0, 2, 0), 24));
    }

    #[test]
    fn refuses_what_cannot_hold_a_pod() {
        for text in ["10.88.0.0", "10.88.0.0/x", "fd00::/64", "/16", ""] {
            assert!(matches!(text.parse::<Subnet>(), Err(ParseSubnetError::Syntax { .. })));
        }
        for text in ["10.88.0.0/31", "10.0.0.0/7", "10.0.0.0/200"] {
            assert!(matches!(text.parse::<Subnet>(), Err(ParseSubnetError::Size { .. })));
        }
        let error = "10.88.1.0/16".parse::<Subnet>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"10.88.1.0/16\" has host bits set; the subnet is 10.88.0.0/16"
        );
    }
}
