//! Image verifiers: programs in a directory, each of which may block a pull.
//!
//! Each is called with the reference and the digest as arguments and the descriptor on its
//! standard input. It says its reason on standard output and its judgement by its exit code; all
//! must say 0. Errors have containerd's words, for those who look for them.
//!
//! Specification: <https://github.com/containerd/containerd/blob/main/docs/image-verification.md>

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::TrustConfig;
use crate::content::Digest;
use crate::transfer::manifest::Descriptor;
use crate::transfer::program::{self, Answer, Unanswered};

const STDIN_MEDIA_TYPE: &str = "application/vnd.oci.descriptor.v1+json";
/// Most bytes of a reason; it travels in a header of the answer.
const REASON_BYTES_MAX: u64 = 4096;

/// A pull is blocked by a verifier, or because one gave no judgement.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// It is not known which verifiers there are.
    #[error(
        "blocking pull of {name} with digest {digest}: cannot list image verifiers in {}",
        directory.display()
    )]
    List {
        /// The reference.
        name: String,
        /// What it was resolved to.
        digest: Digest,
        /// The directory.
        directory: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// One says no.
    #[error(
        "image verifier bindir blocked pull of {name} with digest {digest} for reason: verifier \
         {verifier} rejected image (exit code {code}): {reason}"
    )]
    Rejected {
        /// The reference.
        name: String,
        /// What it was resolved to.
        digest: Digest,
        /// The verifier.
        verifier: String,
        /// Its exit code.
        code: i32,
        /// What it says.
        reason: String,
    },
    /// One says nothing.
    #[error(
        "blocking pull of {name} with digest {digest}: image verifier bindir returned error: \
         failed to call verifier {verifier}: {fault}"
    )]
    NoJudgement {
        /// The reference.
        name: String,
        /// What it was resolved to.
        digest: Digest,
        /// The verifier.
        verifier: String,
        /// What happened to it.
        fault: String,
    },
}

/// Asks the verifiers about an image, one after the other by name. Blocks.
///
/// # Errors
/// [`VerifierError`] when the image must not be pulled.
pub(in crate::transfer) fn judge(
    config: &TrustConfig,
    name: &str,
    target: &Descriptor,
) -> Result<(), VerifierError> {
    let Some(directory) = &config.verifier_dir else { return Ok(()) };
    let mut verifiers = list(directory).map_err(|source| VerifierError::List {
        name: name.to_owned(),
        digest: target.digest.clone(),
        directory: directory.clone(),
        source,
    })?;
    if config.max_verifiers > 0 && verifiers.len() > config.max_verifiers {
        let (found, asked) = (verifiers.len(), config.max_verifiers);
        let directory = directory.display();
        tracing::warn!(%directory, found, asked, "some image verifiers are not asked");
        verifiers.truncate(config.max_verifiers);
    }
    verifiers.iter().try_for_each(|verifier| ask(config, &directory.join(verifier), name, target))
}

/// The entries of the directory in the order of their names; none when there is no directory.
fn list(directory: &Path) -> io::Result<Vec<OsString>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let mut names = names?;
    names.sort();
    Ok(names)
}

fn ask(
    config: &TrustConfig,
    path: &Path,
    name: &str,
    target: &Descriptor,
) -> Result<(), VerifierError> {
    let verifier = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let digest = &target.digest;
    let no_judgement = |fault| VerifierError::NoJudgement {
        name: name.to_owned(),
        digest: digest.clone(),
        verifier: verifier.clone(),
        fault,
    };
    let descriptor = json!({ "mediaType": target.media_type, "digest": digest.to_string(), "size": target.size });
    let mut command = Command::new(path);
    command.args(["-name", name, "-digest", &digest.to_string()]);
    command.args(["-stdin-media-type", STDIN_MEDIA_TYPE]);
    let input = format!("{descriptor}\n");
    let deadline = config.verifier_timeout;
    let answer = program::ask(command, input.as_bytes(), REASON_BYTES_MAX + 1, deadline);
    let Answer { status, output, complaints } = match answer {
        Ok(answer) => answer,
        Err(Unanswered::Start(error) | Unanswered::Talk(error)) => {
            return Err(no_judgement(error.to_string()));
        }
        Err(Unanswered::Late) => {
            let fault = format!("it did not end in {} s and was killed", deadline.as_secs_f32());
            return Err(no_judgement(fault));
        }
    };
    let (reason, complaints) = (text(&output), text(&complaints));
    tracing::debug!(verifier, %status, reason, complaints, "asked an image verifier");
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(VerifierError::Rejected {
            name: name.to_owned(),
            digest: digest.clone(),
            verifier,
            code,
            reason,
        }),
        None => Err(no_judgement(format!("it was ended by {status}"))),
    }
}

/// What was written, without the ends of lines around it, and no longer than it may be.
fn text(bytes: &[u8]) -> String {
    let limit = usize::try_from(REASON_BYTES_MAX).unwrap_or(usize::MAX);
    let kept = bytes.get(..limit).unwrap_or(bytes);
    let mut text = String::from_utf8_lossy(kept).trim().to_owned();
    if bytes.len() > limit {
        text.push_str(" (truncated)");
    }
    text
}
