//! The mounts of an OCI spec: sources opened on the host side, attached inside the root.
//!
//! Sources are opened **before** the process leaves the host's mount tree, as detached
//! copies ([`open_source`]); only descriptors cross over. Opening may hang for ever on a
//! dead network file system, which is why it happens in this process: the shim kills it
//! at its deadline and goes on.
//!
//! # References
//! - [OCI runtime spec, mounts](https://github.com/opencontainers/runtime-spec/blob/main/config.md#mounts)
//! - [open_tree(2)](https://man7.org/linux/man-pages/man2/open_tree.2.html)

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::images::{self, ImageError};
use super::options::{Bind, MountOptions, Propagation};
use super::target::{self, TargetKind};
use super::user_namespace::UserNamespace;
use crate::protocol::ImageMount;
use crate::sys::mount::{Depth, MountAttr, map_ids, mount_setattr};

/// The step of one mount that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum MountError {
    #[error("mount {}: its ids are mapped otherwise than the pod's", .0.display())]
    OtherIds(PathBuf),
    #[error("mount {}: map the ids of its source {}", destination.display(), source_path.display())]
    MapIds { destination: PathBuf, source_path: PathBuf, source: std::io::Error },
    #[error("make the mount source {}", .0.display())]
    MakeSource(PathBuf, #[source] std::io::Error),
    #[error("open the mount source {}", .0.display())]
    OpenSource(PathBuf, #[source] Errno),
    #[error(
        "mount {}: its source {} is not on a shared mount, so nothing can propagate",
        destination.display(), source_path.display()
    )]
    NotShared { destination: PathBuf, source_path: PathBuf },
    #[error("mount {}: make a {kind} file system", destination.display())]
    MakeFileSystem { destination: PathBuf, kind: String, source: Errno },
    #[error("mount {}: option {option}", destination.display())]
    Option { destination: PathBuf, option: String, source: Errno },
    #[error("mount {}: find or make the mount point", .0.display())]
    Target(PathBuf, #[source] Errno),
    #[error("mount {}: the mount point is a symbolic link", .0.display())]
    TargetIsLink(PathBuf),
    #[error("mount {}: set its attributes", .0.display())]
    Attributes(PathBuf, #[source] std::io::Error),
    #[error("mount {}: copy what the image has there", .0.display())]
    CopyUp(PathBuf, #[source] Errno),
    #[error("mount {}: give its root the SELinux label {}", .0.display(), .1)]
    Label(PathBuf, String, #[source] Errno),
    #[error("mount {}: attach it", .0.display())]
    Attach(PathBuf, #[source] Errno),
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// File systems of the container's own that label all of their files as their mount says.
const LABELLED: [&str; 2] = ["tmpfs", "devpts"];

/// One that does not, and whose root has a label like that of any directory.
const LABELLED_AT_ROOT: &str = "mqueue";

/// A mount whose source is open, ready to be attached inside the root.
#[derive(Debug)]
pub(super) struct Prepared {
    destination: PathBuf,
    kind: String,
    source: String,
    options: MountOptions,
    tree: Option<Tree>,
    /// The image that is the source.
    image: Option<ImageMount>,
    /// The SELinux context that its root is given.
    label: Option<String>,
}

/// A mount that is attached to nothing.
#[derive(Debug)]
enum Tree {
    /// A copy of the source of a bind mount, or an image.
    Bind(OwnedFd, TargetKind),
    /// What shows a namespace of the pod or of the container.
    OfNamespace(OwnedFd),
}

impl Prepared {
    /// Whether this is the place for the container's cgroups.
    pub(super) fn is_cgroup(&self) -> bool {
        self.kind == "cgroup"
    }

    /// Where it goes, inside the root.
    pub(super) fn destination(&self) -> &Path {
        &self.destination
    }

    /// `MOUNT_ATTR_*` that were asked for.
    pub(super) fn attributes(&self) -> u64 {
        self.options.attr.set | self.options.tree_attr.set
    }
}

impl Prepared {
    /// Makes the image that is meant, or the part of it. The process is in a private mount
    /// namespace and not inside the root yet; `attach_at` is hidden for an instant.
    pub(super) fn open_image(
        &mut self,
        attach_at: &Path,
        user_namespace: Option<&UserNamespace>,
    ) -> Result<(), MountError> {
        if let Some(image) = &self.image {
            let (tree, kind) = images::open(image, attach_at, user_namespace)?;
            self.tree = Some(Tree::Bind(tree, kind));
        }
        Ok(())
    }
}

/// Opens what `mount` needs of the host, but images. What shows a namespace is made at once:
/// in a user namespace that would need a namespace of processes of its own, and a host that
/// hides nothing. `label` is the SELinux context of files that belong to the container.
pub(super) fn open_source(
    mount: &Mount,
    images: &[ImageMount],
    user_namespace: Option<&UserNamespace>,
    label: Option<&str>,
) -> Result<Prepared, MountError> {
    let mut options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
    let kind = mount.typ().clone().unwrap_or_default();
    if let Some(label) = label.filter(|_| LABELLED.contains(&kind.as_str())) {
        options.settings.push(("context".to_owned(), label.to_owned()));
    }
    let source = mount.source().clone().unwrap_or_default();
    let destination = mount.destination().clone();
    let bind = options.bind.or((kind == "bind").then_some(Bind::One));
    let image = images.iter().find(|image| Path::new(&image.source) == source).cloned();
    let tree = match bind.filter(|_| image.is_none()) {
        Some(bind) => {
            let (tree, kind) = open_bind(&source, &destination, bind, &options)?;
            map_ids_of(mount, &source, &tree, user_namespace)?;
            Some(Tree::Bind(tree, kind))
        }
        None => None,
    };
    let source = source.to_string_lossy().into_owned();
    let label = label.filter(|_| kind == LABELLED_AT_ROOT).map(str::to_owned);
    let mut prepared = Prepared { destination, kind, source, options, tree, image, label };
    if matches!(prepared.kind.as_str(), "proc" | "sysfs") {
        prepared.tree = Some(Tree::OfNamespace(make_file_system(&prepared)?));
    }
    Ok(prepared)
}

/// Maps the ids of a whole copy if the spec says so; they are the pod's.
fn map_ids_of(
    mount: &Mount,
    source: &Path,
    tree: &OwnedFd,
    user_namespace: Option<&UserNamespace>,
) -> Result<(), MountError> {
    let ranges = (mount.uid_mappings(), mount.gid_mappings());
    if let (None, None) = ranges {
        return Ok(());
    }
    let destination = mount.destination().clone();
    let Some(user_namespace) = user_namespace.filter(|namespace| namespace.is_of(ranges)) else {
        return Err(MountError::OtherIds(destination));
    };
    map_ids(tree.as_fd(), Depth::Tree, user_namespace.as_fd()).map_err(|error| MountError::MapIds {
        destination,
        source_path: source.to_owned(),
        source: error,
    })
}

fn open_bind(
    source: &Path,
    destination: &Path,
    bind: Bind,
    options: &MountOptions,
) -> Result<(OwnedFd, TargetKind), MountError> {
    let failed = |errno| MountError::OpenSource(source.to_owned(), errno);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if bind == Bind::Tree {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = match rustix::mount::open_tree(CWD, source, flags) {
        // Both containerd and CRI-O make a missing source; kubelets rely on it.
        Err(Errno::NOENT) => {
            std::fs::create_dir_all(source)
                .map_err(|error| MountError::MakeSource(source.to_owned(), error))?;
            rustix::mount::open_tree(CWD, source, flags).map_err(failed)?
        }
        opened => opened.map_err(failed)?,
    };
    if let Some((Propagation::Shared | Propagation::Slave, _)) = options.propagation
        && !is_shared(source).map_err(failed)?
    {
        return Err(MountError::NotShared {
            destination: destination.to_owned(),
            source_path: source.to_owned(),
        });
    }
    let stat = rustix::fs::fstat(&tree).map_err(failed)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => TargetKind::Directory,
        _ => TargetKind::File,
    };
    Ok((tree, kind))
}

/// Whether the mount that holds `path` has peers or a master, so that propagation means
/// something: an `optional field` in its line of mountinfo, found by its mount id.
fn is_shared(path: &Path) -> Result<bool, Errno> {
    use rustix::fs::{AtFlags, StatxFlags};
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    let id = stat.stx_mnt_id.to_string();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Ok(table.lines().filter(|line| line.split(' ').next() == Some(&id)).any(|line| {
        line.split(' ')
            .skip(6)
            .take_while(|field| *field != "-")
            .any(|field| field.starts_with("shared:") || field.starts_with("master:"))
    }))
}

/// Attaches a prepared mount; the process is inside the root.
pub(super) fn attach(prepared: &Prepared) -> Result<(), MountError> {
    let destination = &prepared.destination;
    match &prepared.tree {
        Some(Tree::Bind(tree, kind)) => attach_bind(prepared, tree.as_fd(), *kind),
        // A link at /proc or /sys in the image would put them elsewhere, and leave what is
        // there unmasked.
        Some(Tree::OfNamespace(tree)) => {
            move_to(tree.as_fd(), &plain_directory(destination)?, destination)
        }
        None => attach_file_system(prepared),
    }
}

fn attach_bind(
    prepared: &Prepared,
    tree: BorrowedFd<'_>,
    kind: TargetKind,
) -> Result<(), MountError> {
    let destination = &prepared.destination;
    let options = &prepared.options;
    let set = |depth, attr: MountAttr| {
        if attr == MountAttr::default() {
            return Ok(());
        }
        mount_setattr(tree, c"", depth, attr)
            .map_err(|error| MountError::Attributes(destination.clone(), error))
    };
    // What is not asked for is private; the copy was born a peer of its source.
    let (propagation, depth) = options.propagation.unwrap_or((Propagation::Private, Depth::Tree));
    if propagation != Propagation::Shared {
        set(depth, MountAttr { propagation: propagation.flag(), ..MountAttr::default() })?;
    }
    set(Depth::One, options.attr)?;
    set(Depth::Tree, options.tree_attr)?;
    let target = target::open_or_make(destination, kind)
        .map_err(|errno| MountError::Target(destination.clone(), errno))?;
    move_to(tree, &target, destination)
}

fn attach_file_system(prepared: &Prepared) -> Result<(), MountError> {
    let destination = &prepared.destination;
    let target = target::open_or_make(destination, TargetKind::Directory)
        .map_err(|errno| MountError::Target(destination.clone(), errno))?;
    let mounted = make_file_system(prepared)?;
    if let Some(label) = &prepared.label {
        label_root(&mounted, label)
            .map_err(|errno| MountError::Label(destination.clone(), label.clone(), errno))?;
    }
    if prepared.options.copy_up {
        copy_up(&target, &mounted)
            .map_err(|errno| MountError::CopyUp(destination.clone(), errno))?;
    }
    move_to(mounted.as_fd(), &target, destination)
}

/// A file system of its own, attached to nothing.
fn make_file_system(prepared: &Prepared) -> Result<OwnedFd, MountError> {
    let Prepared { destination, kind, source, options, .. } = prepared;
    let failed = |source| MountError::MakeFileSystem {
        destination: destination.clone(),
        kind: kind.clone(),
        source,
    };
    let option = |option: &str, source| MountError::Option {
        destination: destination.clone(),
        option: option.to_owned(),
        source,
    };
    let context =
        rustix::mount::fsopen(kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    if !source.is_empty() {
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", source.as_str())
            .map_err(|errno| option("source", errno))?;
    }
    for (key, value) in &options.settings {
        rustix::mount::fsconfig_set_string(context.as_fd(), key.as_str(), value.as_str())
            .map_err(|errno| option(key, errno))?;
    }
    for flag in &options.flags {
        rustix::mount::fsconfig_set_flag(context.as_fd(), flag.as_str())
            .map_err(|errno| option(flag, errno))?;
    }
    rustix::mount::fsconfig_create(context.as_fd()).map_err(failed)?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(
            u32::try_from(options.attr.set | options.tree_attr.set).unwrap_or_default(),
        ),
    )
    .map_err(failed)
}

fn label_root(mounted: &OwnedFd, label: &str) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(mounted, ".", flags, Mode::empty())?;
    let value = [label.as_bytes(), b"\0"].concat();
    match rustix::fs::fsetxattr(&root, c"security.selinux", &value, XattrFlags::empty()) {
        // In a user namespace nobody may; what the policy says of the file system holds.
        Err(Errno::PERM) => Ok(()),
        set => set,
    }
}

fn plain_directory(destination: &Path) -> Result<OwnedFd, MountError> {
    let open = |path: &Path| match target::open_plain(path) {
        Err(Errno::LOOP | Errno::NOTDIR) => Err(MountError::TargetIsLink(path.to_owned())),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(MountError::Target(path.to_owned(), errno)),
        Ok(fd) => match rustix::fs::fstat(&fd) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Ok(Some(fd))
            }
            Ok(_) => Err(MountError::TargetIsLink(path.to_owned())),
            Err(errno) => Err(MountError::Target(path.to_owned(), errno)),
        },
    };
    if let Some(fd) = open(destination)? {
        return Ok(fd);
    }
    rustix::fs::mkdirat(CWD, destination, Mode::from_raw_mode(0o755))
        .map_err(|errno| MountError::Target(destination.to_owned(), errno))?;
    open(destination)?.ok_or_else(|| MountError::Target(destination.to_owned(), Errno::NOENT))
}

/// Attaches a detached mount at an open mount point.
pub(super) fn move_to(
    mounted: BorrowedFd<'_>,
    target: &OwnedFd,
    destination: &Path,
) -> Result<(), MountError> {
    rustix::mount::move_mount(
        mounted,
        "",
        target.as_fd(),
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .map_err(|errno| MountError::Attach(destination.to_owned(), errno))
}

/// A tmpfs with `tmpcopyup` begins with the regular files and directories that the image
/// has there.
fn copy_up(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let from = rustix::fs::openat(
        from,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for entry in rustix::fs::Dir::read_from(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(&from, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode)?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let inner_from = rustix::fs::openat(&from, name, flags, Mode::empty())?;
                let inner_to = rustix::fs::openat(to, name, flags, Mode::empty())?;
                copy_up(&inner_from, &inner_to)?;
            }
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut source: std::fs::File =
                    rustix::fs::openat(&from, name, read, Mode::empty())?.into();
                let mut copy: std::fs::File = rustix::fs::openat(to, name, write, mode)?.into();
                std::io::copy(&mut source, &mut copy)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                rustix::fs::fchmod(&copy, mode)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&from, name, Vec::new())?;
                rustix::fs::symlinkat(target, to, name)?;
            }
            _ => continue,
        }
        rustix::fs::chownat(
            to,
            name,
            Some(rustix::fs::Uid::from_raw(stat.st_uid)),
            Some(rustix::fs::Gid::from_raw(stat.st_gid)),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    Ok(())
}
