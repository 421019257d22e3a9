//! A disk without room: one clear error that names path and cause, and nothing left behind.
//!
//! Each test runs itself again in a mount namespace of its own, with a small tmpfs.

use std::path::Path;
use std::process::Command;

use orlop::transfer::{PullFailure, Reference};

use crate::flights::Library;
use crate::image::{Compression, Layer, serve};
use crate::registry::Registry;
use crate::{chain, config};

const SMALL_DISK: &str = "ORLOP_TEST_SMALL_DISK";

/// Calls `test` with a directory that holds 4 MiB.
fn on_a_small_disk(name: &str, test: impl Fn(&Path)) {
    if let Some(small) = std::env::var_os(SMALL_DISK) {
        return test(Path::new(&small));
    }
    let small = tempfile::tempdir().unwrap();
    let again = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("mount -t tmpfs -o size=4m,mode=700 tmpfs \"$0\" && exec \"$@\"")
        .arg(small.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(SMALL_DISK, small.path())
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    assert!(again.status.success() && out.contains("1 passed"), "{out}{err}");
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn root_no_room_for_layers() {
    on_a_small_disk("full_disk::root_no_room_for_layers", |small| {
        block_on(async {
            let root = tempfile::tempdir().unwrap();
            let content = root.path().join("content");
            let library = Library::open(root.path(), &content, &small.join("snapshots"), config());
            let registry = Registry::start().await;
            let layers = [Layer::noise("fits", 1 << 20), Layer::noise("big-file", 8 << 20)];
            serve(&registry, Some("v1"), &layers);
            serve(&registry, Some("v2"), &layers[..1]);
            let name = |tag| {
                let text = format!("{}/team/app:{tag}", registry.authority());
                Reference::parse(&text).unwrap()
            };
            let error = library.images.pull(&name("v1"), None).await.unwrap_err();
            let text = chain(&error);
            assert_eq!(error.failure(), PullFailure::DiskFull, "{text}");
            for part in [small.to_str().unwrap(), "big-file", "No space left on device"] {
                assert!(text.contains(part), "{part} is not in: {text}");
            }
            assert_eq!(text.matches("No space left").count(), 1, "{text}");
            // The room is free again, as soon as what was begun is deleted.
            library.snapshots.wait_until_removed();
            library.images.pull(&name("v2"), None).await.unwrap();
            library.images.remove(&name("v2").to_string()).await.unwrap();
            library.assert_empty().await;
        });
    });
}

#[test]
fn root_a_bomb_bursts_at_the_end_of_the_disk() {
    on_a_small_disk("full_disk::root_a_bomb_bursts_at_the_end_of_the_disk", |small| {
        block_on(async {
            let root = tempfile::tempdir().unwrap();
            let content = root.path().join("content");
            let library = Library::open(root.path(), &content, &small.join("snapshots"), config());
            let registry = Registry::start().await;
            let zeros = vec![0; 64 << 20];
            for (tag, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
                let bomb = Layer::file("bomb", &zeros, compression);
                // What is fetched of it would fit.
                assert!(bomb.blob.len() < 2 << 20);
                serve(&registry, Some(tag), &[bomb]);
                let name = format!("{}/team/app:{tag}", registry.authority());
                let name = Reference::parse(&name).unwrap();
                let error = library.images.pull(&name, None).await.unwrap_err();
                assert_eq!(error.failure(), PullFailure::DiskFull, "{}", chain(&error));
                assert!(chain(&error).contains("bomb"), "{}", chain(&error));
                library.snapshots.wait_until_removed();
            }
            library.assert_empty().await;
        });
    });
}

#[test]
fn root_no_room_for_blobs() {
    on_a_small_disk("full_disk::root_no_room_for_blobs", |small| {
        block_on(async {
            let root = tempfile::tempdir().unwrap();
            let snapshots = root.path().join("snapshots");
            let library = Library::open(root.path(), &small.join("content"), &snapshots, config());
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_size(8 << 20);
            archive.append_data(&mut header, "layer.tar", vec![1; 8 << 20].as_slice()).unwrap();
            let source = std::io::Cursor::new(archive.into_inner().unwrap());
            let text = chain(&library.images.import(source).await.unwrap_err());
            for part in [small.to_str().unwrap(), "layer.tar", "No space left on device"] {
                assert!(text.contains(part), "{part} is not in: {text}");
            }
            library.assert_empty().await;
        });
    });
}
