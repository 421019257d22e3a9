//! Mounts, as tables.

use crate::pods::spec::fixture::Fixture;

use super::*;

fn bind(container_path: &str, host_path: &str) -> v1::Mount {
    v1::Mount {
        container_path: container_path.into(),
        host_path: host_path.into(),
        ..Default::default()
    }
}

fn image(container_path: &str) -> v1::Mount {
    let image = v1::ImageSpec { image: "sha256:1".into(), ..Default::default() };
    v1::Mount { image: Some(image), readonly: true, ..bind(container_path, "") }
}

/// Destinations and sources, in order.
fn layout(fixture: &Fixture) -> Vec<String> {
    let list = fixture.with_inputs(|inputs| mounts(inputs, Privilege::Ordinary)).unwrap();
    list.iter()
        .map(|mount| {
            let source = mount.source().as_ref().unwrap();
            format!("{} {}", mount.destination().display(), source.display())
        })
        .collect()
}

/// The options of the only mount of the request, or the error's text.
fn options(mount: v1::Mount, kernel: RecursiveReadOnly) -> Result<String, String> {
    let mut fixture = Fixture::new();
    fixture.node.recursive_read_only = kernel;
    let destination = PathBuf::from(&mount.container_path);
    fixture.container.mounts = vec![mount];
    let list = fixture.with_inputs(|inputs| mounts(inputs, Privilege::Ordinary));
    let list = list.map_err(|error| error.to_string())?;
    let made = list.iter().find(|mount| *mount.destination() == destination).unwrap();
    Ok(made.options().as_ref().unwrap().join(","))
}

fn supported(mount: v1::Mount) -> Result<String, String> {
    options(mount, RecursiveReadOnly::Supported)
}

#[test]
fn defaults_in_order_of_depth() {
    assert_eq!(
        layout(&Fixture::new()),
        [
            "/proc proc",
            "/dev tmpfs",
            "/sys sysfs",
            "/dev/pts devpts",
            "/dev/mqueue mqueue",
            "/dev/shm /run/orlop/pods/p/shm",
            "/etc/hostname /run/orlop/pods/p/hostname",
            "/etc/hosts /run/orlop/pods/p/hosts",
            "/etc/resolv.conf /run/orlop/pods/p/resolv.conf",
            "/sys/fs/cgroup cgroup",
        ]
    );
}

#[test]
fn nested_mounts_follow_their_parents() {
    let mut fixture = Fixture::new();
    fixture.files = PodFiles::default();
    fixture.image_volumes =
        vec![("/data".into(), "/v/1".into()), ("/data/x".into(), "/v/2".into())];
    fixture.container.mounts =
        vec![bind("/data/x/y", "/h/y"), bind("//data/./x/", "/h/x"), bind("/a", "/h/a")];
    let made = layout(&fixture);
    let own: Vec<_> =
        made.iter().filter(|line| line.contains("/v/") || line.contains("/h/")).collect();
    assert_eq!(own, ["/data /v/1", "/a /h/a", "/data/x /h/x", "/data/x/y /h/y"]);
}

#[test]
fn a_mount_of_the_request_replaces_defaults_on_and_below_it() {
    for (destination, gone) in [
        (
            "/dev",
            &[
                "/dev tmpfs",
                "/dev/pts devpts",
                "/dev/mqueue mqueue",
                "/dev/shm /run/orlop/pods/p/shm",
            ][..],
        ),
        ("/dev/shm", &["/dev/shm /run/orlop/pods/p/shm"]),
        ("/sys", &["/sys sysfs", "/sys/fs/cgroup cgroup"]),
        ("/sys/fs/cgroup", &["/sys/fs/cgroup cgroup"]),
        ("/etc/hosts", &["/etc/hosts /run/orlop/pods/p/hosts"]),
        ("/etc", &[]),
    ] {
        let before = layout(&Fixture::new());
        let mut fixture = Fixture::new();
        fixture.container.mounts = vec![bind(destination, "/h")];
        let mut after = layout(&fixture);
        after.retain(|line| *line != format!("{destination} /h"));
        let kept: Vec<_> = before.iter().filter(|line| !gone.contains(&line.as_str())).collect();
        assert_eq!(after.iter().collect::<Vec<_>>(), kept, "{destination}");
    }
}

