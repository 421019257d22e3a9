//! orlop's own API beside CRI, on the same socket; and the clients that the command line
//! uses.
//!
//! `orlop.admin.v1.rs` is generated from `proto/` and committed; `tests/admin_api.rs` proves
//! that the two agree.

mod archive;
mod client;
mod images;

pub use client::{Client, ClientError, ImportedImage, ListedImage};
pub use images::images;

/// The package `orlop.admin.v1`.
#[expect(
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto is the documentation"
)]
mod v1 {
    include!("admin/orlop.admin.v1.rs");
}
