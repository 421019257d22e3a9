//! The signature policy: which images must be signed, by whose keys, and as what.
//!
//! The file is the one that other tools have as `/etc/containers/policy.json`: scopes of
//! `transports.docker` from a single image to a registry, the most specific one decides. Of its
//! requirements `insecureAcceptAnything`, `reject` and `sigstoreSigned` with keys are known here;
//! the others (GPG keys, certificates, transparency logs) let no image in. Invariant: what is
//! not understood is an error, never ignored.
//!
//! Specification:
//! <https://github.com/containers/image/blob/main/docs/containers-policy.json.5.md>

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::identity::{Identity, IdentityError};
use super::key::{Key, KeyError};
use crate::transfer::reference::Reference;

/// What an image must fulfil; all of it.
#[derive(Debug)]
pub(super) enum Requirement {
    /// Nothing.
    Accept,
    /// It cannot.
    Reject,
    /// It must be signed.
    Signed {
        /// By one of these.
        keys: Vec<Key>,
        /// As this.
        identity: Identity,
    },
    /// Something that is not known here.
    Unsupported(String),
}

/// The requirements for one image, and where in the file they are.
#[derive(Debug)]
pub(super) struct Demands {
    /// The scope that decides.
    pub(super) scope: String,
    /// What it asks for.
    pub(super) requirements: Vec<Requirement>,
}

/// The policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("cannot read the signature policy {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is not a policy.
    #[error("cannot parse the signature policy {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// It asks for nothing, not even for nothing.
    #[error("signature policy {}: the list of requirements for {scope:?} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// The scope.
        scope: String,
    },
    /// A requirement names no key, or keys in several ways.
    #[error(
        "signature policy {}: {scope:?} needs exactly one of keyPath, keyPaths, keyData and \
         keyDatas",
        path.display()
    )]
    Keys {
        /// The file.
        path: PathBuf,
        /// The scope.
        scope: String,
    },
    /// A key cannot be used.
    #[error("signature policy {}: cannot use a key for {scope:?}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The scope.
        scope: String,
        /// The cause.
        #[source]
        source: KeyError,
    },
    /// An identity means nothing.
    #[error("signature policy {}: cannot use an identity for {scope:?}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// The scope.
        scope: String,
        /// The cause.
        #[source]
        source: IdentityError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Vec<Written>,
    #[serde(default)]
    transports: Transports,
}

/// Images of other transports do not come from registries.
#[derive(Default, Deserialize)]
struct Transports {
    #[serde(default)]
    docker: Scopes,
}

/// Requirements by scope; a scope that comes twice is an error.
#[derive(Default)]
struct Scopes(HashMap<String, Vec<Written>>);

