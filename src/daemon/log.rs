//! The daemon's own log: lines on standard error, as text or as JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Replaces the configured level; `orlop::network=trace,info` is understood too.
const VARIABLE: &str = "ORLOP_LOG";

/// How the log is written.
#[derive(Debug, Clone, Copy)]
pub struct LogConfig {
    /// Text or JSON.
    pub format: LogFormat,
    /// The least important messages written; of other crates, warnings.
    pub level: tracing::Level,
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// The log is set up already, by something else in this process.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the log")]
pub struct StartLogError {
    #[source]
    source: tracing_subscriber::util::TryInitError,
}

/// Starts the log.
///
/// # Errors
/// [`StartLogError`] when called twice.
pub(super) fn start(config: LogConfig) -> Result<(), StartLogError> {
    let level = config.level;
    let configured = format!("warn,orlop={level},sandbox={level}");
    let (filter, refused) = match std::env::var(VARIABLE).ok().map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(refused)) => (EnvFilter::new(configured), Some(refused)),
        None => (EnvFilter::new(configured), None),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match config.format {
        LogFormat::Text => lines.finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|source| StartLogError { source })?;
    if let Some(error) = refused {
        tracing::warn!(%error, "{VARIABLE} is not understood; the configured level is used");
    }
    Ok(())
}
