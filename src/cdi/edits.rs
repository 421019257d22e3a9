//! Edits of an OCI spec.
//!
//! What a device asks for takes the place of what was there under the same name: a
//! variable, a node, a mount. A node without numbers has those of the host's device.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hook, Hooks, Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxIntelRdt,
    LinuxNetDevice, LinuxResources, Mount, Process, Spec,
};
use rustix::fs::{FileType, major, minor};

use super::file::{self, DeviceNode, Edits, HookName};

/// An edit that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The host's device cannot be looked at.
    #[error("look at the device {}", path.display())]
    LookUp {
        /// The device.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is none.
    #[error("{} is not a device", .0.display())]
    NotADevice(PathBuf),
    /// It is another one.
    #[error("{} is of type {found}, not {said}", path.display())]
    OtherType {
        /// The device.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What the file says.
        said: String,
    },
}

/// Makes the edits.
pub(super) fn apply(edits: &Edits, spec: &mut Spec) -> Result<(), EditError> {
    let mut process = spec.process().clone().unwrap_or_default();
    set_env(&mut process, &edits.env);
    add_groups(&mut process, &edits.additional_gids);
    let (uid, gid) = (process.user().uid(), process.user().gid());
    spec.set_process(Some(process));

    let mut linux = spec.linux().clone().unwrap_or_default();
    for node in &edits.device_nodes {
        let owner = [uid, gid].map(|id| Some(id).filter(|id| *id > 0));
        add_device(&mut linux, &filled(node)?, owner);
    }
    if !edits.net_devices.is_empty() {
        let mut devices: HashMap<_, _> = linux.net_devices().clone().unwrap_or_default();
        for one in &edits.net_devices {
            let mut device = LinuxNetDevice::default();
            device.set_name(Some(one.name.clone()));
            devices.insert(one.host_interface_name.clone(), device);
        }
        linux.set_net_devices(Some(devices));
    }
    if let Some(rdt) = &edits.intel_rdt {
        linux.set_intel_rdt(Some(oci_rdt(rdt)));
    }
    spec.set_linux(Some(linux));
    add_mounts(spec, &edits.mounts);
    add_hooks(spec, &edits.hooks);
    Ok(())
}

fn set_env(process: &mut Process, added: &[String]) {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut env = process.env().clone().unwrap_or_default();
    for variable in added {
        match env.iter_mut().find(|earlier| name(earlier) == name(variable)) {
            Some(earlier) => variable.clone_into(earlier),
            None => env.push(variable.clone()),
        }
    }
    process.set_env(Some(env));
}

/// Group 0 is given to nobody in passing.
fn add_groups(process: &mut Process, added: &[u32]) {
    let mut user = process.user().clone();
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for group in added.iter().filter(|group| **group != 0) {
        if !groups.contains(group) {
            groups.push(*group);
        }
    }
    user.set_additional_gids(Some(groups).filter(|groups| !groups.is_empty()));
    process.set_user(user);
}

/// The node with what the file leaves to the host.
fn filled(node: &DeviceNode) -> Result<DeviceNode, EditError> {
    let mut node = node.clone();
    if !node.kind.is_empty() && (node.major != 0 || node.kind == "p") {
        return Ok(node);
    }
    let path = PathBuf::from(node.host_path.as_ref().unwrap_or(&node.path));
    let stat = rustix::fs::stat(&path)
        .map_err(|errno| EditError::LookUp { path: path.clone(), source: errno.into() })?;
    let found = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => "b",
        FileType::CharacterDevice => "c",
        FileType::Fifo => "p",
        _ => return Err(EditError::NotADevice(path)),
    };
    // "u" is another word for a character device.
    let same = matches!((node.kind.as_str(), found), ("", _) | ("u", "c")) || node.kind == found;
    if !same {
        return Err(EditError::OtherType { path, found, said: node.kind });
    }
    if node.kind.is_empty() {
        found.clone_into(&mut node.kind);
    }
    if found != "p" {
        (node.major, node.minor) = (major(stat.st_rdev).into(), minor(stat.st_rdev).into());
    }
    Ok(node)
}

