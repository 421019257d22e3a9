//! One pod by the built-in runtime, by crun and by runc: the container sees the same.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use cri_api::v1::{
    Capability, ContainerConfig, Int64Value, LinuxContainerResources,
    LinuxContainerSecurityContext, SecurityProfile, security_profile::ProfileType,
};
use e2e::client::{Cri, Pod, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::programs::{oci_runtime, runc};

/// What a process can see of how it is confined; one section per command.
///
/// Left out is what the specification leaves open and the runtimes do differently: the link
/// `/dev/core`, whose null device covers a masked file, and whether the v2 hierarchy beside
/// v1 is there too.
const LOOKS: [(&str, &str); 11] = [
    ("identity", "id; pwd; hostname"),
    ("environment", "env | sort"),
    ("capabilities", "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid)' /proc/self/status"),
    ("limits", "cat /proc/self/limits"),
    ("devices", "ls -l /dev | awk '$NF != \"/proc/kcore\" {print $1, $3, $4, $NF}' | sort"),
    (
        "mounts",
        "awk '$2 ~ \"^/proc/\" {print $2; next} \
              $2 != \"/sys/fs/cgroup/unified\" {print $2, $3}' /proc/self/mounts | sort",
    ),
    ("masked", "cat /proc/kcore 2>&1 | head -c 64; ls /proc/acpi /sys/firmware 2>&1"),
    ("read-only", "touch /proc/sys/kernel/x /proc/bus/x /proc/irq/x 2>&1"),
    ("processes", "set -- /proc/[0-9]*; echo $#"),
    ("namespaces", "ls /proc/self/ns | sort"),
    ("network", "ip -o link | wc -l"),
];

fn plain() -> ContainerConfig {
    container("plain", DEMO, &["sleep", "1000"])
}

/// As kubelet asks for a restricted container.
fn restricted() -> ContainerConfig {
    let mut config = container("restricted", DEMO, &["sleep", "1000"]);
    config.working_dir = "/tmp".to_owned();
    let linux = config.linux.get_or_insert_default();
    linux.resources = Some(LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    linux.security_context = Some(LinuxContainerSecurityContext {
        run_as_user: Some(Int64Value { value: 1000 }),
        run_as_group: Some(Int64Value { value: 1000 }),
        supplemental_groups: vec![2000],
        no_new_privs: true,
        readonly_rootfs: true,
        capabilities: Some(Capability {
            drop_capabilities: vec!["ALL".to_owned()],
            ..Default::default()
        }),
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault.into(),
            ..Default::default()
        }),
        masked_paths: ["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"]
            .map(str::to_owned)
            .to_vec(),
        readonly_paths: ["/proc/bus", "/proc/irq", "/proc/sys"].map(str::to_owned).to_vec(),
        ..Default::default()
    });
    config
}

/// As kubelet asks for a privileged one.
fn privileged() -> ContainerConfig {
    let mut config = container("privileged", DEMO, &["sleep", "1000"]);
    config.linux.get_or_insert_default().security_context =
        Some(LinuxContainerSecurityContext { privileged: true, ..Default::default() });
    config
}

/// Runs each configuration in one pod and lets it look around, from its own process
/// tree and by exec.
async fn seen(node: &Node, cri: &mut Cri, handler: &str) -> Result<Vec<(String, String)>> {
    let mut pod = node.pod("same-name");
    if let Some(linux) = pod.linux.as_mut() {
        let context = linux.security_context.get_or_insert_default();
        context.privileged = true;
    }
    let pod = cri.run_pod(pod, handler).await.with_context(|| format!("handler {handler:?}"))?;
    let mut found = Vec::new();
    for config in [plain(), restricted(), privileged()] {
        let name = config.metadata.clone().unwrap_or_default().name;
        let id = cri
            .launch(&pod, &config)
            .await
            .with_context(|| format!("{name}, handler {handler:?}"))?;
        for (what, command) in LOOKS {
            let said = cri.exec(&id, &["sh", "-c", command]).await?;
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&said.stdout),
                String::from_utf8_lossy(&said.stderr)
            );
            found.push((format!("{name}: {what}"), text));
        }
        // crun gives a program's input to the program's user.
        let null = std::fs::metadata("/dev/null")?;
        assert_eq!((null.uid(), null.gid()), (0, 0), "{name} owns the host's null device");
        cri.stop(&id, 0).await?;
        let status = cri.wait_exited(&id).await?;
        found.push((format!("{name}: end"), format!("{} {}", status.exit_code, status.reason)));
    }
    let bad = container("bad", DEMO, &["/no/such/program"]);
    let id = cri.create(&pod, &bad).await?;
    let refused = refusal(cri.start(&id).await).context("there is no such program")?;
    assert!(refused.message().contains("/no/such/program"), "{handler:?}: {refused:?}");
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    Ok(found)
}

