//! From a registry or an archive to verified, unpacked layers.

/// Image references and their normalisation.
pub mod reference;
/// Layer streams into layer directories.
pub mod unpack;
