//! Archives made again, and what is found out when a layer is not what it was.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use super::build::{Builder, Item};
use super::*;

fn archive() -> Vec<u8> {
    Builder::default()
        .item(Item::directory(b"etc/"))
        .item(Item::file(b"etc/passwd", &b"root:x:0:0\n".repeat(100)))
        .item(Item::file(b"etc/group", &[7; 300_000]))
        .item(Item::file(b"etc/empty", b""))
        .item(Item::link(b'2', b"etc/link", b"passwd"))
        .item(Item::link(b'1', b"etc/hard", b"etc/group"))
        .item(Item::file(b"etc/.wh.gone", b""))
        .end()
}

#[test]
fn root_what_was_unpacked_comes_out_again() {
    let fixture = Fixture::new();
    let archive = archive();
    let lease = fixture.unpack(&archive).unwrap();
    let record = fs::metadata(lease.record_path()).unwrap().len();
    assert!(record < 2_000, "{record} bytes for {} of archive", archive.len());
    // As if made by another tool: more zeros than the format asks for, and no end at all.
    let mut long = archive.clone();
    long.resize(archive.len() + 10_240, 0);
    fixture.unpack(&long).unwrap();
    fixture.unpack(&archive[..archive.len() - 1024]).unwrap();
}

#[test]
fn root_a_layer_that_replaces_its_own_files_has_no_record() {
    let fixture = Fixture::new();
    let archive = Builder::default()
        .item(Item::file(b"twice", b"first"))
        .item(Item::file(b"twice", b"second"))
        .end();
    let lease = fixture.unpack(&archive).unwrap();
    assert!(!lease.record_path().exists());
}

#[test]
fn root_the_damaged_file_is_named() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, &str, Damage); 11] = [
        ("etc/passwd", "has other content", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[17] ^= 1;
            let times =
                fs::FileTimes::new().set_modified(fs::metadata(path).unwrap().modified().unwrap());
            fs::write(path, bytes).unwrap();
            fs::File::open(path).unwrap().set_times(times).unwrap();
        }),
        ("etc/group", "has another length", |path| fs::write(path, [7; 300_001]).unwrap()),
        ("etc/group", "has another length", |path| fs::write(path, [7; 100]).unwrap()),
        ("etc/passwd", "is missing", |path| fs::remove_file(path).unwrap()),
        ("etc/empty", "is missing", |path| fs::remove_file(path).unwrap()),
        ("etc/empty", "has another mode", |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o4755)).unwrap();
        }),
        ("etc/passwd", "has another owner", |path| chown(path, Some(5), None).unwrap()),
        ("etc/link", "leads elsewhere", |path| {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("group", path).unwrap();
        }),
        ("etc/hard", "is not the hard link that it was", |path| {
            let bytes = fs::read(path).unwrap();
            fs::remove_file(path).unwrap();
            fs::write(path, bytes).unwrap();
        }),
        ("etc/gone", "is missing: it hides a file of a layer below", |path| {
            fs::remove_file(path).unwrap()
        }),
        ("", "has 8 files, and 7 were unpacked", |path| {
            fs::write(path.join("etc/more"), "x").unwrap()
        }),
    ];
    let archive = archive();
    let diff_id = Hasher::digest(Algorithm::Sha256, &archive);
    for (path, what, damage) in damages {
        let fixture = Fixture::new();
        let lease = fixture.unpack(&archive).unwrap();
        let directory = lease.path().join("etc");
        let modified = fs::metadata(&directory).unwrap().modified().unwrap();
        damage(&lease.path().join(path));
        // Only the damage itself is to be found.
        let times = fs::FileTimes::new().set_modified(modified);
        fs::File::open(&directory).unwrap().set_times(times).unwrap();
        let found = verify(&diff_id, fixture.snapshots.lease(&diff_id).unwrap());
        let Verdict::Damaged(faults) = found else { panic!("{path}: {found:?}") };
        let fault = Fault { path: path.into(), what: what.to_owned() };
        assert!(faults.contains(&fault), "{path} {what}: {faults:?}");
        let blamed = |fault: &Fault| fault.path == std::path::Path::new(path);
        let blamed_too =
            |fault: &Fault| fault.path == std::path::Path::new("etc/hard") && path == "etc/group";
        assert!(faults.iter().all(|fault| blamed(fault) || blamed_too(fault)), "{faults:?}");
    }
}

#[test]
fn root_damage_stops_the_reading() {
    let fixture = Fixture::new();
    let archive = archive();
    let diff_id = Hasher::digest(Algorithm::Sha256, &archive);
    let lease = fixture.unpack(&archive).unwrap();
    fs::write(lease.path().join("etc/passwd"), "root:x:0:0\n".repeat(99) + "evil:x:0:0\n").unwrap();
    let mut rebuild = Rebuild::open(&diff_id, fixture.snapshots.lease(&diff_id).unwrap()).unwrap();
    let error = std::io::copy(&mut rebuild, &mut std::io::sink()).unwrap_err();
    assert!(chain(&error).contains("etc/passwd has other content"), "{}", chain(&error));
}

#[test]
fn root_what_a_container_wrote_becomes_a_layer() {
    let fixture = Fixture::new();
    let lease = fixture.unpack(&archive()).unwrap();
    let mut packed = Vec::new();
    pack(fs::File::open(lease.path()).unwrap(), &mut packed).unwrap();
    let again = Fixture::new();
    let copy = again.unpack(&packed).unwrap();
    let listing = |root: PathBuf| {
        let find = std::process::Command::new("find")
            .args([".", "-printf", "%p %y %m %U %G %s %T@ %l %n\n"])
            .current_dir(root)
            .output()
            .unwrap();
        let mut lines: Vec<_> =
            String::from_utf8(find.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        // The first archive does not name its root; a whiteout's time means nothing.
        lines.retain(|line| !line.starts_with(". ") && !line.contains(" c "));
        lines
    };
    assert_eq!(listing(lease.path()), listing(copy.path()));
    assert_eq!(lease.usage().inodes, copy.usage().inodes);
    let mut twice = Vec::new();
    pack(fs::File::open(copy.path()).unwrap(), &mut twice).unwrap();
    assert!(packed == twice, "the same tree gives other bytes");
}
