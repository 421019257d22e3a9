//! From diffIDs to a stack of layer directories, and the synthetic layer on top of some.
//!
//! A layer's archive may hold `a/b` without `a`. Unpacked without its parents it needs a
//! directory `a`, and overlayfs shows the owner and mode of the topmost `a`, which would be the
//! made-up one. So the unpacker reports such *implied* directories, and when an image is
//! committed each is looked up in the layers below. Where a real one looks different, the image
//! gets a synthetic layer on top that holds nothing but these directories, with the real
//! attributes; overlayfs merges their contents as before. Layers stay independent of their
//! parents, and stacks that need no synthetic layer, nearly all, have none.
//!
//! An implied directory that meets something else below, such as a link, hides it, as in other
//! engines that unpack layers on their own.
//!
//! A layer that occurs several times in an image is stacked once, where it is topmost: it hides
//! its lower self entirely, and overlayfs refuses the same directory twice.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{CStr, OsStr};
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};
use rustix::io::Errno;

use super::{LayerLease, ROOTFS_DIRECTORY, State, Store};
use crate::metadata::{Digest, LayerRow};

const OPAQUE: &str = "trusted.overlay.opaque";
const OVERLAY_XATTR: &[u8] = b"trusted.overlay.";
const XATTR_MAX: usize = 64 << 10;
/// What a directory is taken to occupy.
const DIRECTORY_BYTES: u64 = 4096;

