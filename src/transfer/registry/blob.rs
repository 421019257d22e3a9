//! The bytes of one blob, in order, without a gap, whatever happens on the way.
//!
//! A broken or stalled answer is resumed with a range behind the last byte received; a host that
//! keeps failing, or sends too little in its time, is left for the next one, at the same place.
//! A stream may be of a part of the blob alone. Invariants: no more than the promised bytes are
//! ever given out, and the end is only reached with all of them. What the bytes are is for the reader to verify.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{Method, Response, StatusCode};
use tokio::time::timeout;

use super::endpoint::{Endpoint, Extent, Request};
use super::error::{HostsFailed, RequestError};
use super::{HostIndex, header};
use crate::content::Digest;
use crate::transfer::config::Config;

/// Bytes that make a resumed answer count as working, so that a blob is not given up after a
/// fixed number of breaks however long it is.
const WORTH_RESUMING: u64 = 1024 * 1024;

/// What to do with a host that knows no ranges and sends everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transfer) enum NoRanges {
    /// What was not asked for, or came before, is skipped; what follows is taken up to the end.
    Skip,
    /// The host is left.
    Refuse,
}

/// What a stream is to give.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// The blob.
    pub(super) digest: &'a Digest,
    /// Bytes of all of it.
    pub(super) size: u64,
    /// Which of them.
    pub(super) range: Range<u64>,
    /// When a host sends others.
    pub(super) no_ranges: NoRanges,
}

/// A blob on its way.
#[derive(Debug)]
pub(in crate::transfer) struct BlobStream<'a> {
    /// The hosts not yet given up; the first one is asked.
    endpoints: VecDeque<&'a Endpoint>,
    host: HostIndex,
    path: String,
    size: u64,
    range: Range<u64>,
    no_ranges: NoRanges,
    offset: u64,
    response: Option<Response>,
    /// Bytes of the answer that came before.
    skip: u64,
    /// Attempts at this host since it last sent much.
    attempts: u32,
    /// Where the present attempt began.
    attempt_offset: u64,
    /// What the present host sent, and how long that was waited for.
    rate: Rate,
    failed: HostsFailed,
    config: &'a Config,
}

/// Bytes of a host against the time spent waiting for it. Time that the reader takes does not
/// count: a slow disk is not the host's fault.
#[derive(Debug, Default)]
struct Rate {
    waited: Duration,
    bytes: u64,
}

impl Rate {
    /// Adds what came; gives the window when it is over and was not worth its time.
    fn add(&mut self, waited: Duration, bytes: usize, config: &Config) -> Option<Self> {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < config.stall_timeout {
            return None;
        }
        let over = std::mem::take(self);
        let least = over.waited.as_secs_f64() * config.min_bytes_per_second as f64;
        ((over.bytes as f64) < least).then_some(over)
    }
}

/// Why a blob did not come.
#[derive(Debug, thiserror::Error)]
pub(in crate::transfer) enum BlobError {
    /// No host gives it.
    #[error(transparent)]
    Hosts(HostsFailed),
    /// A host gives too much; what came before it may be wrong as well.
    #[error("{host}: {error}")]
    Lie {
        /// The host.
        host: String,
        /// What it did.
        error: RequestError,
    },
}

impl<'a> BlobStream<'a> {
    pub(super) fn new(
        endpoints: VecDeque<&'a Endpoint>,
        host: HostIndex,
        wanted: Wanted<'_>,
        config: &'a Config,
    ) -> Self {
        let Wanted { digest, size, range, no_ranges } = wanted;
        Self {
            endpoints,
            host,
            path: format!("blobs/{digest}"),
            size,
            offset: range.start,
            range,
            no_ranges,
            response: None,
            skip: 0,
            attempts: 0,
            attempt_offset: 0,
            rate: Rate::default(),
            failed: HostsFailed::default(),
            config,
        }
    }

    /// The host that gives the bytes, or the last that gave some.
    pub(in crate::transfer) fn host(&self) -> HostIndex {
        self.host
    }

    /// Behind the last byte that the stream gives: the blob's end once a host sends everything.
    pub(in crate::transfer) fn end(&self) -> u64 {
        self.range.end
    }

    /// Name of the host.
    fn host_name(&self) -> String {
        let current = self.endpoints.front().map(|endpoint| endpoint.host().authority.clone());
        current
            .or_else(|| self.failed.tried.last().map(|last| last.host.clone()))
            .unwrap_or_default()
    }

