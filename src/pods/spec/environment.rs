//! The environment of a container.
//!
//! Later sources win, the place of the first stays: a default `PATH`, the image, the host
//! name and the terminal, the request, and `HOME` only if nobody set it. Every container
//! gets a list of its own (CVE-2021-21334), and nothing of it is ever written to a file
//! (CVE-2022-4318).
//!
//! # References
//! - [environ(7)](https://man7.org/linux/man-pages/man7/environ.7.html)

use std::str;

use cri_api::v1;

/// What a shell finds programs with when the image says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An environment that cannot be given to a process.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvironmentError {
    /// The name of a variable is empty or has a `=` or a NUL.
    #[error("environment variable name {name:?} is empty or has '=' or NUL in it")]
    Name {
        /// The name.
        name: String,
    },
    /// The value has a NUL, which would end it early.
    #[error("environment variable {name:?} has NUL in its value")]
    Nul {
        /// The variable's name.
        name: String,
    },
    /// The OCI runtime spec is JSON and has no place for other bytes.
    #[error("environment variable {name:?} is not UTF-8, which an OCI runtime spec cannot carry")]
    NotUtf8 {
        /// The variable's name.
        name: String,
        /// Where it stops being UTF-8.
        #[source]
        source: str::Utf8Error,
    },
}

/// The sources of an environment, apart from the request's own variables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) image: &'a [String],
    pub(super) hostname: &'a str,
    pub(super) terminal: Terminal,
    pub(super) home: Option<&'a str>,
}

/// Whether the process has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminal {
    Tty,
    None,
}

/// Merges the sources into `NAME=value` strings.
pub(super) fn environment(
    sources: &Sources<'_>,
    request: &[v1::KeyValue],
) -> Result<Vec<String>, EnvironmentError> {
    let mut variables = Variables::default();
    variables.set("PATH", DEFAULT_PATH)?;
    for entry in sources.image {
        // An entry without `=` sets nothing.
        if let Some((name, value)) = entry.split_once('=') {
            variables.set(name, value)?;
        }
    }
    variables.set("HOSTNAME", sources.hostname)?;
    if sources.terminal == Terminal::Tty {
        variables.set("TERM", "xterm")?;
    }
    for v1::KeyValue { key, value } in request {
        let value = str::from_utf8(value)
            .map_err(|source| EnvironmentError::NotUtf8 { name: key.clone(), source })?;
        variables.set(key, value)?;
    }
    if !variables.has("HOME") {
        variables.set("HOME", sources.home.unwrap_or("/"))?;
    }
    Ok(variables.entries)
}

/// `NAME=value` strings, each name once.
#[derive(Default)]
struct Variables {
    entries: Vec<String>,
    places: std::collections::HashMap<String, usize>,
}

impl Variables {
    fn set(&mut self, name: &str, value: &str) -> Result<(), EnvironmentError> {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(EnvironmentError::Name { name: name.to_owned() });
        }
        if value.contains('\0') {
            return Err(EnvironmentError::Nul { name: name.to_owned() });
        }
        let entry = format!("{name}={value}");
        match self.places.get(name).and_then(|place| self.entries.get_mut(*place)) {
            Some(earlier) => *earlier = entry,
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push(entry);
            }
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: Sources<'static> =
        Sources { image: &[], hostname: "pod-1", terminal: Terminal::None, home: None };

    fn pair(key: &str, value: impl AsRef<[u8]>) -> v1::KeyValue {
        v1::KeyValue { key: key.to_owned(), value: value.as_ref().to_vec() }
    }

    #[test]
    fn defaults() {
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(environment(&SOURCES, &[]).unwrap(), [&path, "HOSTNAME=pod-1", "HOME=/"]);
        let tty = Sources { terminal: Terminal::Tty, home: Some("/root"), ..SOURCES };
        assert_eq!(
            environment(&tty, &[]).unwrap(),
            [&path, "HOSTNAME=pod-1", "TERM=xterm", "HOME=/root"]
        );
    }

    #[test]
    fn later_sources_win() {
        let image = ["PATH=/bin", "A=image", "B=x=y", "broken", "HOME=/i"].map(str::to_owned);
        let sources =
            Sources { image: &image, terminal: Terminal::Tty, home: Some("/root"), ..SOURCES };
        let request = [pair("A", "first"), pair("TERM", "dumb"), pair("A", "ü\n"), pair("E", "")];
        assert_eq!(
            environment(&sources, &request).unwrap(),
            ["PATH=/bin", "A=ü\n", "B=x=y", "HOME=/i", "HOSTNAME=pod-1", "TERM=dumb", "E="]
        );
    }

    #[test]
    fn refused() {
        for (request, expected) in [
            (pair("", "x"), "environment variable name \"\" is empty or has '=' or NUL in it"),
            (
                pair("A=B", "x"),
                "environment variable name \"A=B\" is empty or has '=' or NUL in it",
            ),
            (
                pair("A\0", "x"),
                "environment variable name \"A\\0\" is empty or has '=' or NUL in it",
            ),
            (pair("A", "x\0y"), "environment variable \"A\" has NUL in its value"),
            (
                pair("A", [0xff]),
                "environment variable \"A\" is not UTF-8, which an OCI runtime spec cannot carry",
            ),
        ] {
            assert_eq!(environment(&SOURCES, &[request]).unwrap_err().to_string(), expected);
        }
    }
}
