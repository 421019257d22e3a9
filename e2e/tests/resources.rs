//! Limits of containers: set, changed while they run and before, refused as a whole, and
//! told as they are.

use std::fs;

use anyhow::{Context, Result};
use cri_api::v1::{
    LinuxContainerResources, PodSandboxStatusRequest, UpdateContainerResourcesRequest,
    UpdatePodSandboxResourcesRequest,
};
use e2e::client::{Cri, Pod, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::programs::oci_runtime;
use tonic::{Code, Status};

const MIB: i64 = 1 << 20;

async fn node(more: String) -> Result<(Node, Cri)> {
    host::require_root()?;
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    let cri = node.connect().await?;
    Ok((node, cri))
}

fn some() -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 * MIB,
        oom_score_adj: 500,
        ..Default::default()
    }
}

async fn update(
    cri: &mut Cri,
    id: &str,
    linux: LinuxContainerResources,
) -> std::result::Result<(), Status> {
    let request = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    cri.runtime.update_container_resources(request).await.map(drop)
}

async fn told(cri: &mut Cri, id: &str) -> Result<LinuxContainerResources> {
    let resources = cri.status(id).await?.resources.context("no resources in the status")?;
    resources.linux.context("no Linux resources in the status")
}

/// What a file of a container's cgroup holds, by its name on cgroup v1 or v2.
fn held(node: &Node, id: &str, v1: &str, v2: &str) -> Result<String> {
    let groups = host::cgroups_below(&node.cgroup_parent())?;
    let files = groups
        .iter()
        .filter(|group| group.file_name().is_some_and(|name| name == id))
        .flat_map(|group| [group.join(v1), group.join(v2)]);
    for file in files {
        if let Ok(text) = fs::read_to_string(file) {
            return Ok(text.trim().to_owned());
        }
    }
    anyhow::bail!("container {id} has neither {v1} nor {v2}")
}

fn memory_held(node: &Node, id: &str) -> Result<i64> {
    Ok(held(node, id, "memory.limit_in_bytes", "memory.max")?.parse()?)
}

fn quota_held(node: &Node, id: &str) -> Result<String> {
    let text = held(node, id, "cpu.cfs_quota_us", "cpu.max")?;
    Ok(text.split(' ').next().unwrap_or_default().replace("max", "-1"))
}

fn sleeper(name: &str) -> cri_api::v1::ContainerConfig {
    let mut config = container(name, DEMO, &["sleep", "1000"]);
    config.linux.get_or_insert_default().resources = Some(some());
    config
}

