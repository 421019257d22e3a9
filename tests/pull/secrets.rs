//! The node's own secrets: in `hosts.toml`, from helpers, in a file as docker writes it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use orlop::transfer::{Config, PullFailure};

use crate::image::{Layer, serve};
use crate::registry::{Auth, Fault, Registry, TokenServer, basic};
use crate::tls::Authority;
use crate::{Node, chain, config, login};

const IMAGE: &str = "registry.example/team/app:v1";

/// A mirror and a registry with the same image, both locked by other secrets.
struct Locked {
    mirror: Registry,
    upstream: Registry,
    directory: tempfile::TempDir,
}

impl Locked {
    async fn new() -> Self {
        let (mirror, upstream) = (Registry::start().await, Registry::start().await);
        serve(&upstream, Some("v1"), &[Layer::noise("noise", 10_000)]);
        mirror.copy_from(&upstream);
        mirror.require(Auth::Basic("mirror", "hunter2"));
        upstream.require(Auth::Basic("upstream", "hunter3"));
        Self { mirror, upstream, directory: tempfile::tempdir().unwrap() }
    }

    /// Writes `hosts.toml`.
    fn hosts(&self, for_mirror: &str, for_server: &str) {
        let directory = self.directory.path().join("registry.example");
        std::fs::create_dir_all(&directory).unwrap();
        let (server, mirror) = (self.upstream.url(), self.mirror.url());
        let text = format!("server = {server:?}\n{for_server}\n[host.{mirror:?}]\n{for_mirror}\n");
        std::fs::write(directory.join("hosts.toml"), text).unwrap();
    }

    fn node(&self) -> Node {
        self.node_with(None)
    }

    fn node_with(&self, credentials_file: Option<PathBuf>) -> Node {
        let hosts_dir = Some(self.directory.path().to_owned());
        Node::with(Config { hosts_dir, credentials_file, ..config() })
    }

