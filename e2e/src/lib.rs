//! The rig that tries the `orlop` binary from outside, without any network.
//!
//! It makes container images from the distribution's packages and from the small
//! programs in `e2e/programs/`, serves them from a registry on loopback, starts
//! daemons in directories of their own, talks CRI to them, and counts what they
//! leave on the host. The tests are in `tests/`; the program `rig` (used by
//! `hack/critest` and `hack/run`) is in `src/bin/`.
//!
//! Invariants: no fixed port, no fixed path, nothing outside the directories given,
//! and every process that is started here is ended here, by its id.
#![forbid(unsafe_code)]

pub mod bench;
pub mod chance;
pub mod client;
pub mod cluster;
pub mod cni;
pub mod crash;
pub mod crictl;
pub mod debian;
pub mod disk;
pub mod fixtures;
pub mod host;
pub mod http;
pub mod image;
pub mod layer;
pub mod node;
pub mod process;
pub mod programs;
pub mod raw;
pub mod registry;
pub mod verdict;