/// The synthetic layer of a stack cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A layer is not, or no longer, on disk.
    #[error("layer {0} is not unpacked")]
    LayerMissing(Digest),
    /// A directory in a layer cannot be looked at.
    #[error("cannot look at {}", path.display())]
    Inspect {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A directory of the synthetic layer cannot be made.
    #[error("cannot make {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A layer of a stack, and the directories that it has without naming them.
struct StackLayer {
    path: PathBuf,
    implied: HashSet<PathBuf>,
}

/// The layers of a stack, top first.
struct Stack(Vec<StackLayer>);

/// Which layers a directory of the merged tree comes from.
struct Found {
    /// The topmost layer that has it.
    top: usize,
    /// The topmost layer that names it, if any.
    named: Option<usize>,
}

/// Writes the synthetic layer of a stack, if it needs one; or finds the one written before.
pub(super) fn write(
    store: &Arc<Store>,
    diff_ids: &[Digest],
) -> Result<Option<LayerLease>, StackError> {
    let key = key(diff_ids);
    let (stack, number) = {
        let mut state = store.state();
        if let Some(layer) = state.layers.get_mut(&key) {
            return Ok(Some(LayerLease::take(store, layer)));
        }
        let stack = Stack::of(store, &state, diff_ids)?;
        (stack, state.next_number())
    };
    let wrong = stack.wrong_directories()?;
    if wrong.is_empty() {
        return Ok(None);
    }
    let path = store.layer_path(number);
    let written = stack.write_right_ones(&wrong, &path);
    match written {
        Ok(inodes) => {
            let bytes = inodes * DIRECTORY_BYTES;
            let row = LayerRow { number, key, bytes, inodes, implied: Vec::new() };
            Ok(Some(store.add_pending(row)))
        }
        Err(error) => {
            store.discard_layer(number);
            Err(error)
        }
    }
}

impl Stack {
    fn of(store: &Store, state: &State, diff_ids: &[Digest]) -> Result<Self, StackError> {
        let layers = topmost(diff_ids).map(|diff_id| {
            let layer = state.layers.get(&diff_id.to_string());
            let row = &layer.ok_or_else(|| StackError::LayerMissing(diff_id.clone()))?.row;
            let implied = decode(&row.implied).collect();
            Ok(StackLayer { path: store.layer_root(row.number), implied })
        });
        layers.collect::<Result<_, _>>().map(Self)
    }

    /// The directories that the merged tree would show with made-up attributes.
    fn wrong_directories(&self) -> Result<Vec<PathBuf>, StackError> {
        let implied: BTreeSet<&PathBuf> =
            self.0.iter().flat_map(|layer| layer.implied.iter()).collect();
        let mut wrong = Vec::new();
        for path in implied {
            let Some(Found { top, named: Some(named) }) = self.find(path)? else { continue };
            if top != named && !self.looks_alike(path, top, named)? {
                wrong.push(path.clone());
            }
        }
        Ok(wrong)
    }

    /// Where a directory of the merged tree comes from; `None` when it shows no directory there.
    fn find(&self, path: &Path) -> Result<Option<Found>, StackError> {
        let mut top = None;
        for (index, layer) in self.0.iter().enumerate() {
            let (presence, below) = layer.look(path)?;
            if presence == Presence::Directory {
                let top = *top.get_or_insert(index);
                if !layer.implied.contains(path) {
                    return Ok(Some(Found { top, named: Some(index) }));
                }
            }
            if presence == Presence::Hidden || below == Below::Hidden {
                break;
            }
        }
        Ok(top.map(|top| Found { top, named: None }))
    }

    fn looks_alike(&self, path: &Path, one: usize, other: usize) -> Result<bool, StackError> {
        let attributes = |index: usize| -> Result<_, StackError> {
            let path = self.path(index, path);
            let inspect = || Ok((fs::symlink_metadata(&path)?, xattrs(&path)?));
            let (metadata, xattrs) =
                inspect().map_err(|source| StackError::Inspect { path: path.clone(), source })?;
            Ok((metadata.mode(), metadata.uid(), metadata.gid(), xattrs))
        };
        Ok(attributes(one)? == attributes(other)?)
    }

    fn path(&self, index: usize, path: &Path) -> PathBuf {
        self.0.get(index).map(|layer| layer.path.join(path)).unwrap_or_default()
    }

    /// Makes the wrong directories, and those on the way to them, as they should look.
    fn write_right_ones(&self, wrong: &[PathBuf], root: &Path) -> Result<u64, StackError> {
        let on_the_way = wrong.iter().flat_map(|path| path.ancestors());
        // Sorted, so parents come before what is in them.
        let all: BTreeSet<&Path> = on_the_way.collect();
        for path in &all {
            let Some(found) = self.find(path)? else { continue };
            let like = self.path(found.named.unwrap_or(found.top), path);
            let made = root.join(path);
            make_like(&made, &like).map_err(|source| StackError::Create { path: made, source })?;
        }
        // Making what is inside has changed the times.
        for path in all.iter().rev() {
            let Some(found) = self.find(path)? else { continue };
            let like = self.path(found.named.unwrap_or(found.top), path);
            let made = root.join(path);
            copy_time(&made, &like).map_err(|source| StackError::Create { path: made, source })?;
        }
        Ok(all.len() as u64)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Directory,
    Absent,
    /// Something that is no directory, here or on the way; nothing below shows.
    Hidden,
}

/// Whether the layers below show through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Below {
    Shows,
    Hidden,
}

impl StackLayer {
    fn look(&self, path: &Path) -> Result<(Presence, Below), StackError> {
        let mut below = Below::Shows;
        let mut current = self.path.clone();
        let names = path.iter().map(Some).chain([None]);
        for name in names {
            let inspect = || -> io::Result<Option<(Metadata, bool)>> {
                let Some(metadata) = unless_absent(fs::symlink_metadata(&current))? else {
                    return Ok(None);
                };
                let opaque = metadata.is_dir() && is_opaque(&current)?;
                Ok(Some((metadata, opaque)))
            };
            let found = inspect()
                .map_err(|source| StackError::Inspect { path: current.clone(), source })?;
            match found {
                None => return Ok((Presence::Absent, below)),
                Some((metadata, _)) if !metadata.is_dir() => {
                    return Ok((Presence::Hidden, Below::Hidden));
                }
                Some((_, true)) => below = Below::Hidden,
                Some((_, false)) => {}
            }
            if let Some(name) = name {
                current.push(name);
            }
        }
        Ok((Presence::Directory, below))
    }
}

fn make_like(path: &Path, like: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(like)?;
    DirBuilder::new().mode(ROOTFS_DIRECTORY).create(path)?;
    chown(path, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(path, metadata.permissions())?;
    for (name, value) in xattrs(like)? {
        lsetxattr(path, name.as_slice(), &value, XattrFlags::empty())?;
    }
    Ok(())
}

fn copy_time(path: &Path, like: &Path) -> io::Result<()> {
    let times = fs::FileTimes::new().set_modified(fs::symlink_metadata(like)?.modified()?);
    fs::File::open(path)?.set_times(times)
}

pub(super) fn is_opaque(path: &Path) -> io::Result<bool> {
    let mut value = [0; 1];
    match lgetxattr(path, OPAQUE, &mut value[..]) {
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// All extended attributes but those of overlayfs, in the order of their names.
pub(super) fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut buffer = vec![0; XATTR_MAX];
    let length = match llistxattr(path, buffer.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let names = buffer.get(..length).unwrap_or_default().split_inclusive(|byte| *byte == 0);
    let names = names.filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    let mut xattrs = names
        .map(CStr::to_bytes)
        .filter(|name| !name.starts_with(OVERLAY_XATTR))
        .map(|name| {
            let mut value = vec![0; XATTR_MAX];
            let length = lgetxattr(path, name, value.as_mut_slice())?;
            value.truncate(length);
            Ok((name.to_vec(), value))
        })
        .collect::<io::Result<Vec<_>>>()?;
    xattrs.sort_unstable();
    Ok(xattrs)
}

fn unless_absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the synthetic layer of a stack is found by.
pub(super) fn key(diff_ids: &[Digest]) -> String {
    let text: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
    format!("stack:{}", text.join(","))
}

/// The numbers of the layers, top first and the synthetic one included, or the layer that is
/// missing.
pub(super) fn numbers(state: &State, diff_ids: &[Digest]) -> Result<Vec<u64>, Digest> {
    let synthetic = state.layers.get(&key(diff_ids)).map(|layer| Ok(layer.row.number));
    let named = topmost(diff_ids).map(|diff_id| match state.layers.get(&diff_id.to_string()) {
        Some(layer) => Ok(layer.row.number),
        None => Err(diff_id.clone()),
    });
    synthetic.into_iter().chain(named).collect()
}

/// Each layer where it is topmost, top first.
fn topmost(diff_ids: &[Digest]) -> impl Iterator<Item = &Digest> {
    let mut seen = HashSet::new();
    diff_ids.iter().rev().filter(move |diff_id| seen.insert(*diff_id))
}

/// Paths end with a zero byte, which no path contains.
pub(super) fn encode(paths: &[PathBuf]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for path in paths {
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(0);
    }
    bytes
}

fn decode(bytes: &[u8]) -> impl Iterator<Item = PathBuf> {
    let paths = bytes.strip_suffix(&[0]).map(|paths| paths.split(|byte| *byte == 0));
    paths.into_iter().flatten().map(|path| PathBuf::from(OsStr::from_bytes(path)))
}
