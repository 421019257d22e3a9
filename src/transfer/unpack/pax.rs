//! Extended headers: records of the form `length key=value\n`.
//!
//! A value may contain any byte, newlines too, so records are cut by their length alone.
//!
//! Specification: <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_03>;
//! `SCHILY.xattr.` as in star(5); `GNU.sparse.` as in
//! <https://www.gnu.org/software/tar/manual/html_node/PAX-1.html>

use super::archive::Timestamp;

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";
const NANOSECOND_DIGITS: usize = 9;

/// What extended headers say about the next entry; `None` leaves the header's own field.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
}

/// The `GNU.sparse.` records of all three formats.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Formats 0.0 and 0.1: offsets and lengths in turn.
    pub(super) map: Vec<u64>,
}

impl Overrides {
    /// Reads all records. `None` when they are malformed, or a name has a zero byte.
    pub(super) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut overrides = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes)?;
            overrides.apply(key, value)?;
            bytes = rest;
        }
        Some(overrides)
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
            if name.is_empty() || name.contains(&0) {
                return None;
            }
            self.xattrs.retain(|(known, _)| known != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Some(());
        }
        if value.is_empty() {
            return Some(());
        }
        match key {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.link_path = Some(name(value)?),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(timestamp(value)?),
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(name(value)?),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.real_size = Some(decimal(value)?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.map.push(decimal(value)?),
            b"GNU.sparse.map" => {
                self.sparse.map =
                    value.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>()?;
            }
            _ => {}
        }
        Some(())
    }
}

/// One record and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..space)?)?).ok()?;
    let content = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = content.iter().position(|byte| *byte == b'=')?;
    let key = content.get(..equals).filter(|key| !key.is_empty())?;
    Some((key, content.get(equals + 1..)?, bytes.get(length..)?))
}

fn name(value: &[u8]) -> Option<Vec<u8>> {
    (!value.contains(&0)).then(|| value.to_vec())
}

/// Digits only; at most what a signed 64-bit number holds.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    i64::try_from(value).is_ok().then_some(value)
}

/// Seconds with an optional fraction; what is finer than a nanosecond is cut off.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (text.get(..point)?, text.get(point + 1..)?),
        None => (text, b"".as_slice()),
    };
    let seconds = i64::try_from(decimal(seconds)?).ok()?;
    let nanoseconds = if fraction.is_empty() {
        0
    } else if fraction.iter().all(u8::is_ascii_digit) {
        let digits = fraction.iter().copied().chain(std::iter::repeat(b'0'));
        digits
            .take(NANOSECOND_DIGITS)
            .fold(0_u32, |value, digit| value * 10 + u32::from(digit - b'0'))
    } else {
        return None;
    };
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds: 0 },
        (true, nanoseconds) => {
            Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds }
        }
    })
}
