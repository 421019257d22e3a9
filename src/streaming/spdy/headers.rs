//! Headers of streams: decompressed with bounds, and read.
//!
//! The blocks of a connection are one zlib stream, so each of them must be read, wanted
//! or not.

use flate2::{Decompress, FlushDecompress};

use super::dictionary::dictionary;
use crate::streaming::client::CarrierError;

/// The largest block, decompressed. The headers of streams say a type, a port and a number.
const BLOCK_MAX: usize = 8 << 10;

/// Names and values of one stream.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::streaming) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of `name`, which is written in small letters.
    pub(in crate::streaming) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(is, _)| is.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    fn parse(block: &[u8]) -> Option<Self> {
        let (count, mut rest) = number(block)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let (name, after) = text(rest)?;
            let (value, after) = text(after)?;
            headers.push((name, value));
            rest = after;
        }
        rest.is_empty().then_some(Self(headers))
    }
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((usize::try_from(u32::from_be_bytes(*number)).ok()?, rest))
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = number(bytes)?;
    let (text, rest) = rest.split_at_checked(length)?;
    Some((String::from_utf8(text.to_vec()).ok()?, rest))
}

/// Reads the header blocks of one connection, in their order.
#[derive(Debug)]
pub(super) struct HeaderReader {
    stream: Decompress,
}

impl HeaderReader {
    pub(super) fn new() -> Self {
        Self { stream: Decompress::new(true) }
    }

    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, CarrierError> {
        let mut plain = Vec::with_capacity(BLOCK_MAX);
        let mut left = block;
        loop {
            let before = self.stream.total_in();
            let outcome = self.stream.decompress_vec(left, &mut plain, FlushDecompress::Sync);
            let consumed = usize::try_from(self.stream.total_in() - before).unwrap_or(left.len());
            left = left.get(consumed..).unwrap_or_default();
            match outcome {
                Ok(_) => break,
                Err(error) if error.needs_dictionary().is_some() => {
                    let known = self.stream.set_dictionary(&dictionary());
                    known.map_err(|_other| CarrierError::Spdy("an unknown dictionary"))?;
                }
                Err(_damaged) => return Err(CarrierError::Spdy("damaged headers")),
            }
        }
        if !left.is_empty() || plain.len() == BLOCK_MAX {
            return Err(CarrierError::Spdy("too many headers"));
        }
        Headers::parse(&plain).ok_or(CarrierError::Spdy("headers that are none"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};
    use std::error::Error;

    /// The headers as a client compresses them.
    pub(in crate::streaming) struct HeaderWriter(Compress);

    impl HeaderWriter {
        pub(in crate::streaming) fn new() -> Result<Self, Box<dyn Error + Send + Sync>> {
            let mut stream = Compress::new(Compression::best(), true);
            stream.set_dictionary(&dictionary())?;
            Ok(Self(stream))
        }

        pub(in crate::streaming) fn write(
            &mut self,
            headers: &[(&str, &str)],
        ) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
            let mut plain = u32::try_from(headers.len())?.to_be_bytes().to_vec();
            for part in headers.iter().flat_map(|(name, value)| [name, value]) {
                plain.extend(u32::try_from(part.len())?.to_be_bytes());
                plain.extend(part.as_bytes());
            }
            let mut block = Vec::with_capacity(64 << 10);
            self.0.compress_vec(&plain, &mut block, FlushCompress::Sync)?;
            Ok(block)
        }
    }

    #[test]
    fn the_dictionary_is_the_specified_one() -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut stream = Compress::new(Compression::best(), true);
        assert_eq!(stream.set_dictionary(&dictionary())?, super::super::dictionary::ID);
        Ok(())
    }

    #[test]
    fn blocks_are_read_one_after_the_other() -> Result<(), Box<dyn Error + Send + Sync>> {
        let (mut writer, mut reader) = (HeaderWriter::new()?, HeaderReader::new());
        for number in 0..100 {
            let number = number.to_string();
            let block = writer.write(&[("streamtype", "data"), ("requestid", &number)])?;
            let headers = reader.read(&block)?;
            assert_eq!(headers.get("streamtype"), Some("data"));
            assert_eq!(headers.get("requestid"), Some(number.as_str()));
            assert_eq!(headers.get("port"), None);
        }
        Ok(())
    }

    #[test]
    fn bombs_and_damage_are_refused() -> Result<(), Box<dyn Error + Send + Sync>> {
        let bomb = HeaderWriter::new()?.write(&[("a", &"x".repeat(1 << 20))])?;
        assert!(bomb.len() < 8 << 10);
        assert!(HeaderReader::new().read(&bomb).is_err());
        let whole = HeaderWriter::new()?.write(&[("streamtype", "data")])?;
        for cut in 0..whole.len() {
            // What ends a block says nothing that is not known without it.
            let read = HeaderReader::new().read(&whole[..cut]);
            assert!(!read.is_ok_and(|headers| headers.get("streamtype") != Some("data")), "{cut}");
        }
        assert!(Headers::parse(&[0xFF, 0xFF, 0xFF, 0xFF, 0, 0]).is_none());
        Ok(())
    }

    #[test]
    fn the_reply_is_one_that_others_can_read() -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut reader = HeaderReader::new();
        for (stream, first) in [(1, true), (3, false), (5, false)] {
            let reply = super::super::frame::syn_reply(stream, first);
            assert_eq!(
                reader.read(&reply[super::super::frame::HEAD_BYTES + 4..])?,
                Headers::default()
            );
        }
        Ok(())
    }
}
