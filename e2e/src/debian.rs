//! Packages of the distribution as the source of image content.
//!
//! Packages are downloaded by `apt-get` into a cache directory and read there;
//! nothing is installed.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::layer::Tree;
use crate::process::output;

/// Never needed to run a program, but for what `libc6` brings on top.
const LEFT_OUT: [&str; 10] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/lintian",
    "usr/share/bug",
    "etc/init.d",
    "etc/default",
    "etc/network",
    "lib/systemd",
    "usr/lib/systemd",
    "usr/bin/ld.so",
];

/// Whether a file of a package is needed to run programs.
fn is_needed(path: &str) -> bool {
    let optional = path.contains("/gconv") || path.contains("/audit") || path.contains("/perl");
    !optional && !LEFT_OUT.iter().any(|folder| Path::new(path).starts_with(folder))
}

/// A package and the libraries it needs, recursively.
fn with_libraries(package: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::from([package.to_owned()]);
    let mut queue = VecDeque::from([package.to_owned()]);
    while let Some(next) = queue.pop_front() {
        let depends = output("apt-cache", &["depends", "--important", &next])?;
        for line in depends.lines() {
            let Some(name) = line.trim().strip_prefix("Depends: ") else { continue };
            let is_library = name.starts_with("lib") || name.starts_with("zlib");
            if is_library && found.insert(name.to_owned()) {
                queue.push_back(name.to_owned());
            }
        }
    }
    Ok(found)
}

/// Downloads a package unless a version of it is in `cache`, and returns its file.
fn download(package: &str, cache: &Path) -> Result<PathBuf> {
    fs::create_dir_all(cache)?;
    let prefix = format!("{package}_");
    let find = || -> Result<Option<PathBuf>> {
        for entry in fs::read_dir(cache)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(&prefix) && name.ends_with(".deb") {
                return Ok(Some(path));
            }
        }
        Ok(None)
    };
    if let Some(path) = find()? {
        return Ok(path);
    }
    // The download happens as root: the cache need not be open to apt's own user.
    let mut command = Command::new("apt-get");
    command.args(["-qq", "-o", "APT::Sandbox::User=root", "download", package]).current_dir(cache);
    let done = command.output().context("start apt-get")?;
    if !done.status.success() {
        bail!("apt-get download {package}: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    find()?.with_context(|| format!("apt-get left no {package} package"))
}

/// Adds the files of a package to a tree, those that [`is_needed`] says.
fn unpack(package: &str, cache: &Path, tree: Tree) -> Result<Tree> {
    let file = download(package, cache)?;
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(&file).stdout(Stdio::piped());
    let mut child = command.spawn().context("start dpkg-deb")?;
    let archive = child.stdout.take().context("dpkg-deb has no output")?;
    let tree = tree.extend_from_tar(archive, is_needed);
    let status = child.wait()?;
    if !status.success() {
        bail!("dpkg-deb --fsys-tarfile {}: {status}", file.display());
    }
    tree.with_context(|| format!("unpack {package}"))
}

/// Makes a package and the libraries it needs into one tree that runs on its own.
///
/// # Errors
/// If a package cannot be downloaded or read.
pub fn tree_of(package: &str, cache: &Path) -> Result<Tree> {
    let packages = cache.join("packages");
    let _lock = lock(&packages)?;
    let mut tree = Tree::new();
    for package in with_libraries(package)? {
        tree = unpack(&package, &packages, tree)?;
    }
    // Where /usr is merged, the loader is found through links that another package makes.
    for folder in ["bin", "lib", "lib64", "sbin"] {
        if !tree.contains(folder) && tree.contains(&format!("usr/{folder}")) {
            tree = tree.symlink(folder, &format!("usr/{folder}"));
        }
    }
    Ok(tree)
}

/// Locks `cache` against other processes that download into it; unlocked when dropped.
fn lock(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache)?;
    let file = File::create(cache.join("lock"))?;
    file.lock().context("lock the package cache")?;
    Ok(file)
}
