//! What an image must be signed as: the name in its signature against the name it is pulled by.

use serde::Deserialize;

use crate::transfer::reference::{Reference, ReferenceError};

/// Which names in a signature will do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Identity {
    /// The very reference.
    Exact,
    /// The very reference where it is a tag; the repository where it is a digest.
    #[default]
    RepositoryDigestOrExact,
    /// The repository.
    Repository,
    /// This reference, whatever the image is called.
    ExactReference(Name),
    /// This repository, whatever the image is called.
    ExactRepository(String),
    /// As the default, once the beginning of the image's name is exchanged.
    Remap {
        /// What it begins with.
        prefix: String,
        /// What is there instead.
        signed_prefix: String,
    },
}

/// An identity means nothing.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A name is not a reference.
    #[error("{name:?} is not a reference")]
    Name {
        /// The name.
        name: String,
        /// The cause.
        #[source]
        source: ReferenceError,
    },
    /// A reference without a tag or a digest names no image.
    #[error("{0:?} has neither a tag nor a digest")]
    NameOnly(String),
}

/// An identity as it is written.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Written {
    MatchExact {},
    MatchRepoDigestOrExact {},
    MatchRepository {},
    #[serde(rename_all = "camelCase")]
    ExactReference {
        docker_reference: String,
    },
    #[serde(rename_all = "camelCase")]
    ExactRepository {
        docker_repository: String,
    },
    #[serde(rename_all = "camelCase")]
    RemapIdentity {
        prefix: String,
        signed_prefix: String,
    },
}

/// A name, split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    repository: String,
    /// `:tag` or `@digest`; `None` where there is neither.
    image: Option<String>,
}

impl Identity {
    pub(super) fn read(written: Option<Written>) -> Result<Self, IdentityError> {
        Ok(match written {
            None | Some(Written::MatchRepoDigestOrExact {}) => Self::RepositoryDigestOrExact,
            Some(Written::MatchExact {}) => Self::Exact,
            Some(Written::MatchRepository {}) => Self::Repository,
            Some(Written::ExactReference { docker_reference }) => {
                let name = Name::parse(&docker_reference)?;
                if name.image.is_none() {
                    return Err(IdentityError::NameOnly(docker_reference));
                }
                Self::ExactReference(name)
            }
            Some(Written::ExactRepository { docker_repository }) => {
                Self::ExactRepository(Name::parse(&docker_repository)?.repository)
            }
            Some(Written::RemapIdentity { prefix, signed_prefix }) => {
                Self::Remap { prefix, signed_prefix }
            }
        })
    }

    /// Whether a signature as `signed` will do for an image that is pulled by `reference`.
    pub(super) fn fits(&self, reference: &Reference, signed: &str) -> bool {
        let Ok(signed) = Name::parse(signed) else { return false };
        let wanted = Name::of(reference);
        match self {
            Self::Exact => wanted.image.is_some() && signed == wanted,
            Self::RepositoryDigestOrExact => wanted.is_signed_as(&signed),
            Self::Repository => signed.repository == wanted.repository,
            Self::ExactReference(name) => signed == *name,
            Self::ExactRepository(repository) => signed.repository == *repository,
            Self::Remap { prefix, signed_prefix } => {
                let rest = wanted.repository.strip_prefix(prefix.as_str());
                let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with('/'));
                let repository = match rest {
                    Some(rest) => format!("{signed_prefix}{rest}"),
                    None => wanted.repository,
                };
                Name { repository, image: wanted.image }.is_signed_as(&signed)
            }
        }
    }
}

impl Name {
    /// A digest decides what is pulled, so a tag beside it says nothing.
    fn of(reference: &Reference) -> Self {
        let image = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Some(format!("@{digest}")),
            (None, tag) => tag.map(|tag| format!(":{tag}")),
        };
        Self { repository: reference.name(), image }
    }

    fn parse(text: &str) -> Result<Self, IdentityError> {
        let reference = Reference::parse(text)
            .map_err(|source| IdentityError::Name { name: text.to_owned(), source })?;
        let last = text.rsplit('/').next().unwrap_or_default();
        let name = Self::of(&reference);
        // A tag that is not written is not signed.
        Ok(if last.contains([':', '@']) { name } else { Self { image: None, ..name } })
    }

    fn is_signed_as(&self, signed: &Self) -> bool {
        let by_digest = self.image.as_ref().is_some_and(|image| image.starts_with('@'));
        match &signed.image {
            None => false,
            Some(_) if by_digest => signed.repository == self.repository,
            Some(_) => signed == self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let by_digest = format!("r.example/a/b@{digest}");
        let both = format!("r.example/a/b:1@{digest}");
        let remap = || Identity::Remap {
            prefix: "r.example/a".to_owned(),
            signed_prefix: "o.example/x".to_owned(),
        };
        let name = |text: &str| Name::parse(text).unwrap();
        for (identity, image, signed, fits) in [
            (Identity::Exact, "r.example/a/b:1", "r.example/a/b:1", true),
            (Identity::Exact, "r.example/a/b:1", "r.example/a/b:2", false),
            (Identity::Exact, "busybox", "docker.io/library/busybox:latest", true),
            (Identity::Exact, &by_digest, "r.example/a/b:1", false),
            (Identity::Exact, &by_digest, &by_digest, true),
            (Identity::default(), "r.example/a/b:1", "r.example/a/b:1", true),
            (Identity::default(), "r.example/a/b:1", "r.example/a/b:2", false),
            (Identity::default(), "r.example/a/b:latest", "r.example/a/b", false),
            (Identity::default(), &by_digest, "r.example/a/b:7", true),
            (Identity::default(), &both, "r.example/a/b:7", true),
            (Identity::default(), &by_digest, "r.example/a/b", false),
            (Identity::default(), &by_digest, "r.example/a/c:7", false),
            (Identity::Repository, "r.example/a/b:1", "r.example/a/b", true),
            (Identity::Repository, "r.example/a/b:1", "r.example/a/b:2", true),
            (Identity::Repository, "r.example/a/b:1", "r.example/a/bb", false),
            (Identity::Repository, "r.example/a/b:1", "", false),
            (
                Identity::ExactReference(name("o.example/o:1")),
                "r.example/a/b:1",
                "o.example/o:1",
                true,
            ),
            (
                Identity::ExactReference(name("o.example/o:1")),
                "r.example/a/b:1",
                "r.example/a/b:1",
                false,
            ),
            (
                Identity::ExactRepository("o.example/o".into()),
                "r.example/a/b:1",
                "o.example/o",
                true,
            ),
            (
                Identity::ExactRepository("o.example/o".into()),
                "r.example/a/b:1",
                "o.example/p",
                false,
            ),
            (remap(), "r.example/a/b:1", "o.example/x/b:1", true),
            (remap(), "r.example/a/b:1", "r.example/a/b:1", false),
            (remap(), "r.example/aa/b:1", "r.example/aa/b:1", true),
        ] {
            let reference = Reference::parse(image).unwrap();
            assert_eq!(identity.fits(&reference, signed), fits, "{identity:?} {image} {signed}");
        }
    }
}
