//! Decrypting as bytes pass by: AES-256 in counter mode, and an HMAC with SHA-256 and the same key
//! over what is encrypted.
//!
//! What comes out is not to be trusted before [`Opened::verify`].

use std::io::{self, Read};

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::DecryptError;

/// How long keys are.
pub(super) const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 16;

/// What opens a layer, as often as it is fetched.
#[derive(Clone)]
pub(in crate::transfer) struct Opening {
    key: Zeroizing<[u8; KEY_BYTES]>,
    nonce: [u8; NONCE_BYTES],
    mac: Hmac<Sha256>,
    expected: Vec<u8>,
}

impl Opening {
    /// Nothing where the key or the nonce has another length than the cipher's.
    pub(super) fn new(key: &[u8], nonce: &[u8], expected: Vec<u8>) -> Option<Self> {
        let mac = Hmac::new_from_slice(key).ok()?;
        let (key, nonce) = (Zeroizing::new(key.try_into().ok()?), nonce.try_into().ok()?);
        Some(Self { key, nonce, mac, expected })
    }
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opening")
    }
}

/// A layer's bytes, decrypted if it is encrypted.
pub(in crate::transfer) struct Opened<R> {
    source: R,
    cipher: Option<Cipher>,
}

struct Cipher {
    stream: Ctr128BE<Aes256>,
    mac: Hmac<Sha256>,
    expected: Vec<u8>,
}

impl<R: Read> Opened<R> {
    /// The layer that `source` gives.
    pub(in crate::transfer) fn new(source: R, opening: Option<Opening>) -> Self {
        let cipher = opening.map(|Opening { key, nonce, mac, expected }| {
            let stream = Ctr128BE::new((&*key).into(), (&nonce).into());
            Cipher { stream, mac, expected }
        });
        Self { source, cipher }
    }

    /// Whether all that was read is what was encrypted; to be asked at the end.
    ///
    /// # Errors
    /// [`DecryptError::Mac`].
    pub(in crate::transfer) fn verify(self) -> Result<(), DecryptError> {
        let Some(Cipher { mac, expected, .. }) = self.cipher else { return Ok(()) };
        mac.verify_slice(&expected).map_err(|_other| DecryptError::Mac)
    }
}

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some(cipher) = &mut self.cipher {
            let bytes = &mut buffer[..count];
            cipher.mac.update(bytes);
            cipher.stream.apply_keystream(bytes);
        }
        Ok(count)
    }
}
