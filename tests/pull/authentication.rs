//! Who may pull, and who gets to see the secret.

use orlop::transfer::{AuthFields, PullFailure};

use crate::image::{Layer, serve};
use crate::registry::{Auth, Fault, Registry, TokenServer, basic};
use crate::{Node, chain, credentials, login};

const TOKENS: TokenServer = TokenServer { realm: None, user: None, identity: None, uses: 1000 };

async fn private(auth: Auth) -> (Registry, Layer, String) {
    let registry = Registry::start().await;
    let layer = Layer::noise("noise", 10_000);
    serve(&registry, Some("v1"), std::slice::from_ref(&layer));
    registry.require(auth);
    let name = format!("{}/team/app:v1", registry.authority());
    (registry, layer, name)
}

#[tokio::test]
async fn root_basic_authentication() {
    let (registry, _, name) = private(Auth::Basic("alice", "secret")).await;
    Node::new().pull_with(&name, login("alice", "secret")).await.unwrap();
    assert_eq!(
        registry.authorizations().into_iter().collect::<Vec<_>>(),
        [basic("alice", "secret")]
    );
    let auth = "YWxpY2U6c2VjcmV0";
    let fields = AuthFields { auth, server_address: &registry.url(), ..AuthFields::default() };
    Node::new().pull_with(&name, credentials(fields)).await.unwrap();
}

#[tokio::test]
async fn wrong_and_missing_credentials_are_told_apart() {
    let (_registry, _, name) = private(Auth::Basic("alice", "secret")).await;
    let wrong = Node::new().fail_with(&name, login("alice", "guess")).await;
    assert_eq!(wrong.failure(), PullFailure::Unauthorized);
    assert!(chain(&wrong).contains("the credentials are refused"), "{}", chain(&wrong));
    assert!(!chain(&wrong).contains("guess"));
    let missing = Node::new().fail(&name).await;
    assert_eq!(missing.failure(), PullFailure::Unauthorized);
    assert!(chain(&missing).contains("none are given"), "{}", chain(&missing));
}

#[tokio::test]
async fn credentials_for_another_server_stay_here() {
    let (registry, _, name) = private(Auth::Basic("alice", "secret")).await;
    let fields = AuthFields {
        username: "alice",
        password: "secret",
        server_address: "https://registry.example",
        ..AuthFields::default()
    };
    let error = Node::new().fail_with(&name, credentials(fields)).await;
    assert_eq!(error.failure(), PullFailure::Unauthorized);
    assert!(registry.authorizations().is_empty());
}

#[tokio::test]
async fn root_tokens_for_a_user_for_nobody_and_for_an_identity() {
    let user = TokenServer { user: Some(("alice", "secret")), ..TOKENS };
    let (registry, _, name) = private(Auth::Token(user)).await;
    Node::new().pull_with(&name, login("alice", "secret")).await.unwrap();
    // One token for all requests of a pull.
    assert_eq!(registry.count("/token"), 1);
    let asked = registry.seen().into_iter().find(|seen| seen.path == "/token").unwrap();
    assert!(asked.query.contains("service=test"), "{}", asked.query);
    assert!(asked.query.contains("scope=repository%3Ateam%2Fapp%3Apull"), "{}", asked.query);
    let refused = Node::new().fail_with(&name, login("alice", "guess")).await;
    assert_eq!(refused.failure(), PullFailure::Unauthorized, "{}", chain(&refused));
    assert!(chain(&refused).contains("get a token"), "{}", chain(&refused));

    let (_registry, _, name) = private(Auth::Token(TOKENS)).await;
    Node::new().pull(&name).await.unwrap();

    let identity = TokenServer { identity: Some("refresh-me"), ..TOKENS };
    let (registry, _, name) = private(Auth::Token(identity)).await;
    let fields = AuthFields { identity_token: "refresh-me", ..AuthFields::default() };
    Node::new().pull_with(&name, credentials(fields)).await.unwrap();
    assert_eq!(registry.count("POST /token"), 1);
}

