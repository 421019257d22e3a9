//! The overlay snapshotter.
