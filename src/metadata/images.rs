//! Rows of images and of the references that name them.
//!
//! A reference names one image; giving it to another image takes it from the first. An image
//! and the layers that came with it are committed in one durable transaction.

use std::str::FromStr;

use rusqlite::{Transaction, params};

use super::{Digest, Durability, LayerRow, Metadata, MetadataError};

const TABLE: &str = "images";

/// Whether garbage collection may take an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pinning {
    /// It may.
    #[default]
    Unpinned,
    /// It must stay.
    Pinned,
}

/// An image as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// The digest of its config, which is the image's id.
    pub id: Digest,
    /// The digest of the platform's manifest.
    pub manifest: Digest,
    /// The diffIDs of its layers, lowest first.
    pub layers: Vec<Digest>,
    /// Every blob that the content store keeps for it.
    pub blobs: Vec<Digest>,
    /// The config, as received.
    pub config: Vec<u8>,
    /// Bytes of the unpacked layers and of the image's own content.
    pub size: u64,
    /// Whether garbage collection may take it.
    pub pinned: Pinning,
    /// The names it is to have (`name:tag` and `name@digest`), sorted when loaded.
    pub references: Vec<String>,
}

impl Metadata {
    /// Writes an image, its references and its new layers. References are added to those that
    /// the image has, and taken from other images. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// All or nothing, and on disk when it returns. The layers' files and the blobs must be on
    /// disk before.
    pub fn commit_image(&self, image: &ImageRow, layers: &[LayerRow]) -> Result<(), MetadataError> {
        self.write(TABLE, Durability::Power, |transaction| {
            put_layers(transaction, layers)?;
            put_image(transaction, image)
        })
    }

    /// Deletes an image and its references; one that is not there is fine. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Write`].
    ///
    /// # Crash safety
    /// All or nothing, and on disk when it returns, so that its files may be deleted after it.
    pub fn delete_image(&self, id: &Digest) -> Result<(), MetadataError> {
        self.write(TABLE, Durability::Power, |transaction| {
            let mut delete = transaction.prepare_cached("DELETE FROM images WHERE id = ?1")?;
            delete.execute([id.to_string()]).map(drop)
        })
    }

    /// All images, by id. Blocks.
    ///
    /// # Errors
    /// [`MetadataError::Read`] and [`MetadataError::Damaged`].
    pub fn load_images(&self) -> Result<Vec<ImageRow>, MetadataError> {
        let mut references = self.load_references()?;
        let query =
            "SELECT id, manifest, layers, blobs, config, size, pinned FROM images ORDER BY id";
        let rows = self.read(TABLE, query, StoredImage::from_row)?;
        rows.into_iter()
            .map(|row| {
                let names = references.extract_if(.., |(_, image)| *image == row.id);
                let names = names.map(|(reference, _)| reference).collect();
                row.decode(names)
            })
            .collect()
    }

    fn load_references(&self) -> Result<Vec<(String, String)>, MetadataError> {
        let query = "SELECT reference, image FROM image_references ORDER BY reference";
        self.read("image references", query, |row| Ok((row.get(0)?, row.get(1)?)))
    }
}

pub(super) fn put_layers(
    transaction: &Transaction<'_>,
    layers: &[LayerRow],
) -> rusqlite::Result<()> {
    let mut insert =
        transaction.prepare_cached("INSERT OR REPLACE INTO layers VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for layer in layers {
        insert.execute(params![
            layer.number,
            layer.key,
            layer.bytes,
            layer.inodes,
            layer.implied
        ])?;
    }
    Ok(())
}

fn put_image(transaction: &Transaction<'_>, image: &ImageRow) -> rusqlite::Result<()> {
    let id = image.id.to_string();
    transaction
        .prepare_cached(
            "INSERT INTO images VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET
             manifest = ?2, layers = ?3, blobs = ?4, config = ?5, size = ?6, pinned = ?7",
        )?
        .execute(params![
            id,
            image.manifest.to_string(),
            encode(&image.layers),
            encode(&image.blobs),
            image.config,
            image.size,
            image.pinned == Pinning::Pinned,
        ])?;
    let mut name = transaction.prepare_cached(
        "INSERT INTO image_references VALUES (?1, ?2) ON CONFLICT (reference) DO UPDATE SET image = ?2",
    )?;
    image.references.iter().try_for_each(|reference| name.execute(params![reference, id]).map(drop))
}

fn encode(digests: &[Digest]) -> String {
    digests.iter().map(Digest::to_string).collect::<Vec<_>>().join(" ")
}

/// The columns before their text is parsed.
struct StoredImage {
    id: String,
    manifest: String,
    layers: String,
    blobs: String,
    config: Vec<u8>,
    size: u64,
    pinned: bool,
}

impl StoredImage {
    fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            manifest: row.get(1)?,
            layers: row.get(2)?,
            blobs: row.get(3)?,
            config: row.get(4)?,
            size: row.get(5)?,
            pinned: row.get(6)?,
        })
    }

    fn decode(self, references: Vec<String>) -> Result<ImageRow, MetadataError> {
        let damaged = |column, found: &str| MetadataError::Damaged {
            table: TABLE,
            column,
            key: self.id.clone(),
            found: found.to_owned(),
        };
        let digest = |column, text: &str| {
            Digest::from_str(text).map_err(|_not_a_digest| damaged(column, text))
        };
        let digests = |column, text: &str| {
            text.split_whitespace().map(|one| digest(column, one)).collect::<Result<Vec<_>, _>>()
        };
        Ok(ImageRow {
            id: digest("id", &self.id)?,
            manifest: digest("manifest", &self.manifest)?,
            layers: digests("layers", &self.layers)?,
            blobs: digests("blobs", &self.blobs)?,
            config: self.config,
            size: self.size,
            pinned: if self.pinned { Pinning::Pinned } else { Pinning::Unpinned },
            references,
        })
    }
}
