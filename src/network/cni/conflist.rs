//! Network configuration lists: the directory they come from, their form, their version.
//!
//! The directory is read at each use; it holds a few small files, and whatever watches it
//! instead would miss directories made later, links and renames.
//!
//! Specification: CNI 1.1, section 1.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// A list is a page of JSON; more than this is not one.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The versions this caller speaks, newest first.
const SUPPORTED: [Version; 7] = [
    Version::new(1, 1, 0),
    Version::new(1, 0, 0),
    Version::new(0, 4, 0),
    Version::new(0, 3, 1),
    Version::new(0, 3, 0),
    Version::new(0, 2, 0),
    Version::new(0, 1, 0),
];
/// What a configuration without a version means.
const UNSAID: Version = Version::new(0, 2, 0);

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::network) struct Version(u16, u16, u16);

impl Version {
    pub(super) const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self(major, minor, patch)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(3, '.').map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next()??))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PluginConfig {
    object: Map<String, Value>,
    kind: String,
}

impl PluginConfig {
    /// Its executable.
    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    /// Its configuration as written.
    pub(super) fn object(&self) -> &Map<String, Value> {
        &self.object
    }
}

/// A checked network configuration list.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::network) struct ConfigList {
    document: Value,
    name: String,
    version: Version,
    plugins: Vec<PluginConfig>,
}

/// Why a file is not a network configuration list.
#[derive(Debug, thiserror::Error)]
pub enum ParseListError {
    /// The file cannot be read.
    #[error("reading the file")]
    Read(#[source] io::Error),
    /// The file is too long.
    #[error("longer than {FILE_BYTES_MAX} bytes")]
    TooLong,
    /// The file is not JSON.
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    /// A part is missing or of another kind.
    #[error("{what}")]
    Form {
        /// What is wrong.
        what: &'static str,
    },
    /// No version that this caller speaks.
    #[error("cniVersion {version:?} is not supported")]
    Version {
        /// What was asked for.
        version: String,
    },
    /// A name that cannot be an executable or a network.
    #[error("{name:?} is not a valid name")]
    Name {
        /// The name.
        name: String,
    },
}

fn form(what: &'static str) -> ParseListError {
    ParseListError::Form { what }
}

impl ConfigList {
    /// Checks a list, or a single plugin's configuration, which becomes a list of one.
    pub(in crate::network) fn from_document(document: Value) -> Result<Self, ParseListError> {
        let object = document.as_object().ok_or_else(|| form("not a JSON object"))?;
        let document = match object.get("plugins") {
            Some(_) => document,
            None if object.contains_key("type") => as_list(object),
            None => return Err(form("neither plugins nor type is given")),
        };
        let text = |key: &str| document.get(key).and_then(Value::as_str);
        let name = text("name").ok_or_else(|| form("name is missing"))?.to_owned();
        check_name(&name)?;
        let version = version(&document)?;
        let plugins = document
            .get("plugins")
            .and_then(Value::as_array)
            .ok_or_else(|| form("plugins is not a list"))?
            .iter()
            .map(plugin)
            .collect::<Result<Vec<_>, _>>()?;
        if plugins.is_empty() {
            return Err(form("plugins is empty"));
        }
        Ok(Self { name, version, plugins, document })
    }

    /// The list as written: what DEL is given back.
    pub(super) fn document(&self) -> &Value {
        &self.document
    }

    pub(in crate::network) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn plugins(&self) -> &[PluginConfig] {
        &self.plugins
    }

    pub(super) fn disables_check(&self) -> bool {
        self.says("disableCheck")
    }

    pub(super) fn disables_gc(&self) -> bool {
        self.says("disableGC")
    }

