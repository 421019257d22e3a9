//! `/proc/self/mountinfo` and `/proc/self/cgroup` to hierarchies; no I/O.
//!
//! # References
//! - [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)
//! - [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html), `/proc/pid/cgroup`

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::{Controller, Hierarchy, Version};

/// One line of mountinfo that mounts a cgroup file system.
struct Mount<'a> {
    root: &'a str,
    point: PathBuf,
    version: Version,
    options: Vec<&'a str>,
}

/// The mounted hierarchies, v1 before v2, each once.
///
/// The controllers of a v1 hierarchy are those that `/proc/self/cgroup` lists for it; those of
/// the unified one are in a file and are left empty.
pub(super) fn hierarchies(mountinfo: &str, own_cgroup: &str) -> Vec<Hierarchy> {
    let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(mount).collect();
    let v1 = own_cgroup.lines().filter_map(v1_subsystems).filter_map(|subsystems| {
        let mount = best(&mounts, |mount| {
            mount.version == Version::V1 && subsystems.iter().all(|one| mount.options.contains(one))
        })?;
        Some(Hierarchy {
            mount: mount.point.clone(),
            version: Version::V1,
            controllers: controllers(&subsystems, Controller::v1_name),
        })
    });
    let v2 = best(&mounts, |mount| mount.version == Version::V2).map(|mount| Hierarchy {
        mount: mount.point.clone(),
        version: Version::V2,
        controllers: Vec::new(),
    });
    v1.chain(v2).collect()
}

/// The controllers in the text of `cgroup.controllers`.
pub(super) fn v2_controllers(text: &str) -> Vec<Controller> {
    let names: Vec<&str> = text.split_whitespace().collect();
    controllers(&names, |one| one.v2_name().unwrap_or_default())
}

/// What a hierarchy is displayed as.
pub(super) fn line(line: &str) -> Option<Hierarchy> {
    let mut words = line.splitn(3, ' ');
    let version = match words.next()? {
        "v1" => Version::V1,
        "v2" => Version::V2,
        _ => return None,
    };
    let names: Vec<&str> = words.next()?.split(',').collect();
    let mount = PathBuf::from(words.next()?);
    Some(Hierarchy { mount, version, controllers: controllers(&names, Controller::v1_name) })
}

fn controllers(names: &[&str], name: fn(Controller) -> &'static str) -> Vec<Controller> {
    Controller::ALL.into_iter().filter(|one| names.contains(&name(*one))).collect()
}

/// A hierarchy can be mounted several times, some of them showing only a part: the first that
/// shows all of it, else the first.
fn best<'a, 'b>(
    mounts: &'a [Mount<'b>],
    wanted: impl Fn(&Mount<'b>) -> bool,
) -> Option<&'a Mount<'b>> {
    let mut found = mounts.iter().filter(|mount| wanted(mount)).peekable();
    let first = found.peek().copied();
    found.find(|mount| mount.root == "/").or(first)
}

/// `4:memory:/a` and `1:name=systemd:/b`, but not `0::/c` nor a hierarchy somebody named.
fn v1_subsystems(line: &str) -> Option<Vec<&str>> {
    let (_, rest) = line.split_once(':')?;
    let (subsystems, _) = rest.split_once(':')?;
    let foreign = subsystems.starts_with("name=") && subsystems != "name=systemd";
    (!subsystems.is_empty() && !foreign).then(|| subsystems.split(',').collect())
}

fn mount(line: &str) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let mut fields = after.split(' ');
    let version = match fields.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = fields.nth(1).unwrap_or_default().split(',').collect();
    Some(Mount { root, point: unescape(point), version, options })
}

/// Blanks and backslashes are written as `\040`.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}
