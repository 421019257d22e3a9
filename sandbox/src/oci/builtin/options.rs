//! The `options` of an OCI mount, sorted into what the mount API wants.
//!
//! # References
//! - [OCI runtime spec, mounts](https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-mount-options)
//! - [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html)

use crate::sys::mount::{Depth, MountAttr};

/// One mount's options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// Attributes of the mount itself.
    pub(super) attr: MountAttr,
    /// Attributes of the mount and everything below it (`rro` and its like).
    pub(super) tree_attr: MountAttr,
    /// A bind mount, and whether with what is mounted below the source.
    pub(super) bind: Option<Bind>,
    /// What propagates between the mount and its source.
    pub(super) propagation: Option<(Propagation, TreeDepth)>,
    /// Flags of the file system (`sync`, `dirsync`, …) without a value.
    pub(super) flags: Vec<String>,
    /// Settings of the file system (`size=64m`).
    pub(super) settings: Vec<(String, String)>,
    /// Copy what the image has at the destination into the new tmpfs.
    pub(super) copy_up: bool,
}

/// How much of the source a bind mount shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bind {
    One,
    Tree,
}

/// Propagation types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Propagation {
    Private,
    Slave,
    Shared,
    Unbindable,
}

/// [`Depth`] with equality for tests.
pub(super) type TreeDepth = Depth;

impl Propagation {
    /// The kernel's number for it.
    pub(super) fn flag(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// Name, attribute, and whether the name sets or clears it.
const ATTRIBUTES: &[(&str, u64, bool)] = &[
    ("ro", libc::MOUNT_ATTR_RDONLY, true),
    ("rw", libc::MOUNT_ATTR_RDONLY, false),
    ("nosuid", libc::MOUNT_ATTR_NOSUID, true),
    ("suid", libc::MOUNT_ATTR_NOSUID, false),
    ("nodev", libc::MOUNT_ATTR_NODEV, true),
    ("dev", libc::MOUNT_ATTR_NODEV, false),
    ("noexec", libc::MOUNT_ATTR_NOEXEC, true),
    ("exec", libc::MOUNT_ATTR_NOEXEC, false),
    ("nodiratime", libc::MOUNT_ATTR_NODIRATIME, true),
    ("diratime", libc::MOUNT_ATTR_NODIRATIME, false),
    ("nosymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, true),
    ("symfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, false),
];

/// Names that choose one way of keeping access times; the others are cleared.
const ACCESS_TIMES: &[(&str, u64)] = &[
    ("relatime", libc::MOUNT_ATTR_RELATIME),
    ("noatime", libc::MOUNT_ATTR_NOATIME),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME),
];

impl MountOptions {
    /// Sorts `options`; whatever is not a mount attribute is for the file system.
    pub(super) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            parsed.add(option);
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        match option {
            // Whether ids are mapped is what the mount's mappings say.
            "" | "defaults" | "rootcontext" | "idmap" | "ridmap" => {}
            "bind" => self.bind = self.bind.or(Some(Bind::One)),
            "rbind" => self.bind = Some(Bind::Tree),
            "tmpcopyup" => self.copy_up = true,
            _ if self.add_propagation(option) || self.add_attribute(option) => {}
            _ => match option.split_once('=') {
                Some((key, value)) => self.settings.push((key.to_owned(), value.to_owned())),
                None => self.flags.push(option.to_owned()),
            },
        }
    }

    fn add_propagation(&mut self, option: &str) -> bool {
        let (name, depth) = match option.strip_prefix('r') {
            Some(name) if matches!(name, "private" | "slave" | "shared" | "unbindable") => {
                (name, Depth::Tree)
            }
            _ => (option, Depth::One),
        };
        let propagation = match name {
            "private" => Propagation::Private,
            "slave" => Propagation::Slave,
            "shared" => Propagation::Shared,
            "unbindable" => Propagation::Unbindable,
            _ => return false,
        };
        self.propagation = Some((propagation, depth));
        true
    }

    fn add_attribute(&mut self, option: &str) -> bool {
        if apply(&mut self.attr, option) {
            return true;
        }
        // `rro`, `rnosuid` and so on: the same for the whole tree. `relatime` begins with
        // an r too, but was recognised above.
        option.strip_prefix('r').is_some_and(|name| apply(&mut self.tree_attr, name))
    }
}

fn apply(attr: &mut MountAttr, option: &str) -> bool {
    if let Some((_, flag, sets)) = ATTRIBUTES.iter().find(|(name, ..)| *name == option) {
        let (on, off) =
            if *sets { (&mut attr.set, &mut attr.clear) } else { (&mut attr.clear, &mut attr.set) };
        *on |= flag;
        *off &= !flag;
        return true;
    }
    if let Some((_, flag)) = ACCESS_TIMES.iter().find(|(name, _)| *name == option) {
        attr.set = (attr.set & !libc::MOUNT_ATTR__ATIME) | flag;
        attr.clear |= libc::MOUNT_ATTR__ATIME;
        return true;
    }
    matches!(option, "norelatime" | "nostrictatime" | "atime")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> MountOptions {
        MountOptions::parse(&options.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_read_only_recursive_bind() {
        let parsed = parse("rbind,rro,nosuid,rslave");
        assert_eq!(parsed.bind, Some(Bind::Tree));
        assert_eq!(parsed.tree_attr.set, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(parsed.attr.set, libc::MOUNT_ATTR_NOSUID);
        assert_eq!(parsed.propagation, Some((Propagation::Slave, Depth::Tree)));
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        let parsed = parse("noexec,exec,rw,ro");
        assert_eq!(parsed.attr.set, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(parsed.attr.clear, libc::MOUNT_ATTR_NOEXEC);
    }

    #[test]
    fn the_rest_belongs_to_the_file_system() {
        let parsed = parse("nosuid,size=64m,mode=1777,sync,tmpcopyup");
        assert_eq!(parsed.flags, ["sync"]);
        assert_eq!(parsed.settings.len(), 2);
        assert!(parsed.copy_up);
    }

    #[test]
    fn relatime_is_not_a_recursive_elatime() {
        assert_eq!(parse("relatime").attr.clear, libc::MOUNT_ATTR__ATIME);
        assert_eq!(parse("rnoatime").tree_attr.set, libc::MOUNT_ATTR_NOATIME);
    }
}
