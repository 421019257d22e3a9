//! Lists, in one message or in several.
//!
//! A message has an upper bound, and a node's dead containers exceed it one day. A list in
//! one message is then refused, in words that say what to do; streams have no bound, and
//! make each message when the client has room for it.

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use prost::{Message, length_delimiter_len};
use tonic::Status;

use super::MESSAGE_BYTES_MAX;

/// What the items in a streamed message weigh together, unless it is a single one: less
/// than what any client takes, and enough that the messages do not count.
const CHUNK_BYTES: usize = 1 << 20;

/// A list that does not fit into one message.
#[derive(Debug, thiserror::Error)]
#[error(
    "the list is longer than the {MESSAGE_BYTES_MAX} bytes of a message: use {stream}, or a narrower filter"
)]
pub(super) struct TooLong {
    stream: &'static str,
}

/// All items, if they fit into one message; `stream` is the RPC that has no such bound.
///
/// # Errors
/// They do not.
pub(super) fn whole<I: Message>(
    items: impl Iterator<Item = I>,
    stream: &'static str,
) -> Result<Vec<I>, TooLong> {
    let mut bytes = 0;
    items
        .map(|item| {
            bytes += weight(&item);
            if bytes > MESSAGE_BYTES_MAX { Err(TooLong { stream }) } else { Ok(item) }
        })
        .collect()
}

/// A list in several messages.
pub(super) type Chunks<T> = BoxStream<'static, Result<T, Status>>;

/// The items in several messages; none if there are no items.
pub(super) fn chunks<I, T>(
    items: impl IntoIterator<Item = I, IntoIter: Send + 'static>,
    message: impl Fn(Vec<I>) -> T + Send + 'static,
) -> Chunks<T>
where
    I: Message + 'static,
    T: Send + 'static,
{
    let mut items = items.into_iter().peekable();
    let messages = std::iter::from_fn(move || {
        let first = items.next()?;
        let mut bytes = weight(&first);
        let mut chunk = vec![first];
        while let Some(item) = items.next_if(|item| {
            bytes += weight(item);
            bytes <= CHUNK_BYTES
        }) {
            chunk.push(item);
        }
        Some(Ok(message(chunk)))
    });
    stream::iter(messages).boxed()
}

/// What an item adds to a message: its bytes, their number, and the field's.
fn weight(item: &impl Message) -> usize {
    let bytes = item.encoded_len();
    1 + length_delimiter_len(bytes) + bytes
}

#[cfg(test)]
mod tests;
