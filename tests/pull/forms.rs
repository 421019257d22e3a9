//! Layers in unusual forms, and hostile ones: the forms that lazy pulling uses are ordinary layers
//! here, and a hostile layer is one clear error that touches nothing.

use std::io::Write;
use std::path::Path;

use orlop::transfer::{PullFailure, Pulled};

use crate::image::{Layer, gzip, serve};
use crate::registry::{Registry, digest};
use crate::{Node, chain};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// An archive of `entries`: type, name, link target, content. Names are written as they are.
fn archive(entries: &[(tar::EntryType, &str, &str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, name, target, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        let fields = header.as_ustar_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn layer(media_type: &str, tar: &[u8], blob: Vec<u8>) -> Layer {
    Layer { media_type: media_type.to_owned(), blob, diff_id: digest(tar) }
}

async fn pulled(layer: &Layer) -> (Node, Pulled) {
    let registry = Registry::start().await;
    serve(&registry, Some("v1"), std::slice::from_ref(layer));
    let node = Node::new();
    let pulled = node.pull(&format!("{}/a:v1", registry.authority())).await.unwrap();
    assert_eq!(pulled.layers[0].name.to_string(), layer.diff_id);
    (node, pulled)
}

fn content((_, pulled): &(Node, Pulled), name: &str) -> Vec<u8> {
    std::fs::read(pulled.layers[0].lease.path().join(name)).unwrap()
}

#[tokio::test]
async fn root_gzip_of_many_members_is_one_layer() {
    let noise = Layer::noise("noise", 300_000).blob;
    let tar = archive(&[
        (tar::EntryType::Regular, "noise", "", &noise),
        (tar::EntryType::Regular, "last", "", b"the end"),
    ]);
    // Members that end within a header, within a content, and empty ones.
    let mut blob = Vec::new();
    for part in [&tar[..100], &tar[100..100], &tar[100..200_000], &tar[200_000..]] {
        blob.extend(gzip(part));
    }
    let node = pulled(&layer(GZIP, &tar, blob)).await;
    assert!(content(&node, "noise") == noise);
    assert_eq!(content(&node, "last"), b"the end");
}

#[tokio::test]
async fn root_estargz_is_an_ordinary_layer() {
    // A member for each header and content, then one for the table of contents, then the footer:
    // an empty member whose extra field says where the table begins.
    let table = br#"{"version":1,"entries":[{"name":"file","type":"reg","size":5}]}"#;
    let tar = archive(&[
        (tar::EntryType::Regular, ".no.prefetch.landmark", "", b"\x0f"),
        (tar::EntryType::Regular, "file", "", b"hello"),
        (tar::EntryType::Regular, "stargz.index.json", "", table),
    ]);
    let mut blob = Vec::new();
    for part in [&tar[..1024], &tar[1024..1536], &tar[1536..2048]] {
        blob.extend(gzip(part));
    }
    let table_at = blob.len();
    blob.extend(gzip(&tar[2048..]));
    let footer = format!("SG\x16\0{table_at:016x}STARGZ");
    let mut last = flate2::GzBuilder::new()
        .extra(footer.into_bytes())
        .write(Vec::new(), flate2::Compression::none());
    last.flush().unwrap();
    blob.extend(last.finish().unwrap());
    let node = pulled(&layer(GZIP, &tar, blob)).await;
    assert_eq!(content(&node, "file"), b"hello");
    // It is part of the layer's diffID, so it is part of the layer.
    assert_eq!(content(&node, "stargz.index.json"), table);
}

#[tokio::test]
async fn root_zstd_of_frames_and_a_table_is_an_ordinary_layer() {
    let noise = Layer::noise("noise", 300_000).blob;
    let tar = archive(&[
        (tar::EntryType::Regular, "noise", "", &noise),
        (tar::EntryType::Regular, "file", "", b"hello"),
    ]);
    // As zstd:chunked: a frame for each file, then the table and the footer in skippable frames.
    let mut blob = Vec::new();
    for part in [&tar[..512], &tar[512..200_000], &tar[200_000..]] {
        blob.extend(zstd::encode_all(part, 3).unwrap());
    }
    for skipped in [&b"{\"version\":1,\"entries\":[]}"[..], &[7; 64]] {
        blob.extend(0x184d_2a50_u32.to_le_bytes());
        blob.extend(u32::try_from(skipped.len()).unwrap().to_le_bytes());
        blob.extend(skipped);
    }
    let node = pulled(&layer(ZSTD, &tar, blob)).await;
    assert!(content(&node, "noise") == noise);
    assert_eq!(content(&node, "file"), b"hello");
}

#[tokio::test]
async fn root_a_layer_goes_by_what_it_is_and_not_by_what_it_is_called() {
    let tar = archive(&[(tar::EntryType::Regular, "file", "", b"hello")]);
    for (media_type, blob) in [
        (GZIP, zstd::encode_all(tar.as_slice(), 3).unwrap()),
        (ZSTD, gzip(&tar)),
        (GZIP, tar.clone()),
    ] {
        let node = pulled(&layer(media_type, &tar, blob)).await;
        assert_eq!(content(&node, "file"), b"hello");
    }
}

/// Everything below a directory, with its content.
fn tree(directory: &Path) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let is_directory = path.symlink_metadata().unwrap().is_dir();
        found.push((path.clone(), std::fs::read(&path).ok()));
        if is_directory {
            found.extend(tree(&path));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn root_hostile_layers_touch_nothing_and_are_named() {
    use tar::EntryType as Kind;
    let outside = tempfile::tempdir().unwrap();
    let at = outside.path().to_str().unwrap();
    std::fs::write(outside.path().join("secret"), "as it was").unwrap();
    let before = tree(outside.path());
    let climb = format!("{}{at}/evil", "../".repeat(8).trim_end_matches('/'));
    let secret = format!("{at}/secret");
    let pax = |record: &str| format!("{} {record}\n", record.len() + 4);
    let path = pax("path=../../../evil");
    let size = pax("size=99999999999");
    let cases: [(&str, Vec<u8>); 6] = [
        ("a name that climbs", archive(&[(Kind::Regular, &climb, "", b"x")])),
        ("a hard link to the host", archive(&[(Kind::Link, "h", &secret, b"")])),
        (
            "a hard link through a link",
            archive(&[(Kind::Symlink, "l", at, b""), (Kind::Link, "h", "l/secret", b"")]),
        ),
        (
            "a climbing name in a PAX record",
            archive(&[(Kind::XHeader, "p", "", path.as_bytes()), (Kind::Regular, "a", "", b"x")]),
        ),
        (
            "a size that is not there",
            archive(&[(Kind::XHeader, "p", "", size.as_bytes()), (Kind::Regular, "a", "", b"x")]),
        ),
        ("half a PAX record", archive(&[(Kind::XHeader, "p", "", b"9 path=")])),
    ];
    for (what, tar) in cases {
        let registry = Registry::start().await;
        let layer = layer(GZIP, &tar, gzip(&tar));
        serve(&registry, Some("v1"), std::slice::from_ref(&layer));
        let error = Node::new().fail(&format!("{}/a:v1", registry.authority())).await;
        assert_eq!(error.failure(), PullFailure::Unusable, "{what}: {}", chain(&error));
        assert!(chain(&error).contains(&layer.digest()), "{what}: {}", chain(&error));
        assert_eq!(tree(outside.path()), before, "{what}");
    }
    // What stays inside is no fault: containers see their own root.
    let tar = archive(&[
        (Kind::Symlink, "l", at, b""),
        (Kind::Regular, "l/new", "", b"x"),
        (Kind::Regular, "l/.wh.secret", "", b""),
        (Kind::Char, "l/null", "", b""),
    ]);
    drop(pulled(&layer(GZIP, &tar, gzip(&tar))).await);
    assert_eq!(tree(outside.path()), before);
}
