//! Names of repositories, and images as messages.

use super::*;

fn made(config: &str) -> Image {
    let id = format!("sha256:{}", "ab".repeat(32));
    Image {
        id: id.parse().unwrap(),
        manifest: format!("sha256:{}", "cd".repeat(32)).parse().unwrap(),
        layers: Vec::new(),
        blobs: Vec::new(),
        tags: vec!["docker.io/library/busybox:1".into(), "localhost:5000/b:2".into()],
        digests: vec![format!("docker.io/library/busybox@{id}")],
        size_bytes: 42,
        pinned: Pinning::Pinned,
        config: Arc::new(serde_json::from_str(config).unwrap()),
        config_bytes: config.as_bytes().into(),
    }
}

fn with_user(user: &str) -> Image {
    made(&format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"User":"{user}"}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    ))
}

#[test]
fn the_user_is_a_number_or_a_name() {
    for (user, uid, name) in [
        ("", None, ""),
        ("1002", Some(1002), ""),
        ("1002:7", Some(1002), ""),
        ("www-data:www", None, "www-data"),
    ] {
        let message = image(&with_user(user));
        assert_eq!(message.uid.map(|uid| uid.value), uid, "{user}");
        assert_eq!(message.username, name, "{user}");
    }
}

#[test]
fn names_are_given_back() {
    let made = with_user("");
    let message = image(&made);
    assert_eq!(message.id, made.id.to_string());
    assert_eq!(message.repo_tags, made.tags);
    assert_eq!(message.repo_digests, made.digests);
    assert_eq!(message.size, 42);
    assert!(message.pinned);
    assert_eq!(message.spec.unwrap().image, message.id);
}

#[test]
fn a_name_without_tag_is_a_repository() {
    for (name, expected) in [
        ("busybox", Some("docker.io/library/busybox")),
        ("localhost:5000/b", Some("localhost:5000/b")),
        ("busybox:1", None),
        ("localhost:5000/b:2", None),
        ("Not A Name", None),
    ] {
        assert_eq!(repository(name).as_deref(), expected, "{name}");
    }
}

#[test]
fn a_repository_has_its_tags_and_digests_only() {
    let busybox = "docker.io/library/busybox";
    assert!(is_of("docker.io/library/busybox:1", busybox));
    assert!(is_of("docker.io/library/busybox@sha256:ab", busybox));
    assert!(!is_of("docker.io/library/busybox2:1", busybox));
    assert!(!is_of("docker.io/library/busybox/x:1", busybox));
}
