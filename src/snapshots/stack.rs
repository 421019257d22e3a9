//! From diffIDs to a stack of layer directories.
//!
//! (to be written: directories implied by a layer)

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{LayerLease, State, Store};
use crate::metadata::Digest;

/// The synthetic layer of a stack cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the synthetic layer")]
pub struct StackError;

pub(super) fn write(
    _store: &Arc<Store>,
    _diff_ids: &[Digest],
) -> Result<Option<LayerLease>, StackError> {
    Ok(None)
}

/// What the synthetic layer of a stack is found by.
pub(super) fn key(diff_ids: &[Digest]) -> String {
    let text: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
    format!("stack:{}", text.join(","))
}

/// The numbers of the layers, top first, or the layer that is missing.
pub(super) fn numbers(state: &State, diff_ids: &[Digest]) -> Result<Vec<u64>, Digest> {
    let mut seen = HashSet::new();
    diff_ids
        .iter()
        .rev()
        .filter(|diff_id| seen.insert(*diff_id))
        .map(|diff_id| match state.layers.get(&diff_id.to_string()) {
            Some(layer) => Ok(layer.row.number),
            None => Err(diff_id.clone()),
        })
        .collect()
}

/// Paths end with a zero byte, which no path contains.
pub(super) fn encode(paths: &[PathBuf]) -> Vec<u8> {
    let bytes = |path: &PathBuf| {
        path.as_os_str().as_bytes().iter().copied().chain([0]).collect::<Vec<u8>>()
    };
    paths.iter().flat_map(bytes).collect()
}

#[expect(dead_code, reason = "for the synthetic layer")]
pub(super) fn decode(bytes: &[u8]) -> Vec<PathBuf> {
    let paths = bytes.strip_suffix(&[0]).map(|paths| paths.split(|byte| *byte == 0));
    paths
        .into_iter()
        .flatten()
        .map(|path| Path::new(std::ffi::OsStr::from_bytes(path)).to_owned())
        .collect()
}
