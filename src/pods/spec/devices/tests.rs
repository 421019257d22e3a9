//! Devices, as tables.

use crate::pods::spec::fixture::Fixture;

use super::*;

fn request(container_path: &str, host_path: &str, permissions: &str) -> v1::Device {
    v1::Device {
        container_path: container_path.into(),
        host_path: host_path.into(),
        permissions: permissions.into(),
    }
}

type Lines = (Vec<String>, Vec<String>);

/// Nodes and rules as text, or the error's text.
fn made(requests: Vec<v1::Device>, privilege: Privilege) -> Result<Lines, String> {
    let mut fixture = Fixture::new();
    fixture.container.devices = requests;
    let (nodes, rules) = fixture
        .with_inputs(|inputs| devices(inputs, privilege))
        .map_err(|error| error.to_string())?;
    let number = |number: Option<i64>| number.map_or("*".to_owned(), |number| number.to_string());
    let nodes = nodes.iter().map(|node| {
        let place = node.path().display();
        format!("{place} {}:{} {:o}", node.major(), node.minor(), node.file_mode().unwrap())
    });
    let rules = rules.iter().map(|rule| {
        let verb = if rule.allow() { "allow" } else { "deny" };
        let kind = rule.typ().unwrap().as_str().to_owned();
        let (major, minor) = (number(rule.major()), number(rule.minor()));
        format!("{verb} {kind} {major}:{minor} {}", rule.access().as_ref().unwrap())
    });
    Ok((nodes.collect(), rules.collect()))
}

#[test]
fn rules_begin_with_nothing() {
    let (nodes, rules) = made(vec![], Privilege::Ordinary).unwrap();
    assert!(nodes.is_empty());
    assert_eq!(
        rules,
        [
            "deny a *:* rwm",
            "allow c *:* m",
            "allow b *:* m",
            "allow c 1:3 rwm",
            "allow c 1:5 rwm",
            "allow c 1:7 rwm",
            "allow c 1:8 rwm",
            "allow c 1:9 rwm",
            "allow c 5:0 rwm",
            "allow c 5:2 rwm",
            "allow c 136:* rwm",
        ]
    );
}

#[test]
fn devices_of_the_request() {
    for (request, nodes, rules) in [
        (
            request("/dev/f", "/dev/fuse", "rw"),
            &["/dev/f 10:229 666"][..],
            &["allow c 10:229 rw"][..],
        ),
        (request("", "/dev/fuse", "rwm"), &["/dev/fuse 10:229 666"], &["allow c 10:229 rwm"]),
        (
            request("/dev/sound", "/dev//snd/", "r"),
            &["/dev/sound/seq 116:1 666", "/dev/sound/sub/timer 116:33 666"],
            &["allow c 116:1 r", "allow c 116:33 r"],
        ),
    ] {
        let (made_nodes, made_rules) = made(vec![request], Privilege::Ordinary).unwrap();
        assert_eq!(made_nodes, nodes);
        assert_eq!(&made_rules[11..], rules);
    }
}

#[test]
fn privileged_containers_have_all() {
    let twice = vec![request("/dev/null", "/dev/fuse", "r"), request("/x", "/dev/fuse", "r")];
    let (nodes, rules) = made(twice, Privilege::Privileged).unwrap();
    assert_eq!(nodes, ["/dev/fuse 10:229 666", "/dev/null 10:229 666", "/x 10:229 666"]);
    assert_eq!(rules, ["allow a *:* rwm"]);
}

#[test]
fn refused() {
    for (request, expected) in [
        (request("/x", "fuse", "r"), "device path \"fuse\" is not an absolute path without '..'"),
        (
            request("/x/../y", "/dev/fuse", "r"),
            "device path \"/x/../y\" is not an absolute path without '..'",
        ),
        (
            request("/x", "/dev/fuse", ""),
            "permissions \"\" of device \"/dev/fuse\" are not made of r, w and m",
        ),
        (
            request("/x", "/dev/fuse", "rwx"),
            "permissions \"rwx\" of device \"/dev/fuse\" are not made of r, w and m",
        ),
        (request("/x", "/dev/none", "r"), "cannot look up device \"/dev/none\""),
        (request("/x", "/dev/empty", "r"), "\"/dev/empty\" is not a device and has none below it"),
        (request("/x", "/dev/odd", "r"), "device \"/dev/mem\" was found for \"/dev/odd\""),
    ] {
        assert_eq!(made(vec![request], Privilege::Ordinary), Err(expected.to_owned()));
    }
}
