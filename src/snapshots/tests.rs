//! The contract of the snapshotter, on real overlay mounts where the kernel has the last word.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use std::time::Duration;

use super::*;
use crate::metadata::{Algorithm, ImageRow, Pinning};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is true of one is true of the other.
const DRIVERS: [Driver; 2] = [Driver::Overlay, Driver::Native];

struct Fixture {
    root: tempfile::TempDir,
    driver: Driver,
    snapshots: Snapshots,
}

fn open(root: &Path, driver: Driver) -> Snapshots {
    let metadata = Arc::new(Metadata::open(root).unwrap());
    let config = Config { driver, remote: None };
    Snapshots::open_as(&root.join("snapshots"), metadata, config).unwrap()
}

fn digest(name: &str) -> Digest {
    let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    Digest::from_hex(Algorithm::Sha256, &format!("{hex:0<64}")).unwrap()
}

fn digests(names: &[&str]) -> Vec<Digest> {
    names.iter().map(|name| digest(name)).collect()
}

fn key(text: &str) -> SnapshotKey {
    SnapshotKey::parse(text).unwrap()
}

impl Fixture {
    fn new() -> Self {
        Self::with(Driver::Overlay)
    }

    fn with(driver: Driver) -> Self {
        let root = tempfile::tempdir().unwrap();
        let snapshots = open(root.path(), driver);
        Self { root, driver, snapshots }
    }

    /// Writes a layer; a name that ends with a slash is a directory.
    fn layer(&self, name: &str, files: &[(&str, &str)], implied: &[&str]) -> LayerLease {
        let Some(LayerSlot::Absent(writer)) = self.snapshots.try_layer(&digest(name)) else {
            panic!("{name} is there");
        };
        writer.create().unwrap();
        for (path, content) in files {
            let path = writer.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match *content {
                "/" => fs::create_dir_all(&path).unwrap(),
                "whiteout" => {
                    let made = rustix::fs::mknodat(
                        rustix::fs::CWD,
                        &path,
                        rustix::fs::FileType::CharacterDevice,
                        rustix::fs::Mode::empty(),
                        0,
                    );
                    made.unwrap();
                }
                content => fs::write(&path, content).unwrap(),
            }
        }
        let implied = implied.iter().map(PathBuf::from).collect();
        let usage = Usage { bytes: 100, inodes: 10 };
        writer.finish(LayerContents { usage, implied })
    }

    fn commit(&self, name: &str, layers: &[&str], leases: &[LayerLease]) {
        let image = ImageRow {
            id: digest(name),
            manifest: digest(name),
            layers: digests(layers),
            blobs: Vec::new(),
            config: Vec::new(),
            size: 1,
            pinned: Pinning::Unpinned,
            references: Vec::new(),
        };
        self.snapshots.commit_image(&image, leases).unwrap();
    }

    fn layers_on_disk(&self) -> usize {
        self.snapshots.wait_until_removed();
        fs::read_dir(self.root.path().join("snapshots/layers")).unwrap().count()
    }

    fn reopen(self) -> Self {
        let Self { root, driver, snapshots } = self;
        drop(snapshots);
        let snapshots = open(root.path(), driver);
        Self { root, driver, snapshots }
    }
}

#[tokio::test]
async fn one_writer_and_many_who_wait() {
    let fixture = Fixture::new();
    let LayerSlot::Absent(writer) = fixture.snapshots.layer(&digest("a")).await else { panic!() };
    assert!(fixture.snapshots.try_layer(&digest("a")).is_none());
    let waiter = tokio::spawn({
        let snapshots = fixture.snapshots.clone();
        async move { matches!(snapshots.layer(&digest("a")).await, LayerSlot::Absent(_)) }
    });
    tokio::task::yield_now().await;
    // The first one gives up; the right to write passes on.
    drop(writer);
    assert!(waiter.await.unwrap());

    let LayerSlot::Absent(writer) = fixture.snapshots.layer(&digest("a")).await else { panic!() };
    let waiter = tokio::spawn({
        let snapshots = fixture.snapshots.clone();
        async move { snapshots.layer(&digest("a")).await }
    });
    tokio::task::yield_now().await;
    writer.create().unwrap();
    let lease = writer.finish(LayerContents::default());
    let LayerSlot::Ready(second) = waiter.await.unwrap() else { panic!() };
    drop(lease);
    assert_eq!(fixture.layers_on_disk(), 1);
    drop(second);
    assert_eq!(fixture.layers_on_disk(), 0);
}

