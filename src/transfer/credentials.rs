//! What a caller hands us to prove who it is at a registry.
//!
//! Invariants: a secret is never printed ([`std::fmt::Debug`] is redacted), never stored, and
//! belongs to one registry: `Credentials::may_reach` is asked before each host.

mod docker;
mod program;
mod source;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub use self::program::ProgramError;
pub use self::source::{AuthEntry, SecretSource, SourceError};

use super::registry::hosts::is_same_registry;

/// One secret and the registry it is for.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    secret: Secret,
    /// `host[:port]` of the registry; `None` means the registry of the reference.
    server: Option<String>,
}

/// The forms in which a registry takes a secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// User name and password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth2 refresh token, exchanged at the registry's token server.
    Identity(String),
    /// A bearer token, sent to the registry as it is.
    Registry(String),
}

/// The fields in which the kubelet passes a secret; an empty field is one that is not set.
#[derive(Default, Clone, Copy)]
pub struct AuthFields<'a> {
    /// User name.
    pub username: &'a str,
    /// Password.
    pub password: &'a str,
    /// Base64 of `username:password`.
    pub auth: &'a str,
    /// Address of the registry the secret is for, with or without scheme and path.
    pub server_address: &'a str,
    /// OAuth2 refresh token.
    pub identity_token: &'a str,
    /// Bearer token for the registry.
    pub registry_token: &'a str,
}

/// The fields do not form a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialsError {
    /// `auth` is not base64.
    #[error("credentials: field auth is not base64")]
    NotBase64,
    /// `auth` does not hold `username:password` in UTF-8.
    #[error("credentials: field auth does not hold username:password")]
    NoColon,
    /// A password without a user name, or a server address alone.
    #[error("credentials: no user name, auth, identity token or registry token")]
    NoSecret,
    /// A secret that cannot be put into an HTTP header.
    #[error("credentials: a field holds a control character")]
    ControlCharacter,
}

impl Secret {
    /// What it is, without what it says.
    pub(super) fn kind(&self) -> String {
        match self {
            Self::Basic { username, .. } => format!("user {username}"),
            Self::Identity(_) => "an identity token".to_owned(),
            Self::Registry(_) => "a registry token".to_owned(),
        }
    }
}

impl Credentials {
    /// Reads the fields of a pull request. `Ok(None)` when all are empty.
    ///
    /// Of several secrets the most specific is taken: registry token, identity token,
    /// user name and password, `auth`.
    ///
    /// # Errors
    /// [`CredentialsError`] when fields are set and do not form a secret. The error never quotes
    /// them.
    pub fn parse(fields: AuthFields<'_>) -> Result<Option<Self>, CredentialsError> {
        let set = [
            fields.username,
            fields.password,
            fields.auth,
            fields.identity_token,
            fields.registry_token,
        ];
        if set.iter().all(|field| field.is_empty()) {
            return Ok(None);
        }
        if set.iter().any(|field| field.chars().any(char::is_control)) {
            return Err(CredentialsError::ControlCharacter);
        }
        let secret = if !fields.registry_token.is_empty() {
            Secret::Registry(fields.registry_token.to_owned())
        } else if !fields.identity_token.is_empty() {
            Secret::Identity(fields.identity_token.to_owned())
        } else if !fields.username.is_empty() {
            Secret::Basic {
                username: fields.username.to_owned(),
                password: fields.password.to_owned(),
            }
        } else if !fields.auth.is_empty() {
            decode_auth(fields.auth)?
        } else {
            return Err(CredentialsError::NoSecret);
        };
        Ok(Some(Self { secret, server: server_of(fields.server_address) }))
    }

    /// Whether the secret may be shown to `host`, which is asked for an image of `registry`.
    ///
    /// With a server address only that host may see it. Without one it is for the registry of
    /// the reference, so a mirror of another name does not get it.
    pub(super) fn may_reach(&self, host: &str, registry: &str, role: HostRole) -> bool {
        match (&self.server, role) {
            (Some(server), HostRole::Registry) => {
                is_same_registry(server, registry) || is_same_registry(server, host)
            }
            (Some(server), HostRole::Mirror) => is_same_registry(server, host),
            (None, HostRole::Registry) => true,
            (None, HostRole::Mirror) => is_same_registry(registry, host),
        }
    }

    /// The secret itself.
    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }
}

/// Whether a host stands for the registry itself or repeats what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostRole {
    /// The registry's own host, or the one an operator put in its place as `server`.
    Registry,
    /// A `[host]` entry, tried before the registry.
    Mirror,
}

fn decode_auth(auth: &str) -> Result<Secret, CredentialsError> {
    let bytes = STANDARD.decode(auth).map_err(|_not_base64| CredentialsError::NotBase64)?;
    let text = String::from_utf8(bytes).map_err(|_not_text| CredentialsError::NoColon)?;
    // Some clients pad the password with zero bytes.
    let text = text.trim_end_matches('\0');
    if text.chars().any(char::is_control) {
        return Err(CredentialsError::ControlCharacter);
    }
    let (username, password) = text.split_once(':').ok_or(CredentialsError::NoColon)?;
    if username.is_empty() {
        return Err(CredentialsError::NoColon);
    }
    Ok(Secret::Basic { username: username.to_owned(), password: password.to_owned() })
}

/// `https://index.docker.io/v1/` and `index.docker.io` name the same server.
fn server_of(address: &str) -> Option<String> {
    let address = address.split_once("://").map_or(address, |(_scheme, rest)| rest);
    let host = address.split('/').next().unwrap_or_default();
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("secret", &self.secret)
            .field("server", &self.server)
            .finish()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

impl fmt::Debug for AuthFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFields").field("server_address", &self.server_address).finish()
    }
}

#[cfg(test)]
mod tests;
