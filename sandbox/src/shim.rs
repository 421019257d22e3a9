//! The per-pod process: starts containers and execs, writes their logs, remembers their
//! exits, and outlives the daemon.
//!
//! `orlop shim` runs from a sealed copy of the binary, in the pod's network, IPC and UTS
//! namespaces and in the host's mount and PID namespaces. It has one thread and one epoll
//! loop, and it never waits for anything else: what may take long or hang (opening a
//! volume on a dead server, an external OCI runtime) runs in a child with a deadline.
//!
//! ```text
//! <pod directory>/
//!   shim.sock       the daemon connects here
//!   shim.log        what the shim itself has to say
//!   exits/<id>      how a container ended (see `exits`)
//!   c/<id>/         a container's own directory
//!   runtime/        what an external OCI runtime remembers
//! ```
//!
//! **Invariants.** One thread, always (its children rely on it). An exit is on disk before
//! it is reported. The log of a container is complete before its exit is on disk.

mod attach;
mod checkpoints;
mod clients;
mod clock;
mod connection;
mod console;
mod container;
mod containers;
mod criu;
mod delegated;
mod entry;
mod event_loop;
mod execs;
mod exits;
mod external;
mod families;
mod hooks;
mod limits;
mod logs;
mod namespaces;
mod output;
mod pause;
mod pid_namespace;
mod poll;
mod restores;
mod sockets;

pub use entry::main;
