//! The AppArmor profile of containers that ask for none, or for the runtime's default one:
//! loaded when the daemon starts, where AppArmor is on.
//!
//! The kernel takes compiled policies only, so the distribution's `apparmor_parser` does it.
//! Without it, or where it fails, containers that ask for the default profile are refused by
//! name, and others run unconfined by AppArmor, as on a node without it.
//!
//! # References
//! - [apparmor.d(5)](https://manpages.debian.org/apparmor/apparmor.d.5.en.html)
//! - [apparmor_parser(8)](https://manpages.debian.org/apparmor/apparmor_parser.8.en.html)

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::spec::{self, AppArmor, DEFAULT_APPARMOR_PROFILE};

/// How long the parser may take; it compiles for the machine's kernel.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a container may not do to the host, whatever its capabilities are: write where the
/// kernel is configured, mount, or trace and signal what is outside.
const PROFILE: &str = include_str!("apparmor/orlop-default");

/// Why the profile is not loaded.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("start apparmor_parser")]
    Start(#[source] std::io::Error),
    #[error("give apparmor_parser the profile")]
    Write(#[source] std::io::Error),
    #[error("apparmor_parser ended with {status}: {said}")]
    Refused { status: std::process::ExitStatus, said: String },
    #[error("apparmor_parser has not ended in {} s", DEADLINE.as_secs())]
    Slow,
}

/// Loads the profile, anew if it is loaded already: it may be that of another version.
pub(super) async fn load_default(apparmor: AppArmor) {
    if apparmor == AppArmor::Off {
        return;
    }
    let loaded = timeout(DEADLINE, load()).await.unwrap_or(Err(LoadError::Slow));
    if let Err(error) = loaded {
        let there = spec::loaded_profiles().iter().any(|name| name == DEFAULT_APPARMOR_PROFILE);
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            profile = DEFAULT_APPARMOR_PROFILE,
            an_older_one_is_loaded = there,
            "the AppArmor profile of containers cannot be loaded"
        );
    }
}

async fn load() -> Result<(), LoadError> {
    let mut command = Command::new("apparmor_parser");
    command.args(["--replace", "--skip-cache"]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut parser = command.spawn().map_err(LoadError::Start)?;
    if let Some(mut stdin) = parser.stdin.take() {
        stdin.write_all(PROFILE.as_bytes()).await.map_err(LoadError::Write)?;
    }
    let output = parser.wait_with_output().await.map_err(LoadError::Start)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
    Err(LoadError::Refused { status: output.status, said })
}