#[tokio::test]
async fn root_a_token_that_runs_out_is_renewed() {
    let (registry, _, name) = private(Auth::Token(TokenServer { uses: 2, ..TOKENS })).await;
    Node::new().pull(&name).await.unwrap();
    assert!(registry.count("/token") > 1);
}

#[tokio::test]
async fn root_a_registry_token_is_sent_as_it_is() {
    let (registry, _, name) = private(Auth::Bearer("given")).await;
    let fields = AuthFields { registry_token: "given", ..AuthFields::default() };
    Node::new().pull_with(&name, credentials(fields)).await.unwrap();
    assert_eq!(registry.authorizations().into_iter().collect::<Vec<_>>(), ["Bearer given"]);
    let fields = AuthFields { registry_token: "old", ..AuthFields::default() };
    let error = Node::new().fail_with(&name, credentials(fields)).await;
    assert_eq!(error.failure(), PullFailure::Unauthorized);
}

#[tokio::test]
async fn root_tokens_are_not_kept_for_the_next_caller() {
    let user = TokenServer { user: Some(("alice", "secret")), ..TOKENS };
    let (registry, _, name) = private(Auth::Token(user)).await;
    let node = Node::new();
    let pulled = node.pull_with(&name, login("alice", "secret")).await.unwrap();
    let error = node.pull(&name).await.unwrap_err();
    assert_eq!(error.failure(), PullFailure::Unauthorized, "{}", chain(&error));
    assert_eq!(registry.count("/token"), 2);
    drop(pulled);
}

#[tokio::test]
async fn root_a_redirect_carries_no_secret() {
    for auth in [
        Auth::Basic("alice", "secret"),
        Auth::Token(TokenServer { user: Some(("alice", "secret")), ..TOKENS }),
    ] {
        let (registry, layer, name) = private(auth).await;
        let storage = Registry::start().await;
        storage.copy_from(&registry);
        registry.fault(&layer.digest(), 99, Fault::Redirect(format!("{}/", storage.url())));
        Node::new().pull_with(&name, login("alice", "secret")).await.unwrap();
        assert_eq!(storage.seen().len(), 1);
        assert!(storage.authorizations().is_empty());
    }
}

#[tokio::test]
async fn root_a_storage_host_that_asks_for_a_secret_gets_none() {
    let (registry, layer, name) = private(Auth::Basic("alice", "secret")).await;
    let thief = Registry::start().await;
    thief.copy_from(&registry);
    thief.require(Auth::Basic("alice", "secret"));
    let url = format!("http://alice:secret@{}/", thief.authority());
    registry.fault(&layer.digest(), 99, Fault::Redirect(url));
    let error = Node::new().fail_with(&name, login("alice", "secret")).await;
    assert!(chain(&error).contains("status 401"), "{}", chain(&error));
    assert!(thief.authorizations().is_empty());
    // Nor one that sends it back home.
    let (registry, layer, name) = private(Auth::None).await;
    registry.fault("HEAD", 99, Fault::Redirect(format!("{}/", thief.url())));
    thief.require(Auth::None);
    thief.fault("HEAD", 99, Fault::Redirect(format!("{}/", registry.url())));
    let error = Node::new().fail_with(&name, login("alice", "secret")).await;
    assert!(chain(&error).contains("too many redirects"), "{}", chain(&error));
    assert!(thief.authorizations().is_empty());
    assert_eq!(registry.count(&layer.digest()), 0);
}

#[tokio::test]
async fn a_token_server_must_not_redirect_an_identity() {
    let identity = TokenServer { identity: Some("refresh-me"), ..TOKENS };
    let (registry, _, name) = private(Auth::Token(identity)).await;
    let thief = Registry::start().await;
    registry.fault("/token", 99, Fault::Redirect(format!("{}/token", thief.url())));
    let fields = AuthFields { identity_token: "refresh-me", ..AuthFields::default() };
    let error = Node::new().fail_with(&name, credentials(fields)).await;
    assert!(chain(&error).contains("must not redirect"), "{}", chain(&error));
    assert!(thief.seen().is_empty());
}
