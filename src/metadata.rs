//! The embedded database: what must outlive the daemon, in one SQLite file `<root>/orlop.db`.
//!
//! Invariants:
//! - One process owns the database. It holds an exclusive lock on `<root>/orlop.lock`, so a
//!   second daemon on the same root is refused before it touches anything.
//! - One connection writes and reads, behind a mutex. Every method blocks (a commit is a write
//!   to the log, a durable one an fsync too) and is called from blocking threads only, never
//!   from an async worker. A queue with its own thread was weighed: it costs the same hop as
//!   `spawn_blocking` and hides from the caller that the call blocks.
//! - Rows are plain values. What a pod's record means is known by `pods`, what a layer is by
//!   `snapshots`, what an image is by `images`; this module knows how they stay on disk.
//! - Pod, container and active-snapshot rows are written with `synchronous=NORMAL`: they survive
//!   the process at once, and after a power loss the database is some consistent earlier state.
//!   Image and layer rows are written with `FULL`: they are on disk when the call returns, and
//!   their data must be on disk before it is made.
//!
//! Format: `PRAGMA user_version` counts the migrations in `open`. A file written by a newer
//! release is refused; there is no way down.
//!
//! Specification: <https://www.sqlite.org/wal.html>, <https://www.sqlite.org/pragma.html#pragma_synchronous>

mod digest;
mod images;
mod layers;
mod open;
mod pods;

pub use digest::{Algorithm, Digest, DigestError};
pub use images::{ImageRow, Pinning};
pub use layers::{ActiveRow, LayerRow};
pub use open::OpenError;
pub use pods::{ContainerRow, PodRow};

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction};

/// The database of one root directory.
#[derive(Debug)]
pub struct Metadata {
    connection: Mutex<Connection>,
    root: PathBuf,
    /// Held for its lock; closed, and so unlocked, when the database is.
    _lock: File,
}

/// A statement failed.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Rows could not be read.
    #[error("cannot read {table} from the database")]
    Read {
        /// The table, in the plural.
        table: &'static str,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// Rows could not be written; nothing of the call has happened.
    #[error("cannot write {table} to the database")]
    Write {
        /// The table, in the plural.
        table: &'static str,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// A row holds what this release does not understand.
    #[error("column {column} of {table} row {key:?} is damaged: {found:?}")]
    Damaged {
        /// The table, in the plural.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's key.
        key: String,
        /// What was found, as text.
        found: String,
    },
}

/// What a commit promises when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// Survives the process; a power loss may take it back.
    Process,
    /// Survives a power loss.
    Power,
}

impl Metadata {
    /// What the database's files take of the disk, and how many they are.
    #[must_use]
    pub fn disk_usage(&self) -> (u64, u64) {
        open::disk_usage(&self.root)
    }

    /// Taking over after a panic is sound: an open transaction rolls back when it unwinds.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change` as one transaction.
    fn write<T>(
        &self,
        table: &'static str,
        durability: Durability,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, MetadataError> {
        let mut connection = self.connection();
        let outcome = match durability {
            Durability::Process => in_transaction(&mut connection, change),
            Durability::Power => in_durable_transaction(&mut connection, change),
        };
        outcome.map_err(|source| MetadataError::Write { table, source })
    }

    /// Runs one query and turns each row into a value.
    fn read<T>(
        &self,
        table: &'static str,
        query: &str,
        row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, MetadataError> {
        let connection = self.connection();
        let rows = || {
            let mut statement = connection.prepare_cached(query)?;
            statement.query_map([], row)?.collect::<rusqlite::Result<Vec<T>>>()
        };
        rows().map_err(|source| MetadataError::Read { table, source })
    }
}

fn in_transaction<T>(
    connection: &mut Connection,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.transaction()?;
    let value = change(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

fn in_durable_transaction<T>(
    connection: &mut Connection,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    synchronous(connection, "FULL")?;
    let outcome = in_transaction(connection, change);
    synchronous(connection, "NORMAL")?;
    outcome
}

fn synchronous(connection: &Connection, level: &str) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", level)
}

#[cfg(test)]
mod tests;
