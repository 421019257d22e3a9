//! Devices of the host in containers: one, a directory of them, and what may be done with
//! each.

use std::path::Path;

use anyhow::{Context, Result};
use cri_api::v1::{ContainerConfig, Device};
use e2e::client::{Cri, container, refusal};
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::programs::oci_runtime;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use tonic::Code;

fn device(host_path: &str, container_path: &str, permissions: &str) -> Device {
    Device {
        host_path: host_path.to_owned(),
        container_path: container_path.to_owned(),
        permissions: permissions.to_owned(),
    }
}

fn with(devices: Vec<Device>) -> ContainerConfig {
    ContainerConfig { devices, ..container("devices", DEMO, &["sleep", "1000"]) }
}

async fn said(cri: &mut Cri, id: &str, command: &str) -> Result<String> {
    let output = cri.exec(id, &["sh", "-c", command]).await?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// A character device by its numbers.
fn make(path: &Path, (major, minor): (u32, u32)) -> Result<()> {
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(major, minor))
        .with_context(|| path.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_devices_come_with_their_permissions() -> Result<()> {
    host::require_root()?;
    let place = tempfile::tempdir_in("/dev")?;
    std::fs::create_dir(place.path().join("below"))?;
    make(&place.path().join("full"), (1, 7))?;
    make(&place.path().join("below/tun"), (10, 200))?;
    let more =
        oci_runtime("crun").map(|crun| format!("[runtimes.crun]\npath = \"{}\"\n", crun.display()));
    let mut handlers = vec![""];
    handlers.extend(more.as_ref().map(|_| "crun"));
    let more = more.unwrap_or_default();
    let node = Node::start(Settings { more, ..Settings::default() }).await?;
    node.import_demo()?;
    let mut cri = node.connect().await?;
    let directory = place.path().to_string_lossy().into_owned();
    for handler in handlers {
        let pod = cri.run_pod(node.pod(&format!("pod-{handler}")), handler).await?;
        let config = with(vec![
            device(&directory, "/dev/all", "rw"),
            device("/dev/fuse", "/dev/other", "r"),
            device("/dev/zero", "", "rwm"),
        ]);
        let id = cri.launch(&pod, &config).await?;
        for (command, expected) in [
            ("ls /dev/all /dev/all/below", "/dev/all:\nbelow\nfull\n\n/dev/all/below:\ntun"),
            ("stat -c '%a %t:%T' /dev/all/below/tun", "640 a:c8"),
            ("head -c 4 /dev/all/full | wc -c", "4"),
            ("head -c 4 /dev/zero | wc -c", "4"),
            ("exec 3< /dev/other && echo open", "open"),
        ] {
            assert_eq!(said(&mut cri, &id, command).await?, expected, "{handler:?}: {command}");
        }
        // The node says who may, the cgroup what: a right that one way of giving it adds is
        // one of the container's.
        let mut only_read = with(vec![device("/dev/fuse", "/dev/other", "r")]);
        only_read.metadata.get_or_insert_default().name = "only-read".to_owned();
        let id = cri.launch(&pod, &only_read).await?;
        assert_eq!(said(&mut cri, &id, "exec 3< /dev/other && echo open").await?, "open");
        let refused = said(&mut cri, &id, "exec 3> /dev/other && echo open").await?;
        assert!(refused.contains("not permitted"), "{handler:?}: {refused}");
    }
    let pod = cri.run_pod(node.pod("refused"), "").await?;
    for (wrong, word) in [
        (device("/dev/no-such", "", "rw"), "/dev/no-such"),
        (device("/etc", "", "rw"), "/etc"),
        (device("/dev/null", "", "x"), "\"x\""),
        (device("dev/null", "", "r"), "dev/null"),
    ] {
        let status = refusal(cri.create(&pod, &with(vec![wrong])).await).context(word)?;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(word), "{status:?}");
    }
    cri.remove_all().await?;
    Ok(())
}
