//! The small static programs that test images carry.
//!
//! The distribution's busybox has no `pgrep` and no `ipcs`, which critest calls;
//! `pause` and `nonewprivs` are what the images of those names consist of.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::output;

/// Compiles `e2e/programs/NAME.c` into a static binary below `directory` and returns its bytes.
///
/// # Errors
/// If there is no C compiler, or no static C library.
pub fn compile(name: &str, directory: &Path) -> Result<Vec<u8>> {
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name).with_extension("c");
    let program = directory.join(name);
    fs::create_dir_all(directory)?;
    let (to, from) = (program.to_string_lossy(), source.to_string_lossy());
    output("cc", &["-Os", "-static", "-s", "-o", &to, &from])
        .context("compile a test program (needs gcc and libc6-dev)")?;
    fs::read(&program).with_context(|| format!("read {}", program.display()))
}

/// The machine's static busybox.
#[derive(Debug)]
pub struct Busybox {
    /// The program.
    pub binary: Vec<u8>,
    /// The commands it answers to, itself excluded, sorted.
    pub commands: Vec<String>,
}

impl Busybox {
    /// Reads the busybox on the path.
    ///
    /// # Errors
    /// If there is none, or if it is dynamically linked.
    pub fn find() -> Result<Self> {
        let path =
            on_path("busybox").context("busybox is not on the path (install busybox-static)")?;
        let binary = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        if binary.windows(8).any(|bytes| bytes == b"/ld-linu") {
            bail!("{} is not static (install busybox-static)", path.display());
        }
        Ok(Self { commands: commands_of(&path)?, binary })
    }
}

/// The commands that a busybox answers to, itself excluded, sorted.
///
/// # Errors
/// If it does not run.
pub fn commands_of(busybox: &Path) -> Result<Vec<String>> {
    let listed = output(busybox, &["--list"])?;
    let mut commands: Vec<_> =
        listed.lines().filter(|name| *name != "busybox").map(str::to_owned).collect();
    commands.sort();
    commands.dedup();
    Ok(commands)
}

/// Looks a program up on the path.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// The OCI runtime of this name on the search path, as it works on this machine.
///
/// crun refuses a host with cgroup v1 and controllers in v2 too; there it is called by
/// `e2e/programs/crun-on-hybrid`, which finds it on the short path that runtimes are given.
#[must_use]
pub fn oci_runtime(name: &str) -> Option<PathBuf> {
    let found = on_path(name)?;
    let controllers = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers");
    if name == "crun" && controllers.is_ok_and(|names| !names.trim().is_empty()) {
        return found.parent().and_then(|directory| crun_on_hybrid(directory).ok());
    }
    Some(found)
}

/// A script that calls `crun-on-hybrid` for the crun in `directory`; the same for all tests.
fn crun_on_hybrid(directory: &Path) -> Result<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/crun-on-hybrid");
    let text = format!(
        "#!/bin/sh\nPATH={}:$PATH\nexport PATH\nexec {script} \"$@\"\n",
        directory.display()
    );
    let cache = std::env::var_os("ORLOP_CACHE").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = cache.join("crun-on-hybrid");
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(path);
    }
    // Never half written: other tests may be running it.
    let mut new = tempfile::NamedTempFile::new_in(&cache)?;
    new.write_all(text.as_bytes())?;
    new.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
    new.persist(&path)?;
    Ok(path)
}

/// The criu of the tests: named by `ORLOP_CRIU`, or the one on the search path.
#[must_use]
pub fn criu() -> Option<PathBuf> {
    std::env::var_os("ORLOP_CRIU").map(PathBuf::from).or_else(|| on_path("criu"))
}

/// The runc of the tests: named by `ORLOP_RUNC`, or the one on the search path.
#[must_use]
pub fn runc() -> Option<PathBuf> {
    std::env::var_os("ORLOP_RUNC").map(PathBuf::from).or_else(|| on_path("runc"))
}
