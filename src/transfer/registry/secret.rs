//! Which secret a host is shown during one pull.
//!
//! Invariant: what came with the pull goes first, and only where [`Credentials::may_reach`] lets
//! it; then what the node's operator wrote for this very host; then what the node's credentials
//! file has for its name. So no secret of one host is ever shown to another.

use std::io::ErrorKind;
use std::sync::Arc;

use super::hosts::{Host, is_same_registry};
use crate::transfer::config::Config;
use crate::transfer::credentials::{Credentials, Secret, SecretSource, SourceError};
use crate::transfer::reference::Reference;

/// A host's secret, and where it is from.
#[derive(Debug, Clone)]
pub(super) enum HostSecret {
    /// There is none.
    Nothing,
    /// It came with the pull.
    OfPull(Secret),
    /// It is the node's own.
    OfNode(Secret, SecretSource),
    /// The node has one and cannot get at it.
    Lost(Arc<SourceError>, SecretSource),
}

impl HostSecret {
    /// Chooses for `host`, which is asked for `reference`. Blocks: files are read, and a helper
    /// may be asked.
    pub(super) fn choose(
        host: &Host,
        reference: &Reference,
        credentials: Option<&Credentials>,
        config: &Config,
    ) -> Self {
        let registry = reference.domain();
        let of_pull = credentials
            .filter(|credentials| credentials.may_reach(&host.authority, registry, host.role));
        if let Some(credentials) = of_pull {
            return Self::OfPull(credentials.secret().clone());
        }
        if let Some(source) = &host.secret {
            return Self::read(source, &host.authority, reference.path(), config);
        }
        let file = config.credentials_file.clone().map(SecretSource::File);
        match file {
            // The registry goes by the name that images have.
            Some(file) if is_same_registry(&host.authority, registry) => {
                Self::read(&file, registry, reference.path(), config)
            }
            Some(file) => Self::read(&file, &host.authority, reference.path(), config),
            None => Self::Nothing,
        }
    }

    fn read(source: &SecretSource, registry: &str, repository: &str, config: &Config) -> Self {
        let read = || match source.read(registry, repository)? {
            Some(entry) => Ok(entry.secret()?),
            None => Ok(None),
        };
        match read() {
            Ok(Some(secret)) => Self::OfNode(secret, source.clone()),
            Ok(None) => Self::Nothing,
            Err(SourceError::Read { file, source })
                if source.kind() == ErrorKind::NotFound
                    && config.credentials_file.as_ref() == Some(&file) =>
            {
                Self::Nothing
            }
            Err(error) => Self::Lost(Arc::new(error), source.clone()),
        }
    }

    /// Where the secret is from, for the operator.
    pub(super) fn origin(&self) -> String {
        match self {
            Self::Nothing => "none".to_owned(),
            Self::OfPull(secret) => format!("{}, given with the request", secret.kind()),
            Self::OfNode(secret, source) => format!("{}, by {source}", secret.kind()),
            Self::Lost(_, source) => format!("lost, by {source}"),
        }
    }
}
