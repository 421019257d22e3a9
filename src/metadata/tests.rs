//! The database as its users see it: what was written is read again, by a later process too.

use super::*;

fn open() -> (tempfile::TempDir, Metadata) {
    let root = tempfile::tempdir().unwrap();
    let metadata = Metadata::open(root.path()).unwrap();
    (root, metadata)
}

fn digest(letter: char) -> Digest {
    Digest::from_hex(Algorithm::Sha256, &letter.to_string().repeat(64)).unwrap()
}

fn image(letter: char, references: &[&str]) -> ImageRow {
    ImageRow {
        id: digest(letter),
        manifest: digest('a'),
        layers: vec![digest('b'), digest('c')],
        blobs: vec![digest(letter), digest('a')],
        config: b"{}".to_vec(),
        size: 42,
        pinned: Pinning::Pinned,
        references: references.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn rows_survive_reopening() {
    let (root, metadata) = open();
    let pod = PodRow { id: "p".into(), request: vec![1], record: vec![2] };
    let container =
        ContainerRow { id: "c".into(), pod: "p".into(), request: vec![3], record: vec![4] };
    let layer =
        LayerRow { number: 7, key: "sha256:x".into(), bytes: 1, inodes: 2, implied: vec![0, 1] };
    let active = ActiveRow { key: "k".into(), layers: vec![9, 7] };
    metadata.put_pod(&pod).unwrap();
    metadata.put_container(&container).unwrap();
    metadata.commit_image(&image('d', &["x:1", "a:1"]), std::slice::from_ref(&layer)).unwrap();
    metadata.put_active(&active).unwrap();
    drop(metadata);

    let metadata = Metadata::open(root.path()).unwrap();
    assert_eq!(metadata.load_pods().unwrap(), [pod]);
    assert_eq!(metadata.load_containers().unwrap(), [container]);
    assert_eq!(metadata.load_layers().unwrap(), [layer]);
    assert_eq!(metadata.load_active().unwrap(), [active]);
    assert_eq!(metadata.load_images().unwrap(), [image('d', &["a:1", "x:1"])]);
}

#[test]
fn a_pod_takes_its_containers_with_it() {
    let (_root, metadata) = open();
    for (id, pod) in [("c1", "p"), ("c2", "p"), ("c3", "q")] {
        let row = ContainerRow { id: id.into(), pod: pod.into(), request: vec![], record: vec![] };
        metadata.put_container(&row).unwrap();
    }
    metadata.put_pod(&PodRow { id: "p".into(), request: vec![], record: vec![] }).unwrap();
    metadata.update_pod("p", b"new").unwrap();
    metadata.update_container("c3", b"new").unwrap();
    assert_eq!(metadata.load_pods().unwrap()[0].record, b"new");
    metadata.delete_pod("p").unwrap();
    metadata.delete_pod("p").unwrap();
    assert!(metadata.load_pods().unwrap().is_empty());
    let left = metadata.load_containers().unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].id.as_str(), left[0].record.as_slice()), ("c3", b"new".as_slice()));
}

#[test]
fn a_reference_names_one_image() {
    let (_root, metadata) = open();
    metadata.commit_image(&image('d', &["r:1", "r:2"]), &[]).unwrap();
    metadata.commit_image(&image('e', &["r:2"]), &[]).unwrap();
    let images = metadata.load_images().unwrap();
    assert_eq!(images[0].references, ["r:1"]);
    assert_eq!(images[1].references, ["r:2"]);
    metadata.delete_image(&digest('d')).unwrap();
    metadata.delete_image(&digest('d')).unwrap();
    assert_eq!(metadata.load_images().unwrap(), [image('e', &["r:2"])]);
}

#[test]
fn a_second_owner_is_refused() {
    let (root, metadata) = open();
    let refused = Metadata::open(root.path()).unwrap_err();
    assert!(matches!(&refused, OpenError::InUse { owner, .. }
        if *owner == std::process::id().to_string()));
    drop(metadata);
    Metadata::open(root.path()).unwrap();
}

#[test]
fn a_newer_format_is_refused() {
    let (root, metadata) = open();
    metadata.connection().pragma_update(None, "user_version", 1000).unwrap();
    drop(metadata);
    let refused = Metadata::open(root.path()).unwrap_err();
    assert!(matches!(refused, OpenError::NewerFormat { found: 1000, .. }), "{refused}");
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let (_root, metadata) = open();
    let failed = metadata.write("pods", Durability::Power, |transaction| {
        transaction.execute("INSERT INTO pods VALUES ('p', x'', x'')", [])?;
        transaction.execute("nonsense", []).map(drop)
    });
    assert!(matches!(failed, Err(MetadataError::Write { table: "pods", .. })));
    assert!(metadata.load_pods().unwrap().is_empty());
}
