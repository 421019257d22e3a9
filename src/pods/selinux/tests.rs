//! Levels, and labels on real files.

use std::collections::HashSet;
use std::os::unix::fs::symlink;

use super::*;

const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

#[test]
fn no_level_comes_twice() {
    let all: HashSet<_> = (0..PAIRS).map(pair).collect();
    assert_eq!(all.len(), PAIRS as usize);
    for level in &all {
        let (first, second) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
        assert!(first.parse::<u32>().unwrap() < second.parse::<u32>().unwrap(), "{level}");
    }
    let levels = Levels::new(u32::MAX);
    let (taken, next) = (levels.fresh(|_| false), levels.fresh(|_| false));
    let levels = Levels::new(u32::MAX);
    assert_eq!(levels.fresh(|level| level == taken), next);
}

fn label_of(path: &Path) -> String {
    let mut label = [0; 256];
    let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut label).unwrap_or(0);
    String::from_utf8_lossy(label[..length].strip_suffix(b"\0").unwrap_or(&[])).into_owned()
}

/// Where SELinux is off, root may write any label.
#[test]
fn root_a_volume_is_labelled_and_nothing_that_it_points_at() {
    let directory = tempfile::tempdir().unwrap();
    let (volume, other) = (directory.path().join("volume"), directory.path().join("other"));
    std::fs::create_dir_all(volume.join("a/b")).unwrap();
    std::fs::create_dir(&other).unwrap();
    std::fs::write(volume.join("a/b/file"), "").unwrap();
    std::fs::write(other.join("file"), "").unwrap();
    symlink(&other, volume.join("link")).unwrap();
    symlink(other.join("file"), volume.join("a/link")).unwrap();
    symlink("nowhere", volume.join("a/b/dangling")).unwrap();
    for label in [LABEL, LABEL, "system_u:object_r:container_file_t:s0"] {
        relabel(&volume, label).unwrap();
        for path in ["", "a", "a/b", "a/b/file", "link", "a/link", "a/b/dangling"] {
            assert_eq!(label_of(&volume.join(path)), label, "{path:?}");
        }
        assert_eq!(label_of(&other), "");
        assert_eq!(label_of(&other.join("file")), "");
    }
    relabel(&other.join("file"), LABEL).unwrap();
    assert_eq!((label_of(&other).as_str(), label_of(&other.join("file")).as_str()), ("", LABEL));
}

#[test]
fn the_systems_own_directories_are_refused_by_whatever_name() {
    let directory = tempfile::tempdir().unwrap();
    symlink("/etc", directory.path().join("link")).unwrap();
    for path in ["/", "/etc", "/usr/bin", "/proc/../var/lib"] {
        assert!(matches!(relabel(Path::new(path), LABEL), Err(RelabelError::OfTheSystem(_))));
    }
    let link = relabel(&directory.path().join("link"), LABEL).unwrap_err();
    assert_eq!(link.to_string(), "/etc belongs to the system and keeps its SELinux labels");
    assert!(matches!(
        relabel(&directory.path().join("missing"), LABEL),
        Err(RelabelError::File { .. })
    ));
}
