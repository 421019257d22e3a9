//! The images of the benchmark: a small one to run, and large ones to pull.
//!
//! The large ones are made of this machine's own files, because what compresses and how many
//! files there are decides what a pull costs. They are kept for the next run.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::fixtures;
use crate::image::Image;
use crate::layer::{Layer, Packing, Tree};
use crate::process::output;
use crate::programs::compile;
use crate::registry::Registry;

/// The name of the process that containers run; its memory is nobody's cost.
pub const WORKLOAD: &str = "workload";
/// The image that containers run.
pub const TOOLS: &str = "registry.invalid/bench/tools:1";
/// The image of the peers' sandbox containers.
pub const PAUSE: &str = "registry.invalid/bench/pause:1";

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// A large image's layers: how many MiB of which of this machine's directories.
const LAYERS: [(&str, u64); 6] = [
    ("/usr/lib/x86_64-linux-gnu:/usr/lib/aarch64-linux-gnu:/usr/lib", 170),
    ("/usr/lib/gcc:/usr/libexec:/usr/local/go/pkg:/usr/local", 120),
    ("/usr/share", 130),
    ("/usr/local/lib:/usr/lib/python3:/usr/local/go/src:/opt", 100),
    ("/usr/bin:/usr/sbin", 60),
    ("/usr/include:/usr/src", 20),
];

/// Larger files than this are left out, so that the caps are met well enough.
const FILE_MOST: u64 = 60 << 20;

/// A large image: its name, and how often the caps of its layers are taken.
#[derive(Clone, Copy, Debug)]
pub struct Large {
    /// The tag's beginning, as in `600m`.
    pub name: &'static str,
    /// How many times 600 MB.
    pub times: u64,
}

/// The large images.
pub const LARGE: [Large; 2] = [Large { name: "600m", times: 1 }, Large { name: "2g", times: 3 }];

/// Pushes the small images.
///
/// # Errors
/// If one cannot be made or pushed.
pub fn push_small(registry: &mut Registry, cache: &Path) -> Result<()> {
    let pause = compile("pause", &cache.join("programs"))?;
    let shell = fixtures::busybox()?;
    let workload = Tree::new().file(WORKLOAD, 0o755, pause.clone()).pack(Packing::Gzip)?;
    let path = json!({ "Env": ["PATH=/bin"] });
    let tools = Image::new([shell.layers, vec![workload]].concat(), &path)?;
    registry.push("bench/tools", &["1"], &tools)?;
    let pause = Tree::new().file("pause", 0o755, pause).pack(Packing::Gzip)?;
    let pause = Image::new(vec![pause], &json!({ "Entrypoint": ["/pause"] }))?;
    registry.push("bench/pause", &["1"], &pause)
}

/// Pushes a large image as gzip and as zstd, `bench/large:NAME-gzip` and `-zstd`; returns the
/// references and how many bytes are in its files.
///
/// # Errors
/// If it cannot be made or pushed.
pub fn push_large(
    registry: &mut Registry,
    cache: &Path,
    large: Large,
) -> Result<(Vec<String>, u64)> {
    let folder = cache.join("bench").join(large.name);
    let (mut gzip, mut zstd, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (number, (from, mib)) in LAYERS.iter().enumerate() {
        let layer = pack(&folder, number, from, mib * large.times)?;
        bytes += layer.bytes;
        gzip.push(stored(GZIP, &layer.gzip, &layer.diff_id)?);
        zstd.push(stored(ZSTD, &layer.zstd, &layer.diff_id)?);
    }
    let mut references = Vec::new();
    for (kind, layers) in [("gzip", gzip), ("zstd", zstd)] {
        let tag = format!("{}-{kind}", large.name);
        registry.push("bench/large", &[&tag], &Image::new(layers, &json!({ "Cmd": ["sh"] }))?)?;
        references.push(format!("registry.invalid/bench/large:{tag}"));
    }
    Ok((references, bytes))
}

struct Packed {
    gzip: PathBuf,
    zstd: PathBuf,
    diff_id: String,
    bytes: u64,
}

/// Packs a layer, or finds it packed by an earlier run.
fn pack(folder: &Path, number: usize, from: &str, mib: u64) -> Result<Packed> {
    let path = |end: &str| folder.join(format!("{number}.{end}"));
    let (gzip, zstd, told) = (path("tar.gz"), path("tar.zst"), path("json"));
    if !told.exists() {
        fs::create_dir_all(folder)?;
        let (files, bytes) = choose(from, mib << 20);
        let (list, tar) = (path("list"), path("tar"));
        fs::write(&list, files.join("\n"))?;
        let rename = format!("--transform=s,^/,/layer{number}/,");
        let (list_text, tar_text) = (list.to_string_lossy(), tar.to_string_lossy());
        let plain = ["--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-P", &rename];
        let mut command = Command::new("tar");
        command.args(["-c", "--no-recursion", "-f", &tar_text, "-T", &list_text]).args(plain);
        if !command.status().context("start tar")?.success() {
            bail!("tar could not pack {from}");
        }
        output("gzip", &["-6", "-n", "-k", "-f", &*tar_text])?;
        output("zstd", &["-q", "-3", "-T1", "-f", &*tar_text, "-o", &*zstd.to_string_lossy()])?;
        let diff_id = output("sha256sum", &[&*tar_text])?;
        let diff_id = diff_id.split(' ').next().context("sha256sum printed nothing")?;
        fs::remove_file(&tar)?;
        let text = json!({ "diff_id": format!("sha256:{diff_id}"), "bytes": bytes });
        fs::write(&told, text.to_string())?;
    }
    let told: serde_json::Value = serde_json::from_slice(&fs::read(&told)?)?;
    let diff_id = told["diff_id"].as_str().context("no diff_id")?.to_owned();
    Ok(Packed { gzip, zstd, diff_id, bytes: told["bytes"].as_u64().context("no bytes")? })
}

/// Files and links below the directories, in the order of their names, up to so many bytes; each once,
/// although one directory may be in another.
fn choose(from: &str, most: u64) -> (Vec<String>, u64) {
    let (mut files, mut bytes, mut seen) = (Vec::new(), 0, HashSet::new());
    let mut queue: Vec<_> = from.rsplit(':').map(PathBuf::from).collect();
    while let Some(path) = queue.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let Ok(about) = path.symlink_metadata() else { continue };
        if about.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            let mut inner: Vec<_> = entries.map(|entry| entry.path()).collect();
            inner.sort();
            queue.extend(inner.into_iter().rev());
            continue;
        }
        let plain = about.is_file() && about.size() <= FILE_MOST || about.is_symlink();
        let Some(name) = path.to_str().filter(|name| plain && !name.contains('\n')) else {
            continue;
        };
        if bytes + about.size() > most {
            break;
        }
        bytes += about.size();
        files.push(name.to_owned());
    }
    (files, bytes)
}

fn stored(media_type: &'static str, path: &Path, diff_id: &str) -> Result<Layer> {
    let blob = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(Layer { media_type, blob, diff_id: diff_id.to_owned() })
}
