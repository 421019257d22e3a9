//! Nodes on paper and, as root, in a directory that stands for a container's root.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use oci_spec::runtime::LinuxDeviceBuilder;

use super::*;

fn device(path: &str, kind: LinuxDeviceType, major: i64, minor: i64) -> LinuxDevice {
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(major)
        .minor(minor)
        .file_mode(0o640_u32)
        .uid(5_u32)
        .gid(6_u32)
        .build()
        .unwrap()
}

#[test]
fn nodes_of_the_spec_come_after_and_instead_of_the_defaults() {
    let fuse = device("/dev/fuse", LinuxDeviceType::C, 10, 229);
    let null = device("/dev/null", LinuxDeviceType::C, 1, 3);
    let all = nodes(&[fuse, null]).unwrap();
    let paths: Vec<&str> = all.iter().map(|node| node.path.to_str().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "/dev/zero",
            "/dev/full",
            "/dev/random",
            "/dev/urandom",
            "/dev/tty",
            "/dev/fuse",
            "/dev/null"
        ]
    );
    let last = all.last().unwrap();
    assert_eq!((last.mode, last.uid, last.gid), (0o640, 5, 6));
    assert_eq!(all[0].mode, 0o666);
}

#[test]
fn impossible_devices_are_refused() {
    let c = LinuxDeviceType::C;
    for (path, major) in [("/", 1), ("/dev/../etc/x", 1), ("", 1)] {
        let error = nodes(&[device(path, c, major, 1)]).unwrap_err();
        assert!(matches!(error, DeviceError::InvalidPath { .. }), "{path}: {error}");
    }
    let error = nodes(&[device("/dev/x", c, -1, 1)]).unwrap_err();
    assert!(matches!(error, DeviceError::InvalidNumber { major: -1, .. }));
    let mut nobody = device("/dev/x", c, 1, 1);
    nobody.set_uid(Some(u32::MAX));
    assert!(matches!(nodes(&[nobody]), Err(DeviceError::InvalidOwner { .. })));
}

#[test]
fn default_rules_come_last() {
    let deny = LinuxDeviceCgroup::default();
    let rules: Vec<String> = cgroup_rules(&[deny]).iter().map(ToString::to_string).collect();
    assert_eq!(rules.first().unwrap(), "a *:* ");
    assert!(rules.contains(&"c 1:3 rwm".to_owned()) && rules.contains(&"c *:* m".to_owned()));
    assert_eq!(rules.last().unwrap(), "c 5:2 rwm");
}

struct Root {
    directory: tempfile::TempDir,
    opened: std::fs::File,
}

fn root() -> Root {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    let directory = tempfile::tempdir().unwrap();
    let opened = std::fs::File::open(directory.path()).unwrap();
    Root { directory, opened }
}

#[test]
fn root_nodes_have_numbers_mode_and_owner() {
    let root = root();
    let devices = [
        device("/dev/net/tun", LinuxDeviceType::C, 10, 200),
        device("/dev/loop9", LinuxDeviceType::B, 7, 9),
        device("/run/pipe", LinuxDeviceType::P, 0, 0),
    ];
    let all = nodes(&devices).unwrap();
    for node in all.iter().chain(&all) {
        create(root.opened.as_fd(), node).unwrap();
    }
    let stat = |path: &str| root.directory.path().join(path).symlink_metadata().unwrap();
    let tun = stat("dev/net/tun");
    assert_eq!(tun.rdev(), fs::makedev(10, 200));
    assert_eq!((tun.permissions().mode() & 0o7777, tun.uid(), tun.gid()), (0o640, 5, 6));
    assert!(stat("dev/loop9").file_type().is_block_device());
    assert!(stat("run/pipe").file_type().is_fifo());
    let null = stat("dev/null");
    assert_eq!(null.permissions().mode() & 0o7777, 0o666, "whatever the umask is");
}

#[test]
fn root_another_file_in_the_place_is_not_taken_over() {
    let root = root();
    std::fs::create_dir(root.directory.path().join("dev")).unwrap();
    std::fs::write(root.directory.path().join("dev/null"), "").unwrap();
    symlink("/dev/zero", root.directory.path().join("dev/zero")).unwrap();
    for node in &nodes(&[]).unwrap()[..2] {
        let error = create(root.opened.as_fd(), node).unwrap_err();
        assert!(matches!(error, DeviceError::Occupied { .. }), "{error}");
    }
}

/// A link in an image does not lead out of its root.
#[test]
fn root_links_stay_inside() {
    let root = root();
    let outside = tempfile::tempdir().unwrap();
    let inside = root.directory.path();
    symlink(outside.path(), inside.join("dev")).unwrap();
    let error = create(root.opened.as_fd(), &nodes(&[]).unwrap()[0]).unwrap_err();
    assert!(matches!(error, DeviceError::OpenParent { source: Errno::NOENT, .. }), "{error}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);

    std::fs::remove_file(inside.join("dev")).unwrap();
    std::fs::create_dir(inside.join("real")).unwrap();
    symlink("/../../../real", inside.join("dev")).unwrap();
    create(root.opened.as_fd(), &nodes(&[]).unwrap()[0]).unwrap();
    assert!(inside.join("real/null").exists());
}
