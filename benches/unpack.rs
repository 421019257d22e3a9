//! How fast a layer becomes a directory: inflate, hash and extract, as in a pull.
//!
//! `cargo bench --bench unpack -- [DIRECTORY]` packs the directory (`/usr/share` if none is
//! given) with GNU tar, compresses it, and unpacks it a few times. Needs root. The numbers are
//! of uncompressed bytes.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orlop::content::{Algorithm, Hasher};
use orlop::metadata::Metadata;
use orlop::snapshots::{LayerSlot, Snapshots};
use orlop::transfer::unpack::unpack;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const RUNS: usize = 5;

fn main() {
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let directory = directory.unwrap_or_else(|| "/usr/share".to_owned());
    let packed = Command::new("tar").args(["-C", &directory, "-c", "."]).output().unwrap();
    let plain = packed.stdout;
    println!("{directory}: {} MB uncompressed", plain.len() / 1_000_000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).unwrap();
    let forms = [
        ("plain", plain.clone()),
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::encode_all(plain.as_slice(), 3).unwrap()),
    ];
    measure("sha256 alone", plain.len(), || {
        drop(Hasher::digest(Algorithm::Sha256, &plain));
    });
    measure("gzip alone", plain.len(), || {
        let mut inflated = Vec::with_capacity(plain.len());
        flate2::read::MultiGzDecoder::new(forms[1].1.as_slice())
            .read_to_end(&mut inflated)
            .unwrap();
    });
    let diff_id = Hasher::digest(Algorithm::Sha256, &plain);
    let root = tempfile::tempdir().unwrap();
    let snapshots = open(root.path());
    for (name, bytes) in forms {
        measure(name, plain.len(), || {
            let Some(LayerSlot::Absent(writer)) = snapshots.try_layer(&diff_id) else { return };
            unpack(bytes.as_slice(), LAYER, writer).unwrap();
        });
        snapshots.wait_until_removed();
    }
}

fn open(root: &Path) -> Snapshots {
    let metadata = Arc::new(Metadata::open(root).unwrap());
    Snapshots::open(&root.join("snapshots"), metadata).unwrap()
}

fn measure(name: &str, bytes: usize, run: impl Fn()) {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let median = times[RUNS / 2];
    let rate = bytes as f64 / 1e6 / median.as_secs_f64();
    println!("{name:>14}: {median:>10.1?} median of {RUNS}, {rate:.0} MB/s");
}
