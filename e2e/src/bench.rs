//! What a pod costs: the same calls to orlop and to its peers, in turns, on this machine.
//!
//! Machines differ, and one machine drifts; so every round asks each contestant once before
//! the next round begins, and what is reported are medians and their ratios.
//!
//! Invariant: a contestant has a directory, a cgroup and a network of its own; all of it goes
//! when it is dropped.

pub mod contestant;
pub mod images;
pub mod meter;
pub mod modes;
pub mod plot;
pub mod report;
pub mod series;
