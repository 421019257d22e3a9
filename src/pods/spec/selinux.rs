//! SELinux labels: what the processes of a container are, and what its files are.
//!
//! The policy says what containers are by default; a pod may say something else for its
//! processes. Type and role keep containers from the host. The level, which processes and
//! files of a pod share and no other pod has, keeps pods from each other.
//!
//! A label that is not well formed is refused on every node, so that it does not wait for one
//! with SELinux to fail.
//!
//! # References
//! - [SELinux multi-category security](https://selinuxproject.org/page/NB_MLS)
//! - [`lxc_contexts`](https://man7.org/linux/man-pages/man3/selinux_lxc_contexts_path.3.html)

use std::fmt;
use std::path::Path;

use cri_api::v1;

/// The type of processes that SELinux does not confine although they are in a container.
const PRIVILEGED: &str = "spc_t";

/// A part of an SELinux label that would not parse, or would forge another part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("SELinux {part} {value:?} is malformed")]
pub struct SeLinuxError {
    /// `user`, `role`, `type` or `level`.
    part: &'static str,
    /// As given.
    value: String,
}

/// A label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    user: String,
    role: String,
    kind: String,
    level: String,
}

/// What the policy of a node says of containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeLinux {
    process: Label,
    file: Label,
    /// Privileged processes; none: they keep the label of their starter.
    privileged: Option<Label>,
}

impl Label {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let (user, role, kind) = (parts.next()?, parts.next()?, parts.next()?);
        // Without multi-level security there is none.
        let level = parts.next().unwrap_or_default();
        Some(Self { user, role, kind, level })
    }

    fn at(&self, level: Option<&str>) -> Self {
        let mut label = self.clone();
        match level {
            Some(level) if !self.level.is_empty() => level.clone_into(&mut label.level),
            _ => {}
        }
        label
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, role, kind, level } = self;
        write!(f, "{user}:{role}:{kind}")?;
        if level.is_empty() { Ok(()) } else { write!(f, ":{level}") }
    }
}

impl SeLinux {
    /// From the policy's `lxc_contexts`; none if it knows nothing of containers. What is no label
    /// of the policy in force is not used.
    #[must_use]
    pub fn parse(lxc_contexts: &str, is_label: impl Fn(&str) -> bool) -> Option<Self> {
        let named = |name: &str| {
            lxc_contexts.lines().find_map(|line| {
                let (key, value) = line.split_once('=')?;
                let value = value.trim().trim_matches('"');
                (key.trim() == name).then(|| Label::parse(value)).flatten()
            })
        };
        let (process, file) = (named("process")?, named("file")?);
        let privileged = Label { kind: PRIVILEGED.to_owned(), ..process.clone() };
        let privileged = Some(privileged).filter(|label| is_label(&label.to_string()));
        Some(Self { process, file, privileged })
    }

    /// The label of files at a level.
    #[must_use]
    pub fn files(&self, level: Option<&str>) -> String {
        self.file.at(level).to_string()
    }
}

/// The level that is asked for, if one is.
///
/// # Errors
/// Any part of the label is malformed.
pub fn level_of(options: Option<&v1::SeLinuxOption>) -> Result<Option<&str>, SeLinuxError> {
    let Some(v1::SeLinuxOption { user, role, r#type, level }) = options else { return Ok(None) };
    for (part, value) in [("user", user), ("role", role), ("type", r#type)] {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if !value.bytes().all(word) {
            return Err(SeLinuxError { part, value: value.clone() });
        }
    }
    match level.as_str() {
        "" => Ok(None),
        level if is_level(level) => Ok(Some(level)),
        _ => Err(SeLinuxError { part: "level", value: level.clone() }),
    }
}

/// The host paths of volumes whose files are to be the container's.
pub fn relabelled(config: &v1::ContainerConfig) -> impl Iterator<Item = &Path> {
    let is_of_host =
        |mount: &&v1::Mount| mount.image.as_ref().is_none_or(|image| image.image.is_empty());
    let asking = config.mounts.iter().filter(|mount| mount.selinux_relabel).filter(is_of_host);
    asking.map(|mount| Path::new(&mount.host_path))
}

/// The label of a container's processes.
pub(super) fn process_label(
    security: Option<&v1::LinuxContainerSecurityContext>,
    node: Option<&SeLinux>,
    pod_level: Option<&str>,
) -> Result<Option<String>, SeLinuxError> {
    let options = security.and_then(|security| security.selinux_options.as_ref());
    let level = level_of(options)?.or(pod_level);
    let Some(node) = node else { return Ok(None) };
    if security.is_some_and(|security| security.privileged) {
        return Ok(node.privileged.as_ref().map(Label::to_string));
    }
    let mut label = node.process.at(level);
    if let Some(v1::SeLinuxOption { user, role, r#type, .. }) = options {
        let asked = [(user, &mut label.user), (role, &mut label.role), (r#type, &mut label.kind)];
        for (asked, part) in asked {
            if !asked.is_empty() {
                part.clone_from(asked);
            }
        }
    }
    Ok(Some(label.to_string()))
}

/// The label of a container's files.
pub(super) fn file_label(
    security: Option<&v1::LinuxContainerSecurityContext>,
    node: Option<&SeLinux>,
    pod_level: Option<&str>,
) -> Result<Option<String>, SeLinuxError> {
    let level = level_of(security.and_then(|security| security.selinux_options.as_ref()))?;
    Ok(node.map(|node| node.files(level.or(pod_level))))
}

/// `s0`, `s0:c1,c5`, `s0-s3:c0.c1023`: one sensitivity with categories, or a range of two.
fn is_level(level: &str) -> bool {
    let mut ends = level.splitn(2, '-');
    ends.all(|end| {
        let (sensitivity, categories) = match end.split_once(':') {
            Some((sensitivity, categories)) => (sensitivity, Some(categories)),
            None => (end, None),
        };
        number_after('s', sensitivity, 15).is_some()
            && categories.is_none_or(|list| list.split(',').all(is_category_range))
    })
}

fn is_category_range(range: &str) -> bool {
    let mut ends = range.splitn(2, '.').map(|category| number_after('c', category, 1023));
    match (ends.next().flatten(), ends.next()) {
        (Some(_), None) => true,
        (Some(first), Some(Some(last))) => first <= last,
        _ => false,
    }
}

fn number_after(letter: char, text: &str, max: u16) -> Option<u16> {
    let digits = text.strip_prefix(letter)?;
    let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits)?;
    number.parse().ok().filter(|number| *number <= max)
}

#[cfg(test)]
mod tests;
