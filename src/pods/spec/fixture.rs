//! One pod, one container and one node that the tests vary.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use cri_api::v1;
use oci_spec::{
    image::{ConfigBuilder, ImageConfiguration, ImageConfigurationBuilder, RootFs},
    runtime::{Capability, PosixRlimitBuilder, PosixRlimitType, Spec},
};

use super::*;

pub(super) type Security = v1::LinuxContainerSecurityContext;

/// Inputs that own everything.
pub(super) struct Fixture {
    pub(super) pod: v1::PodSandboxConfig,
    pub(super) container: v1::ContainerConfig,
    pub(super) image: ImageConfiguration,
    pub(super) namespaces: PodNamespaces,
    pub(super) files: PodFiles,
    pub(super) image_volumes: Vec<(PathBuf, PathBuf)>,
    pub(super) image_mounts: BTreeMap<String, PathBuf>,
    pub(super) localhost_seccomp: Option<Vec<u8>>,
    pub(super) exec_cpus: ExecCpus,
    pub(super) node: Node,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let file = |name: &str| Some(Path::new("/run/orlop/pods/p").join(name));
        Self {
            pod: pod(),
            container: v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata { name: "web".into(), attempt: 1 }),
                ..Default::default()
            },
            image: image(),
            namespaces: PodNamespaces {
                net: NamespaceSource::Path("/proc/4242/ns/net".into()),
                ipc: NamespaceSource::Path("/proc/4242/ns/ipc".into()),
                uts: NamespaceSource::Path("/proc/4242/ns/uts".into()),
                pid: PidNamespace::Container,
            },
            files: PodFiles {
                resolv_conf: file("resolv.conf"),
                hosts: file("hosts"),
                hostname: file("hostname"),
                shm: file("shm"),
            },
            image_volumes: Vec::new(),
            image_mounts: BTreeMap::new(),
            localhost_seccomp: None,
            exec_cpus: ExecCpus::Any,
            node: node(),
        }
    }

    /// The container's security context, made if there is none.
    pub(super) fn security(&mut self) -> &mut Security {
        self.linux().security_context.get_or_insert_default()
    }

    /// The container's limits, made if there are none.
    pub(super) fn resources(&mut self) -> &mut v1::LinuxContainerResources {
        self.linux().resources.get_or_insert_default()
    }

    fn linux(&mut self) -> &mut v1::LinuxContainerConfig {
        self.container.linux.get_or_insert_default()
    }

    /// The pod's namespace options, made if there are none.
    pub(super) fn pod_namespaces(&mut self) -> &mut v1::NamespaceOption {
        let linux = self.pod.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default()
    }

    /// Makes pod and container privileged.
    pub(super) fn privileged(&mut self) {
        let linux = self.pod.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
        self.security().privileged = true;
    }

    pub(super) fn with_inputs<T>(&self, act: impl FnOnce(&ContainerInputs<'_>) -> T) -> T {
        act(&ContainerInputs {
            pod: &self.pod,
            container: &self.container,
            image: &self.image,
            pod_id: "aaaa",
            container_id: "bbbb",
            cgroup_path: "/kubepods/pod1/bbbb",
            hostname: "web-0",
            namespaces: &self.namespaces,
            etc: UserFiles {
                passwd: b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
                group: b"app:x:1000:\nstaff:x:50:app\n",
            },
            files: &self.files,
            image_volumes: &self.image_volumes,
            image_mounts: &self.image_mounts,
            localhost_seccomp: self.localhost_seccomp.as_deref(),
            selinux_level: None,
            exec_cpus: self.exec_cpus,
            node: &self.node,
            devices: &host_devices,
            apparmor_profiles: &Vec::new,
        })
    }

    pub(super) fn spec(&self) -> Result<Spec, String> {
        self.with_inputs(container_spec).map_err(|error| error.to_string())
    }
}

pub(super) fn pod() -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web-0".into(),
            uid: "11111111-2222-3333-4444-555555555555".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        ..Default::default()
    }
}

pub(super) fn image() -> ImageConfiguration {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let config = ConfigBuilder::default()
        .user("app")
        .env(words(&["PATH=/bin", "LANG=C.UTF-8"]))
        .entrypoint(words(&["/entry"]))
        .cmd(words(&["serve"]))
        .working_dir("/srv")
        .build()
        .unwrap();
    ImageConfigurationBuilder::default()
        .architecture("amd64")
        .os("linux")
        .rootfs(RootFs::default())
        .config(config)
        .build()
        .unwrap()
}

/// A node with cgroup v2, a few capabilities and neither AppArmor nor SELinux.
pub(super) fn node() -> Node {
    use Capability::*;
    let nofile = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile);
    Node {
        capabilities: vec![
            AuditWrite,
            Chown,
            DacOverride,
            Fowner,
            Fsetid,
            Kill,
            Mknod,
            NetAdmin,
            NetBindService,
            NetRaw,
            Setfcap,
            Setgid,
            Setpcap,
            Setuid,
            SysAdmin,
            SysChroot,
        ],
        cgroups: CgroupVersion::V2,
        swap: SwapLimit::Available,
        apparmor: AppArmor::Off,
        selinux: None,
        recursive_read_only: RecursiveReadOnly::Supported,
        hugepage_sizes: vec!["1GB".into(), "2MB".into()],
        rlimits: vec![nofile.soft(1024_u64).hard(4096_u64).build().unwrap()],
        oom_score_adj_floor: None,
    }
}

pub(super) fn device(path: &str, major: u32, minor: u32) -> HostDevice {
    let kind = DeviceKind::Char;
    HostDevice { path: path.into(), kind, major, minor, mode: 0o20666, uid: 0, gid: 5 }
}

/// A host with `/dev/null`, `/dev/fuse` and two devices below `/dev/snd`.
fn host_devices(path: &Path) -> io::Result<Vec<HostDevice>> {
    match path.to_str() {
        Some("/dev") => Ok(vec![device("/dev/null", 1, 3), device("/dev/fuse", 10, 229)]),
        Some("/dev/fuse") => Ok(vec![device("/dev/fuse", 10, 229)]),
        Some("/dev/snd") => {
            Ok(vec![device("/dev/snd/seq", 116, 1), device("/dev/snd/sub/timer", 116, 33)])
        }
        Some("/dev/empty") => Ok(Vec::new()),
        Some("/dev/odd") => Ok(vec![device("/dev/mem", 1, 1)]),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}
