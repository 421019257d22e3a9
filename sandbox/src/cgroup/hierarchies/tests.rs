//! The kernel's lists as text: v1, hybrid, v2, and odd mounts.

use std::path::Path;

use super::parse::{hierarchies, v2_controllers};
use super::*;

const V1_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
37 31 0:34 / /mnt/own rw,relatime - cgroup none rw,name=own
";

const V1_OWN: &str = "\
13:name=own:/
12:name=systemd:/user.slice
4:memory:/a:b
3:cpuset:/
2:cpu,cpuacct:/
1:pids:/
";

const V2_MOUNT: &str = "38 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

fn of(mountinfo: &str, own: &str) -> Hierarchies {
    Hierarchies::new(hierarchies(mountinfo, own)).unwrap()
}

#[test]
fn v1_hierarchies_have_the_controllers_that_are_mounted() {
    let found = of(V1_MOUNTS, V1_OWN);
    assert_eq!(found.mode(), Mode::V1);
    assert_eq!(found.all().len(), 4);
    assert_eq!(found.version(Controller::Memory), Some(Version::V1));
    assert_eq!(found.version(Controller::Pids), None, "known to the kernel, but not mounted");
    assert_eq!(found.version(Controller::Devices), None);
    let cpu = found.place(Controller::Cpu).unwrap();
    assert_eq!(cpu.mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    assert_eq!(cpu.controllers, [Controller::Cpu, Controller::Cpuacct]);
    assert!(found.unified().is_none());
}

#[test]
fn hybrid_hosts_have_both() {
    let found = of(&format!("{V1_MOUNTS}{V2_MOUNT}"), &format!("{V1_OWN}0::/init.scope\n"));
    assert_eq!(found.mode(), Mode::Hybrid);
    assert_eq!(found.unified().unwrap().mount, Path::new("/sys/fs/cgroup/unified"));
    assert_eq!(found.version(Controller::Memory), Some(Version::V1));
    assert_eq!(found.version(Controller::Pids), None);
    assert_eq!(found.version(Controller::Devices), Some(Version::V2), "every v2 group has it");
}

#[test]
fn v2_alone() {
    let mut all = hierarchies("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/\n");
    all[0].controllers = v2_controllers("cpuset cpu io memory hugetlb pids rdma misc dmem\n");
    let found = Hierarchies::new(all).unwrap();
    assert_eq!(found.mode(), Mode::V2);
    assert_eq!(found.version(Controller::Blkio), Some(Version::V2));
    assert_eq!(found.version(Controller::Cpuacct), Some(Version::V2));
    assert_eq!(found.version(Controller::NetCls), None);
}

#[test]
fn a_mount_that_shows_all_is_preferred_and_names_are_unescaped() {
    let mounts = "\
40 1 0:32 /kubepods /part rw - cgroup cgroup rw,memory
41 1 0:32 / /a\\040b\\134c rw - cgroup cgroup rw,memory
42 1 0:99 / /broken rw
";
    let found = of(mounts, "4:memory:/\n");
    assert_eq!(found.all()[0].mount, Path::new("/a b\\c"));
    let part = of(mounts.lines().next().unwrap(), "4:memory:/\n");
    assert_eq!(part.all()[0].mount, Path::new("/part"));
}

#[test]
fn nothing_mounted_is_an_error() {
    assert!(matches!(Hierarchies::new(hierarchies("", "0::/\n")), Err(DetectError::NoneMounted)));
}

#[test]
fn lines_say_all_of_it() {
    let spaced = V1_MOUNTS.replace("/sys/fs/cgroup/memory", "/a\\040b");
    for found in [
        of(&format!("{spaced}{V2_MOUNT}"), &format!("{V1_OWN}0::/\n")),
        of(V2_MOUNT, "0::/\n"),
        of(V1_MOUNTS, V1_OWN),
    ] {
        assert_eq!(Hierarchies::told(&found.lines()).unwrap(), found);
    }
    for odd in ["", "v3 cpu /a", "v1 cpu", "v2"] {
        let told = Hierarchies::told(&[odd.to_owned()]);
        assert_eq!(told.unwrap_err().to_string(), format!("{odd:?} is no hierarchy"));
    }
    assert!(matches!(Hierarchies::told(&[]), Err(DetectError::NoneMounted)));
}
