//! Rows of pods and of their containers.
//!
//! The request is kept as it was received and never edited; the record is whatever `pods`
//! encodes. Deleting a pod deletes the rows of its containers in the same transaction.

use rusqlite::params;

use super::{Durability, Metadata, MetadataError};

/// A pod as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRow {
    /// The pod's id.
    pub id: String,
    /// The request as received, encoded.
    pub request: Vec<u8>,
    /// The changing record, encoded by `pods`.
    pub record: Vec<u8>,
}

/// A container as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRow {
    /// The container's id.
    pub id: String,
    /// The id of the pod that it belongs to.
    pub pod: String,
    /// The request as received, encoded.
    pub request: Vec<u8>,
    /// The changing record, encoded by `pods`.
    pub record: Vec<u8>,
}

impl Metadata {
    /// Inserts or replaces a pod. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// All or nothing; survives the process, not always a power loss.
    pub fn put_pod(&self, row: &PodRow) -> Result<(), MetadataError> {
        self.write("pods", Durability::Process, |transaction| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO pods VALUES (?1, ?2, ?3)")?
                .execute(params![row.id, row.request, row.record])
                .map(drop)
        })
    }

    /// Replaces the record of a pod; a pod that is not there stays so. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// As [`Metadata::put_pod`].
    pub fn update_pod(&self, id: &str, record: &[u8]) -> Result<(), MetadataError> {
        self.write("pods", Durability::Process, |transaction| {
            transaction
                .prepare_cached("UPDATE pods SET record = ?2 WHERE id = ?1")?
                .execute(params![id, record])
                .map(drop)
        })
    }

    /// Deletes a pod and its containers; one that is not there is fine. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// As [`Metadata::put_pod`].
    pub fn delete_pod(&self, id: &str) -> Result<(), MetadataError> {
        self.write("pods", Durability::Process, |transaction| {
            transaction.prepare_cached("DELETE FROM containers WHERE pod = ?1")?.execute([id])?;
            transaction.prepare_cached("DELETE FROM pods WHERE id = ?1")?.execute([id]).map(drop)
        })
    }

    /// All pods, by id. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Read`].
    pub fn load_pods(&self) -> Result<Vec<PodRow>, MetadataError> {
        self.read("pods", "SELECT id, request, record FROM pods ORDER BY id", |row| {
            Ok(PodRow { id: row.get(0)?, request: row.get(1)?, record: row.get(2)? })
        })
    }

    /// Inserts or replaces a container. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// As [`Metadata::put_pod`].
    pub fn put_container(&self, row: &ContainerRow) -> Result<(), MetadataError> {
        self.write("containers", Durability::Process, |transaction| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO containers VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![row.id, row.pod, row.request, row.record])
                .map(drop)
        })
    }

    /// Replaces the record of a container; one that is not there stays so. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// As [`Metadata::put_pod`].
    pub fn update_container(&self, id: &str, record: &[u8]) -> Result<(), MetadataError> {
        self.write("containers", Durability::Process, |transaction| {
            transaction
                .prepare_cached("UPDATE containers SET record = ?2 WHERE id = ?1")?
                .execute(params![id, record])
                .map(drop)
        })
    }

    /// Deletes a container; one that is not there is fine. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// As [`Metadata::put_pod`].
    pub fn delete_container(&self, id: &str) -> Result<(), MetadataError> {
        self.write("containers", Durability::Process, |transaction| {
            let mut delete = transaction.prepare_cached("DELETE FROM containers WHERE id = ?1")?;
            delete.execute([id]).map(drop)
        })
    }

    /// All containers, by id. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Read`].
    pub fn load_containers(&self) -> Result<Vec<ContainerRow>, MetadataError> {
        let query = "SELECT id, pod, request, record FROM containers ORDER BY id";
        self.read("containers", query, |row| {
            Ok(ContainerRow {
                id: row.get(0)?,
                pod: row.get(1)?,
                request: row.get(2)?,
                record: row.get(3)?,
            })
        })
    }
}
