//! Every kind of entry, with everything that it can carry.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::Fixture;
use super::build::{Builder, Item};

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn root_regular_files_keep_everything() {
    let fixture = Fixture::new();
    // A version 2 capability set: cap_net_raw, effective. It has a newline in it.
    let capability =
        b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0a\x00\x00\x00\x00";
    let archive = Builder::default()
        .pax(&[
            ("mtime", b"-1.25"),
            ("uid", b"70000"),
            ("SCHILY.xattr.user.note", b"a\nb"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.redirect", b"/"),
        ])
        .item(Item::file(b"su", b"content").mode(0o4755).owner(1, 4_000_000_000))
        .end();
    let lease = fixture.unpack(&archive).unwrap();
    let path = lease.path().join("su");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"content");
    assert_eq!(metadata.mode() & 0o7777, 0o4755);
    assert_eq!((metadata.uid(), metadata.gid()), (70_000, 4_000_000_000));
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-2, 750_000_000));
    assert_eq!(xattr(&path, "user.note").unwrap(), b"a\nb");
    assert_eq!(xattr(&path, "security.capability").unwrap(), capability);
    assert_eq!(xattr(&path, "trusted.overlay.opaque"), None);
    assert_eq!(xattr(&path, "user.overlay.redirect"), None);
    // The root, the file, and the record.
    assert_eq!(lease.usage().inodes, 3);
    assert_eq!(lease.usage().bytes, 4096 + 4096);
}

#[test]
fn root_directories_are_finished_last() {
    let fixture = Fixture::new();
    let archive = Builder::default()
        .item(Item::directory(b"./").mode(0o555))
        .item(Item::directory(b"./d/").mode(0o1700).owner(5, 6))
        .item(Item::file(b"./d/f", b""))
        .item(Item::directory(b"d").mode(0o2711).owner(7, 8))
        .end();
    let lease = fixture.unpack(&archive).unwrap();
    let directory = fs::metadata(lease.path().join("d")).unwrap();
    assert_eq!(directory.mode() & 0o7777, 0o2711);
    assert_eq!((directory.uid(), directory.gid(), directory.mtime()), (7, 8, 1_000));
    assert!(lease.path().join("d/f").exists());
    assert_eq!(fs::metadata(lease.path()).unwrap().mode() & 0o7777, 0o555);
}

