//! Images that are much bigger than the memory that the daemon may have.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::host;
use e2e::image::Image;
use e2e::layer::{Layer, Packing, Tree};
use e2e::node::{Node, Settings};
use e2e::registry::Registry;
use serde_json::json;
use tempfile::TempDir;

const MIB: usize = 1 << 20;
/// What the cgroup of the daemon may have, what it read and wrote of files included.
const LIMIT: usize = 96 * MIB;
/// What layers may take of it: `registry.memory`, as it is by default.
const BUDGET: usize = 40 * MIB;
/// What else a pull takes: the HTTP client's buffers, the stacks of threads, what the allocator
/// holds back.
const OTHERWISE: usize = 16 * MIB;

/// Bytes that do not compress, other ones for each seed.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..size / 8).flat_map(|_| next()).collect()
}

/// A layer of 96 MiB in the registry and 900 MiB on disk, and some that come at the same time.
fn image() -> Result<Image> {
    let big = Tree::new()
        .file("noise", 0o644, noise(1, 96 * MIB))
        .file("zeros", 0o644, vec![0; 800 * MIB])
        .pack(Packing::Gzip)?;
    let others = (2..10).map(|seed| {
        Tree::new().file(&format!("noise-{seed}"), 0o644, noise(seed, 16 * MIB)).pack(Packing::Gzip)
    });
    let layers: Vec<Layer> = std::iter::once(Ok(big)).chain(others).collect::<Result<_>>()?;
    Image::new(layers, &json!({}))
}

/// A cgroup with a limit, in the hierarchy that has the memory controller.
fn limit(name: &str) -> Result<PathBuf> {
    host::make_cgroup(name)?;
    for (root, file) in
        [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
    {
        let group = Path::new(root).join(name);
        if group.join(file).exists() {
            fs::write(group.join(file), LIMIT.to_string())?;
            return Ok(group);
        }
    }
    anyhow::bail!("no memory controller")
}

/// How many processes of the group the kernel killed.
fn killed(group: &Path) -> Result<u64> {
    let told = fs::read_to_string(group.join("memory.oom_control"))
        .or_else(|_| fs::read_to_string(group.join("memory.events")))?;
    let line = told.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Ok(line.context("oom_kill")?.trim().parse()?)
}

/// The most that a process had in memory, in bytes, since this was last set back.
fn peak(process: u32) -> Result<usize> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_big_image_fits_through_little_memory() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let mut registry = Registry::start(&directory.path().join("registry"))?;
    let small = Tree::new().file("small", 0o644, noise(99, MIB)).pack(Packing::Gzip)?;
    registry.push("small", &["1"], &Image::new(vec![small], &json!({}))?)?;
    registry.push("big", &["1"], &image()?)?;
    let node = Node::start(Settings::default()).await?;
    let daemon = node.daemon().context("no daemon")?;
    let group = limit(&node.cgroup_parent())?;
    fs::write(group.join("cgroup.procs"), daemon.to_string())?;
    // What a pull needs of the program itself is in memory then.
    node.orlop(&["image", "pull", &format!("{}/small:1", registry.address())])?;
    fs::write(format!("/proc/{daemon}/clear_refs"), "5")?;
    let before = peak(daemon)?;
    let big = format!("{}/big:1", registry.address());
    node.orlop(&["image", "pull", &big])?;
    let taken = peak(daemon)?.saturating_sub(before);
    eprintln!("{} MiB before, {} MiB more", before / MIB, taken / MIB);
    ensure!(taken < BUDGET + OTHERWISE, "the pull took {} MiB of memory", taken / MIB);
    ensure!(killed(&group)? == 0, "the kernel killed in the group");
    ensure!(node.daemon() == Some(daemon), "another daemon");
    let verified = node.orlop(&["image", "verify", &big])?;
    ensure!(!verified.contains("damaged"), "{verified}");
    ensure!(killed(&group)? == 0, "the kernel killed in the group");
    Ok(())
}
