//! Which credentials the command line shows to a registry: what it was given, or what a file
//! like docker's `config.json` has for it.
//!
//! Invariant: an entry of the file is taken for the registry that it names and for no other; no
//! secret appears in an error.
//!
//! Specification:
//! <https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md>

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::client::RegistryAuth;
use crate::transfer::{Reference, ReferenceError, SecretSource, SourceError};

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
    /// The file, or the helper that it names, does not give them.
    #[error(transparent)]
    Source(#[from] SourceError),
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
        let source = SecretSource::File(file.to_owned());
        let entry = source.read(parsed.domain(), parsed.path())?;
        Ok(entry.map(|entry| RegistryAuth {
            username: entry.username,
            password: entry.password,
            auth: entry.auth,
            server_address: parsed.domain().to_owned(),
            identity_token: entry.identity_token,
            registry_token: entry.registry_token,
        }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_not_repeated() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"auths\": \"hunter2\"}").unwrap();
        let error = credentials("one.example/app", None, Some(file.path())).unwrap_err();
        let said = format!("{} is no credentials file: wrong in line 1", file.path().display());
        assert_eq!(error.to_string(), said);
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
