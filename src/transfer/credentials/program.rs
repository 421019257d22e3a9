//! Credential helpers: programs that have a secret and give it when they are asked.
//!
//! Invariants: a helper has a deadline, at which it is killed; nothing that it says is repeated,
//! because any of it may be the secret.
//!
//! Specification: <https://github.com/docker/docker-credential-helpers#development>

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde::Deserialize;

use super::source::AuthEntry;
use crate::transfer::program::{self, Answer as Said, Unanswered};

/// Longest wait for a helper; those of clouds ask their servers.
const DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// What helpers say when they have nothing for a registry.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name that stands for an identity token.
const TOKEN_USER: &str = "<token>";

/// A credential helper gave nothing that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It cannot be started.
    #[error("cannot start the credential helper {program}")]
    Start {
        /// The program.
        program: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// What goes to it or comes from it is lost.
    #[error("cannot talk to the credential helper {program}")]
    Talk {
        /// The program.
        program: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// It says that it failed.
    #[error("the credential helper {program} failed: {status}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It does not come to an end.
    #[error("the credential helper {program} did not end in {} s and was killed", after.as_secs())]
    Late {
        /// The program.
        program: String,
        /// How long was waited.
        after: Duration,
    },
    /// Its answer is not one.
    #[error("the credential helper {program} gives no answer that can be read")]
    Malformed {
        /// The program.
        program: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The program that a helper's name stands for; an absolute path is one itself.
pub(super) fn program_of(helper: &str) -> String {
    if Path::new(helper).is_absolute() {
        helper.to_owned()
    } else {
        format!("docker-credential-{helper}")
    }
}

/// Asks `helper` for what it has for `registry`. Blocks until it ends or its time is over.
///
/// # Errors
/// [`ProgramError`]. To have nothing is none.
pub(super) fn ask(helper: &str, registry: &str) -> Result<Option<AuthEntry>, ProgramError> {
    ask_within(helper, registry, DEADLINE)
}

fn ask_within(
    helper: &str,
    registry: &str,
    deadline: Duration,
) -> Result<Option<AuthEntry>, ProgramError> {
    let program = program_of(helper);
    let mut command = Command::new(&program);
    command.arg("get");
    let asked =
        program::ask(command, format!("{registry}\n").as_bytes(), ANSWER_BYTES_MAX, deadline);
    let Said { status, output: said, complaints: _ } = match asked {
        Ok(answer) => answer,
        Err(Unanswered::Start(source)) => return Err(ProgramError::Start { program, source }),
        Err(Unanswered::Talk(source)) => return Err(ProgramError::Talk { program, source }),
        Err(Unanswered::Late) => return Err(ProgramError::Late { program, after: deadline }),
    };
    if !status.success() {
        let nothing = String::from_utf8_lossy(&said).trim() == NOT_FOUND;
        return if nothing { Ok(None) } else { Err(ProgramError::Failed { program, status }) };
    }
    let Ok(Answer { username, secret }) = serde_json::from_slice(&said) else {
        return Err(ProgramError::Malformed { program });
    };
    let entry = if username == TOKEN_USER {
        AuthEntry { identity_token: secret, ..AuthEntry::default() }
    } else {
        AuthEntry { username, password: secret, ..AuthEntry::default() }
    };
    Ok(Some(entry).filter(|entry| !entry.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn helper(script: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("helper");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let name = path.to_str().unwrap().to_owned();
        (directory, name)
    }

    #[test]
    fn the_registry_goes_in_and_the_secret_comes_out() {
        let (_directory, name) = helper(
            r#"read r; echo "{\"ServerURL\":\"$r\",\"Username\":\"$1-$r\",\"Secret\":\"s\"}""#,
        );
        let entry = ask(&name, "one.example").unwrap().unwrap();
        assert_eq!((entry.username.as_str(), entry.password.as_str()), ("get-one.example", "s"));
        let (_directory, name) = helper(r#"echo '{"Username":"<token>","Secret":"t"}'"#);
        assert_eq!(ask(&name, "one.example").unwrap().unwrap().identity_token, "t");
    }

    #[test]
    fn nothing_is_not_a_failure() {
        let (_directory, name) = helper(&format!("echo '{NOT_FOUND}'; exit 1"));
        assert!(ask(&name, "one.example").unwrap().is_none());
    }

    #[test]
    fn a_failure_is_named_and_its_words_are_not() {
        for (script, words) in [
            ("echo hunter2; exit 3", "failed: exit status: 3"),
            ("echo hunter2", "gives no answer that can be read"),
        ] {
            let (_directory, name) = helper(script);
            let error = ask(&name, "one.example").unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(&name), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = ask("no-such-helper", "one.example").unwrap_err();
        assert!(error.to_string().contains("docker-credential-no-such-helper"), "{error}");
    }

    #[test]
    fn a_helper_that_hangs_is_killed() {
        let (_directory, name) = helper("exec sleep 1000");
        let error = ask_within(&name, "one.example", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ProgramError::Late { .. }), "{error}");
    }
}
