//! One tar header block: fields at fixed places.
//!
//! Knows the ustar, GNU, star and old formats. Numbers are octal text or, as GNU writes large
//! and negative ones, big-endian base 256.
//!
//! Specification: <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_06>,
//! <https://www.gnu.org/software/tar/manual/html_node/Standard.html>

use std::ops::Range;

/// Everything in an archive comes in units of this many bytes.
pub(super) const BLOCK_BYTES: usize = 512;

/// The bytes of one block.
pub(super) type Block = [u8; BLOCK_BYTES];

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE_FLAG: usize = 156;
const LINK_NAME: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const DEVICE_MAJOR: Range<usize> = 329..337;
const DEVICE_MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;
const GNU_SPARSE: Range<usize> = 386..482;
const GNU_IS_EXTENDED: usize = 482;
const GNU_REAL_SIZE: Range<usize> = 483..495;
/// In an extension block: as many pairs as fit, then the flag.
const EXTENSION_SPARSE: Range<usize> = 0..504;
const EXTENSION_IS_EXTENDED: usize = 504;
const SPARSE_PAIR_BYTES: usize = 24;
const SPARSE_NUMBER_BYTES: usize = 12;

/// A field holds no number that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadField(pub(super) &'static str);

/// A header block whose checksum is right.
pub(super) struct Header<'a>(&'a Block);

impl<'a> Header<'a> {
    /// Checks the sum; historic writers added the bytes as signed ones.
    pub(super) fn parse(block: &'a Block) -> Result<Self, BadField> {
        let bad = BadField("checksum");
        let stored = number(&block[CHECKSUM]).ok_or(bad)?;
        let counted = |(at, byte): (usize, &u8)| if CHECKSUM.contains(&at) { b' ' } else { *byte };
        let unsigned: i64 = block.iter().enumerate().map(|each| i64::from(counted(each))).sum();
        let signed: i64 =
            block.iter().enumerate().map(|each| i64::from(counted(each).cast_signed())).sum();
        if stored == unsigned || stored == signed { Ok(Self(block)) } else { Err(bad) }
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[TYPE_FLAG]
    }

    /// The name, with the prefix where the format has one.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[NAME]);
        let prefix = match &self.0[MAGIC] {
            b"ustar\0" if &self.0[STAR_TRAILER] == b"tar\0" => text(&self.0[STAR_PREFIX]),
            b"ustar\0" => text(&self.0[PREFIX]),
            _ => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link_name(&self) -> Vec<u8> {
        text(&self.0[LINK_NAME]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u64, BadField> {
        self.unsigned(MODE, "mode")
    }

    pub(super) fn uid(&self) -> Result<u64, BadField> {
        self.unsigned(UID, "uid")
    }

    pub(super) fn gid(&self) -> Result<u64, BadField> {
        self.unsigned(GID, "gid")
    }

    pub(super) fn size(&self) -> Result<u64, BadField> {
        self.unsigned(SIZE, "size")
    }

    pub(super) fn mtime(&self) -> Result<i64, BadField> {
        number(&self.0[MTIME]).ok_or(BadField("mtime"))
    }

    pub(super) fn device_major(&self) -> Result<u64, BadField> {
        self.unsigned(DEVICE_MAJOR, "devmajor")
    }

    pub(super) fn device_minor(&self) -> Result<u64, BadField> {
        self.unsigned(DEVICE_MINOR, "devminor")
    }

    /// The size of a GNU sparse file with its holes.
    pub(super) fn gnu_real_size(&self) -> Result<u64, BadField> {
        self.unsigned(GNU_REAL_SIZE, "realsize")
    }

    /// The pieces of a GNU sparse file that fit into the header, and whether more follow.
    pub(super) fn gnu_sparse(&self) -> Result<(Vec<(u64, u64)>, bool), BadField> {
        Ok((pairs(&self.0[GNU_SPARSE])?, self.0[GNU_IS_EXTENDED] != 0))
    }

    fn unsigned(&self, field: Range<usize>, name: &'static str) -> Result<u64, BadField> {
        let value = number(&self.0[field]).and_then(|value| u64::try_from(value).ok());
        value.ok_or(BadField(name))
    }
}

/// The pieces in a block that extends a GNU sparse header, and whether more follow.
pub(super) fn gnu_sparse_extension(block: &Block) -> Result<(Vec<(u64, u64)>, bool), BadField> {
    Ok((pairs(&block[EXTENSION_SPARSE])?, block[EXTENSION_IS_EXTENDED] != 0))
}

fn pairs(bytes: &[u8]) -> Result<Vec<(u64, u64)>, BadField> {
    let unsigned = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok());
    bytes
        .chunks_exact(SPARSE_PAIR_BYTES)
        .map(|pair| pair.split_at(SPARSE_NUMBER_BYTES))
        .take_while(|(offset, _)| offset.first().is_some_and(|byte| *byte != 0))
        .map(|(offset, bytes)| unsigned(offset).zip(unsigned(bytes)).ok_or(BadField("sparse")))
        .collect()
}

/// Up to the first zero byte.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        Some(_) | None => octal(field),
    }
}

/// The top bit marks the encoding, the next one is the sign.
fn base256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let negative = first & 0x40 != 0;
    let start = if negative { i64::from(first | 0x80) - 256 } else { i64::from(first & 0x7f) };
    rest.iter().try_fold(start, |value, byte| {
        value.checked_mul(256).and_then(|value| value.checked_add(i64::from(*byte)))
    })
}

fn octal(field: &[u8]) -> Option<i64> {
    let is_padding = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !is_padding(byte)).unwrap_or(field.len());
    let digits = field.get(start..)?;
    let end = digits.iter().position(is_padding).unwrap_or(digits.len());
    digits.get(..end)?.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}