#[test]
fn uncommitted_layers_do_not_survive() {
    let fixture = Fixture::new();
    let kept = fixture.layer("kept", &[("f", "x")], &[]);
    fixture.commit("image", &["kept"], &[kept]);
    let path = fixture.snapshots.0.layer_path(77);
    fs::create_dir(&path).unwrap();
    let stray = fixture.root.path().join("snapshots/active/stray/upper");
    fs::create_dir_all(&stray).unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.layers_on_disk(), 1);
    assert!(!path.exists() && !stray.exists());
    assert!(fixture.snapshots.has_layers(&digests(&["kept"])));
    // Numbers are not used again.
    assert!(fixture.snapshots.0.state().next_number() > 77);
}

#[test]
fn a_row_without_its_directory_goes() {
    let fixture = Fixture::new();
    let lease = fixture.layer("lost", &[], &[]);
    let path = lease.path();
    fixture.commit("image", &["lost"], &[lease]);
    fs::remove_dir_all(path).unwrap();
    let fixture = fixture.reopen();
    assert!(!fixture.snapshots.has_layers(&digests(&["lost"])));
    let again = fixture.layer("lost", &[], &[]);
    fixture.commit("image", &["lost"], &[again]);
    assert!(fixture.reopen().snapshots.has_layers(&digests(&["lost"])));
}

#[test]
fn active_snapshots_come_back_and_go() {
    for driver in DRIVERS {
        let fixture = Fixture::with(driver);
        let leases = [fixture.layer("a", &[], &[]), fixture.layer("b", &[], &[])];
        fixture.commit("image", &["a", "b"], &leases);
        drop(leases);
        let layers = digests(&["a", "b"]);
        let active = fixture.snapshots.prepare(&key("c"), &layers).unwrap();
        let lower = active.lower.iter().map(|path| path.file_name().unwrap().to_owned());
        let expected: &[&str] = if driver == Driver::Overlay { &["2", "1"] } else { &[] };
        assert_eq!(lower.collect::<Vec<_>>(), expected);
        assert_eq!(fixture.snapshots.prepare(&key("c"), &layers).unwrap(), active);
        let conflict = fixture.snapshots.prepare(&key("c"), &layers[..1]);
        assert!(matches!(conflict, Err(ActiveError::Conflict(_))));
        let missing = fixture.snapshots.prepare(&key("d"), &digests(&["no"]));
        assert!(matches!(missing, Err(ActiveError::LayerMissing { .. })));
        let scratch = fixture.snapshots.prepare(&key("scratch"), &[]).unwrap();
        assert_eq!(scratch.lower.len(), usize::from(driver == Driver::Overlay));

        let fixture = fixture.reopen();
        assert_eq!(fixture.snapshots.active(&key("c")), Some(active.clone()));
        assert_eq!(fixture.snapshots.keys(), [key("c"), key("scratch")]);
        assert_eq!(fixture.snapshots.collect(std::iter::empty()).unwrap().len(), 0);
        for _ in 0..2 {
            fixture.snapshots.remove(&key("c")).unwrap();
        }
        assert_eq!(fixture.snapshots.active(&key("c")), None);
        assert!(!active.upper.exists());
        assert_eq!(fixture.snapshots.collect(std::iter::empty()).unwrap().len(), 2);
        assert_eq!(fixture.layers_on_disk(), 0);
        assert_eq!(fixture.reopen().snapshots.keys(), [key("scratch")]);
    }
}

/// After each step of preparing and removing, as if the daemon had died there.
#[test]
fn half_made_snapshots_are_completed_or_removed() {
    for driver in DRIVERS {
        let fixture = Fixture::with(driver);
        fixture.snapshots.prepare(&key("k"), &[]).unwrap();
        let path = fixture.root.path().join("snapshots/active/k");
        let states: [&[&str]; 3] = [&[], &["upper"], &["upper", "work"]];
        for present in states {
            fs::remove_dir_all(&path).ok();
            for name in present {
                fs::create_dir_all(path.join(name)).unwrap();
            }
            assert_eq!(fixture.snapshots.active(&key("k")).is_some(), present.len() == 2);
            fixture.snapshots.prepare(&key("k"), &[]).unwrap();
            assert!(fixture.snapshots.active(&key("k")).is_some());
            for name in ["work", "upper"].iter().filter(|name| !present.contains(name)) {
                fs::remove_dir_all(path.join(name)).unwrap();
            }
            fixture.snapshots.remove(&key("k")).unwrap();
            assert!(!path.exists() && fixture.snapshots.keys().is_empty());
            fixture.snapshots.prepare(&key("k"), &[]).unwrap();
        }
    }
}

