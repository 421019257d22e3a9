//! The program `crictl`, as people type it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::node::Node;
use crate::process::output;
use crate::programs::on_path;

/// How long a command that is fed may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// crictl with the endpoint of one node.
#[derive(Clone, Debug)]
pub struct Crictl {
    program: PathBuf,
    endpoint: String,
}

impl Crictl {
    /// crictl for one node.
    ///
    /// # Errors
    /// If there is no crictl.
    pub fn new(node: &Node) -> Result<Self> {
        let named = std::env::var_os("ORLOP_CRICTL").map(PathBuf::from);
        let program = named
            .or_else(|| on_path("crictl"))
            .context("no crictl: set ORLOP_CRICTL, as hack/test does")?;
        Ok(Self { program, endpoint: format!("unix://{}", node.socket().display()) })
    }

    fn options(&self) -> [&str; 6] {
        ["--config", "/dev/null", "-r", &self.endpoint, "-i", &self.endpoint]
    }

    /// A command with these words, not started.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.options()).args(words);
        command
    }

    /// Runs a command with `input`, whatever its end.
    ///
    /// # Errors
    /// If it cannot be started, or does not end.
    pub async fn feed(&self, words: &[&str], input: &[u8]) -> Result<Output> {
        let mut command = tokio::process::Command::from(self.command(words));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().context("start crictl")?;
        let mut stdin = child.stdin.take().context("no input")?;
        let writing = async move {
            // It may end without reading all of it.
            let _closed = stdin.write_all(input).await;
        };
        let both = async { tokio::join!(writing, child.wait_with_output()) };
        let ((), output) = timeout(PATIENCE, both)
            .await
            .with_context(|| format!("crictl {words:?} does not end"))?;
        Ok(output?)
    }

    /// Runs a command; its words are separated by blanks.
    ///
    /// # Errors
    /// If it fails; the error carries what it wrote to standard error.
    pub fn run(&self, line: &str) -> Result<String> {
        let arguments: Vec<_> = self.options().into_iter().chain(line.split_whitespace()).collect();
        Ok(output(&self.program, &arguments)?.trim_end().to_owned())
    }

    /// Runs a command that prints JSON.
    ///
    /// # Errors
    /// If it fails, or prints something else.
    pub fn json(&self, line: &str) -> Result<Value> {
        let text = self.run(line)?;
        serde_json::from_str(&text)
            .with_context(|| format!("crictl {line} printed no JSON: {text}"))
    }
}
