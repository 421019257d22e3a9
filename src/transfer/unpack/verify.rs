//! Proving a layer: its directory against what was recorded when it was unpacked.
//!
//! The archive is made again from the directory; its digest must be the diffID. On the way each
//! of its headers is held against what is on disk: kind, mode, owner, times, links, devices,
//! extended attributes. Last, the directory must not have more in it than was unpacked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat, lgetxattr, major, minor, readlinkat, statat};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind};
use super::rebuild::{Rebuild, RebuildError, WhenDamaged};
use super::tree::{Missing, Place, Tree, display, proc_path};
use crate::content::Digest;
use crate::snapshots::LayerLease;

const BUFFER_BYTES: usize = 128 << 10;
const WHITEOUT_PREFIX: &[u8] = b".wh.";
const META_PREFIX: &[u8] = b".wh..wh.";
const RESERVED_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
const XATTR_MAX: usize = 64 << 10;

/// What became of a layer's proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it was unpacked.
    Intact,
    /// It is not.
    Damaged(Vec<Fault>),
    /// There is nothing to prove it with.
    Unproven(String),
}

/// Something in a layer that is not as it was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, relative to the layer's root; empty when no file is to blame.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
}

/// Proves one layer. Blocks.
pub(in crate::transfer) fn verify(diff_id: &Digest, layer: LayerLease) -> Verdict {
    let expected = layer.usage().inodes;
    let found = layer.measure();
    let root = File::open(layer.path());
    let mut rebuild = match Rebuild::open_as(diff_id, layer, WhenDamaged::Note) {
        Ok(rebuild) => rebuild,
        Err(error @ RebuildError::NoRecord(_)) => return Verdict::Unproven(error.to_string()),
        Err(error) => return Verdict::Damaged(vec![blameless(&error)]),
    };
    let root = match root {
        Ok(root) => root,
        Err(error) => return Verdict::Damaged(vec![blameless(&error)]),
    };
    let mut check =
        Check { tree: Tree::new(root), directories: BTreeMap::new(), faults: Vec::new() };
    let read = check.entries(&mut rebuild);
    let mut faults: Vec<Fault> = rebuild
        .damaged()
        .into_iter()
        .map(|(path, what)| Fault { path, what: what.to_owned() })
        .collect();
    let blamed: Vec<PathBuf> = faults.iter().map(|fault| fault.path.clone()).collect();
    faults.extend(check.faults.into_iter().filter(|fault| !blamed.contains(&fault.path)));
    if let Err(error) = read {
        faults.push(blameless(&*error));
    }
    match found {
        // The record itself counts as the layer's.
        Ok(found) if found.inodes + 1 != expected && faults.is_empty() => faults.push(Fault {
            path: PathBuf::new(),
            what: format!("has {} files, and {} were unpacked", found.inodes, expected - 1),
        }),
        Ok(_) => {}
        Err(error) => faults.push(blameless(&error)),
    }
    if faults.is_empty() { Verdict::Intact } else { Verdict::Damaged(faults) }
}

fn blameless(error: &dyn std::error::Error) -> Fault {
    let mut what = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        what = format!("{what}: {error}");
        cause = error.source();
    }
    Fault { path: PathBuf::new(), what }
}

struct Check {
    tree: Tree,
    /// What the last entry of each directory says: an archive may name one several times.
    directories: BTreeMap<PathBuf, (Place, Entry)>,
    faults: Vec<Fault>,
}