    /// A helper that gives this secret to whoever asks, and writes down for what it was asked.
    fn helper(&self, user: &str, secret: &str) -> (PathBuf, PathBuf) {
        let (helper, asked) =
            (self.directory.path().join("helper"), self.directory.path().join("asked"));
        let answer = format!(r#"{{"ServerURL":"x","Username":"{user}","Secret":"{secret}"}}"#);
        let script = format!("#!/bin/sh\ncat >> {}\necho '{answer}'\n", asked.display());
        std::fs::write(&helper, script).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        (helper, asked)
    }
}

fn only(registry: &Registry, secret: &str) {
    assert_eq!(registry.authorizations().into_iter().collect::<Vec<_>>(), [secret]);
}

#[tokio::test]
async fn root_each_host_gets_its_own_and_a_change_needs_no_restart() {
    let locked = Locked::new().await;
    locked.hosts(
        "credentials = { username = 'mirror', password = 'hunter2' }",
        "credentials = { auth = 'dXBzdHJlYW06aHVudGVyMw==' }",
    );
    let node = locked.node();
    node.pull(IMAGE).await.unwrap();
    only(&locked.mirror, &basic("mirror", "hunter2"));
    assert!(locked.upstream.seen().is_empty());
    // Where the mirror fails, the server gets its own.
    locked.mirror.fault("/", usize::MAX, Fault::Status(404, vec![]));
    node.pull(IMAGE).await.unwrap();
    only(&locked.upstream, &basic("upstream", "hunter3"));
    // Written anew, it is used anew.
    locked.hosts("", "credentials = { username = 'upstream', password = 'old' }");
    let error = node.pull(IMAGE).await.unwrap_err();
    assert!(chain(&error).contains("the credentials are refused"), "{}", chain(&error));
    assert!(!chain(&error).contains("old"), "{}", chain(&error));
}

#[tokio::test]
async fn root_what_comes_with_the_pull_goes_first() {
    let locked = Locked::new().await;
    locked.hosts("capabilities = ['push']", "credentials = { username = 'x', password = 'y' }");
    locked.node().pull_with(IMAGE, login("upstream", "hunter3")).await.unwrap();
    only(&locked.upstream, &basic("upstream", "hunter3"));
}

#[tokio::test]
async fn root_a_helper_is_asked_for_its_host() {
    let locked = Locked::new().await;
    let (helper, asked) = locked.helper("mirror", "hunter2");
    locked.hosts(&format!("credential_helper = {helper:?}"), "");
    locked.node().pull(IMAGE).await.unwrap();
    only(&locked.mirror, &basic("mirror", "hunter2"));
    let asked = std::fs::read_to_string(asked).unwrap();
    assert_eq!(asked, format!("{}\n", locked.mirror.authority()));
}

#[tokio::test]
async fn root_a_helper_may_have_an_identity_token() {
    let locked = Locked::new().await;
    let (helper, _) = locked.helper("<token>", "refresh-me");
    locked.hosts(&format!("credential_helper = {helper:?}"), "");
    let identity = Some("refresh-me");
    locked.mirror.require(Auth::Token(TokenServer { realm: None, user: None, identity, uses: 99 }));
    locked.node().pull(IMAGE).await.unwrap();
    assert!(locked.upstream.seen().is_empty());
}

#[tokio::test]
async fn root_a_helper_that_fails_fails_its_host_alone() {
    let locked = Locked::new().await;
    let server = "credentials = { username = 'upstream', password = 'hunter3' }";
    locked.hosts("credential_helper = '/nonexistent/helper'", server);
    let node = locked.node();
    node.pull(IMAGE).await.unwrap();
    assert!(locked.mirror.seen().is_empty());
    locked.hosts("", "credential_helper = '/nonexistent/helper'");
    let error = node.pull("registry.example/team/app:v2").await.unwrap_err();
    assert_eq!(error.failure(), PullFailure::Local);
    assert!(chain(&error).contains("/nonexistent/helper"), "{}", chain(&error));
}

#[tokio::test]
async fn root_the_file_of_the_node_is_for_the_names_in_it() {
    let locked = Locked::new().await;
    locked.hosts("", "");
    let file = locked.directory.path().join("credentials.json");
    let node = locked.node_with(Some(file.clone()));
    // A file that is not there has nothing.
    assert_eq!(node.pull(IMAGE).await.unwrap_err().failure(), PullFailure::Unauthorized);
    let write = |name: &str, user: &str, password: &str| {
        let entry = serde_json::json!({ "username": user, "password": password });
        std::fs::write(&file, serde_json::json!({ "auths": { name: entry } }).to_string()).unwrap();
    };
    // The server stands for the registry of the name; the mirror is a registry of its own.
    write(&locked.mirror.authority(), "mirror", "hunter2");
    node.pull(IMAGE).await.unwrap();
    only(&locked.mirror, &basic("mirror", "hunter2"));
    write("other.example", "mirror", "hunter2");
    assert_eq!(node.pull(IMAGE).await.unwrap_err().failure(), PullFailure::Unauthorized);
    assert!(locked.upstream.authorizations().is_empty());
    std::fs::write(&file, "{\"auths\": \"hunter9\"}").unwrap();
    let error = chain(&node.pull(IMAGE).await.unwrap_err());
    assert!(error.contains("no credentials file: wrong in line 1"), "{error}");
    assert!(!error.contains("hunter9"), "{error}");
}

#[tokio::test]
async fn root_faults_in_hosts_toml_are_named_without_the_secret() {
    let locked = Locked::new().await;
    for (keys, words) in [
        ("credentials = 'hunter2'", "a table of strings"),
        ("credentials = { password = 2 }", "a table of strings"),
        ("credentials = { pasword = 'hunter2' }", "\"pasword\" is not username, password"),
        ("credential_helper = 'a/b'", "a name or an absolute path"),
        ("credential_helper = 'a'\ncredential_file = 'f'", "the only way to credentials"),
    ] {
        locked.hosts(keys, "");
        let error = chain(&locked.node().fail(IMAGE).await);
        assert!(error.contains(words) && !error.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn every_hop_is_told_and_no_secret_is() {
    let locked = Locked::new().await;
    locked.hosts("credentials = { username = 'mirror', password = 'wrong' }", "ca = 'ca.pem'");
    let ca = locked.directory.path().join("registry.example/ca.pem");
    std::fs::write(&ca, Authority::new().pem()).unwrap();
    locked.mirror.require(Auth::Token(TokenServer {
        realm: None,
        user: Some(("mirror", "hunter2")),
        identity: None,
        uses: 9,
    }));
    let node = locked.node();
    let reference = orlop::transfer::Reference::parse(IMAGE).unwrap();
    let login = login("upstream", "hunter3");
    let told = node.transfer.explain(&reference, login.as_ref()).await.unwrap();
    assert_eq!(told.file, Some(Path::new(&ca).with_file_name("hosts.toml")));
    let [mirror, server] = &told.hops[..] else { panic!("{:?}", told.hops) };
    let set = |hop: &orlop::transfer::Hop, name: &str| {
        hop.settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())
    };
    assert_eq!(set(mirror, "role").as_deref(), Some("mirror"));
    assert_eq!(set(mirror, "credentials").as_deref(), Some("user mirror, by hosts.toml"));
    assert!(mirror.exchanges[0].starts_with("HEAD http://"), "{:?}", mirror.exchanges);
    assert!(mirror.exchanges[0].contains(": 401 Unauthorized, asks for Bearer realm="));
    assert!(mirror.exchanges[1].contains("/token with user and password: 401"));
    assert!(mirror.outcome.as_ref().unwrap_err().contains("cannot get a token"));
    assert!(set(server, "CA").is_some_and(|ca| ca.ends_with("ca.pem")));
    let origin = set(server, "credentials");
    assert_eq!(origin.as_deref(), Some("user upstream, given with the request"));
    let last = server.exchanges.last().unwrap();
    assert!(last.ends_with("with user and password: 200 OK"), "{last}");
    assert!(server.outcome.is_ok());
    let all = format!("{told:?}");
    for secret in ["hunter", "wrong", "d3Jvbmc"] {
        assert!(!all.contains(secret), "{all}");
    }
    node.assert_nothing_left().await;
}
