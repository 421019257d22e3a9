//! Starting a shim's process: the order in, the answer out, both by a deadline.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::SandboxError;
use super::identity::{self, Held};
use crate::lifecycle::ProcessIdentity;
use crate::protocol::{self, Body, Boot, MAX_FRAME, Message, Outcome};

/// How long a shim may take to come up. Its starter gives up later, so that whatever it
/// then clears away is not made behind its back.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);

/// Starts the process, settles it, gives it its order, and reads its answer. Blocks, after
/// `settle` no longer than `patience`; one that does not answer is ended.
pub(super) fn spawn(
    executable: &Path,
    boot: &Boot,
    settle: impl FnOnce(u32) -> Result<(), SandboxError>,
    patience: Duration,
) -> Result<(Held, ProcessIdentity), SandboxError> {
    let failed = |source| SandboxError::Spawn { pod: boot.pod.clone(), source };
    let log = std::fs::File::options()
        .append(true)
        .create(true)
        .open(Path::new(&boot.directory).join("shim.log"))
        .map_err(failed)?;
    // Nothing is asked of the child before it runs the shim, so that no copy of our address
    // space is made for it: the shim changes its directory itself.
    let mut child = Command::new(executable)
        .args(["shim", &boot.pod])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failed)?;
    let held = Held::any(child.id()).ok_or(SandboxError::Lost)?;
    let answered = settle(child.id())
        .and_then(|()| order(&mut child, boot, patience))
        .and_then(|()| identity::of(child.id()).map_err(failed));
    match answered {
        Ok(identity) => Ok((held, identity)),
        Err(error) => {
            held.end();
            Err(error)
        }
    }
}

fn order(child: &mut Child, boot: &Boot, patience: Duration) -> Result<(), SandboxError> {
    let boot_failed = |reason: String| SandboxError::Boot { pod: boot.pod.clone(), reason };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::TimedOut => {
            boot_failed(format!("it did not answer within {} s", patience.as_secs_f32()))
        }
        _ => SandboxError::Spawn { pod: boot.pod.clone(), source },
    };
    let deadline = Instant::now() + patience;
    let frame = protocol::encode(boot).map_err(SandboxError::Request)?;
    if let Some(stdin) = child.stdin.take() {
        write_all(&stdin.into(), &frame, deadline).map_err(failed)?;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        read_to_end(&stdout.into(), &mut answer, deadline).map_err(failed)?;
    }
    let message = protocol::take_frame::<Message>(&mut answer).map_err(SandboxError::Request)?;
    match message.and_then(|message| message.body) {
        Some(Body::Reply(reply)) => match reply.outcome {
            Some(Outcome::Welcome(_)) => Ok(()),
            Some(Outcome::Failed(failed)) => Err(boot_failed(failed.message)),
            _ => Err(SandboxError::Confused),
        },
        _ => Err(boot_failed("it ended without a word; see shim.log".to_owned())),
    }
}

fn write_all(pipe: &OwnedFd, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    rustix::io::ioctl_fionbio(pipe, true)?;
    while !bytes.is_empty() {
        match rustix::io::write(pipe, bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::AGAIN) => wait(pipe, PollFlags::OUT, deadline)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn read_to_end(pipe: &OwnedFd, bytes: &mut Vec<u8>, deadline: Instant) -> io::Result<()> {
    let mut some = [0_u8; 4096];
    while bytes.len() <= MAX_FRAME {
        wait(pipe, PollFlags::IN, deadline)?;
        match rustix::io::read(pipe, &mut some) {
            Ok(0) => return Ok(()),
            Ok(n) => bytes.extend(some.iter().take(n)),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other("its answer has no end"))
}

fn wait(pipe: impl AsFd, what: PollFlags, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).ok();
    match rustix::event::poll(&mut [PollFd::new(&pipe, what)], timeout.as_ref()) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What comes of a shim that is this script.
    fn spawned(script: &str) -> (String, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        std::fs::write(&program, format!("#!/bin/sh\necho $$ > $0.pid\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let boot = Boot {
            pod: "p1".into(),
            directory: directory.path().to_str().unwrap().into(),
            // More than a pipe holds.
            hostname: Some("x".repeat(200 << 10)),
            ..Boot::default()
        };
        let error = spawn(&program, &boot, |_pid| Ok(()), Duration::from_secs(2)).unwrap_err();
        (error.to_string(), directory)
    }

    fn expect_gone(directory: &tempfile::TempDir) {
        let pid = std::fs::read_to_string(directory.path().join("program.pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "{pid} is still there");
    }

    #[test]
    fn one_that_reads_nothing_is_ended_at_the_deadline() {
        let (error, directory) = spawned("exec sleep 1000");
        assert_eq!(error, "the shim of pod p1 could not start: it did not answer within 2 s");
        expect_gone(&directory);
    }

    #[test]
    fn one_that_says_nothing_is_ended_at_the_deadline() {
        let (error, directory) = spawned("cat > /dev/null; exec sleep 1000");
        assert_eq!(error, "the shim of pod p1 could not start: it did not answer within 2 s");
        expect_gone(&directory);
    }

    #[test]
    fn one_that_ends_without_a_word_is_not_waited_for() {
        let (error, directory) = spawned("cat > /dev/null");
        assert!(error.ends_with("it ended without a word; see shim.log"), "{error}");
        expect_gone(&directory);
    }
}
