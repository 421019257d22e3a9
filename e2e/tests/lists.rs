//! Ten thousand dead containers: lists say that they are too long, streams have no end
//! that matters, and the daemon starts with them.

use std::time::Instant;

use anyhow::{Context, Result};
use cri_api::v1::*;
use e2e::client::{Cri, refusal};
use e2e::host;
use e2e::node::{Node, Settings};
use orlop::metadata::{ContainerRow, Metadata, PodRow};
use orlop::pods::record::{ContainerRequest, PodRequest};
use prost::Message as _;
use serde_json::json;
use tonic::Code;

const PODS: usize = 100;
const CONTAINERS_PER_POD: usize = 100;

/// Longer than four bytes of a message each, so that 16 MiB are exceeded.
const ANNOTATION_BYTES: usize = 2 << 10;

/// As much as Kubernetes allows.
const ANNOTATION_BYTES_MAX: usize = 256 << 10;

/// An id that tells where it belongs.
fn id(pod: usize, container: usize) -> String {
    format!("{pod:032x}{container:032x}")
}

/// Writes the records of an earlier daemon, whose pods are all over.
fn fill(metadata: &Metadata) -> Result<()> {
    for pod in 0..PODS {
        let name = format!("pod-{pod}");
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.clone(),
                uid: name.clone(),
                namespace: "e2e".into(),
                attempt: 0,
            }),
            labels: [("pod".to_owned(), name)].into(),
            ..Default::default()
        };
        let record = json!({ "version": 1, "boot_id": "another", "created_at_ns": pod + 1,
            "state": { "Stopped": { "cause": "Requested" } } });
        metadata.put_pod(&PodRow {
            id: id(pod, 0),
            request: PodRequest { config, runtime_handler: String::new() }.encode(),
            record: serde_json::to_vec(&record)?,
        })?;
        for container in 1..=CONTAINERS_PER_POD {
            metadata.put_container(&row(pod, container)?)?;
        }
    }
    Ok(())
}

fn row(pod: usize, container: usize) -> Result<ContainerRow> {
    let long = container == 1 && pod.is_multiple_of(10);
    let annotation = "x".repeat(if long { ANNOTATION_BYTES_MAX } else { ANNOTATION_BYTES });
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: format!("c-{container}"), attempt: 0 }),
        image: Some(ImageSpec { image: "sha256:1".into(), ..Default::default() }),
        annotations: [("note".to_owned(), annotation)].into(),
        ..Default::default()
    };
    let exit = json!({ "code": 3, "finished_at_ns": 30, "cause": "Ended" });
    let record = json!({ "version": 1, "created_at_ns": 10, "cgroup_path": "/none",
        "stop_signal": 15, "image": { "id": "sha256:1", "name": "demo", "reference": "demo" },
        "state": { "Exited": { "exit": exit, "started_at_ns": 20 } } });
    Ok(ContainerRow {
        id: id(pod, container),
        pod: id(pod, 0),
        request: ContainerRequest { config }.encode(),
        record: serde_json::to_vec(&record)?,
    })
}

/// Everything that a stream of containers says, and the length of its longest message.
async fn streamed(
    cri: &mut Cri,
    filter: Option<ContainerFilter>,
) -> Result<(Vec<Container>, usize)> {
    let request = StreamContainersRequest { filter };
    let mut stream = cri.runtime.stream_containers(request).await?.into_inner();
    let (mut all, mut longest) = (Vec::new(), 0);
    while let Some(message) = stream.message().await? {
        longest = longest.max(message.encoded_len());
        all.extend(message.containers);
    }
    Ok((all, longest))
}

#[tokio::test(flavor = "multi_thread")]
async fn root_ten_thousand_dead_containers_are_listed() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let mut node = Node::at(&directory.path().join("node"), Settings::default())?;
    fill(&Metadata::open(&node.root())?)?;
    let begun = Instant::now();
    node.begin().await?;
    eprintln!("recovered in {:?}", begun.elapsed());
    let mut cri = node.connect().await?;

    let (all, longest) = streamed(&mut cri, None).await?;
    assert_eq!(all.len(), PODS * CONTAINERS_PER_POD);
    // Far below what the smallest of clients takes, 4 MiB.
    assert!(longest <= 1 << 21, "a message of {longest} bytes");
    let mut ids: Vec<_> = all.iter().map(|container| container.id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), PODS * CONTAINERS_PER_POD, "some are there twice");

    let status = refusal(cri.containers().await)?;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("StreamContainers"), "{status:?}");
    // A narrower one fits, and says the same as the stream.
    let filter = Some(ContainerFilter { pod_sandbox_id: id(7, 0), ..Default::default() });
    let list = ListContainersRequest { filter: filter.clone() };
    let listed = cri.runtime.list_containers(list).await?.into_inner().containers;
    assert_eq!(listed.len(), CONTAINERS_PER_POD);
    assert_eq!(listed, streamed(&mut cri, filter).await?.0);
    assert!(listed.iter().all(|one| one.state() == ContainerState::ContainerExited));
    assert_eq!(cri.pods().await?.len(), PODS);
    let mut stream =
        cri.runtime.stream_pod_sandboxes(StreamPodSandboxesRequest::default()).await?.into_inner();
    let mut pods = 0;
    while let Some(message) = stream.message().await? {
        pods += message.pod_sandboxes.len();
    }
    assert_eq!(pods, PODS);
    assert_eq!(cri.status(&id(99, 100)).await?.exit_code, 3);

    // They go with their pods.
    for pod in 0..3 {
        cri.remove_pod(&id(pod, 0)).await.with_context(|| format!("remove pod {pod}"))?;
    }
    let (left, _) = streamed(&mut cri, None).await?;
    assert_eq!(left.len(), (PODS - 3) * CONTAINERS_PER_POD);
    Ok(())
}