/// A requirement as it is written.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Written {
    InsecureAcceptAnything {},
    Reject {},
    #[serde(rename_all = "camelCase")]
    SigstoreSigned {
        key_path: Option<PathBuf>,
        key_paths: Option<Vec<PathBuf>>,
        key_data: Option<String>,
        key_datas: Option<Vec<String>>,
        signed_identity: Option<super::identity::Written>,
        fulcio: Option<IgnoredAny>,
        pki: Option<IgnoredAny>,
        rekor_public_key_path: Option<IgnoredAny>,
        rekor_public_key_paths: Option<IgnoredAny>,
        rekor_public_key_data: Option<IgnoredAny>,
        rekor_public_key_datas: Option<IgnoredAny>,
    },
    #[serde(rename_all = "camelCase")]
    SignedBy {
        #[serde(rename = "keyType")]
        _key_type: IgnoredAny,
        #[serde(rename = "keyPath")]
        _key_path: Option<IgnoredAny>,
        #[serde(rename = "keyPaths")]
        _key_paths: Option<IgnoredAny>,
        #[serde(rename = "keyData")]
        _key_data: Option<IgnoredAny>,
        #[serde(rename = "signedIdentity")]
        _signed_identity: Option<IgnoredAny>,
    },
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Scopes;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("requirements by scope")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scopes, A::Error> {
                let mut scopes = HashMap::new();
                while let Some((scope, requirements)) = map.next_entry::<String, _>()? {
                    if scopes.insert(scope.clone(), requirements).is_some() {
                        return Err(A::Error::custom(format!("scope {scope:?} is there twice")));
                    }
                }
                Ok(Scopes(scopes))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// What the policy in this file demands of an image, its keys read. Blocks.
///
/// # Errors
/// [`PolicyError`].
pub(super) fn demands(path: &Path, reference: &Reference) -> Result<Demands, PolicyError> {
    let bytes =
        fs::read(path).map_err(|source| PolicyError::Read { path: path.to_owned(), source })?;
    let mut file: File = serde_json::from_slice(&bytes)
        .map_err(|source| PolicyError::Parse { path: path.to_owned(), source })?;
    let docker = &mut file.transports.docker.0;
    let found = scopes(reference).into_iter().find_map(|scope| docker.remove_entry(&scope));
    let (scope, written) = found.unwrap_or_else(|| ("default".to_owned(), file.default));
    if written.is_empty() {
        return Err(PolicyError::Empty { path: path.to_owned(), scope });
    }
    let requirements = written.into_iter().map(|written| written.read(path, &scope));
    Ok(Demands { requirements: requirements.collect::<Result<_, _>>()?, scope })
}

/// The scopes that an image is in, the most specific one first.
fn scopes(reference: &Reference) -> Vec<String> {
    let image = match reference.digest() {
        Some(digest) => Some(reference.digested(digest)),
        None => reference.tagged(),
    };
    let name = reference.name();
    let ends = name.match_indices('/').map(|(at, _)| at).rev();
    let prefixes = std::iter::once(name.len()).chain(ends);
    let prefixes = prefixes.filter_map(|end| name.get(..end).map(str::to_owned));
    let host = reference.domain().split(':').next().unwrap_or_default();
    let parents = host.match_indices('.').filter_map(|(at, _)| host.get(at..));
    let wildcards = parents.map(|parent| format!("*{parent}"));
    image.into_iter().chain(prefixes).chain(wildcards).chain([String::new()]).collect()
}

impl Written {
    fn read(self, path: &Path, scope: &str) -> Result<Requirement, PolicyError> {
        match self {
            Self::InsecureAcceptAnything {} => Ok(Requirement::Accept),
            Self::Reject {} => Ok(Requirement::Reject),
            Self::SignedBy { .. } => Ok(Requirement::Unsupported("signedBy".to_owned())),
            Self::SigstoreSigned {
                key_path,
                key_paths,
                key_data,
                key_datas,
                signed_identity,
                fulcio,
                pki,
                rekor_public_key_path,
                rekor_public_key_paths,
                rekor_public_key_data,
                rekor_public_key_datas,
            } => {
                let unsupported = [
                    ("fulcio", fulcio),
                    ("pki", pki),
                    ("rekorPublicKeyPath", rekor_public_key_path),
                    ("rekorPublicKeyPaths", rekor_public_key_paths),
                    ("rekorPublicKeyData", rekor_public_key_data),
                    ("rekorPublicKeyDatas", rekor_public_key_datas),
                ];
                let unsupported = unsupported.iter().find(|(_, value)| value.is_some());
                if let Some((name, _)) = unsupported {
                    return Ok(Requirement::Unsupported(format!("{name} of sigstoreSigned")));
                }
                let failed = |source| PolicyError::Key {
                    path: path.to_owned(),
                    scope: scope.to_owned(),
                    source,
                };
                let from_files = |paths: Vec<PathBuf>| -> Result<Vec<Key>, KeyError> {
                    paths.iter().map(|path| Key::read(path)).collect()
                };
                let from_words = |words: Vec<String>| -> Result<Vec<Key>, KeyError> {
                    let decoded = words.iter().map(|word| STANDARD.decode(word));
                    decoded.map(|pem| Key::parse(&pem.map_err(KeyError::Base64)?)).collect()
                };
                let keys = match (key_path, key_paths, key_data, key_datas) {
                    (Some(path), None, None, None) => from_files(vec![path]),
                    (None, Some(paths), None, None) if !paths.is_empty() => from_files(paths),
                    (None, None, Some(word), None) => from_words(vec![word]),
                    (None, None, None, Some(words)) if !words.is_empty() => from_words(words),
                    _ => {
                        let (path, scope) = (path.to_owned(), scope.to_owned());
                        return Err(PolicyError::Keys { path, scope });
                    }
                };
                let identity = Identity::read(signed_identity).map_err(|source| {
                    let (path, scope) = (path.to_owned(), scope.to_owned());
                    PolicyError::Identity { path, scope, source }
                })?;
                Ok(Requirement::Signed { keys: keys.map_err(failed)?, identity })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demanded(policy: &str, reference: &str) -> Result<Demands, PolicyError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), policy).unwrap();
        demands(file.path(), &Reference::parse(reference).unwrap())
    }

    #[test]
    fn the_most_specific_scope_decides() {
        let accept = r#"[{"type": "insecureAcceptAnything"}]"#;
        let all = [
            "r.a.example:5000/team/app:1",
            "r.a.example:5000/team/app",
            "r.a.example:5000/team",
            "r.a.example:5000",
            "*.a.example",
            "*.example",
            "",
        ];
        for count in 0..=all.len() {
            let scopes: Vec<String> =
                all[count..].iter().map(|scope| format!("{scope:?}: {accept}")).collect();
            let scopes = scopes.join(",");
            let policy = format!(
                r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{{scopes}}}, "dir": {{"": 7}}}}}}"#
            );
            let found = demanded(&policy, "r.a.example:5000/team/app:1").unwrap();
            assert_eq!(found.scope, *all.get(count).unwrap_or(&"default"));
            let is_default = matches!(found.requirements[..], [Requirement::Reject]);
            assert_eq!(is_default, count == all.len());
        }
        let hex = "a".repeat(64);
        let digested = format!("r.example/app@sha256:{hex}");
        let policy = format!(
            r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"{digested}": {accept}, "r.example/app:1": [{{"type": "reject"}}]}}}}}}"#
        );
        assert_eq!(
            demanded(&policy, &format!("r.example/app:1@sha256:{hex}")).unwrap().scope,
            digested
        );
        // A name is no prefix of a longer one.
        assert_eq!(demanded(&policy, "r.example/app2:1").unwrap().scope, "default");
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for policy in [
            "",
            "{}",
            r#"{"default": []}"#,
            r#"{"default": [{"type": "trustMe"}]}"#,
            r#"{"default": [{"type": "reject", "never": true}]}"#,
            r#"{"default": [{"type": "reject"}], "transport": {}}"#,
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {"": [{"type": "reject"}], "": [{"type": "insecureAcceptAnything"}]}}}"#,
            r#"{"default": [{"type": "sigstoreSigned"}]}"#,
            r#"{"default": [{"type": "sigstoreSigned", "keyPath": "/k", "keyData": "eA=="}]}"#,
            r#"{"default": [{"type": "sigstoreSigned", "keyPaths": []}]}"#,
            r#"{"default": [{"type": "sigstoreSigned", "keyPath": "/nonexistent"}]}"#,
            r#"{"default": [{"type": "sigstoreSigned", "keyData": "eA=="}]}"#,
            r#"{"default": [{"type": "sigstoreSigned", "keyData": "?"}]}"#,
        ] {
            assert!(demanded(policy, "r.example/app:1").is_err(), "{policy}");
        }
        assert!(demands(Path::new("/nonexistent"), &Reference::parse("a").unwrap()).is_err());
    }

    #[test]
    fn what_is_known_but_cannot_be_checked_is_told() {
        for (requirement, what) in [
            (r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}"#, "signedBy"),
            (
                r#"{"type": "sigstoreSigned", "fulcio": {"caPath": "/c"}, "rekorPublicKeyPath": "/r"}"#,
                "fulcio of sigstoreSigned",
            ),
        ] {
            let policy = format!(r#"{{"default": [{requirement}]}}"#);
            let found = demanded(&policy, "r.example/app:1").unwrap().requirements;
            assert!(
                matches!(&found[..], [Requirement::Unsupported(it)] if it == what),
                "{found:?}"
            );
        }
    }
}
