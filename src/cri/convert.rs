//! The edge between CRI messages and the pods behind them: what a request must have, and
//! which pods and containers a filter means. Pure functions of messages; they know no
//! live state.
//!
//! # References
//! - [CRI](https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto)

/// A container in the words of CRI.
pub mod container;
/// Which pods and containers a filter means.
pub mod filter;
/// An image in the words of CRI.
pub mod image;
/// What pods and containers use, under cAdvisor's names.
pub mod metrics;
/// A pod in the words of CRI.
pub mod pod;
/// What a request must have to be acted on.
pub mod request;
/// What pods and containers use.
pub mod stats;
