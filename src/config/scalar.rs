//! The types of single values: paths, durations, sizes, addresses, words.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::network::{ParseSubnetError, Subnet};

use super::setting::{Place, Setting, comment, join, kind};

/// A number of bytes, written as an integer or with a unit: `"16KiB"`, `"2GiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A value that stands alone after `=`.
pub(super) trait Scalar: Sized {
    /// Reads the value, or says what was expected.
    fn read(value: &DeValue<'_>) -> Result<Self, String>;
    /// The value as TOML.
    fn show(&self) -> String;
}

fn string<'v>(value: &'v DeValue<'_>, expected: &str) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("expected {expected}, not {}", kind(value)))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl Scalar for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| format!("expected true or false, not {}", kind(value)))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Scalar for u32 {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let integer = value
            .as_integer()
            .ok_or_else(|| format!("expected a whole number, not {}", kind(value)))?;
        Self::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|refusal| format!("`{integer}` is not a count: {refusal}"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Scalar for String {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        Ok(string(value, "a string")?.to_owned())
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Scalar for PathBuf {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let path = Self::from(string(value, "an absolute path")?);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(format!("expected an absolute path, not `{}`", path.display()))
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Scalar for SocketAddr {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = string(value, "an address and port")?;
        text.parse().map_err(|refusal| format!("`{text}` is not an address and port: {refusal}"))
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Scalar for Subnet {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = string(value, "a subnet")?;
        text.parse().map_err(|refusal: ParseSubnetError| refusal.to_string())
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// Splits `"16KiB"` into 16 and its unit's factor.
fn counted(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit in which `amount` is whole.
fn in_units(amount: u64, units: &[(&str, u64)]) -> String {
    let whole = units.iter().filter(|(_, factor)| amount.is_multiple_of(*factor));
    match whole.max_by_key(|(_, factor)| *factor) {
        Some((name, factor)) => quoted(&format!("{}{name}", amount / factor)),
        None => amount.to_string(),
    }
}

/// Milliseconds in each unit of time.
const TIME: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

impl Scalar for Duration {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = string(value, "a duration like \"30s\"")?;
        let milliseconds = counted(text, TIME).ok_or_else(|| {
            format!("`{text}` is not a duration: write \"500ms\", \"30s\", \"5m\"")
        })?;
        Ok(Self::from_millis(milliseconds))
    }

    fn show(&self) -> String {
        in_units(u64::try_from(self.as_millis()).unwrap_or(u64::MAX), TIME)
    }
}

/// Bytes in each unit of size.
const SIZE: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

impl Scalar for ByteSize {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        if let Ok(bytes) = u32::read(value) {
            return Ok(Self(u64::from(bytes)));
        }
        let text = string(value, "a size like \"16KiB\"")?;
        counted(text, SIZE)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a size: write \"16KiB\", \"2GiB\" or bytes"))
    }

    fn show(&self) -> String {
        in_units(self.0, SIZE)
    }
}

impl<T: Scalar> Scalar for Vec<T> {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let list =
            value.as_array().ok_or_else(|| format!("expected a list, not {}", kind(value)))?;
        list.iter().map(|entry| T::read(entry.get_ref())).collect()
    }

    fn show(&self) -> String {
        let entries: Vec<_> = self.iter().map(Scalar::show).collect();
        format!("[{}]", entries.join(", "))
    }
}

impl<T: Scalar> Setting for T {
    fn take(&mut self, value: &Spanned<DeValue<'_>>, place: &mut Place<'_>) {
        if let Some(read) = place.scalar(value) {
            *self = read;
        }
    }

    fn print(&self, docs: &[&str], path: &str, out: &mut String) {
        comment(docs, out);
        let key = path.rsplit('.').next().unwrap_or(path);
        out.push_str(&format!("{key} = {}\n\n", self.show()));
    }

    fn paths(path: &str, out: &mut Vec<String>) {
        out.push(path.to_owned());
    }
}

/// A key that may be absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent<T> {
    /// What is written, if anything is.
    pub written: Option<T>,
    /// What could be written, as TOML.
    example: &'static str,
}

/// A key that nothing is written for; `example` is TOML.
pub(super) fn absent<T>(example: &'static str) -> Absent<T> {
    Absent { written: None, example }
}

impl<T: Scalar> Setting for Absent<T> {
    fn take(&mut self, value: &Spanned<DeValue<'_>>, place: &mut Place<'_>) {
        self.written = place.scalar(value);
    }

    fn print(&self, docs: &[&str], path: &str, out: &mut String) {
        comment(docs, out);
        let key = path.rsplit('.').next().unwrap_or(path);
        out.push_str(&match &self.written {
            Some(written) => format!("{key} = {}\n\n", written.show()),
            None => format!("# {key} = {}\n\n", self.example),
        });
    }

    fn paths(path: &str, out: &mut Vec<String>) {
        out.push(path.to_owned());
    }
}

/// Tables whose names are the operator's, like `[runtimes.runc]`.
impl<T: Setting + Default> Setting for BTreeMap<String, T> {
    fn take(&mut self, value: &Spanned<DeValue<'_>>, place: &mut Place<'_>) {
        let Some(table) = place.table(value) else { return };
        for (name, value) in table {
            let name = name.get_ref().as_ref();
            self.entry(name.to_owned()).or_default().take(value, &mut place.enter(name));
        }
    }

    fn print(&self, docs: &[&str], path: &str, out: &mut String) {
        comment(docs, out);
        if self.is_empty() {
            let mut example = String::new();
            T::default().print(&[], &join(path, "NAME"), &mut example);
            for line in example.lines().filter(|line| !line.is_empty()) {
                let value = line.strip_prefix("# ").filter(|rest| rest.contains(" = "));
                let line = value.unwrap_or(line);
                out.push_str(&format!("# {line}\n"));
            }
        }
        for (name, table) in self {
            table.print(&[], &join(path, name), out);
        }
    }

    fn paths(path: &str, out: &mut Vec<String>) {
        T::paths(&join(path, "NAME"), out);
    }
}

/// Declares enumerations whose values are written as words.
macro_rules! words {
    ($(
        $(#[doc = $why:literal])*
        $name:ident { $( $(#[doc = $doc:literal])* $variant:ident = $word:literal, )* }
    )*) => { $(
        $(#[doc = $why])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $doc])* $variant, )* }

        impl $crate::config::scalar::Scalar for $name {
            fn read(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
                match value.as_str() {
                    $( Some($word) => Ok(Self::$variant), )*
                    _ => Err(format!("expected one of {:?}", [$($word),*])),
                }
            }

            fn show(&self) -> String {
                match self { $( Self::$variant => format!("{:?}", $word), )* }
            }
        }
    )* };
}
pub(super) use words;
