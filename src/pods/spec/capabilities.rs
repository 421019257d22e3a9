//! The capability sets of a container.
//!
//! The inheritable set is empty unless ambient capabilities are asked for, which cannot be
//! raised otherwise; a set inherited by every program would let an unprivileged user of
//! the container gain them through file capabilities (CVE-2022-24769, CVE-2022-27652,
//! CVE-2022-29162).
//!
//! # References
//! - [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html)

use std::{collections::HashSet, str::FromStr};

use cri_api::v1;
use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::Privilege;

/// What a container may do when it asks for nothing: the set the field agrees on.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Capabilities that cannot be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CapabilityError {
    /// No capability of Linux has this name.
    #[error("capability {name:?} is unknown")]
    Unknown {
        /// As given.
        name: String,
    },
    /// The node may not give it away.
    #[error("capability {name} is not in the bounding set of this node's runtime")]
    OutOfBounds {
        /// Its name.
        name: String,
    },
}

/// The sets for a container on a node whose bounding set is `node`.
pub(super) fn capabilities(
    request: Option<&v1::Capability>,
    privilege: Privilege,
    node: &[Capability],
) -> Result<LinuxCapabilities, CapabilityError> {
    let (mut held, mut ambient) = (HashSet::new(), HashSet::new());
    match (privilege, request) {
        (Privilege::Privileged, _) => held.extend(node),
        (Privilege::Ordinary, None) => held.extend(present(&DEFAULT, node)),
        (Privilege::Ordinary, Some(request)) => {
            ambient = wanted(&request.add_ambient_capabilities, node)?;
            held = requested(request, &ambient, node)?;
            ambient.retain(|capability| held.contains(capability));
        }
    }
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(held.clone()))
        .set_effective(Some(held.clone()))
        .set_permitted(Some(held))
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    Ok(sets)
}

/// `ALL` goes first on either side, then single names are added, then dropped.
fn requested(
    request: &v1::Capability,
    ambient: &HashSet<Capability>,
    node: &[Capability],
) -> Result<HashSet<Capability>, CapabilityError> {
    let all = |names: &[String]| names.iter().any(|name| is_all(name));
    let mut held: HashSet<_> = match () {
        () if all(&request.drop_capabilities) => HashSet::new(),
        () if all(&request.add_capabilities) => node.iter().copied().collect(),
        () => present(&DEFAULT, node).collect(),
    };
    held.extend(wanted(&request.add_capabilities, node)?);
    held.extend(ambient);
    for name in request.drop_capabilities.iter().filter(|name| !is_all(name)) {
        held.remove(&parse(name)?);
    }
    Ok(held)
}

/// The named capabilities, which the node must be able to give.
fn wanted(names: &[String], node: &[Capability]) -> Result<HashSet<Capability>, CapabilityError> {
    names
        .iter()
        .filter(|name| !is_all(name))
        .map(|name| {
            let capability = parse(name)?;
            if node.contains(&capability) {
                Ok(capability)
            } else {
                Err(CapabilityError::OutOfBounds { name: format!("CAP_{capability}") })
            }
        })
        .collect()
}

fn present<'a>(set: &'a [Capability], node: &'a [Capability]) -> impl Iterator<Item = Capability> {
    set.iter().copied().filter(|capability| node.contains(capability))
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

/// `NET_ADMIN`, `CAP_NET_ADMIN`, `net_admin`.
fn parse(name: &str) -> Result<Capability, CapabilityError> {
    let upper = name.to_ascii_uppercase();
    Capability::from_str(upper.strip_prefix("CAP_").unwrap_or(&upper))
        .map_err(|_no_such_variant| CapabilityError::Unknown { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every capability of the table below, but not `SYS_RESOURCE`.
    fn node() -> Vec<Capability> {
        let mut node = DEFAULT.to_vec();
        node.extend([Capability::SysAdmin, Capability::NetAdmin, Capability::Bpf]);
        node
    }

    fn request(add: &[&str], drop: &[&str], ambient: &[&str]) -> v1::Capability {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        v1::Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            add_ambient_capabilities: list(ambient),
        }
    }

    fn with(extra: &[Capability], without: &[Capability]) -> HashSet<Capability> {
        let mut set: HashSet<_> = DEFAULT.into_iter().chain(extra.iter().copied()).collect();
        set.retain(|capability| !without.contains(capability));
        set
    }

    #[test]
    fn sets() {
        use Capability::{Bpf, Chown, Mknod, NetAdmin, SysAdmin};
        let everything: HashSet<_> = node().into_iter().collect();
        for (add, drop, expected) in [
            (&[][..], &[][..], with(&[], &[])),
            (&["NET_ADMIN"], &[], with(&[NetAdmin], &[])),
            (&["CAP_NET_ADMIN", "bpf"], &["MKNOD"], with(&[NetAdmin, Bpf], &[Mknod])),
            (&["ALL"], &[], everything.clone()),
            (&["all"], &["CAP_SYS_ADMIN"], with(&[NetAdmin, Bpf], &[])),
            (&[], &["ALL"], HashSet::new()),
            (&["CHOWN"], &["ALL"], HashSet::from([Chown])),
            (&["ALL", "SYS_ADMIN"], &["ALL"], HashSet::from([SysAdmin])),
            (&["CHOWN"], &["CHOWN"], with(&[], &[Chown])),
        ] {
            let made =
                capabilities(Some(&request(add, drop, &[])), Privilege::Ordinary, &node()).unwrap();
            for set in [made.bounding(), made.effective(), made.permitted()] {
                assert_eq!(set.as_ref(), Some(&expected), "add {add:?} drop {drop:?}");
            }
            for set in [made.inheritable(), made.ambient()] {
                assert_eq!(set.as_ref(), Some(&HashSet::new()));
            }
        }
        let privileged =
            capabilities(Some(&request(&[], &["ALL"], &[])), Privilege::Privileged, &node());
        assert_eq!(privileged.unwrap().effective().as_ref(), Some(&everything));
        let poor = capabilities(None, Privilege::Ordinary, &[Chown]).unwrap();
        assert_eq!(poor.bounding().as_ref(), Some(&HashSet::from([Chown])));
    }

    #[test]
    fn ambient_capabilities_are_held_and_inheritable() {
        let made = capabilities(
            Some(&request(&[], &["ALL"], &["NET_ADMIN"])),
            Privilege::Ordinary,
            &node(),
        )
        .unwrap();
        let expected = HashSet::from([Capability::NetAdmin]);
        for set in [
            made.bounding(),
            made.effective(),
            made.permitted(),
            made.inheritable(),
            made.ambient(),
        ] {
            assert_eq!(set.as_ref(), Some(&expected));
        }
    }

    #[test]
    fn refused() {
        for (request, expected) in [
            (request(&["FLY"], &[], &[]), "capability \"FLY\" is unknown"),
            (request(&[], &["CAP_"], &[]), "capability \"CAP_\" is unknown"),
            (
                request(&["SYS_RESOURCE"], &[], &[]),
                "capability CAP_SYS_RESOURCE is not in the bounding set of this node's runtime",
            ),
        ] {
            let made = capabilities(Some(&request), Privilege::Ordinary, &node());
            assert_eq!(made.unwrap_err().to_string(), expected);
        }
    }
}
