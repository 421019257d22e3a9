//! The contract of the store: whole blobs or nothing, and leases that are kept.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn open() -> (tempfile::TempDir, ContentStore) {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    (root, store)
}

fn ingests(store: &ContentStore) -> usize {
    fs::read_dir(store.directory().join(INGEST)).unwrap().count()
}

#[test]
fn commits_and_reads_whole_blobs() {
    let (root, store) = open();
    for algorithm in Algorithm::ALL {
        let digest = Hasher::digest(algorithm, b"content");
        let mut ingest = store.ingest(algorithm).unwrap();
        ingest.append(b"con").unwrap();
        ingest.append(b"tent").unwrap();
        assert_eq!(ingest.bytes(), 7);
        let blob = ingest.commit(Some(&digest)).unwrap();
        assert_eq!((blob.digest(), blob.bytes()), (&digest, 7));
        assert_eq!(store.read(&digest, 7).unwrap(), b"content");
        assert!(matches!(store.read(&digest, 6), Err(ContentError::TooLarge { bytes: 7, .. })));
    }
    assert_eq!(ingests(&store), 0);
    assert_eq!(store.usage().inodes, 2);
    let mode = fs::metadata(root.path().join(BLOBS)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(ContentStore::open(root.path()).unwrap().list(), store.list());
}

#[test]
fn wrong_bytes_leave_nothing() {
    let (_root, store) = open();
    let wanted = Hasher::digest(Algorithm::Sha256, b"wanted");
    let refused = store.put(b"given", &wanted).unwrap_err();
    assert!(matches!(refused, ContentError::Mismatch { expected, .. } if expected == wanted));
    assert_eq!((ingests(&store), store.list().len()), (0, 0));
    assert!(matches!(store.read(&wanted, 10), Err(ContentError::NotFound(_))));
}

#[test]
fn what_a_dead_process_left_is_deleted() {
    let (root, store) = open();
    let mut ingest = store.ingest(Algorithm::Sha256).unwrap();
    ingest.append(b"half").unwrap();
    std::mem::forget(ingest);
    assert_eq!(ingests(&store), 1);
    let store = ContentStore::open(root.path()).unwrap();
    assert_eq!((ingests(&store), store.list().len()), (0, 0));
}

#[test]
fn leases_and_references_keep_blobs() {
    let (_root, store) = open();
    let put = |bytes: &[u8]| store.put(bytes, &Hasher::digest(Algorithm::Sha256, bytes)).unwrap();
    let leased = put(b"leased");
    let again = store.blob(leased.digest()).unwrap();
    let referenced = put(b"referenced").digest().clone();
    drop(put(b"unused"));
    let keep = HashSet::from([referenced.clone()]);
    assert_eq!(store.collect(&keep).unwrap().len(), 1);
    drop(leased);
    assert_eq!(store.collect(&keep).unwrap(), []);
    drop(again);
    assert_eq!(store.collect(&keep).unwrap().len(), 1);
    assert_eq!(store.list(), [(referenced, 10)]);
}

#[test]
fn a_damaged_blob_is_not_served() {
    let (_root, store) = open();
    let blob = store.put(b"good", &Hasher::digest(Algorithm::Sha256, b"good")).unwrap();
    fs::write(store.0.blob_path(blob.digest()), b"evil").unwrap();
    assert!(matches!(store.read(blob.digest(), 10), Err(ContentError::Mismatch { .. })));
}