#[test]
fn propagation_access_and_options() {
    use MountPropagation::{PropagationBidirectional, PropagationHostToContainer};
    let base = || bind("/m", "/h");
    let with = |options: &[&str]| v1::Mount {
        mount_options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..base()
    };
    for (mount, expected) in [
        (base(), "rbind,rprivate,rw"),
        (v1::Mount { readonly: true, ..base() }, "rbind,rprivate,ro"),
        (v1::Mount { propagation: PropagationHostToContainer.into(), ..base() }, "rbind,rslave,rw"),
        (v1::Mount { propagation: PropagationBidirectional.into(), ..base() }, "rbind,rshared,rw"),
        (v1::Mount { readonly: true, recursive_read_only: true, ..base() }, "rbind,rprivate,rro"),
        (with(&["noexec", "nodev"]), "rbind,rprivate,rw,noexec,nodev"),
        (with(&["noexec", "exec", "exec"]), "rbind,rprivate,rw,exec"),
    ] {
        assert_eq!(supported(mount), Ok(expected.to_owned()));
    }
}

#[test]
fn refused() {
    let base = || bind("/m", "/h");
    let rro = |mount: v1::Mount| v1::Mount { recursive_read_only: true, ..mount };
    for (mount, expected) in [
        (bind("m", "/h"), "mount destination \"m\" is not an absolute path below the root"),
        (bind("/", "/h"), "mount destination \"/\" is not an absolute path below the root"),
        (bind("/./", "/h"), "mount destination \"/./\" is not an absolute path below the root"),
        (
            bind("/a/../b", "/h"),
            "mount destination \"/a/../b\" is not an absolute path below the root",
        ),
        (bind("/m", ""), "mount source \"\" of \"/m\" is not an absolute path without '..'"),
        (bind("/m", "h"), "mount source \"h\" of \"/m\" is not an absolute path without '..'"),
        (
            bind("/m", "/h/../x"),
            "mount source \"/h/../x\" of \"/m\" is not an absolute path without '..'",
        ),
        (v1::Mount { propagation: 9, ..base() }, "mount propagation 9 of \"/m\" is unknown"),
        (
            v1::Mount { mount_options: vec!["upperdir=/x".into()], ..base() },
            "mount option \"upperdir=/x\" of \"/m\" is not one of exec, noexec, suid, nosuid, dev, nodev",
        ),
        (
            v1::Mount { uid_mappings: vec![v1::IdMapping::default()], ..base() },
            "the id mappings of the mount on \"/m\" are not those of the pod",
        ),
        (rro(base()), "recursive_read_only of \"/m\" needs readonly"),
        (
            rro(v1::Mount { readonly: true, propagation: 1, ..base() }),
            "recursive_read_only of \"/m\" needs private propagation",
        ),
        (
            rro(v1::Mount { readonly: true, propagation: 2, ..base() }),
            "recursive_read_only of \"/m\" needs private propagation",
        ),
        (
            v1::Mount { host_path: "/h".into(), ..image("/m") },
            "the mount on \"/m\" has both an image and a host path",
        ),
        (
            v1::Mount { readonly: false, ..image("/m") },
            "the image mount on \"/m\" must be read-only",
        ),
        (image("/m"), "image \"sha256:1\" for the mount on \"/m\" is not available"),
        (
            v1::Mount { image_sub_path: "a/../../b".into(), ..image("/m") },
            "image_sub_path \"a/../../b\" of \"/m\" is not a relative path inside of an image",
        ),
        (
            v1::Mount { image_sub_path: "a".into(), ..base() },
            "image_sub_path \"a\" of \"/m\" is not a relative path inside of an image",
        ),
    ] {
        assert_eq!(supported(mount), Err(expected.to_owned()));
    }
    assert_eq!(
        options(rro(v1::Mount { readonly: true, ..base() }), RecursiveReadOnly::Unsupported),
        Err("recursive_read_only of \"/m\" needs Linux 5.12".to_owned())
    );
}

/// Destination and options of those mounts that a user namespace changes.
fn in_user_namespace(fixture: &Fixture) -> Vec<String> {
    let list = fixture.with_inputs(|inputs| mounts(inputs, Privilege::Ordinary)).unwrap();
    list.iter()
        .filter(|mount| {
            let place = mount.destination().display().to_string();
            matches!(place.as_str(), "/sys" | "/dev/pts" | "/own" | "/mapped" | "/plain")
        })
        .map(|mount| {
            let kind = mount.typ().as_deref().unwrap_or_default();
            let ids = mount.uid_mappings().as_ref().map(|ids| ids[0].host_id());
            let options = mount.options().as_ref().unwrap().join(",");
            format!("{} {kind} {ids:?} {options}", mount.destination().display())
        })
        .collect()
}

