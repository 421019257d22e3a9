//! Device rules in force on processes, by v1 files and by the eBPF program.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::*;

fn device(allow: bool, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_access(Some(access.to_owned()));
    if minor.is_some() {
        rule.set_typ(Some(LinuxDeviceType::C)).set_major(Some(1)).set_minor(minor);
    }
    rule
}

fn devices(rules: Vec<LinuxDeviceCgroup>) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(rules));
    resources
}

/// What a process in the group may do with `null` (1:3) and `zero` (1:5).
const PROBE: &str = "for f in null zero; do \
    (: < /dev/$f) && printf \"$f:r \"; (: > /dev/$f) && printf \"$f:w \"; done";

fn device_rules(mut scratch: Scratch) {
    assert_eq!(scratch.output(PROBE), "null:r null:w zero:r zero:w ");
    let null = vec![device(false, None, "rwm"), device(true, Some(3), "rwm")];
    scratch.group.apply(&devices(null)).unwrap();
    assert_eq!(scratch.output(PROBE), "null:r null:w ");
    let read =
        vec![device(false, None, ""), device(true, Some(3), "r"), device(true, Some(5), "rw")];
    drop(scratch.group.update(&devices(read)).unwrap());
    assert_eq!(scratch.output(PROBE), "null:r zero:r zero:w ");
    drop(scratch.group.update(&devices(vec![device(true, None, "rwm")])).unwrap());
    assert_eq!(scratch.output(PROBE), "null:r null:w zero:r zero:w ");
    drop(scratch.group.update(&devices(vec![device(false, None, "rwm")])).unwrap());
    assert_eq!(scratch.output(PROBE), "");
}

#[test]
fn root_device_rules_hold() {
    device_rules(Scratch::new(&this_host()));
}

#[test]
fn root_device_rules_hold_on_v2() {
    device_rules(Scratch::new(&unified_alone()));
}

/// A list with wildcards, as the default rules are, on both versions.
#[test]
fn root_default_device_rules_are_taken() {
    for host in [this_host(), unified_alone()] {
        let mut scratch = Scratch::new(&host);
        let rules = crate::oci::builtin::devices::cgroup_rules(&[device(false, None, "rwm")]);
        scratch.group.apply(&devices(rules)).unwrap();
        assert_eq!(scratch.output(PROBE), "null:r null:w zero:r zero:w ");
        assert_eq!(scratch.output("(: < /dev/kmsg) || printf no"), "no");
    }
}
