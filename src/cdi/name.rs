//! Names: `vendor.com/class=device`.
//!
//! A vendor begins with a letter and goes on with letters, digits, `_`, `-` and `.`; a class
//! may have the same; a device may have `:` too and begin with a digit. All end with a
//! letter or a digit.

/// The beginning of the annotations that ask for devices too, as the kubelet once did.
const ANNOTATION: &str = "cdi.k8s.io/";

/// Not the full name of a device.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name:?} is not the full name of a CDI device, VENDOR/CLASS=DEVICE")]
pub struct NameError {
    /// As given.
    pub name: String,
}

/// The parts of a full name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Qualified;

impl Qualified {
    /// Checks a full name.
    pub(super) fn parse(name: &str) -> Result<Self, NameError> {
        let refused = || NameError { name: name.to_owned() };
        let (kind, device) = name.split_once('=').ok_or_else(refused)?;
        if is_kind(kind) && is_device(device) { Ok(Self) } else { Err(refused()) }
    }
}

/// Whether this is `vendor/class`.
pub(super) fn is_kind(kind: &str) -> bool {
    kind.split_once('/').is_some_and(|(vendor, class)| {
        [vendor, class].into_iter().all(|part| starts_with_letter(part) && is_made_of(part, "_-."))
    })
}

/// Whether this is the name of a device.
pub(super) fn is_device(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && is_made_of(name, "_-.:")
}

pub(super) fn starts_with_letter(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
}

fn is_made_of(name: &str, others: &str) -> bool {
    name.chars().all(|one| one.is_ascii_alphanumeric() || others.contains(one))
        && name.ends_with(|last: char| last.is_ascii_alphanumeric())
}

/// The full names that a container's annotations ask for, in the order of their keys.
pub fn names_in_annotations<'a>(
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
) -> Vec<String> {
    let mut asked: Vec<_> = annotations.filter(|(key, _)| key.starts_with(ANNOTATION)).collect();
    asked.sort();
    let names = asked.into_iter().flat_map(|(_, value)| value.split(','));
    names.map(|name| name.trim().to_owned()).collect()
}
