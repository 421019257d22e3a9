//! What an operator may decide about transfers; every bound of a pull has its number here.
//!
//! Invariant: with [`Config::default`] no file of the host is read but the system's CA
//! certificates, and every wait of a pull ends.

use std::path::PathBuf;
use std::time::Duration;

use super::decryption::DecryptionConfig;
use super::trust::TrustConfig;

/// What fetching and unpacking one layer takes of memory, parts that are fetched ahead and the
/// window of its compression aside: the pieces between network and disk, and what is inflated.
pub(super) const LAYER_BYTES: u64 = 4 * 1024 * 1024;

/// Settings of the transfer pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Directory with one directory per registry host, each holding a `hosts.toml` with
    /// containerd's meaning. `None` reads nothing: every registry is reached at its own name.
    pub hosts_dir: Option<PathBuf>,
    /// A file of credentials as docker writes it, for what comes without any. `None`, or a file
    /// that is not there, has none.
    pub credentials_file: Option<PathBuf>,
    /// Longest wait for a TCP and TLS connection, unless `dial_timeout` of a host says otherwise.
    pub connect_timeout: Duration,
    /// Longest wait for one more byte from a registry before the attempt counts as broken.
    pub stall_timeout: Duration,
    /// What a host must send of a blob at the least, in bytes per second, over each
    /// [`Config::stall_timeout`] that is spent waiting for it. A host that sends less counts as
    /// stalled, so that the next one is asked. 0 asks for nothing.
    pub min_bytes_per_second: u64,
    /// Longest time an object may take without [`Config::min_progress_bytes`] more of it being
    /// received and unpacked, all attempts and hosts together.
    pub no_progress_timeout: Duration,
    /// What counts as progress within [`Config::no_progress_timeout`], in bytes. Without such a
    /// floor a peer that sends one byte now and then would hold a pull for ever.
    pub min_progress_bytes: u64,
    /// How many times one request is sent to one host: the first attempt and its repetitions.
    pub attempts_per_host: u32,
    /// Wait before the first repetition; it doubles each time, up to `max_backoff`.
    pub initial_backoff: Duration,
    /// Longest wait between two attempts when the registry does not name one.
    pub max_backoff: Duration,
    /// Longest `Retry-After` that is obeyed; a registry that asks for more fails the request.
    pub max_retry_after: Duration,
    /// How many layers are fetched and unpacked at once, all pulls together.
    pub parallel_layers: usize,
    /// How many parts of one layer are fetched at once; 0 and 1 fetch each layer in one.
    pub ranges_per_layer: usize,
    /// Bytes of such a part.
    pub range_bytes: u64,
    /// Layers of fewer bytes are fetched in one.
    pub least_ranged_bytes: u64,
    /// What layers that are fetched may take of memory, in bytes, all pulls together. Under it
    /// there are fewer parts ahead, and then fewer layers at once; one always is.
    pub memory_bytes: u64,
    /// How many layers are fetched at once from one registry, all pulls together; 0 for as many
    /// as `parallel_layers` allows.
    pub connections_per_registry: usize,
    /// How many bytes of layers a second come from one registry, all pulls together; 0 for as
    /// many as there are.
    pub bytes_per_second_per_registry: u64,
    /// Above this I/O pressure, in percent of time in which nothing goes on because of I/O, fewer
    /// layers are fetched and unpacked at once; 100 never.
    pub max_io_pressure: u32,
    /// Where the kernel tells the I/O pressure.
    pub io_pressure_file: PathBuf,
    /// Largest manifest or index, in bytes. The distribution specification asks registries to
    /// accept at least 4 MiB.
    pub max_manifest_bytes: u64,
    /// Largest image configuration, in bytes.
    pub max_config_bytes: u64,
    /// Whether the compressed layers stay in the content store once they are unpacked.
    pub layer_blobs: LayerBlobs,
    /// Who has the keys of encrypted layers.
    pub decryption: DecryptionConfig,
    /// Who may block a pull.
    pub trust: TrustConfig,
}

impl Config {
    /// How many layers are fetched and unpacked at once.
    pub(super) fn layers_at_once(&self) -> usize {
        let room = usize::try_from(self.memory_bytes / LAYER_BYTES).unwrap_or(usize::MAX);
        self.parallel_layers.min(room).max(1)
    }

    /// How many parts of layers may be in memory before their turn, in what the layers leave.
    pub(super) fn parts_ahead(&self) -> usize {
        let layers = (self.layers_at_once() as u64).saturating_mul(LAYER_BYTES);
        let parts = self.memory_bytes.saturating_sub(layers) / self.range_bytes.max(1);
        usize::try_from(parts).unwrap_or(usize::MAX).min(tokio::sync::Semaphore::MAX_PERMITS)
    }
}

/// What becomes of a compressed layer once it is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerBlobs {
    /// It is never written: the unpacked layer is the only copy.
    Drop,
    /// It is written to the content store beside the unpacked layer.
    Keep,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hosts_dir: None,
            credentials_file: None,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            min_bytes_per_second: 1024,
            no_progress_timeout: Duration::from_secs(300),
            min_progress_bytes: 64 * 1024,
            attempts_per_host: 4,
            initial_backoff: Duration::from_millis(250),
            max_backoff: Duration::from_secs(10),
            max_retry_after: Duration::from_secs(60),
            parallel_layers: 8,
            ranges_per_layer: 4,
            range_bytes: 2 * 1024 * 1024,
            least_ranged_bytes: 64 * 1024 * 1024,
            memory_bytes: 40 * 1024 * 1024,
            connections_per_registry: 0,
            bytes_per_second_per_registry: 0,
            max_io_pressure: 100,
            io_pressure_file: "/proc/pressure/io".into(),
            max_manifest_bytes: 4 * 1024 * 1024,
            max_config_bytes: 4 * 1024 * 1024,
            layer_blobs: LayerBlobs::Drop,
            decryption: DecryptionConfig::default(),
            trust: TrustConfig::default(),
        }
    }
}
