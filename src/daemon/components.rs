//! The components, built in the order in which they depend on each other.

use std::sync::Arc;

use crate::network::{self, Network};

use super::Config;

/// Why a component does not start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The pods' network.
    #[error("cannot start the network")]
    Network {
        /// The component's reason.
        #[source]
        source: network::StartError,
    },
}

/// All components; what serves is made from them.
#[derive(Debug)]
pub(super) struct Components {
    pub(super) network: Arc<Network>,
}

/// Builds them. Blocking; nothing on the host changes but our own directories.
///
/// # Errors
/// [`BuildError`] names the component.
pub(super) fn build(config: &Config) -> Result<Components, BuildError> {
    let network =
        Network::new(config.network.clone()).map_err(|source| BuildError::Network { source })?;
    Ok(Components { network: Arc::new(network) })
}
