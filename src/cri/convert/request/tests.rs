//! Requests, as tables.

use v1::NamespaceMode;

use super::*;

fn pod() -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        log_directory: "/var/log/pods/web".into(),
        ..Default::default()
    }
}

fn run(config: Option<v1::PodSandboxConfig>) -> Result<(), String> {
    run_pod_sandbox(v1::RunPodSandboxRequest { config, runtime_handler: String::new() })
        .map(drop)
        .map_err(|error| error.to_string())
}

fn port(protocol: i32, container_port: i32, host_port: i32, host_ip: &str) -> v1::PortMapping {
    v1::PortMapping { protocol, container_port, host_port, host_ip: host_ip.into() }
}

/// The pod with one thing changed.
fn with(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Option<v1::PodSandboxConfig> {
    let mut config = pod();
    change(&mut config);
    Some(config)
}

fn secured(
    change: impl FnOnce(&mut v1::LinuxSandboxSecurityContext),
) -> Option<v1::PodSandboxConfig> {
    with(|config| {
        let linux = config.linux.get_or_insert_default();
        change(linux.security_context.get_or_insert_default());
    })
}

#[test]
fn pods_that_are_accepted() {
    for config in [
        Some(pod()),
        with(|config| config.hostname = "web-0.example".into()),
        with(|config| config.log_directory.clear()),
        with(|config| config.port_mappings = vec![port(2, 80, 8080, "::1"), port(0, 80, -1, "")]),
        secured(|security| security.privileged = true),
        secured(|security| security.run_as_user = Some(v1::Int64Value { value: 5 })),
    ] {
        assert_eq!(run(config.clone()), Ok(()), "{config:?}");
    }
}

#[test]
fn pods_that_are_refused() {
    let name = |change: fn(&mut v1::PodSandboxMetadata)| {
        with(|config| change(config.metadata.as_mut().unwrap()))
    };
    for (config, expected) in [
        (None, "config is missing"),
        (with(|config| config.metadata = None), "config.metadata is missing"),
        (name(|metadata| metadata.name.clear()), "config.metadata.name is missing"),
        (name(|metadata| metadata.namespace.clear()), "config.metadata.namespace is missing"),
        (name(|metadata| metadata.uid.clear()), "config.metadata.uid is missing"),
        (
            with(|config| config.hostname = "a b".into()),
            "host name \"a b\" is not 1 to 64 letters, digits, dots and hyphens",
        ),
        (
            with(|config| config.log_directory = "logs".into()),
            "log directory \"logs\" is not an absolute path without '..'",
        ),
        (
            with(|config| config.dns_config.get_or_insert_default().servers = vec!["x".into()]),
            "name server \"x\" is not an IP address",
        ),
        (
            with(|config| config.port_mappings = vec![port(3, 80, 80, "")]),
            "port_mappings.protocol is 3, which no Protocol is",
        ),
        (
            with(|config| config.port_mappings = vec![port(0, 80, 65_536, "")]),
            "port_mappings.host_port is 65536, which is not a port number",
        ),
        (
            with(|config| config.port_mappings = vec![port(0, -1, 80, "")]),
            "port_mappings.container_port is -1, which is not a port number",
        ),
        (
            with(|config| config.port_mappings = vec![port(0, 80, 80, "localhost")]),
            "port_mappings.host_ip \"localhost\" is not an IP address",
        ),
        (
            with(|config| config.linux.get_or_insert_default().cgroup_parent = "/a/../..".into()),
            "linux.cgroup_parent \"/a/../..\" is not a cgroup path without '..'",
        ),
        (
            with(|config| {
                let linux = config.linux.get_or_insert_default();
                linux.sysctls = [("kernel.core_pattern".into(), "|/x".into())].into();
            }),
            "sysctl \"kernel.core_pattern\" does not belong to a namespace of the pod",
        ),
        (
            secured(|security| {
                let options = security.namespace_options.get_or_insert_default();
                options.network = NamespaceMode::Container.into();
            }),
            "network namespace mode Container is not allowed here",
        ),
        (
            secured(|security| {
                let options = security.namespace_options.get_or_insert_default();
                options.userns_options = Some(v1::UserNamespace {
                    mode: NamespaceMode::Target.into(),
                    ..Default::default()
                });
            }),
            "user namespace mode Target is not allowed here",
        ),
        (
            secured(|security| security.supplemental_groups_policy = 5),
            "supplemental_groups_policy is 5, which no SupplementalGroupsPolicy is",
        ),
        (
            secured(|security| security.seccomp.get_or_insert_default().profile_type = 3),
            "seccomp.profile_type is 3, which no ProfileType is",
        ),
        (
            secured(|security| security.apparmor.get_or_insert_default().profile_type = -1),
            "apparmor.profile_type is -1, which no ProfileType is",
        ),
        (
            secured(|security| security.run_as_group = Some(v1::Int64Value { value: 5 })),
            "run_as_group is 5, which is not of use without run_as_user",
        ),
    ] {
        assert_eq!(run(config), Err(expected.to_owned()));
    }
}

#[test]
fn containers() {
    let good = || v1::CreateContainerRequest {
        pod_sandbox_id: "p".into(),
        config: Some(v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "busybox".into(), ..Default::default() }),
            ..Default::default()
        }),
        sandbox_config: Some(pod()),
    };
    let with = |change: fn(&mut v1::ContainerConfig)| {
        let mut request = good();
        change(request.config.as_mut().unwrap());
        request
    };
    assert!(create_container(good()).is_ok());
    for (request, expected) in [
        (
            v1::CreateContainerRequest { pod_sandbox_id: String::new(), ..good() },
            "pod_sandbox_id is missing",
        ),
        (v1::CreateContainerRequest { config: None, ..good() }, "config is missing"),
        (with(|config| config.metadata = None), "config.metadata is missing"),
        (
            with(|config| config.metadata.as_mut().unwrap().name.clear()),
            "config.metadata.name is missing",
        ),
        (with(|config| config.image = None), "config.image is missing"),
        (
            with(|config| config.image.as_mut().unwrap().image.clear()),
            "config.image.image is missing",
        ),
        (with(|config| config.stop_signal = 99), "stop signal 99 is unknown"),
        (
            with(|config| config.log_path = "../x".into()),
            "log path \"../x\" is not a relative path without '..'",
        ),
    ] {
        assert_eq!(create_container(request).unwrap_err().to_string(), expected);
    }
}

