//! Which secret is taken, and who may see it.

use super::{AuthFields, Credentials, CredentialsError, HostRole, Secret};

fn parse(fields: AuthFields<'_>) -> Credentials {
    Credentials::parse(fields).unwrap().unwrap()
}

fn basic(username: &str, password: &str) -> Secret {
    Secret::Basic { username: username.to_owned(), password: password.to_owned() }
}

#[test]
fn takes_the_most_specific_secret() {
    let all = AuthFields {
        username: "u",
        password: "p",
        auth: "YTpi",
        server_address: "",
        identity_token: "identity",
        registry_token: "registry",
    };
    assert!(parse(all).secret == Secret::Registry("registry".to_owned()));
    let all = AuthFields { registry_token: "", ..all };
    assert!(parse(all).secret == Secret::Identity("identity".to_owned()));
    let all = AuthFields { identity_token: "", ..all };
    assert!(parse(all).secret == basic("u", "p"));
    let all = AuthFields { username: "", password: "", ..all };
    assert!(parse(all).secret == basic("a", "b"));
}

#[test]
fn reads_auth_as_clients_write_it() {
    let cases = [
        ("YTpi", Ok(basic("a", "b"))),
        // A colon in the password, and zero bytes behind it.
        ("YTpiOmMAAA==", Ok(basic("a", "b:c"))),
        ("YTo=", Ok(basic("a", ""))),
        ("YWI=", Err(CredentialsError::NoColon)),
        ("OmI=", Err(CredentialsError::NoColon)),
        ("!", Err(CredentialsError::NotBase64)),
        ("YTpiCg==", Err(CredentialsError::ControlCharacter)),
    ];
    for (auth, expected) in cases {
        let parsed = Credentials::parse(AuthFields { auth, ..AuthFields::default() });
        let parsed = parsed.map(|it| it.unwrap().secret);
        assert!(parsed == expected, "{auth}: {parsed:?}");
    }
}

#[test]
fn nothing_set_is_no_secret_and_half_a_secret_is_an_error() {
    assert_eq!(Credentials::parse(AuthFields::default()), Ok(None));
    let address = AuthFields { server_address: "r.example", ..AuthFields::default() };
    assert_eq!(Credentials::parse(address), Ok(None));
    let password = AuthFields { password: "p", ..AuthFields::default() };
    assert_eq!(Credentials::parse(password), Err(CredentialsError::NoSecret));
}

#[test]
fn is_not_printed() {
    let fields = AuthFields { username: "alice", password: "hunter2", ..AuthFields::default() };
    let printed = format!("{fields:?} {:?} {:?}", parse(fields), parse(fields).secret);
    assert!(!printed.contains("hunter2") && !printed.contains("alice"), "{printed}");
}

#[test]
fn reaches_only_its_registry() {
    let with = |server_address| {
        parse(AuthFields { username: "u", server_address, ..AuthFields::default() })
    };
    let registry = "r.example:5000";
    // (server address, host, role, may)
    let cases = [
        ("", "r.example:5000", HostRole::Registry, true),
        ("", "server.example", HostRole::Registry, true),
        ("", "mirror.example", HostRole::Mirror, false),
        ("", "r.example:5000", HostRole::Mirror, true),
        ("https://r.example:5000/v2/", "r.example:5000", HostRole::Registry, true),
        ("R.example:5000", "r.example:5000", HostRole::Registry, true),
        ("other.example", "r.example:5000", HostRole::Registry, false),
        ("r.example", "r.example:5000", HostRole::Registry, false),
        ("mirror.example", "mirror.example", HostRole::Mirror, true),
        ("r.example:5000", "mirror.example", HostRole::Mirror, false),
    ];
    for (server, host, role, may) in cases {
        assert_eq!(with(server).may_reach(host, registry, role), may, "{server} {host}");
    }
    let docker = with("https://index.docker.io/v1/");
    assert!(docker.may_reach("registry-1.docker.io", "docker.io", HostRole::Registry));
    assert!(!docker.may_reach("mirror.example", "docker.io", HostRole::Mirror));
}
