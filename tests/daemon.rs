//! The daemon's own life: start, stop, and what it leaves when it is killed.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// How long a daemon may take for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon in directories of its own; killed when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}

impl Daemon {
    /// Starts one, and waits until it says that it serves.
    fn start(directory: &Path) -> Outcome<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orlop"));
        let config = directory.join("config.toml");
        std::fs::write(&config, "[network]\nconf_dir = \"/nonexistent\"\n")?;
        command.arg("daemon").arg("--config").arg(config);
        command.arg("--root").arg(directory.join("root"));
        command.arg("--state").arg(directory.join("state"));
        let notices = UnixDatagram::bind(directory.join("notify"))?;
        notices.set_read_timeout(Some(PATIENCE))?;
        command.env("NOTIFY_SOCKET", directory.join("notify"));
        let mut daemon = Self(command.stderr(Stdio::piped()).spawn()?);
        let mut notice = [0; 256];
        match notices.recv(&mut notice) {
            Ok(length) => assert_eq!(&notice[..length], b"READY=1\n"),
            Err(error) => return Err(format!("not ready: {error}: {}", daemon.said()?).into()),
        }
        std::fs::remove_file(directory.join("notify"))?;
        Ok(daemon)
    }

    fn said(&mut self) -> Outcome<String> {
        let _gone_already = self.0.kill();
        let log = self.0.stderr.take().ok_or("no log")?;
        Ok(BufReader::new(log).lines().collect::<Result<Vec<_>, _>>()?.join("\n"))
    }

    fn signal(&mut self, signal: Signal) -> Outcome<ExitStatus> {
        let pid = Pid::from_raw(i32::try_from(self.0.id())?).ok_or("no pid")?;
        kill_process(pid, signal)?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("still there after {signal:?}").into())
    }
}

#[test]
fn root_sigterm_ends_it_and_removes_the_socket() -> Outcome {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = tempfile::tempdir()?;
        let mut daemon = Daemon::start(directory.path())?;
        assert!(directory.path().join("state/orlop.sock").exists());
        let status = daemon.signal(signal)?;
        assert!(status.success(), "{status}: {}", daemon.said()?);
        assert!(!directory.path().join("state/orlop.sock").exists());
        // It was still trying what the node can.
        assert!(!directory.path().join("state/try-user-namespace").exists());
    }
    Ok(())
}

#[test]
fn root_a_killed_daemon_is_no_obstacle() -> Outcome {
    let directory = tempfile::tempdir()?;
    Daemon::start(directory.path())?.signal(Signal::KILL)?;
    assert!(directory.path().join("state/orlop.sock").exists());
    let mut next = Daemon::start(directory.path())?;
    assert!(next.signal(Signal::TERM)?.success());
    Ok(())
}

#[test]
fn root_it_ends_although_an_rpc_never_does() -> Outcome {
    let directory = tempfile::tempdir()?;
    let mut daemon = Daemon::start(directory.path())?;
    let mut import = Command::new(env!("CARGO_BIN_EXE_orlop"))
        .args(["image", "import", "-", "--address"])
        .arg(directory.path().join("state/orlop.sock"))
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(300));
    let status = daemon.signal(Signal::TERM)?;
    let refused = !import.wait()?.success();
    assert!(status.success() && refused, "{status}");
    Ok(())
}