#[tokio::test]
async fn usage_counts_what_was_written() {
    let fixture = Fixture::new();
    let lease = fixture.layer("a", &[], &[]);
    assert_eq!(fixture.snapshots.layer_usage(), Usage { bytes: 100, inodes: 10 });
    let active = fixture.snapshots.prepare(&key("k"), &digests(&["a"])).unwrap();
    let empty = fixture.snapshots.usage(&key("k")).unwrap().unwrap();
    fs::write(active.upper.join("file"), vec![1; 100_000]).unwrap();
    fs::hard_link(active.upper.join("file"), active.upper.join("link")).unwrap();
    assert_eq!(fixture.snapshots.active_usage(), empty);
    fixture.snapshots.freshen_usage(Duration::MAX, PATIENCE).await;
    assert_eq!(fixture.snapshots.active_usage(), empty, "it was measured before");
    let deadline = Instant::now() + PATIENCE;
    while fixture.snapshots.active_usage() == empty {
        // What was measured at this very moment is not measured again at once.
        assert!(Instant::now() < deadline);
        fixture.snapshots.refresh_usage(Duration::ZERO).await.unwrap();
    }
    let full = fixture.snapshots.active_usage();
    assert_eq!(full.inodes, empty.inodes + 1);
    assert!((100_000..120_000).contains(&(full.bytes - empty.bytes)));
    assert_eq!(fixture.snapshots.usage(&key("other")).unwrap(), None);
    drop(lease);
}

#[tokio::test]
async fn only_new_snapshots_are_measured_on_request() {
    let fixture = Fixture::new();
    let lease = fixture.layer("a", &[], &[]);
    fixture.snapshots.prepare(&key("k"), &digests(&["a"])).unwrap();
    assert!(fixture.snapshots.measured(&key("k")).is_none());
    fixture.snapshots.freshen_usage(Duration::MAX, PATIENCE).await;
    let first = fixture.snapshots.measured(&key("k")).unwrap();
    fixture.snapshots.freshen_usage(Duration::MAX, PATIENCE).await;
    assert_eq!(fixture.snapshots.measured(&key("k")).unwrap().at, first.at);
    // It was asked for, so that it is wanted; had it not been, this would wait.
    let wanted = fixture.snapshots.usage_wanted(PATIENCE);
    tokio::time::timeout(PATIENCE, wanted).await.unwrap();
    drop(lease);
}

#[tokio::test]
async fn nothing_is_wanted_while_nobody_asks() {
    let fixture = Fixture::new();
    let wanted = fixture.snapshots.usage_wanted(PATIENCE);
    let waited = tokio::time::timeout(Duration::from_millis(20), wanted).await;
    assert!(waited.is_err(), "nobody has asked");
}

/// Other users of the machine can neither list nor run what is in here.
#[test]
fn directories_are_private() {
    let fixture = Fixture::new();
    fixture.snapshots.prepare(&key("k"), &[]).unwrap();
    let private = ["snapshots", "snapshots/layers", "snapshots/active", "snapshots/active/k"];
    for name in private {
        let mode = fs::metadata(fixture.root.path().join(name)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700, "{name}");
    }
}

#[test]
fn paths_fit_into_mount_options() {
    let long = tempfile::tempdir().unwrap();
    let metadata = Arc::new(Metadata::open(long.path()).unwrap());
    let path = long.path().join("x".repeat(120));
    assert!(matches!(Snapshots::open(&path, metadata), Err(OpenError::PathTooLong(_))));
    let fixture = Fixture::new();
    let base = fixture.snapshots.directory().as_os_str().len();
    let active = fixture.snapshots.prepare(&key(&"k".repeat(128)), &[]).unwrap();
    assert!(active.upper.as_os_str().len() - base + DIRECTORY_MAX <= OPTION_MAX);
    for bad in ["", ".", "..", "a/b", "a b", "a\n", &"k".repeat(129)] {
        assert!(SnapshotKey::parse(bad).is_err(), "{bad:?}");
    }
}

