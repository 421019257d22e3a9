//! Rows of unpacked layers and of active snapshots.
//!
//! A layer's row is written last, in the transaction that commits an image: a layer directory
//! without a row is rubbish. An active snapshot's row is written first: a row without a
//! directory is a claim that was not taken up.

use rusqlite::params;

use super::images::put_layers;
use super::{Durability, Metadata, MetadataError};

/// A layer as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRow {
    /// The name of its directory; never used twice.
    pub number: u64,
    /// What `snapshots` finds it by: a diffID, or the key of a synthetic layer.
    pub key: String,
    /// Disk space of its files.
    pub bytes: u64,
    /// Files, directories and everything else in it.
    pub inodes: u64,
    /// Directories that the layer has without naming them, encoded by `snapshots`.
    pub implied: Vec<u8>,
}

/// An active (writable) snapshot as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveRow {
    /// The snapshot's key.
    pub key: String,
    /// The numbers of its layers, top first.
    pub layers: Vec<u64>,
}

impl Metadata {
    /// All layers, by number. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Read`].
    pub fn load_layers(&self) -> Result<Vec<LayerRow>, MetadataError> {
        let query = "SELECT number, key, bytes, inodes, implied FROM layers ORDER BY number";
        self.read("layers", query, |row| {
            Ok(LayerRow {
                number: row.get(0)?,
                key: row.get(1)?,
                bytes: row.get(2)?,
                inodes: row.get(3)?,
                implied: row.get(4)?,
            })
        })
    }

    /// Gives the key of `new` to it, and another key to the layer that had it, if one had.
    /// Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// All or nothing, and on disk when it returns. The new layer's files must be on disk before.
    pub fn replace_layer(&self, new: &LayerRow, other_key: &str) -> Result<(), MetadataError> {
        self.write("layers", Durability::Power, |transaction| {
            let mut rename =
                transaction.prepare_cached("UPDATE layers SET key = ?2 WHERE key = ?1")?;
            rename.execute(params![new.key, other_key])?;
            put_layers(transaction, std::slice::from_ref(new))
        })
    }

    /// Gives a layer another key. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// All or nothing, and on disk when it returns.
    pub fn rename_layer(&self, key: &str, other_key: &str) -> Result<(), MetadataError> {
        self.write("layers", Durability::Power, |transaction| {
            let mut rename =
                transaction.prepare_cached("UPDATE layers SET key = ?2 WHERE key = ?1")?;
            rename.execute(params![key, other_key]).map(drop)
        })
    }

    /// Deletes the rows of layers, so that their directories may be deleted. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// All or nothing, and on disk when it returns: no row outlives its directory.
    pub fn delete_layers(&self, numbers: &[u64]) -> Result<(), MetadataError> {
        self.write("layers", Durability::Power, |transaction| {
            let mut delete = transaction.prepare_cached("DELETE FROM layers WHERE number = ?1")?;
            numbers.iter().try_for_each(|number| delete.execute([number]).map(drop))
        })
    }

    /// Inserts an active snapshot, or replaces the one of the same key. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// All or nothing; survives the process, not always a power loss.
    pub fn put_active(&self, row: &ActiveRow) -> Result<(), MetadataError> {
        let layers: Vec<String> = row.layers.iter().map(u64::to_string).collect();
        self.write("active snapshots", Durability::Process, |transaction| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO active VALUES (?1, ?2)")?
                .execute(params![row.key, layers.join(" ")])
                .map(drop)
        })
    }

    /// Deletes an active snapshot; one that is not there is fine. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// As [`Metadata::put_active`].
    pub fn delete_active(&self, key: &str) -> Result<(), MetadataError> {
        self.write("active snapshots", Durability::Process, |transaction| {
            let mut delete = transaction.prepare_cached("DELETE FROM active WHERE key = ?1")?;
            delete.execute([key]).map(drop)
        })
    }

    /// All active snapshots, by key. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Read`] and [`MetadataError::Damaged`].
    pub fn load_active(&self) -> Result<Vec<ActiveRow>, MetadataError> {
        let rows =
            self.read("active snapshots", "SELECT key, layers FROM active ORDER BY key", |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })?;
        rows.into_iter()
            .map(|(key, layers)| match layers.split_whitespace().map(str::parse).collect() {
                Ok(layers) => Ok(ActiveRow { key, layers }),
                Err::<_, std::num::ParseIntError>(_not_a_number) => Err(MetadataError::Damaged {
                    table: "active snapshots",
                    column: "layers",
                    key,
                    found: layers,
                }),
            })
            .collect()
    }
}
