//! orlop's own API beside CRI, on the same socket; and the clients that the command line
//! uses.
//!
//! `orlop.admin.v1.rs` is generated from `proto/` and committed; `tests/grpc_apis.rs` proves
//! that the two agree.

mod archive;
mod client;
mod keyring;
mod refusal;
mod registries;
mod store;
mod transfers;

pub use client::{
    Blob, Bytes, Client, ClientError, End, ExplainedRegistry, ImageDetails, Level, ListedImage,
    RegistryAuth, RegistryHop, Repair, Shown, Snapshot, Start, Transferred, VerifiedObject,
};
pub use keyring::{KeyringError, credentials};
pub use registries::registries;
pub use store::store;
pub use transfers::transfers;

/// The package `orlop.admin.v1`.
#[expect(
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "generated code; the .proto is the documentation"
)]
mod v1 {
    include!("admin/orlop.admin.v1.rs");
}
