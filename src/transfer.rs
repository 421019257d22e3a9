//! Images and layers on their way: registries, archives, the store, snapshots.
//!
//! ```text
//!                  to: store        registry   archive   name    snapshot   layer
//! from registry        pull         mirror
//!      archive         import
//!      image                        push       export    tag
//!      layer                                                     unpack
//!      snapshot                                                             diff
//! ```
//! A [`Transfer`] is a source and a destination; `images` runs it, because what arrives is
//! committed there. [`Pipeline`] does the work. Invariants: bytes are verified before
//! anything can be found by their digest; a pull that fails or is dropped leaves nothing that
//! is not collected; no wait is without an end.

/// Settings and their defaults.
pub mod config;
/// Secrets for registries.
pub mod credentials;
/// Images from archives.
pub mod import;
/// Manifests and indexes.
pub mod manifest;
/// Platforms and which of them fit.
pub mod platform;
/// How far a pull is.
pub mod progress;
/// Image references and their normalisation.
pub mod reference;
/// The registry client.
pub mod registry;
/// Layer streams into layer directories.
pub mod unpack;

mod config_blob;
mod decryption;
mod error;
mod export;
mod fetch;
mod mirror;
mod permits;
mod pressure;
mod program;
mod pull;
mod push;
mod recheck;
mod repair;
mod resolve;
mod route;
mod snapshot;
mod stored;
mod tasks;
mod trust;

pub use config::{Config, LayerBlobs};
pub use config_blob::ConfigError;
pub use credentials::{
    AuthEntry, AuthFields, Credentials, CredentialsError, ProgramError, SecretSource, SourceError,
};
pub use decryption::{DecryptError, DecryptionConfig, Envelope, ProviderError};
pub(crate) use error::is_disk_full;
pub use error::{PullError, PullFailure, SessionError};
pub use export::{ArchiveFormat, ExportError, Exported};
pub use fetch::FetchError;
pub use import::{ArchivedImage, ImportError, Imported};
pub use manifest::{Descriptor, ManifestError};
pub use mirror::{MirrorEnds, MirrorError};
pub use permits::Urgency;
pub use platform::Platform;
pub use progress::{LayerProgress, Progress, Stage, Totals};
pub use pull::{Explained, Pipeline, Pulled, PulledLayer};
pub use push::{PushError, Pushed};
pub use recheck::{RecheckError, Rechecked};
pub use reference::{Reference, ReferenceError};
pub use registry::Hop;
pub use repair::RepairError;
pub use route::{Destination, Source, Transfer};
pub use snapshot::{Layered, SnapshotError};
pub use stored::{Recompressed, StoredError, StoredImage};
pub use tasks::Lost;
pub use trust::{IdentityError, KeyError, PolicyError, SignatureError, TrustConfig, VerifierError};
pub use unpack::{Fault, Verdict};