#[test]
fn root_links_devices_and_fifos() {
    let fixture = Fixture::new();
    let archive = Builder::default()
        .item(Item::file(b"dir/file", b"x").mode(0o600))
        .item(Item::link(b'1', b"hard", b"/dir/file").mode(0o777).owner(9, 9))
        .item(Item::link(b'2', b"soft", b"/etc/passwd").owner(3, 4))
        .item(Item::link(b'2', b"into", b"dir"))
        .item(Item::link(b'1', b"through", b"into/file"))
        .item(Item::link(b'1', b"softer", b"soft"))
        .item(Item::device(b'3', b"null", 1, 3).mode(0o666))
        .item(Item::device(b'4', b"disk", 259, 70_000).mode(0o660).owner(0, 6))
        .item(Item::new(b'6', b"fifo").mode(0o622))
        .item(Item::new(b'V', b"label"))
        .end();
    let lease = fixture.unpack(&archive).unwrap();
    let stat = |name: &str| fs::symlink_metadata(lease.path().join(name)).unwrap();
    let inode = stat("dir/file").ino();
    assert_eq!((stat("hard").ino(), stat("through").ino()), (inode, inode));
    assert_eq!((stat("hard").mode() & 0o7777, stat("hard").uid()), (0o600, 0));
    assert_eq!(fs::read_link(lease.path().join("soft")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!((stat("soft").uid(), stat("soft").gid(), stat("soft").mtime()), (3, 4, 1_000));
    assert_eq!(stat("softer").ino(), stat("soft").ino());
    assert!(stat("null").file_type().is_char_device());
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(stat("null").mode() & 0o7777, 0o666);
    assert!(stat("disk").file_type().is_block_device());
    assert_eq!(stat("disk").rdev(), rustix::fs::makedev(259, 70_000));
    assert!(stat("fifo").file_type().is_fifo());
    assert_eq!(stat("fifo").mode() & 0o7777, 0o622);
    assert!(!lease.path().join("label").exists());
}

#[test]
fn root_later_entries_replace_earlier_ones() {
    let fixture = Fixture::new();
    let archive = Builder::default()
        .item(Item::file(b"a/b/c", b"1"))
        .item(Item::file(b"a", b"2"))
        .item(Item::link(b'2', b"l", b"a"))
        .item(Item::directory(b"l"))
        .item(Item::file(b"l/x", b"3"))
        .item(Item::file(b"f", b"long"))
        .item(Item::link(b'1', b"g", b"f"))
        .item(Item::file(b"f", b"s"))
        .end();
    let lease = fixture.unpack(&archive).unwrap();
    let read = |name: &str| fs::read(lease.path().join(name)).unwrap();
    assert_eq!((read("a"), read("l/x")), (b"2".to_vec(), b"3".to_vec()));
    // Replacing a name does not write through it.
    assert_eq!((read("f"), read("g")), (b"s".to_vec(), b"long".to_vec()));
    assert!(fs::symlink_metadata(lease.path().join("l")).unwrap().is_dir());
}

#[test]
fn root_entries_below_links_land_inside() {
    let fixture = Fixture::new();
    let archive = Builder::default()
        .item(Item::link(b'2', b"lib", b"usr/lib"))
        .item(Item::file(b"lib/x", b"1"))
        .item(Item::link(b'2', b"abs", b"/usr/../usr/share"))
        .item(Item::file(b"abs/deep/y", b"2"))
        .end();
    let lease = fixture.unpack(&archive).unwrap();
    assert_eq!(fs::read(lease.path().join("usr/lib/x")).unwrap(), b"1");
    assert_eq!(fs::read(lease.path().join("usr/share/deep/y")).unwrap(), b"2");
    assert!(fs::symlink_metadata(lease.path().join("lib")).unwrap().is_symlink());
}

#[test]
fn root_long_names() {
    let fixture = Fixture::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let target = "t".repeat(300);
    let special = |flag, text: &str| {
        let mut item = Item::file(b"././@LongLink", &[text.as_bytes(), b"\0"].concat());
        item.header().set_entry_type(tar::EntryType::new(flag));
        item
    };
    let archive = Builder::default()
        .item(special(b'L', &long))
        .item(Item::file(b"cut", b"gnu"))
        .item(special(b'K', &target))
        .item(Item::link(b'2', b"gnu-link", b"cut"))
        .pax(&[("path", long.get(1..).unwrap().as_bytes())])
        .item(Item::file(b"cut", b"pax"))
        .pax(&[("linkpath", target.as_bytes())])
        .item(Item::link(b'2', b"pax-link", b"cut"))
        .end();
    let lease = fixture.unpack(&archive).unwrap();
    assert_eq!(fs::read(lease.path().join(&long)).unwrap(), b"gnu");
    for link in ["gnu-link", "pax-link"] {
        let found = fs::read_link(lease.path().join(link)).unwrap();
        assert_eq!(found.as_os_str().as_bytes(), target.as_bytes());
    }
}

/// The same file, three pieces in 1 MiB of holes, in all four encodings.
#[test]
fn root_sparse_files() {
    let (first, second) = (vec![1; 4096], vec![2; 512]);
    let pieces = [first.clone(), second.clone()].concat();
    let size = 1_u64 << 20;
    let mut expected = vec![0; 1 << 20];
    expected[8192..8192 + 4096].copy_from_slice(&first);
    expected[524_288..524_288 + 512].copy_from_slice(&second);

    let mut gnu = Item::file(b"sparse", &pieces);
    gnu.header().set_entry_type(tar::EntryType::GNUSparse);
    let fields = gnu.header().as_gnu_mut().unwrap();
    for (field, (offset, bytes)) in
        fields.sparse.iter_mut().zip([(8192_u64, 4096_u64), (524_288, 512), (size, 0)])
    {
        field.offset.copy_from_slice(format!("{offset:011o} ").as_bytes());
        field.numbytes.copy_from_slice(format!("{bytes:011o} ").as_bytes());
    }
    fields.realsize.copy_from_slice(format!("{size:011o} ").as_bytes());
    let map: &[u8] = b"8192,4096,524288,512,1048576,0";
    let inline = b"3\n8192\n4096\n524288\n512\n1048576\n0\n";
    let mut with_map = inline.to_vec();
    with_map.resize(512, 0);
    with_map.extend_from_slice(&pieces);
    let encodings = [
        Builder::default().item(gnu),
        Builder::default()
            .pax(&[
                ("GNU.sparse.size", b"1048576"),
                ("GNU.sparse.numblocks", b"3"),
                ("GNU.sparse.offset", b"8192"),
                ("GNU.sparse.numbytes", b"4096"),
                ("GNU.sparse.offset", b"524288"),
                ("GNU.sparse.numbytes", b"512"),
                ("GNU.sparse.offset", b"1048576"),
                ("GNU.sparse.numbytes", b"0"),
            ])
            .item(Item::file(b"sparse", &pieces)),
        Builder::default()
            .pax(&[
                ("GNU.sparse.size", b"1048576"),
                ("GNU.sparse.name", b"sparse"),
                ("GNU.sparse.map", map),
            ])
            .item(Item::file(b"GNUSparseFile.0/sparse", &pieces)),
        Builder::default()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"sparse"),
                ("GNU.sparse.realsize", b"1048576"),
            ])
            .item(Item::file(b"GNUSparseFile.0/sparse", &with_map)),
    ];
    for (number, builder) in encodings.into_iter().enumerate() {
        let fixture = Fixture::new();
        let archive = builder.item(Item::file(b"next", b"next")).end();
        let lease = fixture.unpack(&archive).unwrap_or_else(|error| panic!("{number}: {error:?}"));
        let path = lease.path().join("sparse");
        assert!(fs::read(&path).unwrap() == expected, "encoding {number}");
        assert!(fs::metadata(&path).unwrap().blocks() * 512 < size, "encoding {number}");
        assert_eq!(fs::read(lease.path().join("next")).unwrap(), b"next");
    }
}