#[test]
fn times_and_commands() {
    let stop = |container_id: &str, timeout| {
        stop_container(&v1::StopContainerRequest { container_id: container_id.into(), timeout })
            .map_err(|error| error.to_string())
    };
    assert_eq!(stop("c", 30), Ok(30));
    assert_eq!(stop("c", 0), Ok(0));
    assert_eq!(stop("c", -1), Err("timeout is -1, which is not a number of seconds".into()));
    assert_eq!(stop("", 1), Err("container_id is missing".into()));

    let exec = |words: &[&str], timeout| {
        let cmd = words.iter().map(|word| (*word).to_owned()).collect();
        exec_sync(&v1::ExecSyncRequest { container_id: "c".into(), cmd, timeout })
            .map_err(|error| error.to_string())
    };
    assert_eq!(exec(&["ls", ""], 0), Ok(None));
    assert_eq!(exec(&["ls"], 5), Ok(Some(5)));
    assert_eq!(exec(&[], 5), Err("cmd is missing".into()));
    assert_eq!(exec(&[""], 5), Err("cmd is missing".into()));
    assert_eq!(exec(&["ls", "a\0"], 5), Err("cmd \"a\\0\" is not free of NUL".into()));
    assert_eq!(exec(&["ls"], -5), Err("timeout is -5, which is not a number of seconds".into()));
}

#[test]
fn streams_of_exec_and_attach() {
    let both = "tty and stderr cannot both be true";
    let none = "one of stdin, stdout and stderr must be true";
    for (tty, stdin, stdout, stderr, expected) in [
        (false, false, true, true, Ok(())),
        (false, true, false, false, Ok(())),
        (true, true, true, false, Ok(())),
        (true, true, true, true, Err(both)),
        (false, false, false, false, Err(none)),
        (true, false, false, false, Err(none)),
    ] {
        let container_id = "c".to_owned();
        let attach_request =
            v1::AttachRequest { container_id: container_id.clone(), stdin, tty, stdout, stderr };
        let exec_request =
            v1::ExecRequest { container_id, cmd: vec!["ls".into()], tty, stdin, stdout, stderr };
        for made in [attach(&attach_request), exec(&exec_request)] {
            assert_eq!(made.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
        }
    }
}
