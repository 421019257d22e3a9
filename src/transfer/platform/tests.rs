//! What runs where, and what runs better.

use super::Platform;

fn platform(text: &str) -> Platform {
    let mut parts = text.split('/');
    let mut next = || parts.next().unwrap_or_default();
    let (os, architecture, variant) = (next(), next(), next());
    Platform::normalised(os, architecture, variant)
}

#[test]
fn names_for_the_same_are_made_one() {
    for (one, other) in [
        ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("Linux/AArch64", "linux/arm64/v8"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/i686", "linux/386"),
    ] {
        assert_eq!(platform(one), platform(other), "{one} {other}");
    }
    assert_eq!(platform("linux/arm/v6").to_string(), "linux/arm/v6");
}

#[test]
fn older_variants_run_and_nearer_ones_are_better() {
    for (machine, image, distance) in [
        ("linux/amd64", "linux/amd64", Some(0)),
        ("linux/amd64", "linux/arm64", None),
        ("linux/amd64", "windows/amd64", None),
        ("linux/amd64/v3", "linux/amd64", Some(200)),
        ("linux/amd64/v3", "linux/amd64/v2", Some(100)),
        ("linux/amd64", "linux/amd64/v2", None),
        ("linux/arm/v7", "linux/arm/v6", Some(100)),
        ("linux/arm/v6", "linux/arm/v7", None),
        ("linux/arm64/v8.2", "linux/arm64", Some(2)),
        ("linux/amd64", "unknown/unknown", None),
        ("linux/s390x", "linux/s390x", Some(0)),
    ] {
        assert_eq!(platform(machine).distance(&platform(image)), distance, "{machine} {image}");
    }
}
