//! A disk that loses its power: what it has acknowledged and not flushed is kept or not.
//!
//! ```text
//! ext4 ── loop device ── FUSE ── Disk: platter (flushed) + cache (written since, in order)
//! ```
//! The disk is a file of a FUSE file system of our own, so each write and each flush that the kernel sends
//! to the loop device arrives here. A flush moves the cache to the platter. At a cut the platter
//! stays, and of the cache nothing, everything, all up to some moment, or any of the blocks: what
//! a disk may do that writes its cache back in the order it likes. A block of 4 KiB is written
//! whole or not at all. Linux has dm-log-writes for this, but not every kernel is built with it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::mount::{UnmountFlags, unmount};

use crate::chance::Chance;
use crate::process::output;

const BLOCK_BYTES: usize = 4096;
const NAME: &str = "disk";
const FILE: INodeNo = INodeNo(2);
const KEEP: Duration = Duration::from_secs(3600);
/// How long the loop device may hold the file after the file system on it is unmounted.
const RELEASE: Duration = Duration::from_secs(10);

type Block = Arc<[u8]>;

/// What is on the disk while it has no power.
#[derive(Clone, Debug, Default)]
pub struct Platter(HashMap<u64, Block>);

/// What became of the cache at a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Blocks that were acknowledged and not flushed.
    pub unflushed: usize,
    /// Those of them that are on the platter all the same.
    pub kept: usize,
}

/// A disk with power.
#[derive(Debug)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    directory: PathBuf,
    session: Option<BackgroundSession>,
}

/// A file system of a disk, unmounted when dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

#[derive(Debug, Default)]
struct State {
    platter: HashMap<u64, Block>,
    /// In the order in which they were written.
    cache: Vec<(u64, Block)>,
    /// The last one of each block in the cache.
    latest: HashMap<u64, Block>,
}

impl Disk {
    /// Gives power to a disk of `bytes`, which is a file in `directory` then.
    ///
    /// # Errors
    /// If there is no FUSE.
    pub fn start(platter: Platter, bytes: u64, directory: &Path) -> Result<Self> {
        let state = Arc::new(Mutex::new(State { platter: platter.0, ..State::default() }));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("orlop-e2e-disk".to_owned())];
        let files = Files { state: Arc::clone(&state), bytes };
        let session = fuser::spawn_mount(files, directory, &config)
            .with_context(|| format!("mount a disk at {}", directory.display()))?;
        Ok(Self { state, directory: directory.to_owned(), session: Some(session) })
    }

    /// The disk as a file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    /// Makes a file system on it.
    ///
    /// # Errors
    /// If the tool fails.
    pub fn format(&self) -> Result<()> {
        let file = self.file();
        let options = ["-q", "-F", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0"];
        output("mkfs.ext4", &[&options[..], &[&file.to_string_lossy()]].concat()).map(drop)
    }

    /// Mounts its file system, with a loop device that goes when it is unmounted.
    ///
    /// # Errors
    /// If the kernel finds no file system that it can use.
    pub fn mount(&self, place: &Path) -> Result<Mounted> {
        let (file, place) = (self.file(), place.to_owned());
        let words = ["-t", "ext4", "-o", "loop,errors=remount-ro"];
        let ends = [file.to_string_lossy(), place.to_string_lossy()];
        output("mount", &[&words[..], &[&ends[0], &ends[1]]].concat())?;
        Ok(Mounted(place))
    }

    /// Holds the whole file system, which is not mounted, against its own rules.
    ///
    /// # Errors
    /// If something is wrong with it.
    pub fn check(&self) -> Result<()> {
        output("e2fsck", &["-f", "-n", &self.file().to_string_lossy()]).map(drop)
    }

    /// How many blocks were written and not flushed.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        lock(&self.state).cache.len()
    }

    /// What would be on the platter if the power went now. Whoever uses the disk may go on, to
    /// no avail.
    #[must_use]
    pub fn cut(&self, chance: &mut Chance) -> (Platter, Cut) {
        let (mut platter, cache) = {
            let state = lock(&self.state);
            (state.platter.clone(), state.cache.clone())
        };
        let unflushed = cache.len();
        let up_to = match chance.below(4) {
            0 => 0,
            1 => unflushed,
            _ => usize::try_from(chance.below(unflushed as u64 + 1)).unwrap_or(unflushed),
        };
        let any_order = chance.percent(50);
        let percent = if any_order { chance.below(101) } else { 100 };
        let survivors = cache.into_iter().take(if any_order { unflushed } else { up_to });
        let survivors: Vec<_> = survivors.filter(|_| chance.percent(percent)).collect();
        let kept = survivors.len();
        platter.extend(survivors);
        (Platter(platter), Cut { unflushed, kept })
    }
}

impl Drop for Disk {
    /// The loop device lets go of the file a moment after it is unmounted.
    fn drop(&mut self) {
        let deadline = Instant::now() + RELEASE;
        while unmount(&self.directory, UnmountFlags::empty()) == Err(rustix::io::Errno::BUSY)
            && Instant::now() < deadline
        {
            sleep(Duration::from_millis(5));
        }
        drop(self.session.take());
    }
}

