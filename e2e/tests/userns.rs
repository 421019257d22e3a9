//! Pods with a user namespace of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use cri_api::v1::security_profile::ProfileType;
use cri_api::v1::{
    Capability, ContainerConfig, IdMapping, ImageSpec, LinuxContainerSecurityContext, Mount,
    NamespaceMode, NamespaceOption, PodSandboxConfig, SecurityProfile, StatusRequest,
    UserNamespace,
};
use e2e::client::{Cri, Pod, container, refusal};
use e2e::crictl::Crictl;
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::programs::runc;

/// What the pods' root is on the host.
const ROOT: u32 = 100_000;

fn ids() -> Vec<IdMapping> {
    vec![IdMapping { host_id: ROOT, container_id: 0, length: 65_536 }]
}

fn user_namespace() -> Option<UserNamespace> {
    Some(UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids(), gids: ids() })
}

fn in_user_namespace(mut pod: PodSandboxConfig) -> PodSandboxConfig {
    options_of(&mut pod).userns_options = user_namespace();
    pod
}

fn options_of(pod: &mut PodSandboxConfig) -> &mut NamespaceOption {
    let security = pod.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default()
}

/// A sleeping container with the namespaces of its pod.
fn sleeper(name: &str, pod: &PodSandboxConfig) -> ContainerConfig {
    let mut config = container(name, DEMO, &["sleep", "1000"]);
    security_of(&mut config).namespace_options = Some(options_of(&mut pod.clone()).clone());
    config
}