fn read(view: &View, path: &str) -> Option<String> {
    let content = read_in_root(view, Path::new(path), 1000).unwrap();
    content.map(|content| String::from_utf8(content).unwrap())
}

#[test]
fn root_views_show_the_merged_tree() {
    for driver in DRIVERS {
        let fixture = Fixture::with(driver);
        let leases = [
            fixture.layer("a", &[("etc/passwd", "root"), ("gone", "x"), ("d/f", "lower")], &[]),
            fixture.layer("b", &[("gone", "whiteout"), ("d/g", "upper")], &[]),
        ];
        let view = fixture.snapshots.view(&digests(&["a", "b", "a", "b"])).unwrap();
        assert_eq!(read(&view, "etc/passwd").as_deref(), Some("root"));
        assert_eq!(read(&view, "/etc/../etc/passwd").as_deref(), Some("root"));
        assert_eq!(read(&view, "gone"), None);
        assert_eq!(read(&view, "d/f").as_deref(), Some("lower"));
        assert_eq!(read(&view, "d/g").as_deref(), Some("upper"));
        drop(leases);
        // The view keeps its layers, and its copy if it has one, and is a mount of nobody.
        assert_eq!(fixture.layers_on_disk(), 2 + usize::from(driver == Driver::Native));
        assert_eq!(read(&view, "d/g").as_deref(), Some("upper"));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(fixture.root.path().to_str().unwrap()));
        drop(view);
        assert_eq!(fixture.layers_on_disk(), 0);

        let single = fixture.layer("w", &[("x", "whiteout"), ("y", "y")], &[]);
        let view = fixture.snapshots.view(&digests(&["w"])).unwrap();
        assert_eq!((read(&view, "x"), read(&view, "y").as_deref()), (None, Some("y")));
        drop(single);
        let nothing = fixture.snapshots.view(&[]).unwrap();
        assert_eq!(read(&nothing, "x"), None);
        assert!(matches!(
            fixture.snapshots.view(&digests(&["no"])),
            Err(ViewError::LayerMissing(_))
        ));
    }
}