impl Mounted {
    /// Unmounts it, which on a disk that has power flushes everything.
    ///
    /// # Errors
    /// If somebody still uses it.
    pub fn unmount(self) -> Result<()> {
        let deadline = Instant::now() + RELEASE;
        loop {
            match unmount(&self.0, UnmountFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(5));
                }
                Err(error) => bail!("unmount {}: {error}", self.0.display()),
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone_already = unmount(&self.0, UnmountFlags::DETACH);
    }
}

impl State {
    fn block(&self, number: u64) -> Option<&Block> {
        self.latest.get(&number).or_else(|| self.platter.get(&number))
    }

    fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut read = Vec::with_capacity(bytes);
        while read.len() < bytes {
            let (number, from) = place(offset + read.len() as u64);
            let step = (BLOCK_BYTES - from).min(bytes - read.len());
            match self.block(number) {
                Some(block) => read.extend_from_slice(&block[from..from + step]),
                None => read.resize(read.len() + step, 0),
            }
        }
        read
    }

    fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        let mut at = offset;
        while !bytes.is_empty() {
            let (number, from) = place(at);
            let (now, rest) = bytes.split_at((BLOCK_BYTES - from).min(bytes.len()));
            let mut whole =
                self.block(number).map_or_else(|| vec![0; BLOCK_BYTES], |it| it.to_vec());
            whole[from..from + now.len()].copy_from_slice(now);
            let whole = Block::from(whole);
            self.latest.insert(number, Arc::clone(&whole));
            self.cache.push((number, whole));
            at += now.len() as u64;
            bytes = rest;
        }
    }

    fn flush(&mut self) {
        self.cache.clear();
        self.platter.extend(self.latest.drain());
    }
}

/// The number of the block, and where in it.
fn place(offset: u64) -> (u64, usize) {
    let block = BLOCK_BYTES as u64;
    (offset / block, usize::try_from(offset % block).unwrap_or_default())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file system that has the disk as its only file.
struct Files {
    state: Arc<Mutex<State>>,
    bytes: u64,
}

impl Files {
    fn attributes(&self, node: INodeNo) -> FileAttr {
        let (kind, perm, size) = match node {
            FILE => (FileType::RegularFile, 0o600, self.bytes),
            _ => (FileType::Directory, 0o700, 0),
        };
        FileAttr {
            ino: node,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&KEEP, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KEEP, &self.attributes(node));
    }

    // Times are what is set; the size stays.
    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&KEEP, &self.attributes(node));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = u64::from(size).min(self.bytes.saturating_sub(offset));
        reply.data(&lock(&self.state).read(offset, usize::try_from(bytes).unwrap_or_default()));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        lock(&self.state).write(offset, data);
        reply.written(u32::try_from(data.len()).unwrap_or_default());
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        lock(&self.state).flush();
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(directory: &Path, platter: Platter) -> Disk {
        Disk::start(platter, 64 << 20, directory).unwrap()
    }

    #[test]
    fn root_a_cut_takes_only_what_was_not_flushed() {
        use std::io::Write as _;

        crate::host::require_root().unwrap();
        let directories = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let [power, place, again] = directories.each_ref().map(tempfile::TempDir::path);
        let first = disk(power, Platter::default());
        first.format().unwrap();
        let mounted = first.mount(place).unwrap();
        let mut flushed = std::fs::File::create(place.join("flushed")).unwrap();
        flushed.write_all(b"kept").unwrap();
        flushed.sync_all().unwrap();
        drop(flushed);
        std::fs::File::open(place).unwrap().sync_all().unwrap();
        std::fs::write(place.join("not"), "lost").unwrap();
        let mut chance = Chance::new(1);
        let cuts: Vec<_> = (0..20).map(|_| first.cut(&mut chance)).collect();
        mounted.unmount().unwrap();
        drop(first);
        for (platter, _) in cuts {
            let disk = disk(again, platter);
            let mounted = disk.mount(place).unwrap();
            assert_eq!(std::fs::read(place.join("flushed")).unwrap(), b"kept");
            assert!(!place.join("not").exists(), "nobody asked for it to be written");
            mounted.unmount().unwrap();
            disk.check().unwrap();
        }
    }

    #[test]
    fn what_is_kept_of_the_cache_is_any_of_it() {
        let state = State::default();
        let disk = Disk {
            state: Arc::new(Mutex::new(state)),
            directory: "/nowhere".into(),
            session: None,
        };
        for number in 0..64 {
            lock(&disk.state).write(number * 4096 + 7, b"x");
        }
        let mut chance = Chance::new(2);
        let kept: std::collections::BTreeSet<_> =
            (0..200).map(|_| disk.cut(&mut chance).1.kept).collect();
        assert!(kept.contains(&0) && kept.contains(&64) && kept.len() > 20, "{kept:?}");
        lock(&disk.state).flush();
        let (platter, cut) = disk.cut(&mut chance);
        assert_eq!(cut, Cut { unflushed: 0, kept: 0 });
        assert_eq!(platter.0.len(), 64);
        assert_eq!(lock(&disk.state).read(4096 + 6, 3), b"\0x\0");
    }
}
