//! Image references: what a user writes, and the full name it stands for.
//!
//! A [`Reference`] is always normalised: it has a domain, an official Docker Hub image has its
//! `library/` in front, and where neither tag nor digest was written the tag is `latest`.
//! With both a tag and a digest the digest decides what is fetched; the tag is kept so that
//! the caller may decide whether it becomes a name of the image.
//!
//! Specification: the grammar of
//! <https://github.com/distribution/reference/blob/main/reference.go>, and for repository names
//! and tags <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>.

use std::fmt;
use std::str::FromStr;

use crate::metadata::{Digest, DigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Longest repository name, domain included, that the reference grammar allows.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A normalised image reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was written, or nothing before the tag or the digest.
    #[error("image reference {0:?} has no repository name")]
    Empty(String),
    /// The repository name is longer than the grammar allows.
    #[error("repository name of {0} bytes is longer than {NAME_MAX}")]
    TooLong(usize),
    /// The part before the first slash is no host name, address or port.
    #[error("registry host {0:?} is not valid")]
    Domain(String),
    /// A path component has upper-case letters or misplaced separators.
    #[error("repository path {0:?} is not valid; only lower-case letters, digits and separators")]
    Path(String),
    /// 64 hex digits alone would be taken for an image id.
    #[error("reference {0:?} looks like an image id")]
    LooksLikeId(String),
    /// The tag has a character it must not have, or is too long.
    #[error("tag {0:?} is not valid")]
    Tag(String),
    /// The part after `@` is no digest.
    #[error("reference has an invalid digest")]
    Digest(#[source] DigestError),
}

impl Reference {
    /// Parses and normalises a reference as a user writes it.
    ///
    /// # Errors
    /// A [`ReferenceError`] naming the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(ReferenceError::Digest)?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        if name.is_empty() {
            return Err(ReferenceError::Empty(shortened(text)));
        }
        if tag.is_none() && digest.is_none() && is_bare_id(name) {
            return Err(ReferenceError::LooksLikeId(name.to_owned()));
        }
        let (domain, path) = split_domain(name);
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(ReferenceError::TooLong(domain.len() + 1 + path.len()));
        }
        if !is_domain(&domain) {
            return Err(ReferenceError::Domain(domain));
        }
        if !path.split('/').all(is_path_component) {
            return Err(ReferenceError::Path(path));
        }
        let tag = match tag {
            Some(tag) if !is_tag(tag) => return Err(ReferenceError::Tag(shortened(tag))),
            Some(tag) => Some(tag.to_owned()),
            None if digest.is_none() => Some(DEFAULT_TAG.to_owned()),
            None => None,
        };
        Ok(Self { domain, path, tag, digest })
    }

    /// The registry's host, with its port if one was written: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository inside the registry: `library/busybox`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if the reference has one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference has one; it decides over the tag.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The full repository name: `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// `name:tag`, if the reference has a tag.
    #[must_use]
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}/{}:{tag}", self.domain, self.path))
    }

    /// `name@digest` for a digest found in this repository.
    #[must_use]
    pub fn digested(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.domain, self.path)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

/// A colon starts a tag only behind the last slash; before it, it starts a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let last_slash = text.rfind('/').map_or(0, |at| at + 1);
    match text.get(last_slash..).and_then(|last| last.find(':')) {
        Some(at) => {
            let (name, tag) = text.split_at(last_slash + at);
            (name, tag.strip_prefix(':'))
        }
        None => (text, None),
    }
}

/// The first component is a host when it could not be a plain repository component.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if looks_like_host(first) => (first, rest),
        Some(_) | None => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == LEGACY_DEFAULT_DOMAIN { DEFAULT_DOMAIN } else { domain };
    let official = domain == DEFAULT_DOMAIN && !path.contains('/');
    let path = if official { format!("{OFFICIAL_PREFIX}{path}") } else { path.to_owned() };
    (domain.to_owned(), path)
}

fn looks_like_host(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let port = if rest.is_empty() { None } else { Some(rest) };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            return port.is_none_or(|port| port.strip_prefix(':').is_some_and(is_port));
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    port.is_none_or(is_port) && host.split('.').all(is_host_component)
}

fn is_port(port: &str) -> bool {
    !port.is_empty()
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok()
}

fn is_host_component(component: &str) -> bool {
    !component.is_empty()
        && component.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !component.starts_with('-')
        && !component.ends_with('-')
}

/// Letters and digits in runs, joined by one dot, one or two underscores, or any dashes.
fn is_path_component(component: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_alphanumeric(*first) || !is_alphanumeric(*last) {
        return false;
    }
    bytes.split(|byte| is_alphanumeric(*byte)).all(|separator| match separator {
        b"" | b"." | b"_" | b"__" => true,
        dashes => dashes.iter().all(|byte| *byte == b'-'),
    })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=TAG_MAX).contains(&tag.len())
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

fn is_bare_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn shortened(text: &str) -> String {
    text.chars().take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests;
