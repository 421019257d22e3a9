//! `CreateContainer`.

use anyhow::Result;
use cri_api::v1::*;
use e2e::client::container;
use e2e::fixtures::DEMO;

use super::pods::profile;
use super::{Scene, Table};

/// One mistake in a container's configuration.
type Mistake = (&'static str, fn(&mut ContainerConfig));

/// One mistake in a container's security context.
type Insecurity = (&'static str, fn(&mut LinuxContainerSecurityContext));

/// One mistake in a container's resources.
type Excess = (&'static str, fn(&mut LinuxContainerResources));

const NAMES: &[Mistake] = &[
    ("no metadata", |config| config.metadata = None),
    ("no name", |config| metadata(config).name.clear()),
    ("NUL in the name", |config| metadata(config).name = "a\0b".into()),
    ("newline in the name", |config| metadata(config).name = "a\nb".into()),
    ("slash in the name", |config| metadata(config).name = "../a/b".into()),
    ("300 bytes of name", |config| metadata(config).name = "x".repeat(300)),
    ("no image", |config| config.image = None),
    ("empty image", |config| image(config).image.clear()),
    ("unknown image", |config| image(config).image = "registry.invalid/no/such:1".into()),
    ("image no reference", |config| image(config).image = "No Such\nImage".into()),
    ("256 KiB of annotations", |config| {
        config.annotations.insert("long".into(), "x".repeat(256 << 10));
    }),
    ("5 MiB of annotations", |config| {
        config.annotations.insert("long".into(), "x".repeat(5 << 20));
    }),
    ("log path absolute", |config| config.log_path = "/etc/passwd".into()),
    ("log path with ..", |config| config.log_path = "../other.log".into()),
    ("NUL in the log path", |config| config.log_path = "a\0b".into()),
    ("300 bytes of log path", |config| config.log_path = "x".repeat(300)),
    ("stop signal 99", |config| config.stop_signal = 99),
];

const PROGRAM: &[Mistake] = &[
    ("empty command word", |config| config.command = vec![String::new()]),
    ("NUL in the command", |config| config.command = vec!["a\0b".into()]),
    ("NUL in the arguments", |config| config.args = vec!["a\0b".into()]),
    ("working directory relative", |config| config.working_dir = "tmp".into()),
    ("NUL in the working directory", |config| config.working_dir = "/a\0b".into()),
    ("variable without a name", |config| config.envs = vec![env("", b"1")]),
    ("= in a variable's name", |config| config.envs = vec![env("A=B", b"1")]),
    ("NUL in a variable's name", |config| config.envs = vec![env("A\0", b"1")]),
    ("NUL in a variable", |config| config.envs = vec![env("A", b"1\0")]),
    ("a variable not UTF-8", |config| config.envs = vec![env("A", b"\xff\xfe")]),
];

const MOUNTS: &[Mistake] = &[
    ("mount without a destination", |config| mount(config).container_path.clear()),
    ("mount destination relative", |config| mount(config).container_path = "mnt".into()),
    ("mount over the root", |config| mount(config).container_path = "/".into()),
    ("mount over /proc", |config| mount(config).container_path = "/proc".into()),
    ("NUL in a mount destination", |config| mount(config).container_path = "/a\0".into()),
    ("mount without a source", |config| mount(config).host_path.clear()),
    ("mount source relative", |config| mount(config).host_path = "etc".into()),
    ("mount source with ..", |config| mount(config).host_path = "/etc/../etc".into()),
    ("NUL in a mount source", |config| mount(config).host_path = "/a\0".into()),
    ("mount propagation 99", |config| mount(config).propagation = 99),
    ("mount option unknown", |config| mount(config).mount_options = vec!["rw".into()]),
    ("recursively read-only, but not read-only", |config| {
        mount(config).recursive_read_only = true;
    }),
    ("recursively read-only, but shared", |config| {
        let mount = mount(config);
        (mount.readonly, mount.recursive_read_only) = (true, true);
        mount.propagation = MountPropagation::PropagationBidirectional.into();
    }),
    ("device not there", |config| device(config).host_path = "/dev/no-such".into()),
    ("device no device", |config| device(config).host_path = "/etc/passwd".into()),
    ("device relative", |config| device(config).host_path = "null".into()),
    ("device permissions x", |config| device(config).permissions = "x".into()),
];

const SECURITY: &[Insecurity] = &[
    ("network mode 99", |security| options(security).network = 99),
    ("PID mode 99", |security| options(security).pid = 99),
    ("IPC mode 99", |security| options(security).ipc = 99),
    ("target without an id", |security| options(security).pid = NamespaceMode::Target.into()),
    ("target unknown", |security| {
        options(security).pid = NamespaceMode::Target.into();
        options(security).target_id = "f00".into();
    }),
    ("an id without target", |security| options(security).target_id = "f00".into()),
    ("user namespace mode 99", |security| {
        options(security).userns_options = Some(UserNamespace { mode: 99, ..Default::default() });
    }),
    ("privileged in a pod that is not", |security| security.privileged = true),
    ("user -1", |security| security.run_as_user = Some(Int64Value { value: -1 })),
    ("user 2^32", |security| security.run_as_user = Some(Int64Value { value: 1 << 32 })),
    ("user name unknown", |security| security.run_as_username = "nobody-here".into()),
    ("user and user name", |security| {
        security.run_as_user = Some(Int64Value { value: 5 });
        security.run_as_username = "daemon".into();
    }),
    ("group without user", |security| security.run_as_group = Some(Int64Value { value: 5 })),
    ("group -1", |security| {
        security.run_as_user = Some(Int64Value { value: 5 });
        security.run_as_group = Some(Int64Value { value: -1 });
    }),
    ("supplemental group -1", |security| security.supplemental_groups = vec![-1]),
    ("supplemental groups policy 99", |security| security.supplemental_groups_policy = 99),
    ("capability unknown", |security| {
        security.capabilities.get_or_insert_default().add_capabilities = vec!["FLY".into()];
    }),
    ("masked path relative", |security| security.masked_paths = vec!["proc/kcore".into()]),
    ("read-only path with ..", |security| security.readonly_paths = vec!["/proc/../x".into()]),
    ("seccomp profile type 99", |security| security.seccomp = profile(99, "")),
    ("seccomp profile without a path", |security| security.seccomp = profile(2, "")),
    ("seccomp profile not there", |security| {
        security.seccomp = profile(2, "/no/such/profile.json");
    }),
    ("seccomp profile no profile", |security| security.seccomp = profile(2, "/etc/passwd")),
    ("AppArmor profile type 99", |security| security.apparmor = profile(99, "")),
    ("SELinux level malformed", |security| {
        security.selinux_options =
            Some(SeLinuxOption { level: "s0,c1,c2".into(), ..Default::default() });
    }),
];

const RESOURCES: &[Excess] = &[
    ("CPU period -1", |resources| resources.cpu_period = -1),
    ("CPU quota -5", |resources| resources.cpu_quota = -5),
    ("CPU shares -1", |resources| resources.cpu_shares = -1),
    ("memory limit -1", |resources| resources.memory_limit_in_bytes = -1),
    ("swap below memory", |resources| {
        resources.memory_limit_in_bytes = 64 << 20;
        resources.memory_swap_limit_in_bytes = 32 << 20;
    }),
    ("OOM score adjustment 2000", |resources| resources.oom_score_adj = 2000),
    ("cpuset no list", |resources| resources.cpuset_cpus = "all".into()),
    ("huge pages of 3 KB", |resources| {
        resources.hugepage_limits = vec![HugepageLimit { page_size: "3KB".into(), limit: 1 }];
    }),
];

fn metadata(config: &mut ContainerConfig) -> &mut ContainerMetadata {
    config.metadata.get_or_insert_default()
}

fn image(config: &mut ContainerConfig) -> &mut ImageSpec {
    config.image.get_or_insert_default()
}

fn env(key: &str, value: &[u8]) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_vec() }
}

fn mount(config: &mut ContainerConfig) -> &mut Mount {
    let (container_path, host_path) = ("/mnt".to_owned(), "/etc".to_owned());
    config.mounts = vec![Mount { container_path, host_path, ..Default::default() }];
    &mut config.mounts[0]
}

fn device(config: &mut ContainerConfig) -> &mut Device {
    let path = "/dev/null".to_owned();
    let device =
        Device { container_path: path.clone(), host_path: path, permissions: "rwm".into() };
    config.devices = vec![device];
    &mut config.devices[0]
}

fn options(security: &mut LinuxContainerSecurityContext) -> &mut NamespaceOption {
    security.namespace_options.get_or_insert_default()
}

pub(super) async fn mistakes(scene: &mut Scene, table: &mut Table) -> Result<()> {
    let config = || container("mistaken", DEMO, &["sleep", "1000"]);
    for (cause, make) in NAMES.iter().chain(PROGRAM).chain(MOUNTS) {
        let mut config = config();
        make(&mut config);
        create(scene, table, cause, config).await?;
    }
    for (cause, make) in SECURITY {
        let mut config = config();
        let linux = config.linux.get_or_insert_default();
        make(linux.security_context.get_or_insert_default());
        create(scene, table, cause, config).await?;
    }
    for (cause, make) in RESOURCES {
        let mut config = config();
        make(config.linux.get_or_insert_default().resources.get_or_insert_default());
        create(scene, table, cause, config).await?;
    }
    let stopped = scene.cri.create(&scene.stopped, &config()).await;
    table.add("CreateContainer", "pod stopped", stopped);
    let runtime = &mut scene.cri.runtime;
    let pod_sandbox_id = scene.pod.id.clone();
    let none = CreateContainerRequest { pod_sandbox_id, ..Default::default() };
    table.add("CreateContainer", "no configuration", runtime.create_container(none).await);
    let same = container("running", DEMO, &["sleep", "1000"]);
    table.add("CreateContainer", "a second time", scene.cri.create(&scene.pod, &same).await);
    let other = container("running", DEMO, &["true"]);
    table.add(
        "CreateContainer",
        "another of this name",
        scene.cri.create(&scene.pod, &other).await,
    );
    let missing = container("missing", DEMO, &["/no/such/program"]);
    let made = scene.cri.create(&scene.pod, &missing).await;
    if let Some(id) = table.add("CreateContainer", "program not there", made) {
        table.name(&id, "missing");
        table.add("StartContainer", "program not there", scene.cri.start(&id).await);
        scene.cri.remove(&id).await?;
    }
    Ok(())
}

/// One line; a container that is made all the same is started, and taken away.
async fn create(
    scene: &mut Scene,
    table: &mut Table,
    cause: &str,
    config: ContainerConfig,
) -> Result<()> {
    let outcome = scene.cri.create(&scene.pod, &config).await;
    if let Some(id) = table.add("CreateContainer", cause, outcome) {
        let status = scene.cri.status(&id).await?;
        assert!(status.metadata == config.metadata && status.annotations == config.annotations);
        table.name(&id, "mistaken");
        table.add("StartContainer", cause, scene.cri.start(&id).await);
        table.names.pop();
        scene.cri.remove(&id).await?;
    }
    Ok(())
}
