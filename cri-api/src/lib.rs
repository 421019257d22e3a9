//! CRI v1 as of Kubernetes 1.37: messages, clients and servers of both services.
//!
//! `runtime.v1.rs` is generated from `proto/runtime/v1/api.proto` and committed, so
//! that building needs no protobuf compiler; `tests/generated.rs` proves that the two
//! agree. There is no logic here.
//!
//! # References
//! - [CRI](https://github.com/kubernetes/cri-api)
#![forbid(unsafe_code)]

/// The package `runtime.v1`.
#[expect(missing_docs, clippy::all, reason = "generated code; the .proto is the documentation")]
pub mod v1 {
    include!("runtime.v1.rs");

    /// The four secrets are never printed (`debug_redact` in the specification).
    impl std::fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AuthConfig")
                .field("username", &self.username)
                .field("server_address", &self.server_address)
                .finish_non_exhaustive()
        }
    }
}