/// What becomes of programs that end in each of the ways there are, and of execs.
async fn lived(node: &Node, cri: &mut Cri, handler: &str) -> Result<Vec<(String, String)>> {
    let pod = cri.run_pod(node.pod(&format!("ends-{handler}")), handler).await?;
    let mut found = Vec::new();
    let scripts = [
        ("at once", "exit 0"),
        ("with a code", "echo out; echo err >&2; exit 7"),
        ("with much output", "seq 1 20000"),
        ("by a signal", "kill -9 $$"),
        ("with a child left", "sleep 1000 & exit 3"),
        ("without end of line", "printf part"),
    ];
    for (how, script) in scripts {
        let config = container(&how.replace(' ', "-"), DEMO, &["sh", "-c", script]);
        let id = cri.launch(&pod, &config).await.with_context(|| format!("{how}, {handler:?}"))?;
        let status = cri.wait_exited(&id).await?;
        let log = std::fs::read_to_string(pod.log_path(&config))?;
        let mut lines: Vec<_> =
            log.lines().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
        // The two outputs are two pipes: which is read first is chance.
        lines.sort_unstable();
        let end = format!("{} {}\n{}\n", status.exit_code, status.reason, lines.join("\n"));
        found.push((format!("ends {how}"), end));
        cri.remove(&id).await?;
    }
    let patient = "trap 'echo term; exit 5' TERM; while :; do sleep 0.1; done";
    let config = container("patient", DEMO, &["sh", "-c", patient]);
    let id = cri.launch(&pod, &config).await?;
    for words in [
        vec!["sh", "-c", "echo out; echo err >&2; exit 9"],
        vec!["sh", "-c", "kill -9 $$"],
        vec!["sh", "-c", "sed 's,[0-9a-f]\\{64\\},ID,g;/^0:/d' /proc/self/cgroup"],
        vec!["cat"],
    ] {
        let said = cri.exec(&id, &words).await?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned()
            + &String::from_utf8_lossy(&said.stderr);
        found.push((format!("exec {words:?}"), format!("{} {text}", said.exit_code)));
    }
    refusal(cri.exec(&id, &["/no/such/program"]).await).context("there is no such program")?;
    cri.stop(&id, 20).await?;
    let status = cri.wait_exited(&id).await?;
    found.push(("stopped".to_owned(), format!("{} {}", status.exit_code, status.reason)));
    found.push(("terminal".to_owned(), on_a_terminal(cri, &pod).await?));
    let created = cri.create(&pod, &container("created", DEMO, &["true"])).await?;
    cri.remove(&created).await.context("remove a container that was never started")?;
    cri.launch(&pod, &container("left", DEMO, &["sleep", "1000"])).await?;
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    Ok(found)
}

/// What a program on a terminal sees of it, and what of its output comes into the log.
async fn on_a_terminal(cri: &mut Cri, pod: &Pod) -> Result<String> {
    let script = "tty; stty -a; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all three; echo err >&2; \
                  stat -c '%u %g %a' $(tty); (: > /dev/tty) && echo controlling; exit 4";
    let mut config = container("terminal", DEMO, &["sh", "-c", script]);
    (config.tty, config.stdin) = (true, true);
    let id = cri.launch(pod, &config).await.context("with a terminal")?;
    let status = cri.wait_exited(&id).await?;
    let log = std::fs::read_to_string(pod.log_path(&config))?;
    assert!(log.contains(" stdout F /dev/pts/0\r\n"), "{log:?}");
    assert!(log.contains(" stdout F all three\r\n"), "{log:?}");
    assert!(log.contains(" stdout F err\r\n"), "{log:?}");
    cri.remove(&id).await?;
    let lines: Vec<_> = log.lines().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
    Ok(format!("{} {}\n{}\n", status.exit_code, status.reason, lines.join("\n")))
}

