//! Key providers: the programs that ocicrypt's configuration file names, and what is said to them.
//!
//! A program gets its question as JSON on its standard input and answers on its standard output. What
//! it says may hold a key, so nothing of it is ever repeated.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::opening::KEY_BYTES;
use crate::transfer::program::{self, Unanswered};

/// Longest answer: a key, wrapped in base64 twice, is some hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// A key provider does not give a key.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The configuration file cannot be read.
    #[error("cannot read the key providers in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The configuration file is not the JSON it should be.
    #[error("cannot parse the key providers in {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// It is not a program.
    #[error("key provider {provider:?} has no `cmd`; others than programs are not supported")]
    NotAProgram {
        /// The provider.
        provider: String,
    },
    /// It cannot be started.
    #[error("cannot start key provider {provider:?}, {}", path.display())]
    Start {
        /// The provider.
        provider: String,
        /// The program.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The question or the answer is lost.
    #[error("cannot talk to key provider {provider:?}")]
    Talk {
        /// The provider.
        provider: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It takes too long.
    #[error("key provider {provider:?} did not end in {} s and was killed", after.as_secs_f32())]
    Late {
        /// The provider.
        provider: String,
        /// How long was waited.
        after: Duration,
    },
    /// It does not give this key.
    #[error("key provider {provider:?} does not unwrap the layer's key: {status}")]
    Refused {
        /// The provider.
        provider: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It gives something else than a key.
    #[error("key provider {provider:?} gives no answer that can be used")]
    Unusable {
        /// The provider.
        provider: String,
    },
}

/// Those of the node, by their names.
#[derive(Debug, Deserialize)]
pub(super) struct Providers {
    #[serde(rename = "key-providers", default)]
    providers: HashMap<String, Provider>,
}

/// How one is asked.
#[derive(Debug, Deserialize)]
pub(super) struct Provider {
    cmd: Option<Program>,
}

#[derive(Debug, Deserialize)]
struct Program {
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Deserialize)]
struct Answer {
    keyunwrapresults: Results,
}

#[derive(Deserialize)]
struct Results {
    optsdata: Zeroizing<String>,
}

/// What a provider gave: the part of the cipher's options that only those with the key know.
#[derive(Deserialize)]
pub(super) struct Unwrapped {
    symkey: Zeroizing<String>,
    #[serde(default)]
    cipheroptions: Option<HashMap<String, String>>,
}

impl Providers {
    /// Reads the configuration file. Blocks.
    pub(super) fn read(path: &Path) -> Result<Self, ProviderError> {
        let bytes = fs::read(path)
            .map_err(|source| ProviderError::Read { path: path.to_owned(), source })?;
        serde_json::from_slice(&bytes)
            .map_err(|source| ProviderError::Parse { path: path.to_owned(), source })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Provider> {
        self.providers.get(name)
    }
}

impl Provider {
    /// Has one wrapped key unwrapped. Blocks until the program ends or its time is over.
    pub(super) fn unwrap(
        &self,
        name: &str,
        wrapped: &[u8],
        deadline: Duration,
    ) -> Result<Unwrapped, ProviderError> {
        let provider = name.to_owned();
        let Some(Program { path, args }) = &self.cmd else {
            return Err(ProviderError::NotAProgram { provider });
        };
        let question = json!({
            "op": "keyunwrap",
            "keywrapparams": { "ec": null, "optsdata": null },
            "keyunwrapparams": { "dc": { "Parameters": {} }, "annotation": STANDARD.encode(wrapped) },
        });
        let mut command = Command::new(path);
        command.args(args);
        let answer =
            program::ask(command, question.to_string().as_bytes(), ANSWER_BYTES_MAX, deadline);
        let answer = match answer {
            Ok(answer) => answer,
            Err(Unanswered::Start(source)) => {
                return Err(ProviderError::Start { provider, path: path.clone(), source });
            }
            Err(Unanswered::Talk(source)) => return Err(ProviderError::Talk { provider, source }),
            Err(Unanswered::Late) => {
                return Err(ProviderError::Late { provider, after: deadline });
            }
        };
        let said = Zeroizing::new(answer.output);
        if !answer.status.success() {
            return Err(ProviderError::Refused { provider, status: answer.status });
        }
        parse(&said).ok_or(ProviderError::Unusable { provider })
    }
}

/// No error says what was wrong, for it would repeat what was said.
fn parse(said: &[u8]) -> Option<Unwrapped> {
    let answer: Answer = serde_json::from_slice(said).ok()?;
    let options =
        Zeroizing::new(STANDARD.decode(answer.keyunwrapresults.optsdata.as_bytes()).ok()?);
    serde_json::from_slice(&options).ok()
}

impl Unwrapped {
    pub(super) fn nonce(&self) -> Option<&str> {
        self.cipheroptions.as_ref()?.get("nonce").map(String::as_str)
    }

    /// The key, if it is one of this cipher.
    pub(super) fn key(&self, provider: &str) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
        let key = STANDARD.decode(self.symkey.as_bytes()).ok().map(Zeroizing::new);
        key.filter(|key| key.len() == KEY_BYTES)
            .ok_or_else(|| ProviderError::Unusable { provider: provider.to_owned() })
    }
}
