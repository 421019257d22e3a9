//! The digest of some bytes, as OCI writes it: `algorithm:hex`.
//!
//! It lives in the lowest layer because database rows, blobs, layers and references are all
//! keyed by it. A value of this type is always well formed, so it can be used as a file name.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests>

use std::fmt;
use std::str::FromStr;

/// The algorithms that OCI registers and that are accepted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256; what everything in the field uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The number of hexadecimal digits of an encoded digest.
    #[must_use]
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    /// Every algorithm, strongest last.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];
}

/// A well-formed digest: a known algorithm and the right number of lower-case hex digits.
///
/// The order is that of the written form, which keeps lists stable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

/// The text is not a digest that this software accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no colon, or nothing known before it.
    #[error("digest {0:?} does not start with sha256: or sha512:")]
    Algorithm(String),
    /// The part after the colon is not lower-case hex of the right length.
    #[error("digest {digest:?} needs {expected} lower-case hexadecimal digits")]
    Encoded {
        /// The text as given, cut to a printable length.
        digest: String,
        /// What the algorithm wants.
        expected: usize,
    },
}

impl Digest {
    /// The digest that SHA-256 gave.
    #[must_use]
    pub fn sha256(output: [u8; 32]) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: hex::encode(output).into() }
    }

    /// The digest that SHA-512 gave.
    #[must_use]
    pub fn sha512(output: [u8; 64]) -> Self {
        Self { algorithm: Algorithm::Sha512, hex: hex::encode(output).into() }
    }

    /// Makes a digest from the part after the colon.
    ///
    /// # Errors
    /// [`DigestError::Encoded`] when `hex` is not lower-case hex of the right length.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Self, DigestError> {
        let well_formed = hex.len() == algorithm.hex_len()
            && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if well_formed {
            Ok(Self { algorithm, hex: hex.into() })
        } else {
            Err(DigestError::Encoded { digest: shortened(hex), expected: algorithm.hex_len() })
        }
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The part after the colon: lower-case hex.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(160).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        for algorithm in Algorithm::ALL {
            let encoded =
                text.strip_prefix(algorithm.as_str()).and_then(|rest| rest.strip_prefix(':'));
            if let Some(encoded) = encoded {
                return Self::from_hex(algorithm, encoded);
            }
        }
        Err(DigestError::Algorithm(shortened(text)))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
