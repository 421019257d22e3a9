//! kubectl inside the cluster's namespaces, and waiting for what it says.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

use super::Cluster;

/// How long a condition may take that nothing says more about.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs kubectl and other programs in the cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    cluster: Cluster,
    process_one: Pid,
    namespace: String,
}

impl Kubectl {
    pub(super) fn new(cluster: &Cluster, process_one: Pid) -> Self {
        Self { cluster: cluster.clone(), process_one, namespace: "default".to_owned() }
    }

    /// The same, for another namespace of the API.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// A path in the cluster's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.cluster.path(name)
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The host's id of the cluster's process 1.
    #[must_use]
    pub fn process_one(&self) -> i32 {
        self.process_one.as_raw_nonzero().get()
    }

    /// A program in the network, process and mount namespaces of the cluster.
    #[must_use]
    pub fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.process_one.as_raw_nonzero().to_string());
        command.args(["--net", "--mount", "--pid", "--"]).arg(program);
        command
    }

    /// kubectl with these arguments, not started yet.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.inside(self.cluster.program("kubectl"));
        command.arg("--kubeconfig").arg(self.cluster.path("pki/admin.conf"));
        command.args(["--namespace", &self.namespace]).args(arguments);
        command
    }

    /// Runs kubectl and returns what it printed.
    ///
    /// # Errors
    /// If it fails; the error carries what it wrote to standard error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        said(arguments, self.command(arguments).stdin(Stdio::null()).output()?)
    }

    /// Runs kubectl with something on its standard input.
    ///
    /// # Errors
    /// If it fails.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start nsenter")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        said(arguments, child.wait_with_output()?)
    }

    /// Creates or changes the objects of a manifest.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.run_with(&["apply", "-f", "-"], manifest).map(drop)
    }

    /// One field of an object, by JSONPath without braces.
    ///
    /// # Errors
    /// If there is no such object.
    pub fn field(&self, kind: &str, name: &str, path: &str) -> Result<String> {
        self.run(&["get", kind, name, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Waits until a field is as wanted.
    ///
    /// # Errors
    /// If it is not in time; the error says what it was last, and what happened to it.
    pub fn wait_field(&self, kind: &str, name: &str, path: &str, wanted: &str) -> Result<()> {
        self.until(PATIENCE, || {
            let now = self.field(kind, name, path)?;
            if now == wanted {
                Ok(())
            } else {
                bail!("{kind} {name}: {path} is {now:?}, not {wanted:?}")
            }
        })
        .with_context(|| self.story(kind, name))
    }

    /// Waits until a pod is ready.
    ///
    /// # Errors
    /// If it is not in time; the error has the pod's events.
    pub fn wait_ready(&self, pod: &str) -> Result<()> {
        self.wait_field("pod", pod, ".status.conditions[?(@.type==\"Ready\")].status", "True")
    }

    /// Tries until it succeeds.
    ///
    /// # Errors
    /// The last failure, when the time is over.
    pub fn until<T>(
        &self,
        patience: Duration,
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("still after {patience:?}")));
                }
                Err(_) => sleep(Duration::from_millis(300)),
            }
        }
    }

    /// Waits until what `arguments` print contains `wanted`.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn wait_output(&self, arguments: &[&str], wanted: &str) -> Result<String> {
        self.until(PATIENCE, || {
            let text = self.run(arguments)?;
            if text.contains(wanted) {
                Ok(text)
            } else {
                bail!("{arguments:?} printed {text:?}, no {wanted:?}")
            }
        })
    }

    /// What a web server says, asked from the node.
    ///
    /// # Errors
    /// If it does not answer, or with another status than 200.
    pub fn http(&self, host: &str, port: u16, path: &str) -> Result<String> {
        let request = format!("GET {path} HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n");
        let line = format!("exec 3<>/dev/tcp/{host}/{port} && printf '{request}' >&3 && cat <&3");
        let output = self.inside("timeout").args(["10", "bash", "-c", &line]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        if !head.contains(" 200 ") {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("GET {path} from {host}:{port}: {head:?} {error}");
        }
        Ok(body.to_owned())
    }

    /// The events of an object, for an error.
    fn story(&self, kind: &str, name: &str) -> String {
        let selector = format!("involvedObject.name={name}");
        let columns = "custom-columns=REASON:.reason,MESSAGE:.message";
        let events = self.run(&[
            "get",
            "events",
            "--field-selector",
            &selector,
            "-o",
            columns,
            "--no-headers",
        ]);
        format!("{kind} {name}; its events:\n{}", events.unwrap_or_default())
    }
}

fn said(arguments: &[&str], output: Output) -> Result<String> {
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("kubectl {}: {}: {}", arguments.join(" "), output.status, error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