#[test]
fn root_reading_stays_inside_and_bounded() {
    for driver in DRIVERS {
        use std::os::unix::fs::symlink;
        let fixture = Fixture::with(driver);
        let lease =
            fixture.layer("a", &[("etc/passwd", "inside"), ("big", &"x".repeat(1001))], &[]);
        let root = lease.path();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        symlink("../../../../etc/passwd", root.join("climbing")).unwrap();
        symlink("/proc/self/root/etc/passwd", root.join("magic")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let made = std::process::Command::new("sh")
            .arg("-c")
            .arg("mkfifo fifo; mknod null c 1 3; mknod console c 5 1")
            .current_dir(&root)
            .status();
        assert!(made.unwrap().success());
        let view = fixture.snapshots.view(&digests(&["a"])).unwrap();
        assert_eq!(read(&view, "absolute").as_deref(), Some("inside"));
        assert_eq!(read(&view, "climbing").as_deref(), Some("inside"));
        assert_eq!(read(&view, "../../etc/passwd").as_deref(), Some("inside"));
        assert_eq!(read(&view, "magic"), None);
        assert_eq!(read(&view, "etc/passwd/x"), None);
        let refused = |path: &str| read_in_root(&view, Path::new(path), 1000).unwrap_err();
        assert!(matches!(refused("loop"), ReadError::Open { .. }));
        assert!(matches!(refused("big"), ReadError::TooLarge { limit: 1000, .. }));
        for path in ["fifo", "null", "console", "etc", "."] {
            assert!(matches!(refused(path), ReadError::NotRegular(_)), "{path}");
        }
    }
}

fn paint(path: &Path, mode: u32, owner: u32) {
    chown(path, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn look(view: &View, path: &str) -> (u32, u32) {
    let stat = rustix::fs::statat(view, path, rustix::fs::AtFlags::empty()).unwrap();
    (stat.st_mode & 0o7777, stat.st_uid)
}

#[test]
fn root_implied_directories_look_like_the_real_ones() {
    for driver in DRIVERS {
        let fixture = Fixture::with(driver);
        let base = fixture.layer(
            "base",
            &[
                ("tmp/x", "1"),
                ("home/user/.ssh/id", "2"),
                ("gone/f", "3"),
                ("opaque/f", "4"),
                ("same/f", "5"),
            ],
            &[],
        );
        paint(&base.path(), 0o555, 3);
        paint(&base.path().join("tmp"), 0o1777, 0);
        paint(&base.path().join("home/user"), 0o700, 1000);
        paint(&base.path().join("home/user/.ssh"), 0o711, 1000);
        paint(&base.path().join("gone"), 0o711, 5);
        paint(&base.path().join("opaque"), 0o711, 6);
        let xattr = rustix::fs::setxattr(
            base.path().join("tmp"),
            "user.note",
            b"kept",
            rustix::fs::XattrFlags::empty(),
        );
        xattr.unwrap();
        let middle = fixture.layer("middle", &[("gone", "whiteout")], &[""]);
        let top = fixture.layer(
            "top",
            &[
                ("tmp/y", "6"),
                ("home/user/.ssh/key", "7"),
                ("gone/new", "8"),
                ("opaque/new", "9"),
                ("same/new", "10"),
            ],
            &["", "tmp", "home", "home/user", "home/user/.ssh", "gone", "opaque", "same"],
        );
        let opaque = top.path().join("opaque");
        rustix::fs::setxattr(
            &opaque,
            "trusted.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        let names = ["base", "middle", "top"];
        fixture.commit("image", &names, &[base, middle, top]);
        assert_eq!(fixture.layers_on_disk(), 4);

        let check = |fixture: &Fixture| {
            let view = fixture.snapshots.view(&digests(&names)).unwrap();
            assert_eq!(look(&view, "."), (0o555, 3));
            assert_eq!(look(&view, "tmp"), (0o1777, 0));
            assert_eq!(look(&view, "home"), (0o755, 0));
            assert_eq!(look(&view, "home/user"), (0o700, 1000));
            assert_eq!(look(&view, "home/user/.ssh"), (0o711, 1000));
            // What was deleted in between does not come back, nor does its owner.
            assert_eq!(look(&view, "gone"), (0o755, 0));
            assert_eq!(look(&view, "opaque"), (0o755, 0));
            assert_eq!((read(&view, "gone/f"), read(&view, "opaque/f")), (None, None));
            for (path, content) in [
                ("tmp/x", "1"),
                ("tmp/y", "6"),
                ("home/user/.ssh/id", "2"),
                ("home/user/.ssh/key", "7"),
                ("gone/new", "8"),
                ("opaque/new", "9"),
                ("same/f", "5"),
                ("same/new", "10"),
            ] {
                assert_eq!(read(&view, path).as_deref(), Some(content), "{path}");
            }
            let active = fixture.snapshots.prepare(&key("k"), &digests(&names)).unwrap();
            let upper = fs::metadata(&active.upper).unwrap();
            assert_eq!((upper.mode() & 0o7777, upper.uid()), (0o555, 3));
            let top = active.lower.first().unwrap_or(&active.upper);
            let mut note = [0; 10];
            assert_eq!(rustix::fs::getxattr(top.join("tmp"), "user.note", &mut note[..]), Ok(4));
            // The synthetic layer has no more than it must.
            assert_eq!(top.join("same").exists(), driver == Driver::Native);
        };
        check(&fixture);
        let fixture = fixture.reopen();
        check(&fixture);
        // It goes with its image, like any layer.
        fixture.snapshots.remove(&key("k")).unwrap();
        let layers = digests(&names);
        assert_eq!(fixture.snapshots.collect([layers.as_slice()].into_iter()).unwrap().len(), 0);
        assert_eq!(fixture.snapshots.collect([&layers[..1]].into_iter()).unwrap().len(), 3);
        assert_eq!(fixture.layers_on_disk(), 1);
    }
}

#[test]
fn root_stacks_that_look_right_need_nothing() {
    let fixture = Fixture::new();
    let base = fixture.layer("base", &[("a/b/f", "1")], &[]);
    let top = fixture.layer("top", &[("a/b/g", "2"), ("c/h", "3")], &["", "a", "a/b", "c"]);
    fixture.commit("image", &["base", "top"], &[base, top]);
    assert_eq!(fixture.layers_on_disk(), 2);
}

fn mount_overlay(fixture: &Fixture, active: &Active) -> PathBuf {
    use rustix::mount::{MountFlags, mount};
    let merged = fixture.root.path().join("merged");
    fs::create_dir(&merged).unwrap();
    let lower = active.lower.iter().map(|path| path.to_str().unwrap());
    let lower: Vec<&str> = lower.collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        active.upper.display(),
        active.work.display()
    );
    let options = std::ffi::CString::new(options).unwrap();
    mount("overlay", &merged, "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
    merged
}

/// What an archive has by its names: kind, mode, where a link leads, content, attributes.
fn entries(archive: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(archive);
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let (kind, mode) = (entry.header().entry_type(), entry.header().mode().unwrap());
        let mut said = format!("{kind:?} {:o}", mode & 0o7777);
        if let Some(target) = entry.link_name().unwrap() {
            said += &format!(" -> {}", target.display());
        }
        for extension in entry.pax_extensions().unwrap().into_iter().flatten() {
            let extension = extension.unwrap();
            said += &format!(" {}={}", extension.key().unwrap(), extension.value().unwrap());
        }
        let mut content = String::new();
        io::Read::read_to_string(&mut entry, &mut content).unwrap();
        if !content.is_empty() {
            said += &format!(" {content:?}");
        }
        assert_eq!(found.insert(name.clone(), said), None, "{name} is there twice");
    }
    found
}

#[test]
fn root_what_was_written_is_an_archive_in_the_form_of_layers() {
    for driver in DRIVERS {
        use std::os::unix::fs::symlink;

        use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
        use rustix::mount::{UnmountFlags, unmount};

        let fixture = Fixture::with(driver);
        let files = [("gone", "x"), ("d/below", "x"), ("again/below", "x"), ("changed", "before")];
        let lease = fixture.layer("a", &files, &[]);
        let active = fixture.snapshots.prepare(&key("c"), &digests(&["a"])).unwrap();
        let merged = match driver {
            Driver::Overlay => mount_overlay(&fixture, &active),
            Driver::Native => active.upper.clone(),
        };
        let at = |name: &str| merged.join(name);
        fs::remove_file(at("gone")).unwrap();
        fs::remove_dir_all(at("again")).unwrap();
        fs::create_dir(at("again")).unwrap();
        fs::write(at("again/new"), "n").unwrap();
        fs::remove_file(at("d/below")).unwrap();
        fs::write(at("changed"), "after").unwrap();
        setxattr(at("changed"), "user.note", b"kept", XattrFlags::empty()).unwrap();
        fs::hard_link(at("changed"), at("same")).unwrap();
        symlink("/etc/shadow", at("link")).unwrap();
        let long = "l".repeat(200);
        fs::write(at(&long), "").unwrap();
        fs::set_permissions(at(&long), fs::Permissions::from_mode(0o4711)).unwrap();
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
        mknodat(CWD, at("zero"), FileType::CharacterDevice, Mode::from(0o600), makedev(1, 5))
            .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        if driver == Driver::Overlay {
            unmount(&merged, UnmountFlags::DETACH).unwrap();
        }

        let mut archive = Vec::new();
        fixture.snapshots.write_diff(&key("c"), &mut archive).unwrap();
        let found = entries(&archive);
        let found: Vec<_> = found
            .iter()
            .map(|(name, said)| format!("{}: {said}", name.trim_end_matches('/')))
            .collect();
        let root = fs::metadata(&active.upper).unwrap().permissions().mode() & 0o7777;
        let expected = [
            format!(".: Directory {root:o}"),
            ".wh.gone: Regular 600".to_owned(),
            "again: Directory 755".to_owned(),
            // An overlay hides all that was there, a copy what is missing.
            match driver {
                Driver::Overlay => "again/.wh..wh..opq: Regular 600".to_owned(),
                Driver::Native => "again/.wh.below: Regular 600".to_owned(),
            },
            "again/new: Regular 644 \"n\"".to_owned(),
            "changed: Regular 644 SCHILY.xattr.user.note=kept \"after\"".to_owned(),
            "d: Directory 755".to_owned(),
            "d/.wh.below: Regular 600".to_owned(),
            "fifo: Fifo 600".to_owned(),
            "link: Symlink 777 -> /etc/shadow".to_owned(),
            format!("{long}: Regular 4711"),
            "same: Link 644 -> changed".to_owned(),
            "zero: Char 600".to_owned(),
        ];
        assert_eq!(found, expected);
        let missing = fixture.snapshots.write_diff(&key("other"), io::sink());
        assert!(matches!(missing, Err(DiffError::Missing(_))));
        drop(lease);
    }
}

/// Every kind of file, and every way of a layer to hide what is below it.
#[test]
fn root_a_copy_is_what_an_overlay_shows() {
    use std::os::unix::fs::{lchown, symlink};

    use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

    /// Everything about the files of a tree.
    fn list(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let full = root.join(&path);
            let it = fs::symlink_metadata(&full).unwrap();
            let content = if it.is_file() { fs::read(&full).unwrap() } else { Vec::new() };
            let target = fs::read_link(&full).unwrap_or_default();
            let links = if it.is_dir() { 0 } else { it.nlink() };
            let attributes = stack::xattrs(&full).unwrap();
            let times = (it.mtime(), it.mtime_nsec());
            found.push(format!(
                "{path:?} {:o} {}:{} {} {links} {times:?} {target:?} {content:?} {attributes:?}",
                it.mode(),
                it.uid(),
                it.gid(),
                it.rdev(),
            ));
            if it.is_dir() {
                let entries = fs::read_dir(&full).unwrap();
                pending.extend(entries.map(|entry| path.join(entry.unwrap().file_name())));
            }
        }
        found.sort();
        found
    }

    let shown = DRIVERS.map(|driver| {
        let fixture = Fixture::with(driver);
        let base = fixture.layer(
            "base",
            &[
                ("d/a", "1"),
                ("d/b", "2"),
                ("gone/x", "3"),
                ("opaque/x", "4"),
                ("kind/x", "5"),
                ("f", "6"),
            ],
            &[],
        );
        let at = |name: &str| base.path().join(name);
        symlink("/etc/shadow", at("link")).unwrap();
        lchown(at("link"), Some(7), Some(8)).unwrap();
        fs::hard_link(at("f"), at("same")).unwrap();
        fs::set_permissions(at("f"), fs::Permissions::from_mode(0o4750)).unwrap();
        lsetxattr(at("f"), "user.note", b"kept", XattrFlags::empty()).unwrap();
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
        mknodat(CWD, at("zero"), FileType::CharacterDevice, Mode::from(0o606), makedev(1, 5))
            .unwrap();
        chown(at("d"), Some(1000), Some(1001)).unwrap();
        fs::set_permissions(at("d"), fs::Permissions::from_mode(0o2775)).unwrap();
        let files = [
            ("d/a", "whiteout"),
            ("d/c", "7"),
            ("gone", "whiteout"),
            ("opaque/y", "8"),
            ("kind", "9"),
            ("f2/z", "10"),
        ];
        let top = fixture.layer("top", &files, &[]);
        let opaque = top.path().join("opaque");
        lsetxattr(&opaque, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        for layer in [base.path(), top.path()] {
            let mut pending = vec![layer];
            while let Some(path) = pending.pop() {
                let it = fs::symlink_metadata(&path).unwrap();
                if it.is_dir() {
                    pending.extend(fs::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
                }
                let stamp = rustix::fs::Timespec { tv_sec: 1_000_000, tv_nsec: 5 };
                let times = rustix::fs::Timestamps { last_access: stamp, last_modification: stamp };
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(CWD, &path, &times, flags).unwrap();
            }
        }
        let active = fixture.snapshots.prepare(&key("c"), &digests(&["base", "top"])).unwrap();
        let listed = match driver {
            Driver::Overlay => {
                let merged = mount_overlay(&fixture, &active);
                let listed = list(&merged);
                rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH).unwrap();
                listed
            }
            Driver::Native => list(&active.upper),
        };
        drop((base, top));
        listed
    });
    let [overlay, native] = shown;
    // The root's own time is that of its making in an overlay's writable directory.
    let rest = |list: Vec<String>| list.into_iter().skip(1).collect::<Vec<_>>();
    assert_eq!(rest(overlay), rest(native));
}
