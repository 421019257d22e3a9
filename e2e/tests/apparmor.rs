//! AppArmor, on a machine that has it.

use std::fs;

use anyhow::Result;
use cri_api::v1::security_profile::ProfileType;
use cri_api::v1::{
    ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, SecurityProfile,
};
use e2e::client::{container, refusal};
use e2e::fixtures::DEMO;
use e2e::node::{Node, Settings};
use tonic::Code;

/// A container that asks for a profile, or for none.
fn asking(name: &str, profile: Option<(ProfileType, &str)>) -> ContainerConfig {
    let mut config = container(name, DEMO, &["sleep", "1000"]);
    let apparmor = profile.map(|(kind, name)| SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: name.to_owned(),
    });
    if let Some(linux) = &mut config.linux {
        // The first process of a shared PID namespace is not the container's.
        let own = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
        linux.security_context = Some(LinuxContainerSecurityContext {
            apparmor,
            namespace_options: Some(own),
            ..Default::default()
        });
    }
    config
}

#[tokio::test]
async fn root_containers_are_confined_unless_they_ask_not_to_be() -> Result<()> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled")?;
    assert_eq!(enabled.trim(), "Y", "this test needs AppArmor");
    let node = Node::start(Settings::default()).await?;
    node.import_demo()?;
    let mut cri = node.connect().await?;
    let pod = cri.run_pod(node.pod("confined"), "").await?;
    let confined = "orlop-default (enforce)\n";
    for (name, profile, label) in [
        ("none", None, confined),
        ("default", Some((ProfileType::RuntimeDefault, "")), confined),
        ("unconfined", Some((ProfileType::Unconfined, "")), "unconfined\n"),
        ("named", Some((ProfileType::Localhost, "orlop-default")), confined),
    ] {
        let id = cri.launch(&pod, &asking(name, profile)).await?;
        let said =
            cri.exec(&id, &["cat", "/proc/1/attr/current", "/proc/self/attr/current"]).await?;
        assert_eq!(String::from_utf8_lossy(&said.stdout), label.repeat(2), "{name}");
        // What the profile forbids is no more than that: own files can be written, mounts not.
        let line = "echo x > /file && cat /file; mkdir /m; mount -t tmpfs none /m; echo $?";
        let said = cri.exec(&id, &["sh", "-c", line]).await?;
        assert!(said.stdout.starts_with(b"x\n"), "{name}: {said:?}");
        assert!(!said.stdout.ends_with(b"\n0\n"), "{name}: {said:?}");
        cri.stop(&id, 5).await?;
    }
    let missing = asking("missing", Some((ProfileType::Localhost, "no-such-profile")));
    let status = refusal(cri.create(&pod, &missing).await)?;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("no-such-profile"), "{}", status.message());
    Ok(())
}
