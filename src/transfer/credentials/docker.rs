//! The file in which docker and its kin keep credentials: `config.json`, or `auth.json`.
//!
//! Invariant: an entry is taken for the registry that it names and for no other.
//!
//! Specification:
//! <https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md>

use std::collections::BTreeMap;

use serde::Deserialize;

use super::source::AuthEntry;

/// What a file has for a registry.
#[derive(Debug)]
pub(super) enum Kept {
    /// The secret itself.
    Here(AuthEntry),
    /// The name of the program that has it.
    ByHelper(String),
}

/// What the file says; all else in it is none of our business.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// The entry for `repository` of `registry`: the longest one that their name begins with; else
/// the helper of the registry, or of all.
///
/// # Errors
/// The line, when it is no such file.
pub(super) fn find(text: &[u8], registry: &str, repository: &str) -> Result<Option<Kept>, usize> {
    let content: File = serde_json::from_slice(text).map_err(|error| error.line())?;
    let registry = place_of(registry);
    let name = format!("{registry}/{repository}");
    let fitting = content.auths.into_iter().filter_map(|(key, entry)| {
        let key = place_of(&key);
        let rest = name.strip_prefix(key.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then_some((key.len(), entry))
    });
    if let Some((_, entry)) = fitting.max_by_key(|(length, _)| *length) {
        let entry = AuthEntry {
            username: entry.username,
            password: entry.password,
            auth: entry.auth,
            identity_token: entry.identitytoken,
            registry_token: entry.registrytoken,
        };
        if !entry.is_empty() {
            return Ok(Some(Kept::Here(entry)));
        }
    }
    let own = content.cred_helpers.into_iter().find(|(key, _)| place_of(key) == registry);
    let helper = own.map_or(content.creds_store, |(_, helper)| helper);
    Ok((!helper.is_empty()).then_some(Kept::ByHelper(helper)))
}

/// A key of the file as the beginning of an image's name.
fn place_of(key: &str) -> String {
    let (scheme, rest) = match key.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, key),
    };
    let rest = rest.trim_end_matches('/');
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    // docker's own keys are addresses of its API.
    let path = if scheme && ["v1", "v2"].contains(&path) { "" } else { path };
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str, registry: &str, repository: &str) -> Option<String> {
        match find(text.as_bytes(), registry, repository).unwrap() {
            Some(Kept::Here(entry)) => Some(entry.username),
            Some(Kept::ByHelper(helper)) => Some(format!("by {helper}")),
            None => None,
        }
    }

    #[test]
    fn an_entry_is_for_its_registry_alone() {
        let file = r#"{"auths": {
            "https://index.docker.io/v1/": {"username": "hub"},
            "one.example:5000": {"username": "one"},
            "one.example:5000/team": {"username": "team"}
        }, "other": 7}"#;
        for (registry, repository, expected) in [
            ("docker.io", "library/busybox", Some("hub")),
            ("registry-1.docker.io", "library/busybox", Some("hub")),
            ("one.example:5000", "app", Some("one")),
            ("one.example:5000", "team/app", Some("team")),
            ("one.example:5000", "teams/app", Some("one")),
            ("one.example", "app", None),
            ("one.example:50001", "app", None),
        ] {
            assert_eq!(user(file, registry, repository).as_deref(), expected, "{registry}");
        }
    }

    #[test]
    fn helpers_are_for_what_has_no_entry() {
        let file = r#"{"auths": {"one.example": {"auth": "YTpi"}, "two.example": {}},
            "credHelpers": {"two.example": "two"}, "credsStore": "desktop"}"#;
        assert_eq!(user(file, "one.example", "app").as_deref(), Some(""));
        assert_eq!(user(file, "two.example", "app").as_deref(), Some("by two"));
        assert_eq!(user(file, "three.example", "app").as_deref(), Some("by desktop"));
    }
}
