//! orlop: a Kubernetes container runtime. One binary serves CRI v1 on top of a sandbox
//! controller, an image transfer pipeline, an overlay snapshotter and CNI.
//!
//! `ARCHITECTURE.md` is the map; the modules below are listed from the edge inwards.
#![forbid(unsafe_code)]

// The command line: one file per subcommand.
pub mod cli;
// The TOML file, its defaults and its validation; nobody imports it but the entry.
pub mod config;
// orlop puts itself on a node.
pub mod install;
// The composition root: build, wire, recover, serve, drain.
pub mod daemon;

// orlop's own API beside CRI.
pub mod admin;
// CRI v1: wire to domain and back, nothing else.
pub mod cri;
// Exec, attach and port-forward for clients that stay: SPDY/3.1 and WebSocket.
pub mod streaming;

// Pods and their containers: registry, driver task, claims, recovery.
pub mod pods;

// Image records, references, pull as one operation.
pub mod images;
// From a registry or an archive to verified, unpacked layers.
pub mod transfer;

// Devices of CDI: specs, names, edits of the OCI spec.
pub mod cdi;
// Content-addressed blobs.
pub mod content;
// Pod networks: CNI configuration lists, or the built-in bridge.
pub mod network;
// Layers and writable snapshots on overlayfs.
pub mod snapshots;

// Scopes of systemd, where that is process 1.
pub mod systemd;
// The embedded database.
pub mod metadata;
// The registry of metrics and its exporter.
pub mod metrics;
