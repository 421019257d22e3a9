//! Namespaces in a real kernel.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn removing_what_was_never_created_is_fine() {
    let directory = tempfile::tempdir().unwrap();
    remove_pinned_netns(&directory.path().join("absent")).unwrap();
}

#[test]
fn root_a_pinned_namespace_outlives_its_thread_and_has_lo_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pod");
    create_pinned_netns(&path).unwrap();

    let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
    let file = File::open(&path).unwrap();
    assert_ne!(file.metadata().unwrap().ino(), own);
    let (inside, flags) = in_netns(file.as_fd(), || {
        let inside = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        let links = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        (inside, links)
    })
    .unwrap();
    assert_eq!(inside, file.metadata().unwrap().ino());
    assert!(flags.contains("lo:"));
    // An address of lo can only be bound while lo is up and has it.
    in_netns(file.as_fd(), || std::net::TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
    assert_eq!(fs::metadata("/proc/thread-self/ns/net").unwrap().ino(), own, "caller moved");

    drop(file);
    remove_pinned_netns(&path).unwrap();
    assert!(!path.exists());
    remove_pinned_netns(&path).unwrap();
}

#[test]
fn root_a_taken_path_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pod");
    create_pinned_netns(&path).unwrap();
    let before = fs::metadata(&path).unwrap().ino();
    assert!(matches!(create_pinned_netns(&path), Err(CreateNetnsError::MakeFile(_))));
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);
    remove_pinned_netns(&path).unwrap();
}

#[test]
fn root_stacked_pins_are_all_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pod");
    create_pinned_netns(&path).unwrap();
    mount_bind("/proc/thread-self/ns/net", &path).unwrap();
    remove_pinned_netns(&path).unwrap();
    assert!(!path.exists());
}
