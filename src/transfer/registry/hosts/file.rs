//! The text of one `hosts.toml`.
//!
//! Invariant: an unknown key or value is an error that names the file, the entry and the key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use url::Url;

use super::{Capabilities, Host, HostsError, Scheme, TlsFiles, port_of, registry_itself};
use crate::transfer::credentials::{AuthEntry, HostRole, SecretSource};

/// The whole file: the keys of `server` at the top, those of each mirror in its table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<PathBuf>>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    #[serde(default)]
    header: toml::map::Map<String, toml::Value>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
    proxy: Option<String>,
    credentials: Option<toml::Value>,
    credential_helper: Option<String>,
    credential_file: Option<PathBuf>,
}

/// What may be said about one host.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<PathBuf>>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    #[serde(default)]
    header: toml::map::Map<String, toml::Value>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
    proxy: Option<String>,
    credentials: Option<toml::Value>,
    credential_helper: Option<String>,
    credential_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    File(PathBuf),
    Files(Vec<ClientFile>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ClientFile {
    Both(PathBuf),
    Pair(PathBuf, PathBuf),
}

/// Parses `text`, which was read from `path`, for `registry`.
///
/// # Errors
/// [`HostsError`] naming the file and the key.
pub(super) fn parse(path: &Path, text: &str, registry: &str) -> Result<Vec<Host>, HostsError> {
    let parse_error = |error: toml::de::Error, entry: &str| {
        let start = error.span().map(|span| span.start).or_else(|| text.find(entry));
        let before = text.get(..start.unwrap_or_default()).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        HostsError::Parse { path: path.to_owned(), line, message: error.message().to_owned() }
    };
    let file: File = toml::from_str(text).map_err(|error| parse_error(error, ""))?;
    let mut hosts = Vec::with_capacity(file.host.len() + 1);
    for (url, table) in file.host {
        let entry: Entry = table.try_into().map_err(|error| parse_error(error, &url))?;
        hosts.push(Reader { path, name: &url }.host(&url, entry, HostRole::Mirror)?);
    }
    let entry = Entry {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
        proxy: file.proxy,
        credentials: file.credentials,
        credential_helper: file.credential_helper,
        credential_file: file.credential_file,
    };
    let reader = Reader { path, name: "server" };
    hosts.push(match file.server.as_deref().filter(|server| !server.is_empty()) {
        Some(server) => reader.host(server, entry, HostRole::Registry)?,
        None => reader.registry(registry, entry)?,
    });
    Ok(hosts)
}

/// Where errors are found.
struct Reader<'a> {
    path: &'a Path,
    name: &'a str,
}