/// From archives to what a container sees.
#[test]
fn root_layers_hide_what_is_below() {
    let fixture = Fixture::new();
    let below = Builder::default()
        .item(Item::file(b"gone", b"1"))
        .item(Item::file(b"dir/gone", b"2"))
        .item(Item::file(b"dir/stays", b"3"))
        .item(Item::file(b"opaque/old", b"4"))
        .item(Item::file(b"was-dir/f", b"5"))
        .item(Item::file(b"was-file", b"6"))
        .end();
    let above = Builder::default()
        .item(Item::file(b".wh.gone", b""))
        .item(Item::file(b"dir/.wh.gone", b""))
        .item(Item::directory(b"opaque"))
        .item(Item::file(b"opaque/.wh..wh..opq", b""))
        .item(Item::file(b"opaque/new", b"7"))
        .item(Item::file(b"was-dir", b"8"))
        .item(Item::directory(b"was-file"))
        .end();
    let leases = [&below, &above].map(|archive| fixture.unpack(archive).unwrap());
    let diff_ids = [&below, &above]
        .map(|archive| crate::content::Hasher::digest(crate::content::Algorithm::Sha256, archive));
    let view = fixture.snapshots.view(&diff_ids).unwrap();
    let read = |path: &str| crate::snapshots::read_in_root(&view, Path::new(path), 10);
    for (path, content) in [
        ("gone", None),
        ("dir/gone", None),
        ("dir/stays", Some("3")),
        ("opaque/old", None),
        ("opaque/new", Some("7")),
        ("was-dir", Some("8")),
        ("was-dir/f", None),
    ] {
        let expected = content.map(|content| content.as_bytes().to_vec());
        assert_eq!(read(path).unwrap(), expected, "{path}");
    }
    assert!(read("was-file").is_err());
    drop(leases);
}

#[test]
fn root_whiteouts_are_what_overlayfs_reads() {
    let fixture = Fixture::new();
    let archive = Builder::default()
        .item(Item::file(b"d/.wh.gone", b""))
        .item(Item::file(b"o/.wh..wh..opq", b""))
        .item(Item::file(b"d/.wh..wh.plnk", b""))
        .item(Item::file(b"both", b"mine"))
        .item(Item::file(b".wh.both", b""))
        .item(Item::directory(b"kept"))
        .item(Item::file(b".wh.kept", b""))
        .item(Item::file(b".wh.again", b""))
        .item(Item::file(b"again/f", b"new"))
        .end();
    let lease = fixture.unpack(&archive).unwrap();
    let opaque = |name: &str| xattr(&lease.path().join(name), "trusted.overlay.opaque");
    let gone = fs::symlink_metadata(lease.path().join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(opaque("o").as_deref(), Some(b"y".as_slice()));
    assert!(!lease.path().join("d/.wh..wh.plnk").exists());
    assert_eq!(fs::read(lease.path().join("both")).unwrap(), b"mine");
    assert_eq!(opaque("kept").as_deref(), Some(b"y".as_slice()));
    assert_eq!(opaque("again").as_deref(), Some(b"y".as_slice()));
    assert_eq!(fs::read(lease.path().join("again/f")).unwrap(), b"new");
}
