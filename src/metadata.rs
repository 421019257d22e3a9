//! The embedded database: what must outlive the daemon.

mod digest;

pub use digest::{Algorithm, Digest, DigestError};
