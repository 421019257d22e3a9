//! The same tree through another program's archive: GNU tar writes it in each of its formats,
//! and what is unpacked is what was packed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::*;
use super::{Fixture, PLAIN};

/// Everything about a file that an archive carries.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    kind_and_mode: u32,
    owner: (u32, u32),
    time: (i64, i64),
    device: u64,
    content: Option<Vec<u8>>,
    target: Option<PathBuf>,
    /// The first name, in order, of the same file.
    same_as: PathBuf,
}

/// Formats differ in how finely they keep time.
fn look(root: &Path, nanoseconds: i64) -> BTreeMap<PathBuf, Look> {
    let mut pending = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(path) = pending.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        paths.push(path);
    }
    paths.sort();
    let mut inodes = BTreeMap::new();
    let mut looks = BTreeMap::new();
    for path in paths {
        let name = path.strip_prefix(root).unwrap().to_owned();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let look = Look {
            kind_and_mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            time: (metadata.mtime(), metadata.mtime_nsec() * nanoseconds),
            device: metadata.rdev(),
            content: metadata.is_file().then(|| fs::read(&path).unwrap()),
            target: metadata.is_symlink().then(|| fs::read_link(&path).unwrap()),
            same_as: inodes.entry(metadata.ino()).or_insert_with(|| name.clone()).clone(),
        };
        looks.insert(name, look);
    }
    looks
}

fn tree(root: &Path) {
    let long = root.join("d".repeat(90)).join("e".repeat(90)).join("f".repeat(90));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("g".repeat(200)), "long").unwrap();
    symlink("t".repeat(180), root.join("long-target")).unwrap();
    fs::hard_link(long.join("g".repeat(200)), root.join("hard")).unwrap();
    fs::write(root.join("exactly-a-block"), vec![1; 512]).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("ünïcode \n\t\\"), "odd").unwrap();
    let holes = fs::File::create(root.join("holes")).unwrap();
    holes.set_len(3 << 20).unwrap();
    for (number, offset) in
        [0, 9000, 70_000, 300_000, 1 << 20, (1 << 20) + 8192, 2 << 20].into_iter().enumerate()
    {
        std::os::unix::fs::FileExt::write_all_at(&holes, &[number as u8 + 1; 100], offset).unwrap();
    }
    let script = "mkfifo fifo; mknod c c 7 300; mknod b b 300 7; mkdir -m 3751 sticky; \
        echo x > suid; chown 123:456 suid; chmod 6755 suid; chown 2000000:3000000 c; \
        touch -d '1999-12-31 23:59:59.123456789' empty; touch -d '2300-01-01' hard; \
        chown -h 77:88 long-target; touch -d '2001-02-03 04:05:06' sticky .";
    let made = Command::new("sh").args(["-ec", script]).current_dir(root).status().unwrap();
    assert!(made.success());
}

#[test]
fn root_what_gnu_tar_packs() {
    let source = tempfile::tempdir().unwrap();
    tree(source.path());
    for (format, nanoseconds) in [("pax", 1), ("posix", 1), ("gnu", 0), ("oldgnu", 0)] {
        for extra in [
            &[][..],
            &["--sparse"][..],
            &["--sparse", "--sparse-version=0.0"],
            &["--sparse", "--sparse-version=0.1"],
        ] {
            let fixture = Fixture::new();
            let packed = Command::new("tar")
                .args(["--create", "--format", format, "--numeric-owner", "--sort=name"])
                .args(extra)
                .arg("--directory")
                .arg(source.path())
                .arg(".")
                .output()
                .unwrap();
            assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
            let diff_id = Hasher::digest(Algorithm::Sha256, &packed.stdout);
            let lease = unpack(packed.stdout.as_slice(), PLAIN, fixture.writer(&diff_id)).unwrap();
            let (expected, found) =
                (look(source.path(), nanoseconds), look(&lease.path(), nanoseconds));
            for (path, look) in &expected {
                assert_eq!(found.get(path), Some(look), "{format} {extra:?} {}", path.display());
            }
            assert_eq!(found.len(), expected.len());
            if extra.contains(&"--sparse") {
                let holes = fs::metadata(lease.path().join("holes")).unwrap();
                assert!(holes.blocks() * 512 < 1 << 20, "{format} {extra:?}");
            }
        }
    }
}
