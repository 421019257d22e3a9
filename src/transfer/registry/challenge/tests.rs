//! Headers that real registries send, and some that nobody should.

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::{Challenge, TokenSource, challenges, parse};

fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
    Challenge::Bearer(TokenSource {
        realm: realm.to_owned(),
        service: service.map(str::to_owned),
        scope: scope.map(str::to_owned),
    })
}

#[test]
fn reads_the_forms_in_use() {
    let cases = [
        (
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#,
            vec![bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/busybox:pull"),
            )],
        ),
        (
            r#"bearer realm="https://r/t", scope="repository:a:pull,push", error="insufficient_scope""#,
            vec![bearer("https://r/t", None, Some("repository:a:pull,push"))],
        ),
        (r"BEARER realm=https://r/t,service=x", vec![bearer("https://r/t", Some("x"), None)]),
        (r#"Basic realm="a, b=c""#, vec![Challenge::Basic]),
        (r"Basic", vec![Challenge::Basic]),
        (
            r#"Basic realm="x", Bearer realm="https://r/t""#,
            vec![Challenge::Basic, bearer("https://r/t", None, None)],
        ),
        (r#"Bearer realm="https://r/\"t\"""#, vec![bearer("https://r/\"t\"", None, None)]),
        (r#"Digest realm="x", nonce="y""#, vec![]),
        (r#"Bearer service="no realm""#, vec![]),
        (r#"Bearer realm="https://never.closed"#, vec![bearer("https://never.closed", None, None)]),
        ("", vec![]),
        (",,= ,\"", vec![]),
    ];
    for (line, expected) in cases {
        assert_eq!(parse(line), expected, "{line}");
    }
}

#[test]
fn prefers_tokens_over_passwords() {
    let mut headers = HeaderMap::new();
    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"x\""));
    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"https://r/t\""));
    assert_eq!(challenges(&headers), [bearer("https://r/t", None, None), Challenge::Basic]);
}

proptest::proptest! {
    #[test]
    fn never_fails(line in ".*") {
        parse(&line);
    }
}
