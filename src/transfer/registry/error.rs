//! Why a registry did not give what it was asked for.
//!
//! A [`RequestError`] is about one host. What a caller sees is [`HostsFailed`]: every host that
//! was tried, in order, with its reason. Invariant: no error holds a secret, and none shows the
//! query of a URL, where signed storage addresses keep theirs.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::client::ClientError;
use crate::content::Digest;
use crate::transfer::credentials::SourceError;

/// Why one host did not answer one request as it should.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The settings of the host cannot be used.
    #[error("cannot prepare the connection")]
    Client(#[source] Arc<ClientError>),
    /// The node's own secret for the host cannot be had.
    #[error("cannot get the credentials for the host")]
    Secret(#[source] Arc<SourceError>),
    /// No connection, or none that speaks TLS as it should.
    #[error("cannot connect")]
    Connect(#[source] reqwest::Error),
    /// The connection broke before the answer came.
    #[error("cannot send the request")]
    Send(#[source] reqwest::Error),
    /// The connection broke while the body came.
    #[error("cannot read the answer after {received} bytes")]
    Body {
        /// What came before.
        received: u64,
        /// Why it broke; `None` when the peer closed it too early.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// Nothing came for too long.
    #[error("no byte for {} s, {received} bytes received", after.as_secs_f32())]
    Stalled {
        /// What came before.
        received: u64,
        /// How long was waited.
        after: Duration,
    },
    /// What came is too little to be worth waiting for.
    #[error(
        "too slow: {came} bytes in {} s, less than {min_bytes_per_second} bytes/s, {received} bytes received",
        window.as_secs_f32()
    )]
    Slow {
        /// What came before.
        received: u64,
        /// What came of it in the window.
        came: u64,
        /// How long was waited for that.
        window: Duration,
        /// The least.
        min_bytes_per_second: u64,
    },
    /// The registry does not have it.
    #[error("404 not found{}", Detail(detail))]
    NotFound {
        /// The registry's own words.
        detail: String,
    },
    /// The registry wants credentials, or others.
    #[error("{status} {reason}{}", Detail(detail))]
    Unauthorized {
        /// 401 or 403.
        status: u16,
        /// What was tried.
        reason: &'static str,
        /// The registry's own words.
        detail: String,
    },
    /// No token could be had from the server that the registry names.
    #[error("cannot get a token from {realm}")]
    Token {
        /// The token server.
        realm: String,
        /// Why not.
        #[source]
        source: Box<RequestError>,
    },
    /// Another status that says no.
    #[error("status {status}{}", Detail(detail))]
    Status {
        /// The HTTP status.
        status: u16,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
        /// The registry's own words.
        detail: String,
    },
    /// An answer that breaks the rules of the protocol.
    #[error("{what}")]
    Protocol {
        /// The rule.
        what: &'static str,
    },
    /// A document that is longer than it may be.
    #[error("the answer is longer than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The bytes are not those that were asked for.
    #[error("the answer is {actual}, not {expected}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Too few bytes, or too many.
    #[error("the answer has {actual} bytes, not {expected}")]
    Size {
        /// What the descriptor promises.
        expected: u64,
        /// What the registry sends, or announces.
        actual: u64,
    },
}

/// What an error means for the caller, whatever its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestFailure {
    /// Nobody answers, or the one who answers cannot work now.
    Unavailable,
    /// The registry does not have it.
    NotFound,
    /// The registry does not give it to this caller.
    Unauthorized,
    /// The registry gives something else.
    Corrupt,
    /// The settings of the host on this machine cannot be used.
    Settings,
    /// The registry says no, for another reason.
    Refused,
}

impl RequestError {
    /// What the error means for the caller.
    #[must_use]
    pub fn failure(&self) -> RequestFailure {
        match self {
            Self::Client(_) | Self::Secret(_) => RequestFailure::Settings,
            Self::Connect(_)
            | Self::Send(_)
            | Self::Body { .. }
            | Self::Stalled { .. }
            | Self::Slow { .. } => RequestFailure::Unavailable,
            Self::NotFound { .. } => RequestFailure::NotFound,
            Self::Unauthorized { .. } => RequestFailure::Unauthorized,
            Self::Token { source, .. } => match source.failure() {
                // The image may exist: it is the token server that knows nothing.
                RequestFailure::NotFound => RequestFailure::Refused,
                other => other,
            },
            Self::Status { status: 408 | 429 | 500.., .. } => RequestFailure::Unavailable,
            Self::Status { .. } | Self::Protocol { .. } => RequestFailure::Refused,
            Self::TooLarge { .. } | Self::Digest { .. } | Self::Size { .. } => {
                RequestFailure::Corrupt
            }
        }
    }

    /// How long the registry asks to wait before the next attempt.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Token { source, .. } => source.retry_after(),
            _ => None,
        }
    }

    /// Whether the same request may succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        self.failure() == RequestFailure::Unavailable && !is_certificate_error(self)
    }
}

/// One host and why it failed.
#[derive(Debug)]
pub struct HostFailure {
    /// `host[:port]`.
    pub host: String,
    /// The reason.
    pub error: RequestError,
}

/// No host gave the object; all of them with their reasons, in the order of trying.
///
/// The causes are part of the message, because there are several of them.
#[derive(Debug, Default)]
pub struct HostsFailed {
    /// Every host tried.
    pub tried: Vec<HostFailure>,
}

impl HostsFailed {
    /// What the failure means: the word of the last host, which is the registry itself.
    #[must_use]
    pub fn failure(&self) -> RequestFailure {
        self.tried.last().map_or(RequestFailure::Refused, |last| last.error.failure())
    }

    /// Tells the operator of hosts that failed before another one served; no error would.
    pub(super) fn log_overcome(&self) {
        if !self.tried.is_empty() {
            tracing::warn!(hosts = %self, "registry hosts failed before another one served");
        }
    }
}

impl fmt::Display for HostsFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tried.is_empty() {
            return f.write_str("no host is configured for this");
        }
        for (index, failure) in self.tried.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", failure.host, Chain(&failure.error))?;
        }
        Ok(())
    }
}

impl Error for HostsFailed {}

/// An error with its causes, each said once.
pub(super) struct Chain<'a>(pub(super) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            let words = error.to_string();
            // Layers below often repeat the layer under them.
            if !last.contains(&words) {
                write!(f, ": {words}")?;
                last = words;
            }
            next = error.source();
        }
        Ok(())
    }
}

/// The registry's own words behind ours, if it has any.
struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

/// Sorts what the HTTP client reports by step; URLs are cut off.
pub(super) fn from_send(error: reqwest::Error) -> RequestError {
    let error = error.without_url();
    if error.is_connect() { RequestError::Connect(error) } else { RequestError::Send(error) }
}

/// Every error below `error`, itself included.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        // An io::Error passes over what it wraps when asked for its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
        Some(error)
    })
}

/// A certificate does not become better by asking again.
fn is_certificate_error(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        matches!(cause.downcast_ref::<rustls::Error>(), Some(rustls::Error::InvalidCertificate(_)))
    })
}

/// Whether the peer of a TLS handshake does not speak TLS.
pub(super) fn speaks_no_tls(error: &RequestError) -> bool {
    let RequestError::Connect(error) = error else { return false };
    causes(error).any(|cause| {
        let garbled =
            matches!(cause.downcast_ref::<rustls::Error>(), Some(rustls::Error::InvalidMessage(_)));
        let closed = cause.downcast_ref::<io::Error>().is_some_and(|io| {
            matches!(io.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
        });
        garbled || closed
    })
}
