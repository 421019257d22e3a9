//! Handing out the addresses of a subnet, one after the other.
//!
//! An address that was given back is used again only after all the others, so that what
//! still remembers it (connections, name servers) has time to forget.

use std::net::Ipv4Addr;

use crate::network::subnet::Subnet;

/// The addresses of a subnet, without those of the network, the gateway and the broadcast.
#[derive(Debug)]
pub(super) struct Pool {
    subnet: Subnet,
    next: u32,
}

impl Pool {
    pub(super) fn new(subnet: Subnet) -> Self {
        Self { subnet, next: first(&subnet) }
    }

    pub(super) fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The next address that is not `used`; `None` when all are.
    pub(super) fn take(&mut self, used: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let (first, last) = (first(&self.subnet), u32::from(self.subnet.last()));
        let found = (self.next..=last)
            .chain(first..self.next)
            .map(Ipv4Addr::from)
            .find(|address| !used(*address))?;
        self.next = if found == self.subnet.last() { first } else { u32::from(found) + 1 };
        Some(found)
    }
}

fn first(subnet: &Subnet) -> u32 {
    u32::from(subnet.gateway()) + 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn gives_every_address_once_and_the_returned_one_last() {
        let mut pool = Pool::new("10.9.0.0/29".parse().unwrap());
        let mut used = BTreeSet::new();
        for last in 2..=6 {
            let address = pool.take(|a| used.contains(&a)).unwrap();
            assert_eq!(address, Ipv4Addr::new(10, 9, 0, last));
            used.insert(address);
        }
        assert_eq!(pool.take(|a| used.contains(&a)), None);
        used.remove(&Ipv4Addr::new(10, 9, 0, 4));
        assert_eq!(pool.take(|a| used.contains(&a)), Some(Ipv4Addr::new(10, 9, 0, 4)));
    }

    #[test]
    fn does_not_hurry_to_use_an_address_again() {
        let mut pool = Pool::new("10.9.0.0/29".parse().unwrap());
        let given: Vec<_> = (0..7).map(|_| pool.take(|_| false).unwrap().octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6, 2, 3]);
    }
}
