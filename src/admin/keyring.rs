//! Which credentials the command line shows to a registry: what it was given, or what a file
//! like docker's `config.json` has for it.
//!
//! Invariant: an entry of the file is taken for the registry that it names and for no other; no
//! secret appears in an error.
//!
//! Specification:
//! <https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md>

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::client::RegistryAuth;
use crate::transfer::{Reference, ReferenceError};

/// Credentials cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The image's name is none.
    #[error("cannot tell the registry of {reference:?}")]
    Reference {
        /// The name.
        reference: String,
        /// Why it is none.
        #[source]
        source: ReferenceError,
    },
    /// What was given is not `USER:PASSWORD`.
    #[error("credentials are given as USER:PASSWORD")]
    NoColon,
    /// The file cannot be read.
    #[error("cannot read credentials from {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is not what docker writes. Its content is not repeated.
    #[error("{} is no credentials file: wrong in line {line}", file.display())]
    Parse {
        /// The file.
        file: PathBuf,
        /// Where.
        line: usize,
    },
    /// The file leaves the registry's secret to another program.
    #[error(
        "{} names the credential helper {helper} for {registry}, and helpers are not called; \
         credentials can be given by --creds",
        file.display()
    )]
    Helper {
        /// The file.
        file: PathBuf,
        /// The helper.
        helper: String,
        /// The registry.
        registry: String,
    },
}

/// What the file says; all else in it is none of our business.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
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

/// What is shown to the registry of `reference`: `given`, as `USER:PASSWORD`; else what `file`
/// has for it; else what the user's own file has, if there is one.
///
/// # Errors
/// [`KeyringError`]. A file that is not named need not exist.
pub fn credentials(
    reference: &str,
    given: Option<&str>,
    file: Option<&Path>,
) -> Result<Option<RegistryAuth>, KeyringError> {
    let parsed = Reference::parse(reference)
        .map_err(|source| KeyringError::Reference { reference: reference.to_owned(), source })?;
    if let Some(given) = given {
        let (username, password) = given.split_once(':').ok_or(KeyringError::NoColon)?;
        return Ok(Some(RegistryAuth {
            username: username.to_owned(),
            password: password.to_owned(),
            server_address: parsed.domain().to_owned(),
            ..RegistryAuth::default()
        }));
    }
    let read = |file: &Path| {
        let text = fs::read(file)
            .map_err(|source| KeyringError::Read { file: file.to_owned(), source })?;
        find(file, &text, &parsed)
    };
    match (file, own_file(|name| env::var_os(name))) {
        (Some(file), _) => read(file),
        (None, Some(file)) if file.exists() => read(&file),
        (None, _) => Ok(None),
    }
}

/// Where docker and its kin look for the user's file.
fn own_file(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let named = variable("REGISTRY_AUTH_FILE").map(PathBuf::from);
    let docker = || Some(PathBuf::from(variable("DOCKER_CONFIG")?).join("config.json"));
    let home = || Some(PathBuf::from(variable("HOME")?).join(".docker/config.json"));
    named.or_else(docker).or_else(home)
}

/// The entry for the reference: the longest one that its name begins with.
fn find(
    file: &Path,
    text: &[u8],
    reference: &Reference,
) -> Result<Option<RegistryAuth>, KeyringError> {
    let content: File = serde_json::from_slice(text)
        .map_err(|error| KeyringError::Parse { file: file.to_owned(), line: error.line() })?;
    let domain = reference.domain();
    let name = format!("{domain}/{}", reference.path());
    let fitting = content.auths.into_iter().filter_map(|(key, entry)| {
        let key = place_of(&key);
        let rest = name.strip_prefix(key.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then_some((key.len(), entry))
    });
    if let Some((_, entry)) = fitting.max_by_key(|(length, _)| *length) {
        let is_empty = [&entry.username, &entry.auth, &entry.identitytoken, &entry.registrytoken]
            .iter()
            .all(|field| field.is_empty());
        if !is_empty {
            return Ok(Some(RegistryAuth {
                username: entry.username,
                password: entry.password,
                auth: entry.auth,
                server_address: domain.to_owned(),
                identity_token: entry.identitytoken,
                registry_token: entry.registrytoken,
            }));
        }
    }
    let helper = content.cred_helpers.into_iter().find(|(key, _)| place_of(key) == domain);
    match helper {
        Some((_, helper)) => {
            Err(KeyringError::Helper { file: file.to_owned(), helper, registry: domain.to_owned() })
        }
        None => Ok(None),
    }
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

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn user(text: &str, reference: &str) -> Result<Option<String>, Box<dyn std::error::Error>> {
        let found = find(Path::new("config.json"), text.as_bytes(), &Reference::parse(reference)?)?;
        Ok(found.map(|auth| auth.username))
    }

    #[test]
    fn an_entry_is_for_its_registry_alone() -> Outcome {
        let file = r#"{"auths": {
            "https://index.docker.io/v1/": {"username": "hub"},
            "one.example:5000": {"username": "one"},
            "one.example:5000/team": {"username": "team"}
        }, "credsStore": "desktop"}"#;
        for (reference, expected) in [
            ("busybox", Some("hub")),
            ("one.example:5000/app", Some("one")),
            ("one.example:5000/team/app:1", Some("team")),
            ("one.example:5000/teams/app", Some("one")),
            ("one.example/app", None),
            ("one.example:50001/app", None),
        ] {
            assert_eq!(user(file, reference)?.as_deref(), expected, "{reference}");
        }
        Ok(())
    }

    #[test]
    fn a_helper_is_named_and_not_called() -> Outcome {
        let file = r#"{"credHelpers": {"one.example": "secretservice"}}"#;
        let error = user(file, "one.example/app").err().ok_or("found something")?;
        assert!(error.to_string().contains("credential helper secretservice"), "{error}");
        assert_eq!(user(file, "two.example/app")?, None);
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_not_repeated() {
        let reference = Reference::parse("one.example/app").ok();
        let error = reference.map(|it| find(Path::new("f"), b"{\"auths\": \"hunter2\"}", &it));
        let said = error.and_then(Result::err).map(|error| error.to_string());
        assert_eq!(said.as_deref(), Some("f is no credentials file: wrong in line 1"));
    }

    #[test]
    fn the_users_own_file_is_found() {
        let set = |names: &'static [(&str, &str)]| {
            own_file(|name| {
                let (_, value) = names.iter().find(|(key, _)| *key == name)?;
                Some(OsString::from(value))
            })
        };
        assert_eq!(set(&[("HOME", "/h")]), Some("/h/.docker/config.json".into()));
        assert_eq!(set(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")]), Some("/d/config.json".into()));
        assert_eq!(set(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/f")]), Some("/f".into()));
        assert_eq!(set(&[]), None);
    }
}
