//! Secrets of the node itself: written in `hosts.toml`, given by a helper, kept in docker's file.
//!
//! Invariant: they are read anew for each pull, so that a change needs no restart; what is wrong
//! with one fails the host that it is for, and no other.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::docker::{self, Kept};
use super::program::{self, ProgramError};
use super::{AuthFields, Credentials, CredentialsError, Secret};

/// Where the secret for a host comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// It is written where the host is.
    Written(AuthEntry),
    /// A credential helper has it: `NAME` of `docker-credential-NAME`, or an absolute path.
    Helper(String),
    /// A file as docker writes it may have it.
    File(PathBuf),
}

/// A secret in any of its forms; what is empty is not set.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct AuthEntry {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Base64 of `username:password`.
    pub auth: String,
    /// OAuth2 refresh token.
    pub identity_token: String,
    /// Bearer token for the registry.
    pub registry_token: String,
}

/// The node's own secret for a host cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
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
    /// A helper does not give it.
    #[error(transparent)]
    Helper(#[from] ProgramError),
    /// The fields do not form a secret.
    #[error(transparent)]
    Fields(#[from] CredentialsError),
}

impl SecretSource {
    /// What this source has for `repository` of `registry`. Blocks: it may read a file or wait
    /// for a helper.
    ///
    /// # Errors
    /// [`SourceError`]. To have nothing is none.
    pub fn read(&self, registry: &str, repository: &str) -> Result<Option<AuthEntry>, SourceError> {
        match self {
            Self::Written(entry) => Ok(Some(entry.clone())),
            Self::Helper(helper) => Ok(program::ask(helper, name_for_helper(registry))?),
            Self::File(file) => {
                let read = |source| SourceError::Read { file: file.clone(), source };
                let text = std::fs::read(file).map_err(read)?;
                let kept = docker::find(&text, registry, repository)
                    .map_err(|line| SourceError::Parse { file: file.clone(), line })?;
                match kept {
                    Some(Kept::Here(entry)) => Ok(Some(entry)),
                    Some(Kept::ByHelper(helper)) => {
                        Ok(program::ask(&helper, name_for_helper(registry))?)
                    }
                    None => Ok(None),
                }
            }
        }
    }
}

impl AuthEntry {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The secret that the fields form.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub(in crate::transfer) fn secret(&self) -> Result<Option<Secret>, CredentialsError> {
        let fields = AuthFields {
            username: &self.username,
            password: &self.password,
            auth: &self.auth,
            server_address: "",
            identity_token: &self.identity_token,
            registry_token: &self.registry_token,
        };
        Ok(Credentials::parse(fields)?.map(|credentials| credentials.secret().clone()))
    }
}

impl fmt::Debug for AuthEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

/// For the operator: the place, never the secret.
impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(_) => f.write_str("hosts.toml"),
            Self::Helper(helper) => write!(f, "helper {}", program::program_of(helper)),
            Self::File(file) => write!(f, "{}", Path::new(file).display()),
        }
    }
}

/// docker's helpers know its registry by the address of its oldest API.
fn name_for_helper(registry: &str) -> &str {
    match registry {
        "docker.io" | "registry-1.docker.io" => "https://index.docker.io/v1/",
        other => other,
    }
}