/// What every runtime must do: a container changed before its start and after it.
async fn changes(node: &Node, cri: &mut Cri, pod: &Pod) -> Result<()> {
    let id = cri.create(pod, &sleeper("changed")).await?;
    assert_eq!(told(cri, &id).await?.memory_limit_in_bytes, 64 * MIB);
    let before = LinuxContainerResources {
        memory_limit_in_bytes: 96 * MIB,
        oom_score_adj: 700,
        ..Default::default()
    };
    update(cri, &id, before).await?;
    cri.start(&id).await?;
    let now = told(cri, &id).await?;
    assert_eq!((now.memory_limit_in_bytes, now.oom_score_adj), (96 * MIB, 700));
    assert_eq!((now.cpu_quota, now.cpu_shares), (50_000, 512), "what was not named stays");
    assert_eq!(memory_held(node, &id)?, 96 * MIB);
    // The pod's containers share a PID namespace, of which the program is not process 1.
    let said = cri.exec(&id, &["sh", "-c", "cat /proc/$(pidof sleep)/oom_score_adj"]).await?;
    assert_eq!(said.stdout, b"700\n");

    let after = LinuxContainerResources {
        memory_limit_in_bytes: 128 * MIB,
        cpu_quota: -1,
        oom_score_adj: 1,
        ..Default::default()
    };
    update(cri, &id, after).await?;
    let now = told(cri, &id).await?;
    assert_eq!(
        (now.memory_limit_in_bytes, now.cpu_quota, now.cpu_period),
        (128 * MIB, -1, 100_000)
    );
    assert_eq!(now.oom_score_adj, 700, "the score of running processes cannot change");
    assert_eq!((memory_held(node, &id)?, quota_held(node, &id)?.as_str()), (128 * MIB, "-1"));

    // All or nothing: the cpus are refused after the memory was taken.
    let refused = LinuxContainerResources {
        memory_limit_in_bytes: 80 * MIB,
        cpu_quota: 20_000,
        cpuset_cpus: "4095".to_owned(),
        ..Default::default()
    };
    let status = refusal(update(cri, &id, refused).await).context("there is no cpu 4095")?;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("4095"), "{status:?}");
    assert_eq!(told(cri, &id).await?, now);
    assert_eq!((memory_held(node, &id)?, quota_held(node, &id)?.as_str()), (128 * MIB, "-1"));

    // Memory that is in use and cannot be reclaimed.
    let used = cri.exec(&id, &["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=40"]).await?;
    assert_eq!(used.exit_code, 0, "{used:?}");
    let below = LinuxContainerResources { memory_limit_in_bytes: 20 * MIB, ..Default::default() };
    let status = refusal(update(cri, &id, below).await).context("40 MiB are in use")?;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("20971520"), "{status:?}");
    assert_eq!(memory_held(node, &id)?, 128 * MIB);
    cri.stop(&id, 0).await?;
    cri.wait_exited(&id).await?;
    cri.remove(&id).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_limits_change_as_a_whole() -> Result<()> {
    let (node, mut cri) = node(String::new()).await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    changes(&node, &mut cri, &pod).await?;
    cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_limits_change_as_a_whole_by_crun() -> Result<()> {
    let crun = oci_runtime("crun").context("no crun: hack/test installs it")?;
    let (node, mut cri) = node(format!("[runtimes.crun]\npath = \"{}\"\n", crun.display())).await?;
    let pod = cri.run_pod(node.pod("pod"), "crun").await?;
    changes(&node, &mut cri, &pod).await?;
    cri.remove_all().await?;
    Ok(())
}

/// The changed limits of one that runs, one that waits and one that ended.
#[tokio::test(flavor = "multi_thread")]
async fn root_changed_limits_survive_the_daemon() -> Result<()> {
    let (mut node, mut cri) = node(String::new()).await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let running = cri.launch(&pod, &sleeper("running")).await?;
    let waiting = cri.create(&pod, &sleeper("waiting")).await?;
    let ended = cri.launch(&pod, &sleeper("ended")).await?;
    cri.stop(&ended, 0).await?;
    cri.wait_exited(&ended).await?;
    for id in [&running, &waiting, &ended] {
        let more = LinuxContainerResources { memory_limit_in_bytes: 80 * MIB, ..some() };
        update(&mut cri, id, more).await?;
    }
    let said = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        resources: Some(LinuxContainerResources { cpu_shares: 4321, ..Default::default() }),
        overhead: None,
    };
    cri.runtime.update_pod_sandbox_resources(said).await?;

    node.kill()?;
    node.begin().await?;
    cri = node.connect().await?;
    for id in [&running, &waiting, &ended] {
        assert_eq!(told(&mut cri, id).await?.memory_limit_in_bytes, 80 * MIB);
    }
    cri.start(&waiting).await?;
    assert_eq!(memory_held(&node, &waiting)?, 80 * MIB);
    update(&mut cri, &running, LinuxContainerResources { cpu_quota: 10_000, ..Default::default() })
        .await?;
    assert_eq!(quota_held(&node, &running)?, "10000");
    let status = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
    let info = cri.runtime.pod_sandbox_status(status).await?.into_inner().info;
    assert!(info.values().any(|text| text.contains("4321")), "{info:?}");
    cri.remove_all().await?;
    Ok(())
}

