//! Directories of hosts as operators of containerd write them.

use std::path::Path;
use std::time::Duration;

use super::{Host, HostsError, Scheme, hosts_of, is_loopback};
use crate::transfer::credentials::HostRole;

/// Writes `hosts.toml` for `name` and reads it for `registry`.
fn read(name: &str, text: &str, registry: &str) -> Result<Vec<Host>, HostsError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("hosts.toml"), text).unwrap();
    hosts_of(Some(directory.path()), registry)
}

fn summary(hosts: &[Host]) -> Vec<String> {
    let one = |host: &Host| {
        let scheme = match host.scheme {
            Scheme::Https => "https",
            Scheme::Http => "http",
            Scheme::HttpsElseHttp => "https?",
        };
        format!("{scheme}://{}{}", host.authority, host.root)
    };
    hosts.iter().map(one).collect()
}

#[test]
fn without_configuration_the_registry_itself_is_asked() {
    for (registry, expected) in [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("quay.io", "https://quay.io/v2"),
        ("r.example:5000", "https://r.example:5000/v2"),
        ("localhost:5000", "https?://localhost:5000/v2"),
        ("127.0.0.2:5000", "https?://127.0.0.2:5000/v2"),
        ("[::1]:5000", "https?://[::1]:5000/v2"),
        ("localhost:80", "http://localhost:80/v2"),
        ("localhost", "https://localhost/v2"),
    ] {
        assert_eq!(summary(&hosts_of(None, registry).unwrap()), [expected], "{registry}");
    }
}

#[test]
fn mirrors_come_first_in_the_order_of_the_file() {
    let text = r#"
        server = "https://upstream.example"
        [host."https://z.example"]
        capabilities = ["pull"]
        [host."http://a.example:5000/prefix"]
        capabilities = ["pull", "resolve", "push"]
        [host."https://m.example/root"]
        override_path = true
        [host."https://m.example/root".header]
        x-one = "1"
        x-two = ["2", "3"]
    "#;
    let hosts = read("docker.io", text, "docker.io").unwrap();
    assert_eq!(
        summary(&hosts),
        [
            "https://z.example/v2",
            "http://a.example:5000/prefix/v2",
            "https://m.example/root",
            "https://upstream.example/v2"
        ]
    );
    assert!(hosts[0].capabilities.pull && !hosts[0].capabilities.resolve);
    assert!(hosts[1].capabilities.pull && hosts[1].capabilities.resolve);
    assert_eq!(hosts[2].header.get_all("x-two").iter().count(), 2);
    let roles: Vec<_> = hosts.iter().map(|host| host.role).collect();
    let (mirror, registry) = (HostRole::Mirror, HostRole::Registry);
    assert_eq!(roles, [mirror, mirror, mirror, registry]);
}

#[test]
fn without_server_the_registry_comes_last() {
    let text = r#"
        dial_timeout = "1m1.5s"
        [host."mirror.example"]
        dial_timeout = "200ms"
    "#;
    let hosts = read("_default", text, "docker.io").unwrap();
    assert_eq!(summary(&hosts), ["https://mirror.example/v2", "https://registry-1.docker.io/v2"]);
    assert_eq!(hosts[0].dial_timeout, Some(Duration::from_millis(200)));
    assert_eq!(hosts[1].dial_timeout, Some(Duration::from_millis(61_500)));
}

#[test]
fn the_directory_of_host_and_port_is_found() {
    let text = "server = 'https://found.example'";
    let found = ["https://found.example/v2"];
    for name in ["r.example_5000_", "r.example:5000", "_default"] {
        assert_eq!(summary(&read(name, text, "r.example:5000").unwrap()), found, "{name}");
    }
    let other = read("r.example", text, "r.example:5000").unwrap();
    assert_eq!(summary(&other), ["https://r.example:5000/v2"]);
}

#[test]
fn certificates_are_relative_to_the_file() {
    let text = r#"
        ca = ["/abs/ca.pem", "ca.pem"]
        [host."http://a.example:5000"]
        ca = "one.pem"
        client = [["c.cert", "c.key"], ["both.pem", ""], "single.pem"]
        skip_verify = true
    "#;
    let hosts = read("r.example", text, "r.example").unwrap();
    assert_eq!(hosts[0].scheme, Scheme::HttpsElseHttp);
    assert_eq!(hosts[0].tls.skip_verify, Some(true));
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let client: Vec<_> = hosts[0]
        .tls
        .client
        .iter()
        .map(|(cert, key)| (name(cert), key.as_deref().map(name)))
        .collect();
    let expected = [
        ("c.cert".to_owned(), Some("c.key".to_owned())),
        ("both.pem".to_owned(), None),
        ("single.pem".to_owned(), None),
    ];
    assert_eq!(client, expected);
    assert_eq!(hosts[1].tls.ca[0], Path::new("/abs/ca.pem"));
    assert!(hosts[1].tls.ca[1].ends_with("r.example/ca.pem") && hosts[1].tls.ca[1].is_absolute());
}

#[test]
fn a_directory_of_certificates_will_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.example");
    std::fs::create_dir(&path).unwrap();
    for name in ["ca.crt", "me.cert", "me.key", "README"] {
        std::fs::write(path.join(name), "").unwrap();
    }
    let hosts = hosts_of(Some(directory.path()), "r.example").unwrap();
    assert_eq!(summary(&hosts), ["https://r.example/v2"]);
    assert_eq!(hosts[0].tls.ca, [path.join("ca.crt")]);
    assert_eq!(hosts[0].tls.client, [(path.join("me.cert"), Some(path.join("me.key")))]);
}

#[test]
fn faults_name_the_file_and_the_key() {
    for (text, words) in [
        ("sever = 'x'", "sever"),
        ("[host.'https://a']\ncapability = ['pull']", "capability"),
        ("[host.'https://a']\ncapabilities = ['fly']", "\"fly\" is not pull, resolve or push"),
        ("[host.'https://a']\ndial_timeout = '3'", "dial_timeout"),
        ("[host.'https://a']\nproxy = 'ftp://p'", "proxy"),
        ("[host.'https://a']\nheader = { a = 1 }", "header"),
        ("[host.'https://u:secret@a']", "free of user and password"),
        ("[host.'https://']", "a URL of a registry"),
        ("server = [", "hosts.toml: line 1"),
        ("\n[host.'https://a']\ncapability = 'secret'", "line 2"),
    ] {
        let error = read("r.example", text, "r.example").unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let message = format!("{error} {}", source.unwrap_or_default());
        assert!(message.contains(words), "{message}");
        assert!(message.contains("hosts.toml") && !message.contains("secret"), "{message}");
    }
}

#[test]
fn knows_this_machine() {
    for host in ["localhost", "localhost:1", "127.1.2.3", "127.0.0.1:5000", "[::1]:80", "::1"] {
        assert!(is_loopback(host), "{host}");
    }
    for host in ["localhost.example", "10.0.0.1", "127.example:1", "[2001:db8::1]:80"] {
        assert!(!is_loopback(host), "{host}");
    }
}