    /// Early versions of the specification called it a string.
    fn says(&self, key: &str) -> bool {
        match self.document.get(key) {
            Some(Value::Bool(said)) => *said,
            Some(Value::String(said)) => said.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }
}

fn as_list(plugin: &Map<String, Value>) -> Value {
    let mut list = Map::new();
    for key in ["name", "cniVersion"] {
        if let Some(value) = plugin.get(key) {
            list.insert(key.to_owned(), value.clone());
        }
    }
    list.insert("plugins".to_owned(), Value::Array(vec![Value::Object(plugin.clone())]));
    Value::Object(list)
}

/// The newest version that the list offers and this caller speaks.
fn version(document: &Value) -> Result<Version, ParseListError> {
    let mut offered: Vec<&str> = document
        .get("cniVersions")
        .and_then(Value::as_array)
        .map(|versions| versions.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    offered.extend(document.get("cniVersion").and_then(Value::as_str));
    offered.retain(|text| !text.is_empty());
    if offered.is_empty() {
        return Ok(UNSAID);
    }
    let parsed: Vec<Version> = offered.iter().filter_map(|text| Version::parse(text)).collect();
    SUPPORTED
        .into_iter()
        .find(|supported| parsed.contains(supported))
        .ok_or_else(|| ParseListError::Version { version: offered.join(", ") })
}

fn plugin(config: &Value) -> Result<PluginConfig, ParseListError> {
    let object = config.as_object().ok_or_else(|| form("a plugin is not a JSON object"))?;
    let kind = object.get("type").and_then(Value::as_str);
    let kind = kind.ok_or_else(|| form("a plugin has no type"))?.to_owned();
    check_name(&kind)?;
    Ok(PluginConfig { object: object.clone(), kind })
}

/// The name of a network or of an executable: it begins with a letter or digit and has
/// nothing that could leave a directory.
fn check_name(name: &str) -> Result<(), ParseListError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(ParseListError::Name { name: name.to_owned() })
    }
}

/// A file that looks like a configuration and is none.
#[derive(Debug)]
pub(in crate::network) struct Rejected {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: ParseListError,
}

/// What a configuration directory holds.
#[derive(Debug)]
pub(in crate::network) struct Found {
    /// The first valid list in the order of names.
    pub(in crate::network) list: Option<ConfigList>,
    /// The files before it that are not valid.
    pub(in crate::network) rejected: Vec<Rejected>,
}

/// A directory of network configurations.
#[derive(Debug, Clone)]
pub(in crate::network) struct Directory(pub(in crate::network) PathBuf);

impl Directory {
    /// Reads the directory, which may be missing. Blocking.
    pub(in crate::network) fn read(&self) -> Result<Found, io::Error> {
        let mut found = Found { list: None, rejected: Vec::new() };
        for path in files(&self.0, &["conf", "conflist", "json"])? {
            match self.load(&path) {
                Ok(list) => {
                    found.list = Some(list);
                    break;
                }
                Err(error) => found.rejected.push(Rejected { path, error }),
            }
        }
        Ok(found)
    }

    fn load(&self, path: &Path) -> Result<ConfigList, ParseListError> {
        let mut document = read(path)?;
        // The object's further plugins may lie, one each, in a directory of its name.
        let only_inlined = document.get("loadOnlyInlinedPlugins") == Some(&Value::Bool(true));
        let name = document.get("name").and_then(Value::as_str).map(str::to_owned);
        if let (false, Some(name)) = (only_inlined, name)
            && document.get("plugins").is_some()
        {
            check_name(&name)?;
            let more = files(&self.0.join(name), &["conf"]).map_err(ParseListError::Read)?;
            for path in more {
                let plugin = read(&path)?;
                if let Some(plugins) = document.get_mut("plugins").and_then(Value::as_array_mut) {
                    plugins.push(plugin);
                }
            }
        }
        ConfigList::from_document(document)
    }
}

/// The files of a directory with one of these endings, in the order of their names.
fn files(directory: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, io::Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if endings.contains(&ending) && !hidden && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Value, ParseListError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(ParseListError::Read)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ParseListError::TooLong);
    }
    serde_json::from_slice(&bytes).map_err(ParseListError::Json)
}

#[cfg(test)]
mod tests;
