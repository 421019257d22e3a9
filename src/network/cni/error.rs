//! What can go wrong with CNI plugins, by step.

use std::fmt;

use super::conflist::{ConfigList, ParseListError};
use super::intent::IntentError;
use super::outcome::OutcomeError;
use super::plugin::{PluginError, Verb};

/// Which plugin of which list was doing what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginStep {
    verb: &'static str,
    plugin: String,
    network: String,
    nth: usize,
    of: usize,
}

impl PluginStep {
    pub(super) fn new(verb: Verb, list: &ConfigList, index: usize) -> Box<Self> {
        Box::new(Self {
            verb: verb.word(),
            plugin: list.plugins().get(index).map_or_else(String::new, |p| p.kind().to_owned()),
            network: list.name().to_owned(),
            nth: index + 1,
            of: list.plugins().len(),
        })
    }
}

impl fmt::Display for PluginStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, plugin, network, nth, of } = self;
        write!(f, "CNI {verb} by plugin {plugin:?} ({nth} of {of}) of network {network:?}")
    }
}

/// Why plugins did not attach a pod; DEL was run for the whole list.
#[derive(Debug, thiserror::Error)]
pub enum CniAddError {
    /// The pod was given without a network namespace.
    #[error("the pod has no network namespace")]
    NoNetns,
    /// The list has no plugin.
    #[error("the network configuration list has no plugin")]
    NoPlugins,
    /// A value would be read as further arguments.
    #[error(
        "{key} {value:?} cannot be passed in CNI_ARGS: it has one of ; = or a control character"
    )]
    Argument {
        /// The key in `CNI_ARGS`.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// The intent was not written, no plugin was run.
    #[error("noting the attachment before CNI ADD")]
    Intent(#[source] IntentError),
    /// A plugin failed.
    #[error("{step}")]
    Plugin {
        /// Which.
        step: Box<PluginStep>,
        /// Why.
        #[source]
        source: PluginError,
    },
    /// A plugin printed a result that the next one cannot be given.
    #[error("the result of {step}")]
    Result {
        /// Which.
        step: Box<PluginStep>,
        /// Why.
        #[source]
        source: OutcomeError,
    },
    /// The last result does not say the pod's addresses.
    #[error("reading the pod's addresses from the result of CNI ADD")]
    Outcome(#[source] OutcomeError),
}

/// Why plugins did not do what was asked of them.
#[derive(Debug, thiserror::Error)]
pub enum CniDelError {
    /// The list in the pod's record is not one.
    #[error("reading the stored network configuration list")]
    StoredList(#[source] ParseListError),
    /// The intents were not read or removed.
    #[error("looking after the note of the attachment")]
    Intent(#[source] IntentError),
    /// A plugin failed.
    #[error("{step}")]
    Plugin {
        /// Which.
        step: Box<PluginStep>,
        /// Why.
        #[source]
        source: PluginError,
    },
}
