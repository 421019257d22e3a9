//! What a key of the file can do: take a written value, print itself, name itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::scalar::Scalar;

/// Everything that is wrong with the configuration, at once.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is not valid:{}", .problems.iter().map(|p| format!("\n  {p}")).collect::<String>())]
pub struct Invalid {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// File and line, when a file is to blame.
    pub origin: Option<Origin>,
    /// What is wrong; names the key.
    pub what: String,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; none when the file as a whole is meant.
    pub line: Option<usize>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{}:", origin.file.display())?;
            if let Some(line) = origin.line {
                write!(f, "{line}:")?;
            }
            write!(f, " ")?;
        }
        f.write_str(&self.what)
    }
}

/// What reading the files yields beside the values.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What is wrong so far.
    pub(super) problems: Vec<Problem>,
    /// Where each key was last written.
    pub(super) origins: BTreeMap<String, Origin>,
}

/// The place in a file that is being read.
pub(super) struct Place<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    /// The key, dotted; empty at the top.
    pub(super) path: String,
    pub(super) findings: &'a mut Findings,
}

impl Place<'_> {
    /// The place of `key` inside this one.
    pub(super) fn enter(&mut self, key: &str) -> Place<'_> {
        Place {
            file: self.file,
            text: self.text,
            path: join(&self.path, key),
            findings: self.findings,
        }
    }

    /// File and line of the byte at `offset`.
    pub(super) fn origin(&self, offset: usize) -> Origin {
        let before = self.text.get(..offset).unwrap_or(self.text);
        Origin { file: self.file.to_owned(), line: Some(before.matches('\n').count() + 1) }
    }

    pub(super) fn note(&mut self, offset: usize, what: String) {
        let origin = Some(self.origin(offset));
        self.findings.problems.push(Problem { origin, what });
    }

    /// Remembers that this key is written at `offset`.
    pub(super) fn written(&mut self, offset: usize) {
        let origin = self.origin(offset);
        self.findings.origins.insert(self.path.clone(), origin);
    }

    /// The table that `value` must be.
    pub(super) fn table<'v, 'i>(
        &mut self,
        value: &'v Spanned<DeValue<'i>>,
    ) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let what = format!("`{}` is a table, not {}", self.path, kind(value.get_ref()));
            self.note(value.span().start, what);
        }
        table
    }

    /// The single value that `value` must be.
    pub(super) fn scalar<T: Scalar>(&mut self, value: &Spanned<DeValue<'_>>) -> Option<T> {
        let offset = value.span().start;
        self.written(offset);
        match T::read(value.get_ref()) {
            Ok(read) => Some(read),
            Err(refusal) => {
                self.note(offset, format!("`{}`: {refusal}", self.path));
                None
            }
        }
    }

    /// Notes that `key` is none of `siblings`, and which one may have been meant.
    pub(super) fn unknown(&mut self, key: &Spanned<std::borrow::Cow<'_, str>>, siblings: &[&str]) {
        let name = key.get_ref().as_ref();
        let wanted = match nearest(name, siblings) {
            Some(sibling) => format!("did you mean `{}`?", join(&self.path, sibling)),
            None => match elsewhere(name) {
                Some(path) => format!("did you mean `{path}`?"),
                None => format!("valid here: {}", siblings.join(", ")),
            },
        };
        let what = format!("unknown key `{}`; {wanted}", join(&self.path, name));
        self.note(key.span().start, what);
    }
}

/// What a value is, for a message.
pub(super) fn kind(value: &DeValue<'_>) -> String {
    match value.type_str() {
        word @ ("array" | "integer") => format!("an {word}"),
        word => format!("a {word}"),
    }
}

/// The candidate that a writer of `name` most likely meant.
pub(super) fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= name.len().max(candidate.len()) / 3 + 1)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The path of a key called `name` anywhere in the file.
fn elsewhere(name: &str) -> Option<String> {
    let mut paths = Vec::new();
    super::Settings::paths("", &mut paths);
    paths.into_iter().find(|path| path.rsplit('.').next() == Some(name))
}

/// `path.key`, or `key` at the top.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A key, a list of keys, or a table of them.
pub(super) trait Setting {
    /// Takes the written `value`; what is wrong with it is noted at `place`.
    fn take(&mut self, value: &Spanned<DeValue<'_>>, place: &mut Place<'_>);

    /// Appends the TOML for `path`, after its documentation.
    fn print(&self, docs: &[&str], path: &str, out: &mut String);

    /// Appends the dotted path of each key below `path`.
    fn paths(path: &str, out: &mut Vec<String>);
}

/// Appends documentation as TOML comments.
pub(super) fn comment(docs: &[&str], out: &mut String) {
    for doc in docs {
        out.push('#');
        out.push_str(doc);
        out.push('\n');
    }
}

/// Declares tables of the file: each key once, with its documentation, type and default.
macro_rules! settings {
    ($(
        $(#[doc = $why:literal])*
        $name:ident {
            $( $(#[doc = $doc:literal])* $key:ident: $kind:ty = $default:expr, )*
        }
    )*) => { $(
        $(#[doc = $why])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $key: $kind, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )* }
            }
        }

        impl Setting for $name {
            fn take(&mut self, value: &Spanned<DeValue<'_>>, place: &mut Place<'_>) {
                let Some(table) = place.table(value) else { return };
                place.written(value.span().start);
                for (key, value) in table {
                    match key.get_ref().as_ref() {
                        $( stringify!($key) => {
                            self.$key.take(value, &mut place.enter(stringify!($key)));
                        } )*
                        _ => place.unknown(key, &[$(stringify!($key)),*]),
                    }
                }
            }

            fn print(&self, docs: &[&str], path: &str, out: &mut String) {
                comment(docs, out);
                if !path.is_empty() {
                    out.push_str(&format!("[{path}]\n\n"));
                }
                $( self.$key.print(&[$($doc),*], &join(path, stringify!($key)), out); )*
            }

            fn paths(path: &str, out: &mut Vec<String>) {
                $( <$kind as Setting>::paths(&join(path, stringify!($key)), out); )*
            }
        }
    )* };
}
pub(super) use settings;