#[test]
fn in_a_user_namespace() {
    let ids = vec![v1::IdMapping { host_id: 1000, container_id: 0, length: 6 }];
    let mapped = |path: &str| v1::Mount {
        uid_mappings: ids.clone(),
        gid_mappings: ids.clone(),
        ..bind(path, "/h")
    };
    let mut fixture = Fixture::new();
    fixture.pod_namespaces().userns_options = Some(v1::UserNamespace {
        mode: v1::NamespaceMode::Pod.into(),
        uids: ids.clone(),
        gids: ids.clone(),
    });
    fixture.image_volumes = vec![("/own".into(), "/v".into())];
    fixture.container.mounts = vec![mapped("/mapped"), bind("/plain", "/h")];
    assert_eq!(
        in_user_namespace(&fixture),
        [
            "/sys sysfs None nosuid,noexec,nodev,ro",
            "/own bind Some(1000) rbind,rprivate,rw,ridmap",
            "/mapped bind Some(1000) rbind,rprivate,rw,ridmap",
            "/plain bind None rbind,rprivate,rw",
            "/dev/pts devpts None nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ]
    );

    // The host's network, and a namespace without the group of terminals.
    fixture.namespaces.net = NamespaceSource::Host;
    let user = fixture.pod_namespaces().userns_options.as_mut().unwrap();
    user.gids[0].length = 5;
    fixture.container.mounts = vec![];
    let list = in_user_namespace(&fixture);
    assert_eq!(list[0], "/sys bind None bind,rprivate,nosuid,noexec,nodev,ro");
    assert_eq!(list[2], "/dev/pts devpts None nosuid,noexec,newinstance,ptmxmode=0666,mode=0620");

    for bad in [mapped("/m"), v1::Mount { propagation: 2, ..bind("/m", "/h") }] {
        fixture.container.mounts = vec![bad];
        let refused = fixture.with_inputs(|inputs| mounts(inputs, Privilege::Ordinary));
        assert!(refused.is_err(), "{:?}", fixture.container.mounts);
    }
}

#[test]
fn nothing_stands_in_for_proc() {
    assert_eq!(supported(bind("/proc", "/proc")), Ok("rbind,rprivate,rw".to_owned()));
    assert_eq!(supported(bind("/proc/meminfo", "/h")), Ok("rbind,rprivate,rw".to_owned()));
    assert_eq!(supported(bind("/process", "/h")), Ok("rbind,rprivate,rw".to_owned()));
    for (destination, source) in [
        ("/proc", "/h"),
        ("//proc/.", "/h"),
        ("/proc/self/attr/exec", "/proc"),
        ("/proc/sys", "/h"),
    ] {
        let made = supported(bind(destination, source));
        assert!(made.unwrap_err().ends_with("cannot be mounted over in a container"));
    }
}

#[test]
fn image_mounts() {
    let mut fixture = Fixture::new();
    fixture.image_mounts.insert("/m".into(), "/snapshots/7/sub".into());
    fixture.container.mounts = vec![v1::Mount { image_sub_path: "sub".into(), ..image("/m") }];
    assert!(layout(&fixture).contains(&"/m /snapshots/7/sub".to_owned()));
}

#[test]
fn read_only_roots_have_read_only_files() {
    let mut fixture = Fixture::new();
    fixture.security().readonly_rootfs = true;
    let list = fixture.with_inputs(|inputs| mounts(inputs, Privilege::Ordinary)).unwrap();
    for mount in list.iter().filter(|mount| mount.destination().starts_with("/etc")) {
        assert!(mount.options().as_ref().unwrap().contains(&"ro".to_owned()));
    }
}

#[test]
fn propagation_of_the_root() {
    let list = |modes: &[i32]| {
        let mount = |propagation: &i32| v1::Mount { propagation: *propagation, ..bind("/m", "/h") };
        root_propagation(&modes.iter().map(mount).collect::<Vec<_>>())
    };
    assert_eq!(list(&[]), None);
    assert_eq!(list(&[0]), None);
    assert_eq!(list(&[0, 1]), Some("rslave".to_owned()));
    assert_eq!(list(&[1, 2, 0]), Some("rshared".to_owned()));
}

#[test]
fn volumes_of_the_image() {
    let paths = |volumes: &[&str]| {
        let mut fixture = Fixture::new();
        fixture.container.mounts = vec![bind("/data//x", "/h")];
        let mut config = fixture.image.config().clone().unwrap();
        config.set_volumes(Some(volumes.iter().map(|path| (*path).to_owned()).collect()));
        fixture.image.set_config(Some(config));
        image_volume_paths(&fixture.image, &fixture.container)
            .map(|paths| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>())
    };
    assert_eq!(paths(&["/data", "b", "/data/x/", "/data/"]).unwrap(), ["/b", "/data"]);
    assert!(paths(&[]).unwrap().is_empty());
    for volume in ["/../../var/lib", "a/../..", "/", "", "/proc", "/proc/self", "/a\0"] {
        assert!(paths(&[volume]).is_err(), "{volume:?}");
    }
}
