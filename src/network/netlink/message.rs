//! The wire form of netlink messages: a header, a fixed part, attributes that nest.
//!
//! Reading is total: whatever the bytes are, it ends and stays inside them.
//!
//! Specification: [netlink](https://docs.kernel.org/userspace-api/netlink/intro.html).

use rustix::io::Errno;

use super::{NLM_F_MULTI, NLMSG_DONE, NLMSG_ERROR};

const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
const NLA_F_NESTED: u16 = 0x8000;
/// Attribute types without the flags NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A request under construction.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// A message of type `kind` with the family's fixed part. `flags` are those that are
    /// particular to the request, such as NLM_F_CREATE.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self { kind, flags, body: fixed.to_vec() }
    }

    /// Adds an attribute.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        push_attribute(&mut self.body, kind, value);
        self
    }

    /// Adds a number in the machine's byte order, as routes want it.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a number in network byte order, as nftables wants it.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a string with its terminator.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Adds an attribute that holds what `fill` adds.
    pub(crate) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let inner = fill(Self::new(0, 0, &[]));
        push_attribute(&mut self.body, kind | NLA_F_NESTED, &inner.body);
        self
    }

    /// Adds the attributes of another message.
    pub(crate) fn append(self, other: Self) -> Self {
        self.raw(&other.body)
    }

    /// Adds bytes as they are: the fixed part inside a nested attribute.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// The bytes to send.
    pub(super) fn finish(&self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + self.body.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.body.len());
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&(self.flags | flags).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&self.body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

fn push_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// A message from the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    flags: u16,
    body: Vec<u8>,
}

impl Reply {
    /// Takes a datagram apart.
    pub(super) fn parse_all(mut bytes: &[u8]) -> Result<Vec<Self>, Errno> {
        let mut replies = Vec::new();
        while bytes.len() >= HEADER_BYTES {
            let length = u32_at(bytes, 0).ok_or(Errno::PROTO)? as usize;
            let body = bytes.get(HEADER_BYTES..length).ok_or(Errno::PROTO)?;
            replies.push(Self {
                kind: u16_at(bytes, 4).ok_or(Errno::PROTO)?,
                flags: u16_at(bytes, 6).ok_or(Errno::PROTO)?,
                sequence: u32_at(bytes, 8).ok_or(Errno::PROTO)?,
                body: body.to_vec(),
            });
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(replies)
    }

    /// The error that an NLMSG_ERROR or NLMSG_DONE carries; 0 is success.
    pub(super) fn error_code(&self) -> Option<Errno> {
        debug_assert!(matches!(self.kind, NLMSG_ERROR | NLMSG_DONE));
        debug_assert!(self.kind == NLMSG_ERROR || self.flags & NLM_F_MULTI != 0);
        match u32_at(&self.body, 0).map(u32::cast_signed) {
            Some(negated) if negated < 0 => Some(Errno::from_raw_os_error(-negated)),
            _ => None,
        }
    }

    /// The family's fixed part.
    pub(crate) fn fixed(&self, bytes: usize) -> &[u8] {
        self.body.get(..bytes).unwrap_or_default()
    }

    /// The attributes after a fixed part of `bytes`.
    pub(crate) fn attributes(&self, bytes: usize) -> Attributes<'_> {
        Attributes(self.body.get(bytes..).unwrap_or_default())
    }
}

/// A run of attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of that type.
    pub(crate) fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The attributes inside the first attribute of that type; none if it is missing.
    pub(crate) fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.find(kind).unwrap_or_default())
    }

    /// A number in the machine's byte order.
    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        u32_at(self.find(kind)?, 0)
    }

    /// A string, without its terminator.
    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        let value = self.find(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        std::str::from_utf8(value.get(..end)?).ok()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & NLA_TYPE_MASK;
        let value = self.0.get(ATTRIBUTE_HEADER_BYTES..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The number at `at`, in the machine's byte order.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}
