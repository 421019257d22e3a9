//! Killing every process of a group, however fast it forks.
//!
//! `cgroup.kill` does it in one write where the unified hierarchy is mounted (Linux 5.14), also
//! where that hierarchy has no controllers. Else the group is frozen, each process gets SIGKILL,
//! and the group is thawed; without a freezer the list is walked until nothing new appears.

use std::collections::HashSet;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::file;
use super::group::{Cgroup, CgroupError, tree};
use super::hierarchies::{Controller, Version};

/// How often the list of processes is read at most when there is no freezer.
const ROUNDS: usize = 100;
/// How long a v1 group may take to freeze; it is killed process by process even if it does not.
const FREEZE_PATIENCE: Duration = Duration::from_millis(500);

impl Cgroup {
    /// Sends SIGKILL to every process in the group and below it, frozen ones included.
    ///
    /// The processes are dying, not dead, when this returns. A group that is gone is no error.
    ///
    /// # Errors
    /// When the files of the group cannot be read or written.
    ///
    /// # References
    /// - [`cgroup.kill`](https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files)
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        if !self.kill_unified()? {
            // A group that does not freeze is still killed, only less surely at one blow.
            let _unfrozen = self.freeze(FREEZE_PATIENCE);
            self.kill_each()?;
            let _no_freezer = self.thaw();
        }
        self.thaw_v1()
    }

    /// Whether the kernel has done it.
    fn kill_unified(&self) -> Result<bool, CgroupError> {
        let Some(directory) = self.unified() else { return Ok(false) };
        match file::write(&directory.join("cgroup.kill"), "1") {
            Ok(()) => Ok(true),
            // An old kernel; or a runtime made the group in the other hierarchies only.
            Err(error) if error.is_missing() => Ok(self.census().is_none()),
            Err(source) => Err(CgroupError::Inspect { source }),
        }
    }

    fn kill_each(&self) -> Result<(), CgroupError> {
        let mut killed: HashSet<Pid> = HashSet::new();
        for _ in 0..ROUNDS {
            let mut news = false;
            for pid in self.processes()? {
                news |= killed.insert(pid);
                match kill_process(pid, Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(source) => {
                        let file = self.path().relative().join("cgroup.procs");
                        let value = format!("SIGKILL {pid}");
                        let source = super::FileError::Write { file, value, source };
                        return Err(CgroupError::Inspect { source });
                    }
                }
            }
            if !news {
                break;
            }
        }
        Ok(())
    }

    /// A process in a frozen v1 group, or in a frozen group below it, dies only when it thaws.
    fn thaw_v1(&self) -> Result<(), CgroupError> {
        let Some((Version::V1, directory)) = self.directory(Controller::Freezer) else {
            return Ok(());
        };
        tree(&directory)?.iter().try_for_each(|one| {
            match file::write(&one.join("freezer.state"), "THAWED") {
                Err(error) if !error.is_missing() => Err(CgroupError::Inspect { source: error }),
                Ok(()) | Err(_) => Ok(()),
            }
        })
    }
}
