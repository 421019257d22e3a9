//! Which hosts serve a registry, in which order: `hosts.toml` with containerd's meaning.
//!
//! ```text
//! <hosts_dir>/<host>_<port>_/hosts.toml    first match wins
//! <hosts_dir>/<host>:<port>/hosts.toml
//! <hosts_dir>/_default/hosts.toml
//! ```
//! The `[host]` entries are mirrors, tried in the order of the file; `server`, or the registry
//! itself, comes last. A directory without `hosts.toml` may hold `*.crt`, `*.cert` and `*.key`.
//!
//! Invariants: the files are read again for each pull, so a change needs no restart; a file
//! that cannot be understood fails the pull, because going on without it would ask a host that
//! the operator may have meant to avoid.
//!
//! Beside containerd's keys a host may have one of `credentials` (a table with `username` and
//! `password`, `auth`, `identity_token` or `registry_token`), `credential_helper` (docker's
//! protocol) and `credential_file` (docker's `config.json`).
//!
//! Specification: <https://github.com/containerd/containerd/blob/main/docs/hosts.md>

mod file;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::HeaderMap;
use url::Url;

use crate::transfer::credentials::{HostRole, SecretSource};

/// One host to ask, and how.
#[derive(Debug, Clone)]
pub struct Host {
    /// Protocol, and whether it is still to be found out.
    pub scheme: Scheme,
    /// `host[:port]`.
    pub authority: String,
    /// Root of the API without a slash at the end: `/v2`, or what `override_path` kept.
    pub root: String,
    /// What the host may be asked for.
    pub capabilities: Capabilities,
    /// Keys and certificates.
    pub tls: TlsFiles,
    /// Headers sent with each request to this host, and to no other.
    pub header: HeaderMap,
    /// Longest wait for a connection, where the file says so.
    pub dial_timeout: Option<Duration>,
    /// Proxy to use instead of the one of the environment.
    pub proxy: Option<Url>,
    /// The node's own secret for this host; that of a pull comes before it.
    pub secret: Option<SecretSource>,
    /// Mirror, or the registry itself.
    pub role: HostRole,
}

/// How a host is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// TLS.
    Https,
    /// Plain text.
    Http,
    /// Plain text was asked for together with TLS settings: TLS is tried first, and plain text
    /// only when the peer does not speak TLS at all.
    HttpsElseHttp,
}

/// What an operator trusts a host with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Fetching what a digest names.
    pub pull: bool,
    /// Saying which digest a tag names.
    pub resolve: bool,
    /// Taking what is pushed.
    pub push: bool,
}

impl Capabilities {
    /// Everything.
    pub const ALL: Self = Self { pull: true, resolve: true, push: true };
}

/// TLS settings as paths; the files are read when a pull begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities trusted besides those of the system.
    pub ca: Vec<PathBuf>,
    /// Client certificates, each with its key file unless the key is in the same file.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    /// `Some(true)`: the peer's certificate is not verified.
    pub skip_verify: Option<bool>,
}

impl TlsFiles {
    fn is_explicit(&self) -> bool {
        *self != Self::default()
    }
}

/// The host configuration of a registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// `hosts.toml` is not what it should be. The text itself is not quoted: it may hold secrets.
    #[error("{}: line {line}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, counted from one; the first line of the entry at the least.
        line: usize,
        /// The key and the reason.
        message: String,
    },
    /// A value in `hosts.toml` has no meaning.
    #[error("{}: {key} of {host}: {value:?} is not {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The `[host]` entry, or `server`.
        host: String,
        /// The key.
        key: &'static str,
        /// The value as written.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// The hosts to ask for images of `registry`, in order; the last is the registry itself or the
/// `server` in its place. Never empty. Reads files, so it blocks.
///
/// # Errors
/// [`HostsError`] when a file exists and cannot be read or understood.
pub fn hosts_of(hosts_dir: Option<&Path>, registry: &str) -> Result<Vec<Host>, HostsError> {
    let Some(directory) = hosts_dir.map(|root| find(root, registry)).transpose()?.flatten() else {
        return Ok(vec![registry_itself(registry, TlsFiles::default())]);
    };
    let path = directory.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.is_empty() => file::parse(&path, &text, registry),
        Ok(_) => certificates_of(&directory, registry),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            certificates_of(&directory, registry)
        }
        Err(source) => Err(HostsError::Read { path, source }),
    }
}

