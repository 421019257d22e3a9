//! Whether an image may be pulled at all: what the operator's verifiers say of it, and what the
//! signature policy demands.
//!
//! Invariant: it is asked for every pull, of the digest that the reference was resolved to, and
//! before the first layer is fetched; who is in doubt says no.

mod identity;
mod key;
mod policy;
mod signature;
mod verifiers;

use std::path::PathBuf;
use std::time::Duration;

pub use identity::IdentityError;
pub use key::KeyError;
pub use policy::PolicyError;
pub use signature::SignatureError;
pub use verifiers::VerifierError;

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustConfig {
    /// Directory of image verifiers, as containerd's `bin_dir`; `None`, or one that is not there,
    /// blocks nothing.
    pub verifier_dir: Option<PathBuf>,
    /// How many of them are asked, by name; 0 for all.
    pub max_verifiers: usize,
    /// How long each may take.
    pub verifier_timeout: Duration,
    /// The signature policy, a `policy.json`; `None` demands nothing.
    pub signature_policy: Option<PathBuf>,
}

impl Default for TrustConfig {
    fn default() -> Self {
        Self {
            verifier_dir: None,
            max_verifiers: 10,
            verifier_timeout: Duration::from_secs(10),
            signature_policy: None,
        }
    }
}

pub(super) use signature::demand;
pub(super) use verifiers::judge;
