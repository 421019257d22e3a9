//! A kubelet of another version: older or newer than this CRI, or broken.

use anyhow::Result;
use e2e::client::refusal;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::raw::{call, field};
use tonic::Code;

/// What later versions of CRI have, and earlier ones had.
#[tokio::test]
async fn root_calls_that_are_not_known_are_said_to_be_so() -> Result<()> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    for path in [
        "/runtime.v1.ImageService/PullSecurityProfile",
        "/runtime.v1.RuntimeService/NoSuchCall",
        "/runtime.v1alpha2.RuntimeService/Version",
        "/runtime.v2.RuntimeService/Version",
    ] {
        let status = refusal(call(&node.socket(), path, &[]).await?)?;
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status}");
    }
    Ok(())
}

/// A request with a field that this version does not know is the request without it.
#[tokio::test]
async fn root_fields_that_are_not_known_change_nothing() -> Result<()> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    let path = "/runtime.v1.RuntimeService/Version";
    let known = call(&node.socket(), path, &[]).await??;
    let version = field(1, b"v99");
    let unknown = field(15, b"what nobody knows");
    let answer = call(&node.socket(), path, &[version, unknown].concat()).await??;
    assert_eq!(answer, known);
    let path = "/runtime.v1.RuntimeService/ListPodSandbox";
    assert_eq!(call(&node.socket(), path, &field(14, b"x")).await??, Vec::<u8>::new());
    Ok(())
}

/// What is no message of CRI is an error of its call, and of nothing else.
#[tokio::test]
async fn root_malformed_messages_are_refused() -> Result<()> {
    host::require_root()?;
    let node = Node::start(Settings::default()).await?;
    let path = "/runtime.v1.RuntimeService/StopPodSandbox";
    let cut_short = &field(1, b"pod")[..3];
    let not_text = field(1, &[0xff, 0xfe]);
    let too_long = [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f];
    for message in [cut_short, &not_text, &too_long] {
        let status = refusal(call(&node.socket(), path, message).await?)?;
        let code = status.code();
        assert!(matches!(code, Code::Internal | Code::InvalidArgument), "{message:?}: {status}");
    }
    let mut cri = node.connect().await?;
    assert!(cri.pods().await?.is_empty());
    Ok(())
}
