//! The grammar as a table, and laws that hold for every text.

use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn normalises_what_users_write() {
    let digested = format!("busybox@{DIGEST}");
    let both = format!("registry.k8s.io/e2e/agnhost:2.0@{DIGEST}");
    let cases = [
        ("busybox", "docker.io/library/busybox:latest".to_owned()),
        ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
        ("library/busybox", "docker.io/library/busybox:latest".to_owned()),
        ("user/app:v1", "docker.io/user/app:v1".to_owned()),
        ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
        ("localhost/app", "localhost/app:latest".to_owned()),
        ("localhost:5000/a/b:x", "localhost:5000/a/b:x".to_owned()),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest".to_owned()),
        ("[::1]:5000/a:T_1.x-y", "[::1]:5000/a:T_1.x-y".to_owned()),
        ("Upper/app", "Upper/app:latest".to_owned()),
        ("gcr.io/a/b__c/d---e.f", "gcr.io/a/b__c/d---e.f:latest".to_owned()),
        (digested.as_str(), format!("docker.io/library/busybox@{DIGEST}")),
        (both.as_str(), both.clone()),
    ];
    for (text, full) in cases {
        assert_eq!(Reference::parse(text).unwrap().to_string(), full, "{text}");
    }
}

#[test]
fn refuses_what_is_no_reference() {
    let hex = "a".repeat(64);
    let long_tag = format!("a:{}", "t".repeat(129));
    let long_name = format!("a.b/{}", "x".repeat(252));
    let cases = [
        "",
        ":tag",
        "@sha256:00",
        "busybox@sha256:00",
        "busybox@md5:00",
        "Busybox",
        "a/B",
        "a//b",
        "/a",
        "a/",
        "a:",
        "a:-x",
        "a:x/y:z!",
        "a..b/c",
        "host:port/a",
        "host:99999/a",
        "[::1/a",
        "[zz]:1/a",
        "-a.b/c",
        "a/_b",
        "a/b_",
        "a/b___c",
        "a b",
        "a\nb",
        "a/../b",
        &hex,
        &long_tag,
        &long_name,
    ];
    for text in cases {
        assert!(Reference::parse(text).is_err(), "{text:?} was accepted");
    }
}

#[test]
fn offers_both_written_forms() {
    let reference = Reference::parse(&format!("r.example:5000/a/b:v1@{DIGEST}")).unwrap();
    assert_eq!(reference.domain(), "r.example:5000");
    assert_eq!(reference.path(), "a/b");
    assert_eq!(reference.tagged().as_deref(), Some("r.example:5000/a/b:v1"));
    let digest = reference.digest().unwrap().clone();
    assert_eq!(reference.digested(&digest), format!("r.example:5000/a/b@{DIGEST}"));
}

proptest! {
    /// Any text at all is either refused or normalised once and for all.
    #[test]
    fn normalising_is_idempotent(text in "[a-zA-Z0-9:/@._\\-\\[\\]]{0,40}") {
        if let Ok(reference) = Reference::parse(&text) {
            let again = Reference::parse(&reference.to_string());
            prop_assert_eq!(again, Ok(reference));
        }
    }

    /// What the grammar allows is accepted and comes back in parts.
    #[test]
    fn accepts_the_grammar(
        domain in "[a-z0-9]{1,8}(\\.[a-z0-9]{1,4}){1,3}(:[1-9][0-9]{0,3})?",
        path in "[a-z0-9]{1,5}([._-][a-z0-9]{1,3}){0,2}(/[a-z0-9]{1,5}(__[a-z0-9]+)?){0,3}",
        tag in "[A-Za-z0-9_][A-Za-z0-9_.\\-]{0,20}",
    ) {
        let reference = Reference::parse(&format!("{domain}/{path}:{tag}")).unwrap();
        prop_assert_eq!(reference.tag(), Some(tag.as_str()));
        if domain != "docker.io" {
            prop_assert_eq!(reference.name(), format!("{domain}/{path}"));
        }
    }
}