fn security_of(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn volume(at: &str, host: &Path, ids: Vec<IdMapping>) -> Mount {
    Mount {
        container_path: at.to_owned(),
        host_path: host.display().to_string(),
        uid_mappings: ids.clone(),
        gid_mappings: ids,
        ..Default::default()
    }
}

async fn says(cri: &mut Cri, id: &str, script: &str) -> Result<String> {
    let said = cri.exec(id, &["sh", "-c", script]).await?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    anyhow::ensure!(
        said.exit_code == 0,
        "{script}: {} {text}{}",
        said.exit_code,
        String::from_utf8_lossy(&said.stderr)
    );
    Ok(text)
}

async fn node_with_demo(settings: Settings) -> Result<Node> {
    host::require_root()?;
    let node = Node::start(settings).await?;
    node.import_demo()?;
    Ok(node)
}

/// Runs the pod and its container, and removes what `looks` did not.
async fn end(cri: &mut Cri, pod: &Pod) -> Result<()> {
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    Ok(())
}

/// The ids of a file as the host sees them.
fn owner(path: impl AsRef<Path>) -> Result<(u32, u32)> {
    let path = path.as_ref();
    let metadata = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    Ok((metadata.uid(), metadata.gid()))
}

/// The writable directory of the node's only container.
fn writable(node: &Node) -> Result<std::path::PathBuf> {
    let found = host::paths_below(&node.root().join("snapshots"))?;
    let found = found.into_iter().find(|path| path.ends_with("tmp/mark"));
    let mark = found.context("the mark of the container is not on disk")?;
    Ok(mark.parent().and_then(Path::parent).context("a path without a parent")?.to_owned())
}

async fn ids_inside_and_on_disk(node: Node, handler: &str) -> Result<()> {
    let before = node.holdings()?;
    let mut cri = node.connect().await?;
    let volumes = tempfile::tempdir()?;
    let (mapped, plain) = (volumes.path().join("mapped"), volumes.path().join("plain"));
    for directory in [&mapped, &plain] {
        fs::create_dir(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777))?;
    }
    fs::write(mapped.join("of-33"), "")?;
    chown(mapped.join("of-33"), Some(33), Some(34))?;
    let mut config = in_user_namespace(node.pod("ids"));
    options_of(&mut config).pid = NamespaceMode::Container.into();
    let pod = cri.run_pod(config.clone(), handler).await?;
    let mut sleeping = sleeper("sleeper", &config);
    sleeping.mounts = vec![volume("/mapped", &mapped, ids()), volume("/plain", &plain, vec![])];
    let id = cri.launch(&pod, &sleeping).await?;

    let map =
        says(&mut cri, &id, "cat /proc/self/uid_map /proc/self/gid_map /proc/1/uid_map").await?;
    for line in map.lines() {
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"], "{map}");
    }
    assert_eq!(map.lines().count(), 3);
    let same = "for n in user mnt net ipc uts pid; do \
                [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done; \
                for f in CapEff CapBnd Seccomp NoNewPrivs Uid; do \
                [ \"$(grep ^$f: /proc/1/status)\" = \"$(grep ^$f: /proc/self/status)\" ] || echo $f; done";
    assert_eq!(says(&mut cri, &id, same).await?, "", "an exec differs from the container");
    // External runtimes bind the host's own device nodes, whose owner is nobody inside.
    let devices = if handler.is_empty() { "/dev/null" } else { "" };
    let owners = "stat -c '%u:%g %n' / /tmp /etc/hosts /etc/resolv.conf /etc/hostname /dev \
                  /dev/shm /mapped /mapped/of-33";
    let owned = says(&mut cri, &id, &format!("{owners} {devices}")).await?;
    for line in owned.lines() {
        let wanted = if line.ends_with("of-33") { "33:34" } else { "0:0" };
        assert!(line.starts_with(&format!("{wanted} ")), "{owned}");
    }
    let uses = "set -e; echo x > /dev/null; head -c1 /dev/zero > /dev/shm/x; echo x >> /etc/hosts; \
                mkdir /made; chown 7:8 /made; touch /tmp/mark; \
                touch /mapped/made /plain/made; chown 7:8 /mapped/made /plain/made; \
                ls /proc/1/root /sys/class /dev/mqueue /sys/fs/cgroup > /dev/null; \
                mount | grep -q 'on /dev/mqueue type mqueue'";
    says(&mut cri, &id, uses).await?;
    // runc does not give an exec's pipes to the user of the pod.
    if handler.is_empty() {
        assert_eq!(says(&mut cri, &id, "echo x > /dev/stdout").await?, "x\n");
    }
    let disk = writable(&node)?;
    assert_eq!(owner(disk.join("made"))?, (7, 8));
    assert_eq!(owner(disk.join("tmp/mark"))?, (0, 0));
    assert_eq!(owner(mapped.join("made"))?, (7, 8));
    assert_eq!(owner(plain.join("made"))?, (ROOT + 7, ROOT + 8));
    let escape =
        cri.exec(&id, &["sh", "-c", "mknod /tmp/sda b 8 0 || mount -t tmpfs x /tmp"]).await?;
    assert_ne!(escape.exit_code, 0);
    end(&mut cri, &pod).await?;
    node.expect_no_more_than(&before).await
}