impl Reader<'_> {
    /// A host given by its address.
    fn host(&self, address: &str, entry: Entry, role: HostRole) -> Result<Host, HostsError> {
        let with_scheme = if address.starts_with("http://") || address.starts_with("https://") {
            address.to_owned()
        } else {
            format!("https://{address}")
        };
        let no_url = || self.wrong("host", address, "a URL of a registry");
        let url = Url::parse(&with_scheme).map_err(|_not_a_url| no_url())?;
        let host = url.host_str().ok_or_else(no_url)?;
        if !url.username().is_empty() || url.password().is_some() {
            // The secret is not repeated in the error.
            let reader = Reader { path: self.path, name: host };
            return Err(reader.wrong("url", host, "free of user and password"));
        }
        // Docker Hub's name is not the name of its registry.
        let host = if host == "docker.io" { "registry-1.docker.io" } else { host };
        let authority = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
        let tls = self.tls(&entry);
        let scheme = match url.scheme() {
            "http" if tls.is_explicit() && port_of(&authority).is_some_and(|port| port != 80) => {
                Scheme::HttpsElseHttp
            }
            "http" => Scheme::Http,
            _ => Scheme::Https,
        };
        Ok(Host {
            scheme,
            authority,
            root: root_of(url.path(), entry.override_path),
            capabilities: self.capabilities(entry.capabilities.as_deref())?,
            tls,
            header: self.header(&entry.header)?,
            dial_timeout: self.dial_timeout(entry.dial_timeout.as_deref())?,
            proxy: self.proxy(entry.proxy.as_deref())?,
            secret: self.secret(&entry)?,
            role,
        })
    }

    /// The registry itself, with what the file says besides its address.
    fn registry(&self, registry: &str, entry: Entry) -> Result<Host, HostsError> {
        Ok(Host {
            header: self.header(&entry.header)?,
            dial_timeout: self.dial_timeout(entry.dial_timeout.as_deref())?,
            proxy: self.proxy(entry.proxy.as_deref())?,
            secret: self.secret(&entry)?,
            ..registry_itself(registry, self.tls(&entry))
        })
    }

    fn capabilities(&self, names: Option<&[String]>) -> Result<Capabilities, HostsError> {
        let Some(names) = names.filter(|names| !names.is_empty()) else {
            return Ok(Capabilities::ALL);
        };
        let mut capabilities = Capabilities { pull: false, resolve: false, push: false };
        for name in names {
            match name.to_ascii_lowercase().as_str() {
                "pull" => capabilities.pull = true,
                "resolve" => capabilities.resolve = true,
                "push" => capabilities.push = true,
                _ => {
                    return Err(self.wrong("capabilities", name, "pull, resolve or push"));
                }
            }
        }
        Ok(capabilities)
    }

    fn tls(&self, entry: &Entry) -> TlsFiles {
        // Paths in the file are relative to its directory.
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let absolute = |path: &PathBuf| directory.join(path);
        let ca = match &entry.ca {
            None => Vec::new(),
            Some(OneOrMany::One(path)) => vec![absolute(path)],
            Some(OneOrMany::Many(paths)) => paths.iter().map(absolute).collect(),
        };
        let client = match &entry.client {
            None => Vec::new(),
            Some(Client::File(path)) => vec![(absolute(path), None)],
            Some(Client::Files(files)) => files
                .iter()
                .map(|file| match file {
                    ClientFile::Both(path) => (absolute(path), None),
                    ClientFile::Pair(certificate, key) => {
                        let key = Some(key).filter(|key| !key.as_os_str().is_empty());
                        (absolute(certificate), key.map(absolute))
                    }
                })
                .collect(),
        };
        TlsFiles { ca, client, skip_verify: entry.skip_verify }
    }

    fn header(&self, table: &toml::map::Map<String, toml::Value>) -> Result<HeaderMap, HostsError> {
        let mut header = HeaderMap::new();
        for (name, value) in table {
            let name: HeaderName =
                name.parse().map_err(|_not_a_name| self.wrong("header", name, "a header name"))?;
            let values = match value {
                toml::Value::String(one) => vec![one.as_str()],
                toml::Value::Array(many) => {
                    many.iter().map(|value| value.as_str().unwrap_or("\0")).collect()
                }
                _ => vec!["\0"],
            };
            for value in values {
                // The value may be a secret, so the error shows the header's name.
                let mut value = HeaderValue::from_str(value).map_err(|_not_a_value| {
                    self.wrong("header", name.as_str(), "set to a string or list of strings")
                })?;
                value.set_sensitive(true);
                header.append(name.clone(), value);
            }
        }
        Ok(header)
    }

    fn dial_timeout(&self, text: Option<&str>) -> Result<Option<Duration>, HostsError> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
        duration(text)
            .map(Some)
            .ok_or_else(|| self.wrong("dial_timeout", text, "a duration like 1s, 500ms or 1m30s"))
    }

    fn proxy(&self, text: Option<&str>) -> Result<Option<Url>, HostsError> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
        let wrong = |shown: &str| self.wrong("proxy", shown, "a URL of a http or socks5 proxy");
        let url = Url::parse(text).map_err(|_not_a_url| wrong(""))?;
        let known = matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h");
        if known && url.host_str().is_some() { Ok(Some(url)) } else { Err(wrong(url.scheme())) }
    }

    /// One of the three ways to a secret. No value of `credentials` is ever shown.
    fn secret(&self, entry: &Entry) -> Result<Option<SecretSource>, HostsError> {
        let written = entry.credentials.as_ref().map(|value| self.written(value)).transpose()?;
        let helper = entry.credential_helper.as_deref().map(|name| {
            let plain = !name.is_empty() && !name.contains('/');
            if plain || Path::new(name).is_absolute() {
                Ok(SecretSource::Helper(name.to_owned()))
            } else {
                Err(self.wrong("credential_helper", name, "a name or an absolute path"))
            }
        });
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let file = entry.credential_file.as_ref();
        let file = file.map(|file| SecretSource::File(directory.join(file)));
        let mut sources = [written, helper.transpose()?, file].into_iter().flatten();
        match (sources.next(), sources.next()) {
            (source, None) => Ok(source),
            (_, Some(second)) => {
                let second = second.to_string();
                Err(self.wrong("credentials", &second, "the only way to credentials"))
            }
        }
    }

    fn written(&self, value: &toml::Value) -> Result<SecretSource, HostsError> {
        let expected = "a table of strings";
        let table = value
            .as_table()
            .ok_or_else(|| self.wrong("credentials", value.type_str(), expected))?;
        let mut entry = AuthEntry::default();
        for (name, value) in table {
            let field = match name.as_str() {
                "username" => &mut entry.username,
                "password" => &mut entry.password,
                "auth" => &mut entry.auth,
                "identity_token" => &mut entry.identity_token,
                "registry_token" => &mut entry.registry_token,
                other => {
                    let expected = "username, password, auth, identity_token or registry_token";
                    return Err(self.wrong("credentials", other, expected));
                }
            };
            let text = value.as_str();
            text.ok_or_else(|| self.wrong("credentials", name, expected))?.clone_into(field);
        }
        Ok(SecretSource::Written(entry))
    }

    fn wrong(&self, key: &'static str, value: &str, expected: &'static str) -> HostsError {
        HostsError::Value {
            path: self.path.to_owned(),
            host: self.name.to_owned(),
            key,
            value: value.to_owned(),
            expected,
        }
    }
}

/// `/v2` is added unless it is there, or the operator says that the path is the root.
fn root_of(path: &str, override_path: bool) -> String {
    let path = path.trim_end_matches('/');
    if override_path || path.ends_with("/v2") { path.to_owned() } else { format!("{path}/v2") }
}

/// A duration as Go writes it: numbers with units, one after the other.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, behind) = rest.split_at_checked(number)?;
        let unit = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, next) = behind.split_at_checked(unit)?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let value: f64 = value.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(value * seconds).ok()?)?;
        rest = next;
    }
    (total > Duration::ZERO).then_some(total)
}
