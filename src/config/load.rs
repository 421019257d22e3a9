//! From files to checked settings.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::Settings;
use super::check::check;
use super::setting::{Findings, Invalid, Origin, Place, Problem, Setting as _};

/// Whether the operator asked for this very file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// By name: it must exist.
    Explicitly,
    /// It is the default: it may be absent.
    ByDefault,
}

/// What the command line puts over the files.
#[derive(Debug, Default, Clone)]
pub struct Overrides {
    /// `--root`
    pub root: Option<PathBuf>,
    /// `--state`
    pub state: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<PathBuf>,
}

impl Overrides {
    fn apply(&self, settings: &mut Settings) {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or(path.clone());
        if let Some(root) = &self.root {
            settings.root = absolute(root);
        }
        if let Some(state) = &self.state {
            settings.state = absolute(state);
        }
        if let Some(listen) = &self.listen {
            settings.listen.written = Some(absolute(listen));
        }
    }
}

/// Reads `file`, then `file.d/*.toml` in lexical order, puts `overrides` over them, and
/// checks the whole.
///
/// # Errors
/// [`Invalid`] with every problem found: unreadable files, wrong TOML, unknown keys, values
/// of a wrong type and values that contradict each other.
pub fn load(file: &Path, named: Named, overrides: &Overrides) -> Result<Settings, Invalid> {
    load_all(file, named, None, overrides)
}

/// What [`load`] would say if `file.d` had `candidate` as its only drop-in called `name`; or
/// none of that name. The file may be absent.
///
/// # Errors
/// As [`load`].
pub fn load_with(file: &Path, name: &str, candidate: Option<&Path>) -> Result<Settings, Invalid> {
    load_all(file, Named::ByDefault, Some((name, candidate)), &Overrides::default())
}

fn load_all(
    file: &Path,
    named: Named,
    replaced: Option<(&str, Option<&Path>)>,
    overrides: &Overrides,
) -> Result<Settings, Invalid> {
    let mut settings = Settings::default();
    let mut findings = Findings::default();
    let absent_is_fine = named == Named::ByDefault;
    read(file, absent_is_fine, &mut settings, &mut findings);
    let mut drop_ins: BTreeMap<OsString, PathBuf> = drop_ins(file, &mut findings)
        .into_iter()
        .filter_map(|path| Some((path.file_name()?.to_owned(), path)))
        .collect();
    if let Some((name, candidate)) = replaced {
        drop_ins.remove(OsStr::new(name));
        drop_ins.extend(candidate.map(|path| (name.into(), path.to_owned())));
    }
    for drop_in in drop_ins.values() {
        read(drop_in, false, &mut settings, &mut findings);
    }
    overrides.apply(&mut settings);
    check(&settings, &mut findings);
    if findings.problems.is_empty() {
        Ok(settings)
    } else {
        Err(Invalid { problems: findings.problems })
    }
}

fn drop_ins(file: &Path, findings: &mut Findings) -> Vec<PathBuf> {
    let mut directory = file.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(absent) if absent.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(refusal) => {
            findings.problems.push(about(&directory, format!("cannot be read: {refusal}")));
            return Vec::new();
        }
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|is| is == "toml"))
        .collect()
}

fn about(file: &Path, what: String) -> Problem {
    Problem { origin: Some(Origin { file: file.to_owned(), line: None }), what }
}

fn read(file: &Path, absent_is_fine: bool, settings: &mut Settings, findings: &mut Findings) {
    match std::fs::read_to_string(file) {
        Ok(text) => take(file, &text, settings, findings),
        Err(absent) if absent_is_fine && absent.kind() == ErrorKind::NotFound => {}
        Err(refusal) => {
            findings.problems.push(about(file, format!("cannot be read: {refusal}")));
        }
    }
}

/// Takes over what `text` sets.
pub(super) fn take(file: &Path, text: &str, settings: &mut Settings, findings: &mut Findings) {
    let known = findings.problems.len();
    let mut place = Place { file, text, path: String::new(), findings };
    match DeTable::parse(text) {
        Ok(table) => {
            let span = table.span();
            let value = toml::Spanned::new(span, DeValue::Table(table.into_inner()));
            settings.take(&value, &mut place);
        }
        Err(refusal) => {
            let offset = refusal.span().map_or(0, |span| span.start);
            place.note(offset, refusal.message().to_owned());
        }
    }
    let line = |problem: &Problem| problem.origin.as_ref().and_then(|origin| origin.line);
    findings.problems[known..].sort_by_key(line);
}
