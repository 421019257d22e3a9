//! The criu program: found and tried when the first checkpoint is asked for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::error::CheckpointError;

/// The oldest version that will do, as criu counts: 3.16.
const OLDEST: u32 = 31_600;

/// How long criu may take to tell its version, or to look at the kernel.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program, once it was found to work. One that does not is looked at again: it may be
/// installed meanwhile.
#[derive(Debug)]
pub(in crate::pods) struct Criu {
    configured: PathBuf,
    works: OnceCell<PathBuf>,
}

/// What criu is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pods) enum Purpose {
    /// Of a container, or of a pod's.
    Checkpoint,
    /// Of a pod.
    Restore,
}

impl Criu {
    pub(in crate::pods) fn new(configured: PathBuf) -> Self {
        Self { configured, works: OnceCell::new() }
    }

    /// Its absolute path, for what is to be done with `subject`.
    pub(in crate::pods) async fn find(
        &self,
        purpose: Purpose,
        subject: &str,
    ) -> Result<&Path, CheckpointError> {
        self.works.get_or_try_init(|| self.look(purpose, subject)).await.map(PathBuf::as_path)
    }

    async fn look(&self, purpose: Purpose, subject: &str) -> Result<PathBuf, CheckpointError> {
        if self.configured.as_os_str().is_empty() {
            return Err(CheckpointError::NotAvailable);
        }
        let what = match purpose {
            Purpose::Checkpoint => "checkpoint container",
            Purpose::Restore => "restore pod",
        };
        let unfit = |why: String| {
            let subject = subject.to_owned();
            CheckpointError::NoCriu { what, subject, why }
        };
        let name = self.configured.display();
        let path = in_path(&self.configured)
            .ok_or_else(|| unfit(format!("there is no program {name}")))?;
        let said = run(&path, &["--version"]).await.map_err(&unfit)?;
        match version(&said.output) {
            Some(version) if version >= OLDEST => {}
            Some(version) => return Err(unfit(format!("{name} has version {version}"))),
            None => return Err(unfit(format!("{name} does not tell its version"))),
        }
        let checked = run(&path, &["check", "--no-default-config"]).await.map_err(unfit)?;
        if !checked.is_success {
            tracing::warn!(path = %path.display(), output = %checked.output, "criu does not work with this kernel");
            return Err(CheckpointError::NotAvailable);
        }
        Ok(path)
    }
}

struct Said {
    is_success: bool,
    /// Standard output and error.
    output: String,
}

async fn run(path: &Path, arguments: &[&str]) -> Result<Said, String> {
    let mut command = Command::new(path);
    command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
    match timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            Ok(Said { is_success: output.status.success(), output: text })
        }
        Ok(Err(error)) => Err(format!("{} cannot be run: {error}", path.display())),
        Err(_elapsed) => Err(format!("{} did not end", path.display())),
    }
}

/// The program of this name or path.
fn in_path(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// The version as criu counts, from what `criu --version` says.
fn version(said: &str) -> Option<u32> {
    let text = said.lines().find_map(|line| line.strip_prefix("Version: "))?;
    let mut numbers = text.trim().split(['.', '-']).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok);
    let major = next()?;
    let (minor, sub) = (next().unwrap_or(0), next().unwrap_or(0));
    Some(major * 10_000 + minor * 100 + sub)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_as_criu_counts() {
        assert_eq!(version("Version: 4.1.1\n"), Some(40_101));
        assert_eq!(version("Version: 3.16\nGitID: v3.16\n"), Some(31_600));
        assert_eq!(version("Version: 3.15-dirty\n"), Some(31_500));
        assert_eq!(version("criu, whatever"), None);
    }
}