/// Whoever asks last has it; what is told is what the kernel holds.
#[tokio::test(flavor = "multi_thread")]
async fn root_changes_at_once_are_made_one_by_one() -> Result<()> {
    let (node, mut cri) = node(String::new()).await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let id = cri.launch(&pod, &sleeper("sleeper")).await?;
    let mut asked = tokio::task::JoinSet::new();
    for step in 0..20 {
        let (mut cri, id) = (cri.clone(), id.clone());
        let limits = LinuxContainerResources {
            memory_limit_in_bytes: (64 + step) * MIB,
            cpu_quota: 20_000 + step,
            ..Default::default()
        };
        asked.spawn(async move { update(&mut cri, &id, limits).await });
    }
    while let Some(done) = asked.join_next().await {
        done??;
    }
    let now = told(&mut cri, &id).await?;
    assert_eq!(memory_held(&node, &id)?, now.memory_limit_in_bytes);
    assert_eq!(quota_held(&node, &id)?, now.cpu_quota.to_string());
    assert_eq!(now.memory_limit_in_bytes / MIB - 64, now.cpu_quota - 20_000, "half of each");
    cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_changes_that_make_no_sense_are_refused() -> Result<()> {
    let (node, mut cri) = node(String::new()).await?;
    let status = refusal(update(&mut cri, "0123", some()).await).context("no such container")?;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let request = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: "0123".to_owned(),
        ..Default::default()
    };
    let outcome = cri.runtime.update_pod_sandbox_resources(request).await;
    assert_eq!(refusal(outcome)?.code(), Code::NotFound);
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let id = cri.launch(&pod, &sleeper("sleeper")).await?;
    let with = |change: fn(&mut LinuxContainerResources)| {
        let mut limits = LinuxContainerResources::default();
        change(&mut limits);
        limits
    };
    for (wrong, word) in [
        (with(|limits| limits.cpu_quota = -2), "cpu_quota"),
        (with(|limits| limits.cpu_shares = -1), "cpu_shares"),
        (with(|limits| limits.memory_limit_in_bytes = -5), "memory_limit_in_bytes"),
        (with(|limits| limits.memory_swap_limit_in_bytes = MIB), "memory_swap_limit_in_bytes"),
        (with(|limits| limits.cpuset_cpus = "x".to_owned()), "cpuset_cpus"),
        (with(|limits| drop(limits.unified.insert("cgroup.kill".into(), "1".into()))), "unified"),
    ] {
        let status = refusal(update(&mut cri, &id, wrong).await).context(word)?;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(word), "{status:?}");
    }
    let nothing =
        UpdateContainerResourcesRequest { container_id: id.clone(), ..Default::default() };
    let status = refusal(cri.runtime.update_container_resources(nothing).await)?;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    cri.remove_all().await?;
    Ok(())
}

/// Whose limit it was that a program died of: its own, or one above that its neighbours
/// share.
#[tokio::test(flavor = "multi_thread")]
async fn root_a_container_killed_for_memory_says_whose_limit_it_was() -> Result<()> {
    let (node, mut cri) = node(String::new()).await?;
    let pod = cri.run_pod(node.pod("pod"), "").await?;
    let mut own = container("own", DEMO, &["tail", "/dev/zero"]);
    own.linux.get_or_insert_default().resources =
        Some(LinuxContainerResources { memory_limit_in_bytes: 16 * MIB, ..Default::default() });
    let id = cri.launch(&pod, &own).await?;
    let status = cri.wait_exited(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
    assert!(status.message.contains("its memory limit of 16777216 bytes"), "{status:?}");

    // As the kubelet limits a pod: the group above, which the first container made.
    let parent = node.cgroup_parent();
    let limited = ["memory/{}/memory.limit_in_bytes", "{}/memory.max"].iter().any(|file| {
        let file = format!("/sys/fs/cgroup/{}", file.replace("{}", &parent));
        fs::write(file, (32 * MIB).to_string()).is_ok()
    });
    assert!(limited, "no memory controller");
    let id = cri.launch(&pod, &container("above", DEMO, &["tail", "/dev/zero"])).await?;
    let status = cri.wait_exited(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
    assert!(status.message.contains(&format!("the cgroup /{parent} above")), "{status:?}");

    let id = cri.launch(&pod, &container("killed", DEMO, &["sh", "-c", "kill -9 $$"])).await?;
    let status = cri.wait_exited(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"), "{status:?}");
    assert_eq!(status.message, "");
    cri.remove_all().await?;
    Ok(())
}