/// The daemon tries at its start, and may be killed at any moment of it.
#[tokio::test(flavor = "multi_thread")]
async fn root_what_a_killed_daemon_tried_is_cleared_away_by_the_next() -> Result<()> {
    let mut node = node_with_demo(Settings::default()).await?;
    for milliseconds in (0..60).step_by(4) {
        node.kill()?;
        node.begin().await?;
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
    let mut cri = node.connect().await?;
    let pod = cri.run_pod(in_user_namespace(node.pod("after")), "").await?;
    end(&mut cri, &pod).await?;
    assert_eq!(host::cgroups_below(&node.own_cgroup())?, [].into());
    let tried = |path: &PathBuf| path.to_string_lossy().contains("try-user-namespace");
    let left = host::paths_below(node.directory())?.into_iter().filter(tried).collect::<Vec<_>>();
    assert_eq!(left, Vec::<PathBuf>::new());
    let processes = node.processes()?;
    assert_eq!(
        processes.keys().copied().collect::<Vec<_>>(),
        [node.daemon().map(u32::cast_signed)].into_iter().flatten().collect::<Vec<_>>(),
        "{processes:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_ids_inside_and_on_disk() -> Result<()> {
    ids_inside_and_on_disk(node_with_demo(Settings::default()).await?, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_ids_inside_and_on_disk_in_a_copy() -> Result<()> {
    let more = "[images]\nsnapshots = \"native\"\n".to_owned();
    ids_inside_and_on_disk(node_with_demo(Settings { more, ..Settings::default() }).await?, "")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_ids_inside_and_on_disk_by_runc() -> Result<()> {
    let program = runc().context("no runc: set ORLOP_RUNC, as hack/test does")?;
    let more = format!("[runtimes.runc]\npath = \"{}\"\n", program.display());
    let settings = Settings { more, ..Settings::default() };
    // External runtimes go to the container's root by its path, as root of the pod.
    let directory = tempfile::Builder::new().prefix("orlop-e2e-").tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711))?;
    host::require_root()?;
    let mut node = Node::at(directory.path(), settings)?;
    node.begin().await?;
    node.import_demo()?;
    ids_inside_and_on_disk(node, "runc").await
}

/// The pod's root rules over the pod's network and IPC, and over nothing of the host.
#[tokio::test(flavor = "multi_thread")]
async fn root_namespaces_belong_to_the_pod() -> Result<()> {
    let node = node_with_demo(Settings::default()).await?;
    let mut cri = node.connect().await?;
    let mut config = in_user_namespace(node.pod("owner"));
    let sysctls = [("net.ipv4.ip_local_port_range", "1024 2048"), ("kernel.shm_rmid_forced", "1")];
    config.linux.get_or_insert_default().sysctls =
        sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let pod = cri.run_pod(config.clone(), "").await?;
    let mut admin = sleeper("admin", &config);
    // Where AppArmor is on, its default profile forbids mounts in every namespace.
    security_of(&mut admin).apparmor = Some(SecurityProfile {
        profile_type: ProfileType::Unconfined.into(),
        ..Default::default()
    });
    security_of(&mut admin).capabilities = Some(Capability {
        add_capabilities: vec!["NET_ADMIN".to_owned(), "SYS_ADMIN".to_owned()],
        ..Default::default()
    });
    let id = cri.launch(&pod, &admin).await?;
    let ports = says(&mut cri, &id, "cat /proc/sys/net/ipv4/ip_local_port_range").await?;
    assert_eq!(ports.split_whitespace().collect::<Vec<_>>(), ["1024", "2048"]);
    assert_eq!(says(&mut cri, &id, "cat /proc/sys/kernel/shm_rmid_forced").await?, "1\n");
    let script = "ip link set lo mtu 1400; ip link show lo | grep -q 'UP.*mtu 1400'; \
                  gateway=$(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'); \
                  ping -c 1 -W 20 $gateway > /dev/null; hostname other; mount -t tmpfs x /tmp";
    says(&mut cri, &id, &format!("set -e; {script}")).await?;
    for refused in [
        "echo 1 > /proc/sys/kernel/panic",
        "mount -t ext4 /dev/sda /tmp",
        "echo +memory > /sys/fs/cgroup/cgroup.subtree_control",
    ] {
        assert_ne!(cri.exec(&id, &["sh", "-c", refused]).await?.exit_code, 0, "{refused}");
    }
    assert_ne!(rustix::system::uname().nodename().to_bytes(), b"other");
    end(&mut cri, &pod).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_user_namespace_outlives_the_daemon() -> Result<()> {
    let mut node = node_with_demo(Settings::default()).await?;
    let mut cri = node.connect().await?;
    let before = node.holdings()?;
    let mut config = in_user_namespace(node.pod("pod"));
    options_of(&mut config).pid = NamespaceMode::Pod.into();
    let pod = cri.run_pod(config.clone(), "").await?;
    let id = cri.launch(&pod, &sleeper("first", &config)).await?;
    node.kill()?;
    node.begin().await?;
    let mut cri = node.connect().await?;
    let second = cri.launch(&pod, &sleeper("second", &config)).await?;
    for container in [&id, &second] {
        let map = says(&mut cri, container, "cat /proc/self/uid_map").await?;
        assert!(map.contains("100000"), "{map}");
        let names = says(&mut cri, container, "cat /proc/[0-9]*/comm").await?;
        assert!(names.starts_with("orlop-pause\n"), "{names}");
        assert_eq!(names.matches("sleep\n").count(), 2, "{names}");
    }
    end(&mut cri, &pod).await?;
    node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_the_hosts_network_is_shown_and_not_ruled() -> Result<()> {
    let node = node_with_demo(Settings::default()).await?;
    let mut cri = node.connect().await?;
    let before = node.holdings()?;
    let mut config = in_user_namespace(node.pod("host-network"));
    options_of(&mut config).network = NamespaceMode::Node.into();
    let pod = cri.run_pod(config.clone(), "").await?;
    let mut admin = sleeper("admin", &config);
    security_of(&mut admin).capabilities =
        Some(Capability { add_capabilities: vec!["ALL".to_owned()], ..Default::default() });
    let id = cri.launch(&pod, &admin).await?;
    let own = fs::read_link("/proc/self/ns/net")?.display().to_string();
    assert_eq!(says(&mut cri, &id, "readlink /proc/self/ns/net").await?.trim(), own);
    says(&mut cri, &id, "ls /sys/class/net/lo > /dev/null; ls /sys/fs/cgroup > /dev/null").await?;
    let refused = cri.exec(&id, &["ip", "link", "set", "lo", "mtu", "1400"]).await?;
    assert_ne!(refused.exit_code, 0);
    end(&mut cri, &pod).await?;
    node.expect_no_more_than(&before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_what_a_user_namespace_cannot_have() -> Result<()> {
    let node = node_with_demo(Settings::default()).await?;
    let mut cri = node.connect().await?;
    let status = cri.runtime.status(StatusRequest { verbose: false }).await?.into_inner();
    let features: Vec<_> = status.runtime_handlers.iter().map(|one| one.features).collect();
    assert!(features.iter().all(|one| one.is_some_and(|one| one.user_namespaces)));
    let mut pids = in_user_namespace(node.pod("host-pids"));
    options_of(&mut pids).pid = NamespaceMode::Node.into();
    let mut ipc = in_user_namespace(node.pod("host-ipc"));
    options_of(&mut ipc).ipc = NamespaceMode::Node.into();
    for (config, word) in [(pids, "pid"), (ipc, "ipc")] {
        let refused = refusal(cri.run_pod(config, "").await)?;
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(word), "{refused:?}");
    }
    let config = in_user_namespace(node.pod("pod"));
    let pod = cri.run_pod(config.clone(), "").await?;
    let other = vec![IdMapping { host_id: 7, container_id: 0, length: 1 }];
    let mut foreign = sleeper("foreign", &config);
    foreign.mounts = vec![volume("/x", Path::new("/tmp"), other)];
    let mut unmapped = sleeper("unmapped", &config);
    security_of(&mut unmapped).run_as_user = Some(cri_api::v1::Int64Value { value: 70_000 });
    let outside = container("outside", DEMO, &["sleep", "1000"]);
    for (config, word) in [(foreign, "/x"), (unmapped, "70000"), (outside, "differ")] {
        let refused = refusal(cri.create(&pod, &config).await)?;
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(word), "{refused:?}");
    }
    end(&mut cri, &pod).await
}

/// As crictl and critest do: the container says nothing of namespaces when the pod has none.
#[tokio::test(flavor = "multi_thread")]
async fn root_pods_come_and_go_and_leave_nothing() -> Result<()> {
    let node = node_with_demo(Settings::default()).await?;
    let mut cri = node.connect().await?;
    let cycle = async |cri: &mut Cri, name: &str| -> Result<()> {
        let config = in_user_namespace(node.pod(name));
        let pod = cri.run_pod(config.clone(), "").await?;
        let id = cri.launch(&pod, &sleeper("sleeper", &config)).await?;
        assert_eq!(says(cri, &id, "id -u").await?, "0\n");
        end(cri, &pod).await
    };
    cycle(&mut cri, "first").await?;
    let before = node.holdings()?;
    let daemon = node.daemon().context("the daemon does not run")?;
    let descriptors = host::descriptors(daemon)?;
    for number in 0..20 {
        cycle(&mut cri, &format!("pod-{number}")).await?;
    }
    node.expect_no_more_than(&before).await?;
    assert!(host::descriptors(daemon)? <= descriptors + 2);
    Ok(())
}

/// A terminal, of the container and of a command in it, belongs to the pod's user.
#[tokio::test(flavor = "multi_thread")]
async fn root_terminals_belong_to_the_pods_user() -> Result<()> {
    let node = node_with_demo(Settings::default()).await?;
    let mut cri = node.connect().await?;
    let config = in_user_namespace(node.pod("terminals"));
    let pod = cri.run_pod(config.clone(), "").await?;
    let script = "stat -c '%u %a' $(tty); (: > /dev/tty) && echo controlling; \
                  (: > $(tty)) && echo by name; [ -c /dev/console ] && echo console; true";
    let mut terminal = sleeper("terminal", &config);
    terminal.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    (terminal.tty, terminal.stdin) = (true, true);
    security_of(&mut terminal).run_as_user = Some(cri_api::v1::Int64Value { value: 1000 });
    let id = cri.launch(&pod, &terminal).await?;
    assert_eq!(cri.wait_exited(&id).await?.exit_code, 0);
    let log = fs::read_to_string(pod.log_path(&terminal))?;
    for line in ["1000 620\r", "controlling\r", "by name\r", "console\r"] {
        assert!(log.contains(&format!(" F {line}\n")), "{line:?} is not in {log:?}");
    }
    let id = cri.launch(&pod, &sleeper("sleeper", &config)).await?;
    let mut exec = Crictl::new(&node)?.command(&["exec", "-it", &id, "sh", "-c", script]);
    let words: Vec<_> = std::iter::once(exec.get_program())
        .chain(exec.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''")))
        .collect();
    // It gives crictl a terminal.
    exec = std::process::Command::new("script");
    exec.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]).stdin(std::process::Stdio::null());
    let said = tokio::task::spawn_blocking(move || exec.output()).await??;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{text}");
    for line in ["0 620\r\n", "controlling\r\n", "by name\r\n"] {
        assert!(text.contains(line), "{line:?} is not in {text:?}");
    }
    end(&mut cri, &pod).await
}

/// Images as volumes have the ids of the pod; a privileged container has all capabilities
/// there and none on the host.
#[tokio::test(flavor = "multi_thread")]
async fn root_images_as_volumes_and_privilege() -> Result<()> {
    let node = node_with_demo(Settings::default()).await?;
    let before = node.holdings()?;
    let mut cri = node.connect().await?;
    let mut config = in_user_namespace(node.pod("privileged"));
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.privileged = true;
    let pod = cri.run_pod(config.clone(), "").await?;
    let mut asking = sleeper("asking", &config);
    let image = |at: &str, part: &str| Mount {
        container_path: at.to_owned(),
        image: Some(ImageSpec { image: DEMO.to_owned(), ..Default::default() }),
        image_sub_path: part.to_owned(),
        readonly: true,
        ..Default::default()
    };
    asking.mounts = vec![image("/whole", ""), image("/part", "bin")];
    let id = cri.launch(&pod, &asking).await?;
    let owners = says(&mut cri, &id, "stat -c %u:%g /whole /whole/bin/sh /part /part/sh").await?;
    assert_eq!(owners, "0:0\n".repeat(4));
    says(&mut cri, &id, "/part/sh -c true").await?;
    for refused in ["echo x > /whole/made", "rm /part/sh"] {
        assert_ne!(cri.exec(&id, &["sh", "-c", refused]).await?.exit_code, 0, "{refused}");
    }
    cri.stop(&id, 0).await?;
    let mut privileged = sleeper("privileged", &config);
    security_of(&mut privileged).privileged = true;
    let id = cri.launch(&pod, &privileged).await?;
    says(&mut cri, &id, "mkdir /m && mount -t tmpfs x /m && hostname other").await?;
    let map = says(&mut cri, &id, "cat /proc/self/uid_map").await?;
    assert!(map.contains(&ROOT.to_string()), "{map}");
    for refused in ["echo 1 > /proc/sys/kernel/panic", "mknod /tmp/disk b 8 0"] {
        assert_ne!(cri.exec(&id, &["sh", "-c", refused]).await?.exit_code, 0, "{refused}");
    }
    end(&mut cri, &pod).await?;
    node.expect_no_more_than(&before).await
}
