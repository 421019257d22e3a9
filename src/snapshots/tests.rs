//! The contract of the snapshotter.
