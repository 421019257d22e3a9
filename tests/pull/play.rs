//! Answers, and what can go wrong with them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::Response;
use hyper::body::Frame;

use super::Seen;

/// A body that may never end.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Something to go wrong with one request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Answer with this status and these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Close the connection after so many bytes of the body.
    Truncate(usize),
    /// Send so many bytes of the body, then nothing, and keep the connection.
    Stall(usize),
    /// Never answer.
    Silence,
    /// Send one byte of the body, wait, send the next.
    Drip(Duration),
    /// Send other bytes, whatever was asked for.
    Replace(Bytes),
    /// Send more bytes behind the right ones, without saying how many.
    Append(Bytes),
    /// Redirect to this URL; the path is appended when it ends with a slash.
    Redirect(String),
    /// Answer a range with everything.
    NoRanges,
    /// Nothing.
    Nothing,
    /// Set this header.
    Header(&'static str, String),
    /// Leave this header out.
    Without(&'static str),
}

/// An answer before anything goes wrong with it.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// The answer as the fault leaves it.
pub(crate) async fn play(
    mut reply: Reply,
    fault: Option<Fault>,
    range: Option<&str>,
    seen: &Seen,
) -> Response<Body> {
    let range = range.and_then(|it| it.strip_prefix("bytes=")?.split_once('-'));
    let range = range.map(|(from, last)| (from.parse::<usize>().unwrap(), last.parse::<usize>()));
    match &fault {
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Status(status, headers)) => {
            reply = Reply { headers: headers.clone(), ..Reply::status(*status) };
        }
        Some(Fault::Redirect(url)) => {
            let path = if url.ends_with('/') { seen.path.trim_start_matches('/') } else { "" };
            reply = Reply::status(307).with("location", format!("{url}{path}"));
        }
        Some(Fault::Replace(body)) => reply.body = body.clone(),
        Some(Fault::Header(name, value)) => {
            reply.headers.retain(|(other, _)| other != name);
            reply.headers.push((name, value.clone()));
        }
        Some(Fault::Without(name)) => reply.headers.retain(|(other, _)| other != name),
        _ => {}
    }
    if let Some((from, last)) = range
        && reply.status == 200
        && !matches!(fault, Some(Fault::NoRanges))
    {
        let total = reply.body.len();
        let last = last.unwrap_or(usize::MAX).min(total - 1);
        reply.body = reply.body.slice(from.min(last)..=last);
        reply.status = 206;
        reply = reply.with("content-range", format!("bytes {from}-{last}/{total}"));
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    if !matches!(fault, Some(Fault::Append(_))) {
        response = response.header("content-length", reply.body.len());
    }
    response.body(body(reply.body, fault)).unwrap()
}

fn body(bytes: Bytes, fault: Option<Fault>) -> Body {
    let frame = |bytes: Bytes| Ok::<_, std::io::Error>(Frame::data(bytes));
    let broken = || Err(std::io::Error::other("closed as told"));
    match fault {
        Some(Fault::Truncate(count)) => {
            let sent = bytes.slice(..count.min(bytes.len()));
            // Lets the bytes go out before the connection breaks.
            let end = async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                broken()
            };
            BodyExt::boxed_unsync(StreamBody::new(stream::StreamExt::chain(
                stream::iter([frame(sent)]),
                stream::once(end),
            )))
        }
        Some(Fault::Stall(count)) => {
            let sent = bytes.slice(..count.min(bytes.len()));
            BodyExt::boxed_unsync(StreamBody::new(stream::StreamExt::chain(
                stream::iter([frame(sent)]),
                stream::pending(),
            )))
        }
        Some(Fault::Drip(pause)) => BodyExt::boxed_unsync(StreamBody::new(stream::unfold(
            bytes,
            move |mut rest| async move {
                tokio::time::sleep(pause).await;
                if rest.is_empty() {
                    return None;
                }
                let byte = rest.split_to(1);
                Some((frame(byte), rest))
            },
        ))),
        Some(Fault::Append(more)) => {
            BodyExt::boxed_unsync(StreamBody::new(stream::iter([frame(bytes), frame(more)])))
        }
        _ => BodyExt::boxed_unsync(Full::new(bytes).map_err(|never| match never {})),
    }
}