impl Check {
    fn entries(&mut self, rebuild: &mut Rebuild) -> Result<(), Box<dyn std::error::Error>> {
        let mut archive = Archive::new(BufReader::with_capacity(BUFFER_BYTES, rebuild));
        while let Some(entry) = archive.next_entry()? {
            self.entry(entry);
        }
        // To the end, where the digest is compared.
        io::copy(&mut archive.into_source(), &mut io::sink())?;
        for (place, entry) in std::mem::take(&mut self.directories).into_values() {
            self.compare(&place, &entry);
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) {
        let end = entry.path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let trimmed = entry.path.get(..end).unwrap_or_default();
        let name = trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if name.starts_with(META_PREFIX) {
            return;
        }
        let hidden = name.strip_prefix(WHITEOUT_PREFIX);
        let path = match hidden {
            Some(hidden) => {
                let parent = trimmed.get(..trimmed.len() - name.len()).unwrap_or_default();
                [parent, hidden].concat()
            }
            None => entry.path.clone(),
        };
        let place = match self.tree.place(&path, Missing::Refuse) {
            Ok(Some(place)) => place,
            // The root's own entry.
            Ok(None) => return,
            Err(_not_reachable) => return self.fault(Path::new(&display(&path)), "is missing"),
        };
        if hidden.is_some() {
            if self.stat(&place).is_none() {
                self.fault(&place.path, "is missing: it hides a file of a layer below");
            }
        } else if entry.kind == Kind::Directory {
            self.directories.insert(place.path.clone(), (place, entry));
        } else {
            self.compare(&place, &entry);
        }
    }

    fn compare(&mut self, place: &Place, entry: &Entry) {
        let Some(stat) = self.stat(place) else { return self.fault(&place.path, "is missing") };
        if let Kind::HardLink { target } = &entry.kind {
            let target = self.tree.place(target, Missing::Refuse).ok().flatten();
            let target = target.and_then(|target| self.stat(&target));
            if target.is_none_or(|target| target.st_ino != stat.st_ino) {
                self.fault(&place.path, "is not the hard link that it was");
            }
            return;
        }
        let same_kind = match &entry.kind {
            Kind::Regular { .. } | Kind::Sparse { .. } => FileType::RegularFile,
            Kind::Symlink { .. } => FileType::Symlink,
            Kind::CharDevice { .. } => FileType::CharacterDevice,
            Kind::BlockDevice { .. } => FileType::BlockDevice,
            Kind::Directory => FileType::Directory,
            Kind::Fifo | Kind::HardLink { .. } => FileType::Fifo,
        };
        if FileType::from_raw_mode(stat.st_mode) != same_kind {
            return self.fault(&place.path, "is of another kind");
        }
        let owner = (u64::from(stat.st_uid), u64::from(stat.st_gid));
        if owner != (entry.uid, entry.gid) {
            self.fault(&place.path, "has another owner");
        }
        let is_link = same_kind == FileType::Symlink;
        if !is_link && stat.st_mode & 0o7777 != entry.mode {
            self.fault(&place.path, "has another mode");
        }
        if stat.st_mtime != entry.mtime.seconds {
            self.fault(&place.path, "has another modification time");
        }
        match &entry.kind {
            Kind::Regular { bytes } | Kind::Sparse { bytes, .. }
                if u64::try_from(stat.st_size).ok() != Some(*bytes) =>
            {
                self.fault(&place.path, "has another length");
            }
            Kind::Symlink { target } => {
                let found = readlinkat(&place.directory, &place.name, Vec::new());
                if found.map(std::ffi::CString::into_bytes) != Ok(target.clone()) {
                    self.fault(&place.path, "leads elsewhere");
                }
            }
            Kind::CharDevice { major: one, minor: two }
            | Kind::BlockDevice { major: one, minor: two } => {
                let found = (major(stat.st_rdev), minor(stat.st_rdev));
                if (u64::from(found.0), u64::from(found.1)) != (*one, *two) {
                    self.fault(&place.path, "is another device");
                }
            }
            _ => {}
        }
        self.compare_xattrs(place, entry);
    }

    fn compare_xattrs(&mut self, place: &Place, entry: &Entry) {
        for (name, value) in &entry.xattrs {
            if RESERVED_XATTRS.iter().any(|reserved| name.starts_with(reserved)) {
                continue;
            }
            let mut found = vec![0; XATTR_MAX];
            let read = lgetxattr(proc_path(place), name.as_slice(), found.as_mut_slice());
            let same = match read {
                Ok(length) => found.get(..length) == Some(value.as_slice()),
                // What could not be set is not missed.
                Err(Errno::OPNOTSUPP | Errno::PERM) => true,
                Err(Errno::NODATA) => !matches!(
                    entry.kind,
                    Kind::Regular { .. } | Kind::Sparse { .. } | Kind::Directory
                ),
                Err(_) => false,
            };
            if !same {
                let name = std::ffi::OsStr::from_bytes(name).to_string_lossy().into_owned();
                self.fault(&place.path, &format!("has another extended attribute {name}"));
            }
        }
    }

    fn stat(&self, place: &Place) -> Option<Stat> {
        statat(&place.directory, &place.name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    fn fault(&mut self, path: &Path, what: &str) {
        self.faults.push(Fault { path: path.to_owned(), what: what.to_owned() });
    }
}
