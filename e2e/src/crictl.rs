//! The program `crictl`, as people type it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::node::Node;
use crate::process::output;
use crate::programs::on_path;

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

    /// Runs a command; its words are separated by blanks.
    ///
    /// # Errors
    /// If it fails; the error carries what it wrote to standard error.
    pub fn run(&self, line: &str) -> Result<String> {
        let options = ["--config", "/dev/null", "-r", &self.endpoint, "-i", &self.endpoint];
        let arguments: Vec<_> = options.into_iter().chain(line.split_whitespace()).collect();
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
