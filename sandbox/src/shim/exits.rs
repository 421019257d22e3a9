//! Exit files: what became of a container, written before anybody is told.
//!
//! One file per container, `exits/<container id>`, holding a
//! [`ContainerState`](crate::protocol::ContainerState). It is complete or absent: written
//! under another name, synced, renamed, and the directory synced. The daemon reads it
//! when the shim is gone, and removes it with the container.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use crate::protocol::{ContainerState, encode_exit};

/// Writes the exit file of `state.container` in `directory`.
pub(super) fn write(directory: &Path, state: &ContainerState) -> io::Result<()> {
    let name = directory.join(&state.container);
    let unfinished = directory.join(format!(".{}", state.container));
    let mut file = File::create(&unfinished)?;
    file.write_all(&encode_exit(state))?;
    file.sync_all()?;
    std::fs::rename(&unfinished, &name)?;
    File::open(directory)?.sync_all()
}
