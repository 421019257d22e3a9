//! Namespace options, as tables.

use v1::NamespaceMode as Mode;

use super::*;

fn options(network: Mode, pid: Mode, ipc: Mode) -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        ..v1::NamespaceOption::default()
    }
}

fn user(mode: i32, ranges: &[(u32, u32, u32)]) -> v1::NamespaceOption {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|&(container_id, host_id, length)| v1::IdMapping { host_id, container_id, length })
        .collect();
    v1::NamespaceOption {
        userns_options: Some(v1::UserNamespace { mode, uids: ranges.clone(), gids: ranges }),
        ..v1::NamespaceOption::default()
    }
}

fn in_user(options: v1::NamespaceOption) -> v1::NamespaceOption {
    let userns_options = user(Mode::Pod.into(), &[(0, 100_000, 65_536)]).userns_options;
    v1::NamespaceOption { userns_options, ..options }
}

#[test]
fn a_container_has_the_user_namespace_of_its_pod() {
    let (none, some) = (v1::NamespaceOption::default(), in_user(v1::NamespaceOption::default()));
    let other = user(Mode::Pod.into(), &[(0, 200_000, 65_536)]);
    let differs = Err(NamespaceError::UserDiffersFromPod);
    assert_eq!(check_container_namespaces(&some, &some), Ok(()));
    for (container, pod) in [(&none, &some), (&some, &none), (&other, &some)] {
        assert_eq!(check_container_namespaces(container, pod), differs);
    }
    let node = user(Mode::Node.into(), &[]);
    assert_eq!(check_container_namespaces(&node, &none), Ok(()));
}

#[test]
fn ids_beyond_the_user_namespace() {
    let user = user_namespace(&user(Mode::Pod.into(), &[(0, 100_000, 1000)])).unwrap();
    let check = |uid, gid, more| {
        let mut ids = oci_spec::runtime::User::default();
        ids.set_uid(uid).set_gid(gid).set_additional_gids(Some(vec![more]));
        let mut process = Process::default();
        process.set_user(ids);
        check_ids(&process, user)
    };
    let not = |kind, id| Err(NamespaceError::NotMapped { kind, id, length: 1000 });
    assert_eq!(check(999, 999, 999), Ok(()));
    assert_eq!(check(1000, 0, 0), not("uid", 1000));
    assert_eq!(check(0, 1000, 0), not("gid", 1000));
    assert_eq!(check(0, 0, 1000), not("gid", 1000));
}

#[test]
fn modes_of_a_pod() {
    use NamespaceError as E;
    let mode = |namespace, mode| Err(E::Mode { namespace, mode });
    for (options, expected) in [
        (options(Mode::Pod, Mode::Pod, Mode::Pod), Ok(())),
        (options(Mode::Node, Mode::Container, Mode::Node), Ok(())),
        (options(Mode::Container, Mode::Pod, Mode::Pod), mode("network", Mode::Container)),
        (options(Mode::Pod, Mode::Target, Mode::Pod), mode("pid", Mode::Target)),
        (options(Mode::Pod, Mode::Pod, Mode::Target), mode("ipc", Mode::Target)),
        (
            v1::NamespaceOption { pid: 77, ..v1::NamespaceOption::default() },
            Err(E::UnknownMode { namespace: "pid", mode: 77 }),
        ),
        (user(Mode::Node.into(), &[]), Ok(())),
        (user(Mode::Node.into(), &[(0, 0, 1)]), Err(E::MappingsForNode)),
        (user(Mode::Container.into(), &[(0, 5, 9)]), mode("user", Mode::Container)),
        (user(Mode::Target.into(), &[(0, 5, 9)]), mode("user", Mode::Target)),
        (user(Mode::Pod.into(), &[]), Err(E::Mappings)),
        (user(Mode::Pod.into(), &[(0, 5, 9), (9, 50, 9)]), Err(E::Mappings)),
        (user(Mode::Pod.into(), &[(1, 5, 9)]), Err(E::Mappings)),
        (user(Mode::Pod.into(), &[(0, 5, 0)]), Err(E::Mappings)),
        (user(Mode::Pod.into(), &[(0, u32::MAX, 9)]), Err(E::Mappings)),
        (user(Mode::Pod.into(), &[(0, 100_000, 65_536)]), Ok(())),
        (in_user(options(Mode::Node, Mode::Container, Mode::Pod)), Ok(())),
        (
            in_user(options(Mode::Pod, Mode::Node, Mode::Pod)),
            Err(E::NodeWithUser { namespace: "pid" }),
        ),
        (
            in_user(options(Mode::Pod, Mode::Pod, Mode::Node)),
            Err(E::NodeWithUser { namespace: "ipc" }),
        ),
        (user(9, &[]), Err(E::UnknownMode { namespace: "user", mode: 9 })),
    ] {
        assert_eq!(check_pod_namespaces(&options), expected, "{options:?}");
    }
}

#[test]
fn targets() {
    let pod = v1::NamespaceOption::default();
    let mut target = options(Mode::Pod, Mode::Target, Mode::Pod);
    assert_eq!(check_container_namespaces(&target, &pod), Err(NamespaceError::Target));
    target.target_id = "abc".to_owned();
    assert_eq!(check_container_namespaces(&target, &pod), Ok(()));
    target.pid = Mode::Pod.into();
    assert_eq!(check_container_namespaces(&target, &pod), Err(NamespaceError::Target));
    assert_eq!(check_container_namespaces(&user(Mode::Node.into(), &[]), &pod), Ok(()));
}

#[test]
fn lists() {
    let pod = |pid| PodNamespaces {
        net: NamespaceSource::Path("/n".into()),
        ipc: NamespaceSource::Host,
        uts: NamespaceSource::Path("/u".into()),
        pid,
    };
    let shape = |pid, cgroups, privilege| {
        namespaces(&pod(pid), cgroups, privilege, None)
            .iter()
            .map(|one| {
                let path = one.path().as_ref().map(|path| path.display().to_string());
                format!("{}={}", one.typ(), path.unwrap_or_default())
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    use CgroupVersion::{V1, V2};
    use Privilege::{Ordinary, Privileged};
    for (pid, cgroups, privilege, expected) in [
        (PidNamespace::Container, V2, Ordinary, "mnt= pid= uts=/u net=/n cgroup="),
        (PidNamespace::Container, V2, Privileged, "mnt= pid= uts=/u net=/n"),
        (PidNamespace::Pod("/p".into()), V1, Ordinary, "mnt= pid=/p uts=/u net=/n"),
        (PidNamespace::Target("/t".into()), V1, Ordinary, "mnt= pid=/t uts=/u net=/n"),
        (PidNamespace::Node, V1, Ordinary, "mnt= uts=/u net=/n"),
    ] {
        assert_eq!(shape(pid, cgroups, privilege), expected);
    }
}