    /// The next bytes; `None` once all of them came.
    ///
    /// # Errors
    /// [`BlobError`] when no host is left, or one of them sent what it must not.
    ///
    /// # Cancel safety
    /// Safe: bytes are given out or still to be received.
    pub(in crate::transfer) async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        loop {
            let response = match self.response.take() {
                Some(response) => response,
                // The answer went on behind what was asked for.
                None if self.offset == self.range.end && self.offset > self.range.start => {
                    self.failed.log_overcome();
                    return Ok(None);
                }
                None => match self.open().await {
                    Ok(response) => response,
                    Err(error) => {
                        self.leave_host(error)?;
                        continue;
                    }
                },
            };
            match self.receive(response).await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                // All bytes are here; how the connection ended does not matter any more.
                Ok(None) | Err(RequestError::Stalled { .. } | RequestError::Body { .. })
                    if self.offset == self.range.end =>
                {
                    self.failed.log_overcome();
                    return Ok(None);
                }
                Ok(None) => {
                    let received = self.offset;
                    self.broke(RequestError::Body { received, source: None }).await?;
                }
                Err(error @ RequestError::Size { .. }) => {
                    return Err(BlobError::Lie { host: self.host_name(), error });
                }
                Err(error) => self.broke(error).await?,
            }
        }
    }

    /// The next bytes that did not come before; `None` at the end of the answer.
    async fn receive(&mut self, mut response: Response) -> Result<Option<Bytes>, RequestError> {
        let wait = self.config.stall_timeout;
        let received = self.offset;
        loop {
            let asked = Instant::now();
            let chunk = timeout(wait, response.chunk())
                .await
                .map_err(|_elapsed| RequestError::Stalled { received, after: wait })?
                .map_err(|source| RequestError::Body {
                    received,
                    source: Some(source.without_url()),
                })?;
            let Some(mut chunk) = chunk else { return Ok(None) };
            let slow = self.rate.add(asked.elapsed(), chunk.len(), self.config);
            if let Some(slow) = slow.filter(|_| self.offset + (chunk.len() as u64) < self.range.end)
            {
                return Err(RequestError::Slow {
                    received,
                    came: slow.bytes,
                    window: slow.waited,
                    min_bytes_per_second: self.config.min_bytes_per_second,
                });
            }
            let again = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
            self.skip -= again as u64;
            let mut chunk = chunk.split_off(again);
            if chunk.is_empty() {
                continue;
            }
            let end = self.offset + chunk.len() as u64;
            if end > self.size {
                return Err(RequestError::Size { expected: self.size, actual: end });
            }
            if end > self.range.end {
                let beyond = usize::try_from(end - self.range.end).unwrap_or(usize::MAX);
                chunk.truncate(chunk.len().saturating_sub(beyond));
                self.offset = self.range.end;
            } else {
                self.offset = end;
                self.response = Some(response);
            }
            return Ok(Some(chunk));
        }
    }

    /// Asks for what is missing.
    async fn open(&mut self) -> Result<Response, RequestError> {
        self.attempts += 1;
        self.attempt_offset = self.offset;
        self.rate = Rate::default();
        let endpoint = self.endpoints.front().copied();
        let endpoint = endpoint.ok_or(RequestError::Protocol { what: "no host left" })?;
        let path = self.path.clone();
        let request = Request {
            method: Method::GET,
            path,
            accept: None,
            extent: Extent {
                from: self.offset,
                to: (self.range.end < self.size).then_some(self.range.end),
            },
            query: Vec::new(),
        };
        let response = endpoint.request(&request).await?;
        let range = match response.status() {
            StatusCode::PARTIAL_CONTENT => header::content_range(response.headers()),
            StatusCode::OK if self.no_ranges == NoRanges::Refuse => {
                return Err(RequestError::Protocol { what: "the host sends no ranges" });
            }
            StatusCode::OK => {
                self.range.end = self.size;
                Some((0, None))
            }
            _ => None,
        };
        let (start, whole) = range
            .filter(|(start, _)| *start == 0 || *start == self.offset)
            .ok_or(RequestError::Protocol { what: "the answer is another range" })?;
        // A host that knows no ranges sends again what came already.
        self.skip = self.offset - start;
        let end = response.content_length().map(|length| start.saturating_add(length));
        // A part may be answered with more or less of the blob; the rest is left or asked for.
        let wrong =
            |end: &u64| *end > self.size || (*end < self.size && self.range.end == self.size);
        match whole.filter(|whole| *whole != self.size).or(end.filter(wrong)) {
            Some(actual) => Err(RequestError::Size { expected: self.size, actual }),
            None => Ok(response),
        }
    }

    /// Notes a failure and decides where to go on.
    async fn broke(&mut self, error: RequestError) -> Result<(), BlobError> {
        if self.offset - self.attempt_offset >= WORTH_RESUMING {
            self.attempts = 0;
        }
        if error.is_transient() && self.attempts < self.config.attempts_per_host {
            let wait = self.config.initial_backoff.min(Duration::from_secs(1));
            tokio::time::sleep(wait).await;
            return Ok(());
        }
        self.leave_host(error)
    }

    /// Goes on with the next host, at the same place.
    fn leave_host(&mut self, error: RequestError) -> Result<(), BlobError> {
        if let Some(endpoint) = self.endpoints.pop_front() {
            self.failed.tried.push(super::failure(endpoint, error));
        }
        self.attempts = 0;
        if self.endpoints.is_empty() {
            return Err(BlobError::Hosts(std::mem::take(&mut self.failed)));
        }
        self.host = self.host.next();
        Ok(())
    }
}