/// The file, or the directory of certificates, that says how `registry` is reached; `None` when
/// nothing does. Reads directories, so it blocks.
///
/// # Errors
/// [`HostsError`] when it cannot be told.
pub fn hosts_file(hosts_dir: Option<&Path>, registry: &str) -> Result<Option<PathBuf>, HostsError> {
    let directory = hosts_dir.map(|root| find(root, registry)).transpose()?.flatten();
    Ok(directory.map(|directory| {
        let file = directory.join("hosts.toml");
        if file.exists() { file } else { directory }
    }))
}

/// The first directory that stands for `registry`.
fn find(root: &Path, registry: &str) -> Result<Option<PathBuf>, HostsError> {
    let with_port = registry
        .rsplit_once(':')
        .filter(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
        .map(|(host, port)| format!("{host}_{port}_"));
    let names = with_port.into_iter().chain([registry.to_owned(), "_default".to_owned()]);
    for name in names {
        let path = root.join(name);
        match path.try_exists() {
            Ok(true) => return Ok(Some(path)),
            Ok(false) => {}
            Err(source) => return Err(HostsError::Read { path, source }),
        }
    }
    Ok(None)
}

/// The host that a registry's own name stands for.
fn registry_itself(registry: &str, mut tls: TlsFiles) -> Host {
    let (authority, scheme) = if registry == "docker.io" {
        ("registry-1.docker.io", Scheme::Https)
    } else if is_loopback(registry) {
        (registry, scheme_of_loopback(registry, &mut tls))
    } else {
        (registry, Scheme::Https)
    };
    Host {
        scheme,
        authority: authority.to_owned(),
        root: "/v2".to_owned(),
        capabilities: Capabilities::ALL,
        tls,
        header: HeaderMap::new(),
        dial_timeout: None,
        proxy: None,
        secret: None,
        role: HostRole::Registry,
    }
}

/// On this machine's own addresses nobody has a certificate: TLS is tried unverified, then
/// plain text, unless the port says which of the two it is.
fn scheme_of_loopback(registry: &str, tls: &mut TlsFiles) -> Scheme {
    let no_authority_named = tls.ca.is_empty();
    let scheme = match port_of(registry) {
        Some(80) => return Scheme::Http,
        Some(443) | None => Scheme::Https,
        Some(_) => Scheme::HttpsElseHttp,
    };
    if no_authority_named {
        tls.skip_verify.get_or_insert(true);
    }
    scheme
}

/// Docker's layout: authorities in `*.crt`, client certificates in `*.cert` with `*.key`.
fn certificates_of(directory: &Path, registry: &str) -> Result<Vec<Host>, HostsError> {
    let read = |source| HostsError::Read { path: directory.to_owned(), source };
    let mut tls = TlsFiles::default();
    for entry in std::fs::read_dir(directory).map_err(read)? {
        let path = entry.map_err(read)?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                let key = key.exists().then_some(key);
                tls.client.push((path, key));
            }
            _ => {}
        }
    }
    tls.ca.sort();
    tls.client.sort();
    Ok(vec![registry_itself(registry, tls)])
}

/// The port at the end of `host[:port]`.
fn port_of(authority: &str) -> Option<u16> {
    let (host, port) = authority.rsplit_once(':')?;
    let bare_address = host.contains(':') && !host.ends_with(']');
    if bare_address { None } else { port.parse().ok() }
}

/// Whether `host[:port]` is this machine: `localhost`, `127.0.0.0/8`, `::1`.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = match port_of(authority) {
        Some(_) => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
        None => authority,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether two `host[:port]` name one registry; Docker's has three names.
pub(in crate::transfer) fn is_same_registry(one: &str, other: &str) -> bool {
    fn canonical(name: &str) -> &str {
        match name {
            "index.docker.io" | "registry-1.docker.io" => "docker.io",
            other => other.strip_suffix(":443").unwrap_or(other),
        }
    }
    canonical(one).eq_ignore_ascii_case(canonical(other))
}

#[cfg(test)]
mod tests;
