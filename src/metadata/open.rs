//! Opening the database: the lock, the settings, the migrations.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};

use super::Metadata;

const DATABASE: &str = "orlop.db";
const LOCK: &str = "orlop.lock";
const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
/// `st_blocks` counts these, whatever the file system's block size is.
const STAT_BLOCK_BYTES: u64 = 512;

/// The steps from an empty file to the present format. A released step never changes; a new
/// format is a new step at the end.
const MIGRATIONS: &[&str] = &["
CREATE TABLE pods (
    id TEXT PRIMARY KEY, request BLOB NOT NULL, record BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE containers (
    id TEXT PRIMARY KEY, pod TEXT NOT NULL, request BLOB NOT NULL, record BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX containers_by_pod ON containers (pod);
CREATE TABLE layers (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
    bytes INTEGER NOT NULL, inodes INTEGER NOT NULL, implied BLOB NOT NULL
) STRICT;
CREATE TABLE active (
    key TEXT PRIMARY KEY, layers TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE images (
    id TEXT PRIMARY KEY, manifest TEXT NOT NULL, layers TEXT NOT NULL, blobs TEXT NOT NULL,
    config BLOB NOT NULL, size INTEGER NOT NULL, pinned INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE image_references (
    reference TEXT PRIMARY KEY,
    image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX image_references_by_image ON image_references (image);
"];

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The root directory cannot be made.
    #[error("cannot make the root directory {}", path.display())]
    CreateRoot {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The lock file cannot be opened or locked, for another reason than being taken.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another daemon works in this root directory.
    #[error("root directory {} is in use by process {owner}", root.display())]
    InUse {
        /// The root directory.
        root: PathBuf,
        /// The process id that the owner wrote into the lock file, or `unknown`.
        owner: String,
    },
    /// The file cannot be opened as a database with the settings that are needed.
    #[error("cannot open the database {}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// A newer release wrote the file.
    #[error(
        "database {} has format {found}, but this release knows formats up to {known}: use the \
         release that wrote it",
        path.display()
    )]
    NewerFormat {
        /// The database file.
        path: PathBuf,
        /// The file's format.
        found: usize,
        /// The newest format of this release.
        known: usize,
    },
    /// A migration failed; the file keeps its former format.
    #[error("cannot bring the database {} to format {format}", path.display())]
    Migrate {
        /// The database file.
        path: PathBuf,
        /// The format that was to be reached.
        format: usize,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
}

impl Metadata {
    /// Opens, or makes, the database in `root`, and locks the root for this process.
    ///
    /// # Errors
    /// [`OpenError`]; of note [`OpenError::InUse`] when another daemon has this root, and
    /// [`OpenError::NewerFormat`] after a downgrade.
    ///
    /// # Crash safety
    /// A migration is one transaction; the lock goes with the process.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_DIRECTORY)
            .create(root)
            .map_err(|source| OpenError::CreateRoot { path: root.to_owned(), source })?;
        let lock = lock(root)?;
        let path = root.join(DATABASE);
        let mut connection =
            connect(&path).map_err(|source| OpenError::Open { path: path.clone(), source })?;
        migrate(&mut connection, &path)?;
        Ok(Self { connection: Mutex::new(connection), root: root.to_owned(), _lock: lock })
    }
}

/// Bytes and number of the database's files: itself, its log and the log's index.
pub(super) fn disk_usage(root: &Path) -> (u64, u64) {
    let files = ["", "-wal", "-shm"].map(|suffix| root.join(format!("{DATABASE}{suffix}")));
    // One that is not there takes nothing.
    let found = files.iter().filter_map(|path| fs::metadata(path).ok());
    found.fold((0, 0), |(bytes, inodes), file| {
        (bytes + file.blocks() * STAT_BLOCK_BYTES, inodes + 1)
    })
}

fn lock(root: &Path) -> Result<File, OpenError> {
    let path = root.join(LOCK);
    let failed = |source| OpenError::Lock { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE_FILE)
        .open(&path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            let known = file.read_to_string(&mut owner).is_ok() && !owner.trim().is_empty();
            let owner = if known { owner.trim().to_owned() } else { "unknown".to_owned() };
            return Err(OpenError::InUse { root: root.to_owned(), owner });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    // The directory is private already; the file is made so too where it can be.
    let private = std::os::unix::fs::PermissionsExt::from_mode(PRIVATE_FILE);
    fs::set_permissions(path, private).ok();
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let found: usize = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| OpenError::Open { path: path.to_owned(), source })?;
    if found > MIGRATIONS.len() {
        let known = MIGRATIONS.len();
        return Err(OpenError::NewerFormat { path: path.to_owned(), found, known });
    }
    for (index, step) in MIGRATIONS.iter().enumerate().skip(found) {
        let format = index + 1;
        super::in_transaction(connection, |transaction| {
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "user_version", format)
        })
        .map_err(|source| OpenError::Migrate { path: path.to_owned(), format, source })?;
    }
    Ok(())
}
