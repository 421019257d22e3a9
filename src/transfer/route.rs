//! What is transferred: a source, a destination, and the platform that is meant.
//!
//! Pairs that mean nothing can be written down, and are refused by name when they are run:
//! whoever asks chooses the two ends apart from each other.

use std::fmt;
use std::io::{Read, Write};

use super::credentials::Credentials;
use super::export::ArchiveFormat;
use super::platform::Platform;
use super::reference::Reference;

/// One transfer.
#[derive(Debug)]
pub struct Transfer {
    /// Where it comes from.
    pub source: Source,
    /// Where it goes.
    pub destination: Destination,
    /// Which image of several is meant; `None` means this machine's, and all for a mirror.
    pub platform: Option<Platform>,
}

/// Where a transfer comes from.
pub enum Source {
    /// A registry.
    Registry {
        /// The image.
        reference: Reference,
        /// What is shown to the registry.
        credentials: Option<Credentials>,
    },
    /// An archive of images, plain or compressed.
    Archive(Box<dyn Read + Send>),
    /// An image of the store, by any of its names.
    Image(String),
    /// A layer's archive, plain or compressed.
    Layer(Box<dyn Read + Send>),
    /// A snapshot by its key, or an unpacked layer by its diffID.
    Snapshot(String),
}

/// Where a transfer goes.
pub enum Destination {
    /// The store, under the names that the source gives.
    Store,
    /// A registry.
    Registry {
        /// What the image is to be called.
        reference: Reference,
        /// What is shown to the registry.
        credentials: Option<Credentials>,
    },
    /// An archive of images.
    Archive {
        /// What it looks like.
        format: ArchiveFormat,
        /// Where it is written.
        to: Box<dyn Write + Send>,
    },
    /// Another name in the store.
    Name(Reference),
    /// A new snapshot.
    Snapshot {
        /// Its key.
        key: String,
        /// The image that it stands on, if any.
        base: Option<String>,
    },
    /// A layer's archive.
    Layer(Box<dyn Write + Send>),
}

impl Source {
    /// What it is, for messages.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Registry { .. } => "a registry",
            Self::Archive(_) => "an archive",
            Self::Image(_) => "an image",
            Self::Layer(_) => "a layer",
            Self::Snapshot(_) => "a snapshot",
        }
    }
}

impl Destination {
    /// What it is, for messages.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Store => "the store",
            Self::Registry { .. } => "a registry",
            Self::Archive { .. } => "an archive",
            Self::Name(_) => "a name",
            Self::Snapshot { .. } => "a snapshot",
            Self::Layer(_) => "a layer",
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
