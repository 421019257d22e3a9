//! Exec, attach and port-forward for clients that stay: the streaming server of CRI.
//!
//! An RPC (`Exec`, `Attach`, `PortForward`) is answered with a URL. The client, or the
//! kubelet in its place, connects to it and the session begins.

mod target;

pub use target::{AttachOrder, ExecOrder, Process, Resize, Socket, Streams, Target, TargetError};
