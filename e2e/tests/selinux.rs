//! SELinux, on a machine that has it. `hack/vm selinux` runs these.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cri_api::v1::{
    ContainerConfig, ContainerStatusRequest, IdMapping, ImageSpec, LinuxContainerSecurityContext,
    Mount, NamespaceMode, NamespaceOption, PodSandboxConfig, SeLinuxOption, UserNamespace,
};
use e2e::client::{Cri, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::programs::on_path;
use tonic::Code;

/// A node that has SELinux.
async fn node(more: String) -> Result<Node> {
    host::require_root()?;
    anyhow::ensure!(Path::new("/sys/fs/selinux/enforce").exists(), "this test needs SELinux");
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    Ok(node)
}

/// A container whose process 1 is its own.
fn sleeper(name: &str) -> ContainerConfig {
    let mut config = container(name, DEMO, &["sleep", "1000"]);
    let own = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
    security_of(&mut config).namespace_options = Some(own);
    config
}

fn security_of(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn at_level(level: &str) -> SeLinuxOption {
    SeLinuxOption { level: level.to_owned(), ..Default::default() }
}

async fn said(cri: &mut Cri, id: &str, script: &str) -> Result<String> {
    let said = cri.exec(id, &["sh", "-c", script]).await?;
    let text = [said.stdout, said.stderr].concat();
    Ok(String::from_utf8_lossy(&text).trim_matches(['\0', '\n']).to_owned())
}

/// What process 1 of a container is. A command in it is the same.
async fn process_label(cri: &mut Cri, id: &str) -> Result<String> {
    let first = said(cri, id, "cat /proc/1/attr/current").await?;
    assert_eq!(said(cri, id, "cat /proc/self/attr/current").await?, first);
    Ok(first)
}

/// The directory on the host through which a container's files are seen as it sees them.
async fn root(cri: &mut Cri, id: &str) -> Result<PathBuf> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let status = cri.runtime.container_status(request).await?.into_inner();
    let info: serde_json::Value = serde_json::from_str(&status.info["info"])?;
    let pid = info["pid"].as_u64().context("the status does not say the process")?;
    Ok(PathBuf::from(format!("/proc/{pid}/root")))
}

fn label_of(path: &Path) -> Result<String> {
    let mut label = [0; 256];
    let length = rustix::fs::lgetxattr(path, c"security.selinux", &mut label)
        .with_context(|| path.display().to_string())?;
    let label = label.get(..length).unwrap_or_default();
    Ok(String::from_utf8_lossy(label).trim_end_matches('\0').to_owned())
}

/// The level of a label.
fn level(label: &str) -> &str {
    label.splitn(4, ':').nth(3).unwrap_or_default()
}

fn volume(at: &str, host: &Path, selinux_relabel: bool) -> Mount {
    Mount {
        container_path: at.to_owned(),
        host_path: host.display().to_string(),
        selinux_relabel,
        ..Default::default()
    }
}

async fn labels(node: Node, handler: &str) -> Result<()> {
    let mut cri = node.connect().await?;
    let volumes = tempfile::tempdir()?;
    let (shared, other) = (volumes.path().join("shared"), volumes.path().join("other"));
    fs::create_dir_all(shared.join("in"))?;
    fs::create_dir(&other)?;
    fs::write(other.join("file"), "")?;
    std::os::unix::fs::symlink(&other, shared.join("link"))?;
    let before = label_of(&other)?;
    let mut config = sleeper("first");
    let image = ImageSpec { image: DEMO.to_owned(), ..Default::default() };
    config.mounts = vec![
        volume("/shared", &shared, true),
        volume("/other", &other, false),
        volume("/missing", &volumes.path().join("missing"), true),
        Mount {
            container_path: "/image".to_owned(),
            image: Some(image),
            readonly: true,
            ..Default::default()
        },
    ];
    let pod = cri.run_pod(node.pod("labels"), handler).await?;
    let id = cri.launch(&pod, &config).await?;
    let process = process_label(&mut cri, &id).await?;
    let own = level(&process).to_owned();
    let mounts = said(&mut cri, &id, "grep ' / / ' /proc/1/mountinfo").await?;
    assert!(
        mounts.contains(&format!(",context=\"system_u:object_r:container_file_t:{own}\"")),
        "{mounts}"
    );
    assert_eq!(process, format!("system_u:system_r:container_t:{own}"));
    assert!(own.starts_with("s0:c") && own.contains(",c"), "{own}");
    let file = format!("system_u:object_r:container_file_t:{own}");
    said(&mut cri, &id, "touch /made /dev/shm/made /shared/made /tmp/made").await?;
    let root = root(&mut cri, &id).await?;
    for path in [
        "",
        "bin/sh",
        "made",
        "dev",
        "dev/null",
        "dev/pts",
        "dev/shm",
        "dev/shm/made",
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
        "shared",
        "shared/in",
        "shared/link",
        "shared/made",
        "missing",
        "image",
        "image/bin/sh",
    ] {
        assert_eq!(label_of(&root.join(path))?, file, "{path:?}");
    }
    for path in ["proc/self", "sys"] {
        assert_ne!(label_of(&root.join(path))?, file, "{path:?}");
    }
    assert_eq!(label_of(&other)?, before);
    assert_eq!(label_of(&other.join("file"))?, before);

    // Another container of the pod is its equal, another pod is not.
    let second = cri.launch(&pod, &sleeper("second")).await?;
    assert_eq!(process_label(&mut cri, &second).await?, process);
    let stranger = cri.run_pod(node.pod("stranger"), handler).await?;
    let third = cri.launch(&stranger, &sleeper("third")).await?;
    let strange = process_label(&mut cri, &third).await?;
    assert_ne!(level(&strange), own);

    let mut asking = sleeper("asking");
    security_of(&mut asking).selinux_options =
        Some(SeLinuxOption { r#type: "spc_t".to_owned(), ..at_level("s0:c7,c9") });
    let id = cri.launch(&pod, &asking).await?;
    assert_eq!(process_label(&mut cri, &id).await?, "system_u:system_r:spc_t:s0:c7,c9");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_processes_and_files_of_a_pod_have_its_label() -> Result<()> {
    labels(node(String::new()).await?, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_processes_and_files_of_a_pod_have_its_label_by_crun() -> Result<()> {
    let crun = on_path("crun").context("no crun on this machine")?;
    let more = format!("[runtimes.crun]\npath = \"{}\"\n", crun.display());
    labels(node(more).await?, "crun").await
}

fn in_user_namespace(mut pod: PodSandboxConfig) -> PodSandboxConfig {
    let ids = vec![IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }];
    let security = pod.linux.get_or_insert_default().security_context.get_or_insert_default();
    let options = security.namespace_options.get_or_insert_default();
    options.userns_options =
        Some(UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids });
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_level_is_the_pods_for_life_and_can_be_asked_for() -> Result<()> {
    let mut node = node(String::new()).await?;
    let mut cri = node.connect().await?;
    let mut asked = node.pod("asked");
    let security = asked.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.selinux_options = Some(at_level("s0:c3,c4"));
    let mut found = Vec::new();
    for config in [node.pod("plain"), asked, in_user_namespace(node.pod("user"))] {
        let pod = cri.run_pod(config.clone(), "").await?;
        let mut first = sleeper("first");
        let options = security_of(&mut first).namespace_options.get_or_insert_default();
        let linux = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let of_pod = linux.and_then(|security| security.namespace_options.as_ref());
        options.userns_options = of_pod.and_then(|options| options.userns_options.clone());
        let id = cri.launch(&pod, &first).await?;
        let label = process_label(&mut cri, &id).await?;
        let root = root(&mut cri, &id).await?;
        for path in ["etc/hosts", "dev/shm", "dev/null", "bin/sh"] {
            assert_eq!(level(&label_of(&root.join(path))?), level(&label), "{path}");
        }
        found.push((pod, first, label));
    }
    assert_eq!(level(&found[1].2), "s0:c3,c4");
    node.kill()?;
    node.begin().await?;
    let mut cri = node.connect().await?;
    for (pod, mut config, label) in found {
        config.metadata.get_or_insert_default().name = "second".to_owned();
        let id = cri.launch(&pod, &config).await?;
        assert_eq!(process_label(&mut cri, &id).await?, label);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_what_is_not_labelled_and_what_is_refused() -> Result<()> {
    let node = node(String::new()).await?;
    let mut cri = node.connect().await?;
    let mut config = node.pod("privileged");
    config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    let pod = cri.run_pod(config, "").await?;
    let mut privileged = sleeper("privileged");
    security_of(&mut privileged).privileged = true;
    let id = cri.launch(&pod, &privileged).await?;
    let label = process_label(&mut cri, &id).await?;
    assert_eq!(label, "system_u:system_r:spc_t:s0");
    let mut system = sleeper("system");
    system.mounts = vec![volume("/host", Path::new("/etc"), true)];
    let refused = refusal(cri.create(&pod, &system).await)?;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("/etc belongs to the system"), "{refused:?}");
    let mut level = node.pod("level");
    let security = level.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.selinux_options = Some(at_level("s0:c1024"));
    let refused = refusal(cri.run_pod(level, "").await)?;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    Ok(())
}