fn add_device(linux: &mut Linux, node: &DeviceNode, [uid, gid]: [Option<u32>; 2]) {
    let kind = match node.kind.as_str() {
        "b" => LinuxDeviceType::B,
        "u" => LinuxDeviceType::U,
        "p" => LinuxDeviceType::P,
        _ => LinuxDeviceType::C,
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(PathBuf::from(&node.path))
        .set_typ(kind)
        .set_major(node.major)
        .set_minor(node.minor)
        .set_file_mode(node.file_mode.map(|mode| mode & 0o7777))
        .set_uid(node.uid.or(uid))
        .set_gid(node.gid.or(gid));
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|earlier| earlier.path() != Path::new(&node.path));
    devices.push(device);
    linux.set_devices(Some(devices));
    // A rule without letters would be one with all of them.
    if kind == LinuxDeviceType::P || node.permissions == file::NO_PERMISSIONS {
        return;
    }
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(if kind == LinuxDeviceType::B { kind } else { LinuxDeviceType::C }))
        .set_major(Some(node.major))
        .set_minor(Some(node.minor))
        .set_access(Some(access.to_owned()));
    let mut resources: LinuxResources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.push(rule);
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
}

fn oci_rdt(rdt: &file::IntelRdt) -> LinuxIntelRdt {
    let mut oci = LinuxIntelRdt::default();
    oci.set_clos_id(rdt.clos_id.clone())
        .set_l3_cache_schema(rdt.l3_cache_schema.clone())
        .set_mem_bw_schema(rdt.mem_bw_schema.clone())
        .set_schemata(rdt.schemata.clone())
        .set_enable_monitoring(rdt.enable_monitoring)
        .set_enable_cmt(rdt.enable_cmt)
        .set_enable_mbm(rdt.enable_mbm);
    oci
}

/// Parents stay before children.
fn add_mounts(spec: &mut Spec, added: &[file::Mount]) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for one in added {
        let is_bind = one.options.iter().any(|option| option == "bind" || option == "rbind");
        let unnamed = || if is_bind { "bind".to_owned() } else { String::new() };
        let kind = one.kind.clone().filter(|kind| !kind.is_empty()).unwrap_or_else(unnamed);
        let mut mount = Mount::default();
        mount
            .set_destination(PathBuf::from(&one.container_path))
            .set_typ(Some(kind).filter(|kind| !kind.is_empty()))
            .set_source(Some(PathBuf::from(&one.host_path)))
            .set_options(Some(one.options.clone()))
            .set_uid_mappings(None)
            .set_gid_mappings(None);
        mounts.retain(|earlier| earlier.destination() != mount.destination());
        mounts.push(mount);
    }
    mounts.sort_by_key(|mount| mount.destination().components().count());
    spec.set_mounts(Some(mounts));
}

fn add_hooks(spec: &mut Spec, added: &[file::Hook]) {
    if added.is_empty() {
        return;
    }
    let mut hooks: Hooks = spec.hooks().clone().unwrap_or_default();
    for one in added {
        let mut hook = Hook::default();
        hook.set_path(PathBuf::from(&one.path))
            .set_args(one.args.clone())
            .set_env(one.env.clone())
            .set_timeout(one.timeout);
        let list = match one.hook_name {
            HookName::Prestart => hooks.prestart_mut(),
            HookName::CreateRuntime => hooks.create_runtime_mut(),
            HookName::CreateContainer => hooks.create_container_mut(),
            HookName::StartContainer => hooks.start_container_mut(),
            HookName::Poststart => hooks.poststart_mut(),
            HookName::Poststop => hooks.poststop_mut(),
        };
        list.get_or_insert_default().push(hook);
    }
    spec.set_hooks(Some(hooks));
}
