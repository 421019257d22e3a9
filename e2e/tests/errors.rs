//! What every RPC answers to every mistake: code and text, as a table.
//!
//! Each cause is provoked through the socket, and the answers are compared with
//! `e2e/golden/errors.txt`; `ORLOP_REGENERATE=1` writes that file anew, to be read before
//! it is committed. Ids and paths stand in it by name. Afterwards the daemon still serves
//! and holds nothing.

#[path = "errors/containers.rs"]
mod containers;
#[path = "errors/images.rs"]
mod images;
#[path = "errors/lookups.rs"]
mod lookups;
#[path = "errors/pods.rs"]
mod pods;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use e2e::client::{Cri, Pod, container, refusal};
use e2e::fixtures::{DEMO, OWN_REGISTRY};
use e2e::host;
use e2e::node::{Node, Settings};
use tonic::Status;

/// The table in the making.
#[derive(Default)]
struct Table {
    lines: Vec<String>,
    /// What changes from run to run, and what stands for it.
    names: Vec<(String, String)>,
}

impl Table {
    fn name(&mut self, what: &str, name: &str) {
        self.names.push((what.to_owned(), format!("<{name}>")));
    }

    /// Adds the answer to one mistake, and hands a success back.
    fn add<T>(&mut self, rpc: &str, cause: &str, outcome: Result<T, Status>) -> Option<T> {
        let (answer, success) = match outcome {
            Ok(success) => ("Ok".to_owned(), Some(success)),
            Err(status) => (format!("{:?}: {}", status.code(), status.message()), None),
        };
        let named = |text: String, (what, name): &(String, String)| text.replace(what, name);
        let answer = self.names.iter().fold(answer, named);
        // A request's own long words need not be here in full.
        let answer = answer.replace(&"x".repeat(300), "<300 x>");
        let plain = |letter: char| match letter {
            '\0' => "\\0".to_owned(),
            '\n' => "\\n".to_owned(),
            letter => letter.to_string(),
        };
        let answer: String = answer.chars().map(plain).collect();
        let words = answer.split_inclusive(' ').map(|word| {
            let id = word.trim_end_matches([' ', ':']);
            let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_id { word.replace(id, "<id>") } else { word.to_owned() }
        });
        self.lines.push(format!("{rpc} | {cause} | {}", words.collect::<String>()));
        success
    }

    fn text(&self) -> String {
        let head = "# RPC | cause | code: text. See e2e/tests/errors.rs.\n";
        self.lines.iter().fold(head.to_owned(), |text, line| text + line + "\n")
    }
}

/// What the mistakes are made with.
struct Scene {
    node: Node,
    cri: Cri,
    /// A ready pod.
    pod: Pod,
    /// A pod that is stopped.
    stopped: Pod,
    /// Containers of the ready pod.
    created: String,
    running: String,
    exited: String,
}

impl Scene {
    async fn set(hosts: &Path) -> Result<Self> {
        let settings = Settings {
            hosts_dir: Some(hosts.to_owned()),
            more: "[pods]\ncriu = \"/nonexistent/criu\"\n".to_owned(),
            ..Settings::default()
        };
        let node = Node::start(settings).await?;
        node.import_demo()?;
        let mut cri = node.connect().await?;
        let stopped = cri.run_pod(node.pod("stopped"), "").await?;
        cri.stop_pod(&stopped.id).await?;
        let pod = cri.run_pod(node.pod("pod"), "").await?;
        let sleep = ["sleep", "1000"];
        let created = cri.create(&pod, &container("created", DEMO, &sleep)).await?;
        let running = cri.launch(&pod, &container("running", DEMO, &sleep)).await?;
        let exited = cri.launch(&pod, &container("exited", DEMO, &["true"])).await?;
        cri.wait_exited(&exited).await?;
        Ok(Self { node, cri, pod, stopped, created, running, exited })
    }

    fn names(&self) -> Table {
        let mut table = Table::default();
        for (id, name) in [
            (&self.pod.id, "pod"),
            (&self.stopped.id, "stopped pod"),
            (&self.created, "created"),
            (&self.running, "running"),
            (&self.exited, "exited"),
        ] {
            table.name(id, name);
        }
        table.name(&self.node.directory().to_string_lossy(), "node");
        table.name(OWN_REGISTRY, "registry");
        table
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/errors.txt")
}

/// Compares, or writes.
fn settle(table: &Table) -> Result<()> {
    let now = table.text();
    if std::env::var_os("ORLOP_REGENERATE").is_some() {
        return Ok(fs::write(golden(), now)?);
    }
    let then = fs::read_to_string(golden()).context("read the golden table")?;
    let missing = then.lines().filter(|line| !now.lines().any(|other| other == *line));
    let new = now.lines().filter(|line| !then.lines().any(|other| other == *line));
    let differences: Vec<_> = missing
        .map(|line| format!("- {line}"))
        .chain(new.map(|line| format!("+ {line}")))
        .collect();
    if now != then {
        bail!(
            "answers differ from {} (ORLOP_REGENERATE=1 writes it):\n{}",
            golden().display(),
            differences.join("\n")
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_memory_limit_that_nothing_fits_in_is_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut scene = Scene::set(directory.path()).await?;
    // What `memory: 100m` means in a manifest: a tenth of a byte, rounded up.
    let mut config = container("tiny", DEMO, &["true"]);
    let linux = config.linux.get_or_insert_default();
    linux.resources.get_or_insert_default().memory_limit_in_bytes = 1;
    let status = refusal(scene.cri.launch(&scene.pod, &config).await)?;
    assert!(status.message().contains("memory limit"), "{status:?}");
    scene.cri.remove_all().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_every_mistake_has_its_code_and_text() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    images::write_hosts(directory.path())?;
    let mut scene = Scene::set(directory.path()).await?;
    let mut table = scene.names();
    let held = scene.node.holdings()?;
    pods::mistakes(&mut scene, &mut table).await?;
    containers::mistakes(&mut scene, &mut table).await?;
    lookups::mistakes(&mut scene, &mut table).await?;
    images::mistakes(&mut scene, &mut table).await?;
    // Nothing of a refused request is left, and what was there before is unharmed.
    scene.node.expect_no_more_than(&held).await?;
    let said = scene.cri.exec(&scene.running, &["echo", "well"]).await?;
    assert_eq!(said.stdout, b"well\n");
    scene.cri.remove_all().await?;
    let log = fs::read_to_string(scene.node.log())?;
    assert!(!log.contains("panicked"), "{log}");
    settle(&table)
}