async fn sees_the_same_by(name: &str, program: PathBuf) -> Result<()> {
    host::require_root()?;
    let more = format!("[runtimes.{name}]\npath = \"{}\"\n", program.display());
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    let mut cri = node.connect().await?;
    let mut builtin = seen(&node, &mut cri, "").await?;
    builtin.extend(lived(&node, &mut cri, "").await?);
    let before = node.holdings()?;
    let mut other = seen(&node, &mut cri, name).await?;
    other.extend(lived(&node, &mut cri, name).await?);
    node.expect_no_more_than(&before).await?;
    let mut differences = Vec::new();
    for ((what, ours), (_, theirs)) in builtin.iter().zip(&other) {
        if ours != theirs {
            differences.push(format!("{what}\n--- built-in\n{ours}--- {name}\n{theirs}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_containers_see_the_same_by_crun() -> Result<()> {
    let program = oci_runtime("crun").context("no crun: hack/test installs it")?;
    sees_the_same_by("crun", program).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_containers_see_the_same_by_runc() -> Result<()> {
    let program = runc().context("no runc: set ORLOP_RUNC, as hack/test does")?;
    sees_the_same_by("runc", program).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_an_unknown_handler_is_refused_by_name() -> Result<()> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    let mut cri = node.connect().await?;
    let status =
        cri.run_pod(node.pod("pod"), "no-such").await.expect_err("there is no such handler");
    assert!(status.message().contains("no-such"), "{status:?}");
    Ok(())
}

/// A runtime that is not there, one that fails, and one that hangs: each ends with its pod.
#[tokio::test(flavor = "multi_thread")]
async fn root_a_broken_runtime_leaves_nothing() -> Result<()> {
    host::require_root()?;
    let scripts = tempfile::tempdir()?;
    let hung = scripts.path().join("hung");
    std::fs::write(
        &hung,
        "#!/bin/sh\n[ \"$7\" = create ] && touch $0.called && exec sleep 1000\nexit 0\n",
    )?;
    std::fs::set_permissions(&hung, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let hung_path = hung.display();
    let more = format!(
        "[runtimes.absent]\npath = \"/no/such/runtime\"\n[runtimes.failing]\npath = \
         \"/bin/false\"\n[runtimes.hung]\npath = \"{hung_path}\"\n"
    );
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    let mut cri = node.connect().await?;
    let warm = cri.run_pod(node.pod("warm"), "").await?;
    let before = node.holdings()?;
    for (handler, word) in [("absent", "/no/such/runtime"), ("failing", "exit code 1")] {
        let pod = cri.run_pod(node.pod(handler), handler).await?;
        let id = cri.create(&pod, &plain()).await?;
        let refused = refusal(cri.start(&id).await).context(handler)?;
        assert!(refused.message().contains(word), "{refused:?}");
        cri.stop_pod(&pod.id).await?;
        cri.remove_pod(&pod.id).await?;
        node.expect_no_more_than(&before).await?;
    }
    let pod = cri.run_pod(node.pod("hung"), "hung").await?;
    let id = cri.create(&pod, &plain()).await?;
    let mut other = cri.clone();
    let starting = tokio::spawn(async move { other.start(&id).await });
    let called = scripts.path().join("hung.called");
    let deadline = std::time::Instant::now() + e2e::client::CALL;
    while !called.exists() && std::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(called.exists(), "the runtime was not called");
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    refusal(starting.await?).context("its runtime hung")?;
    node.expect_no_more_than(&before).await?;
    cri.stop_pod(&warm.id).await?;
    cri.remove_pod(&warm.id).await.context("the pod of the built-in runtime")
}
